"""The store: what Cronpost keeps. Here are the protocols that nodes and use cases are typed against, and their values.

One file per subject: ``loop``, ``jobs``, ``history``, ``tasks``, ``catalogue``; ``shards`` puts them together. The only
implementation is ``redis``. Nothing here decides: a method applies a transition that the plan made.
"""
