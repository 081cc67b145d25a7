"""The store: what Cronpost keeps, and the only part that writes it.

One folder for each kind of database; there is one, ``redis``. Nothing here decides: the plan made the transition that a
method applies.
"""
