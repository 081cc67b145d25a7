"""Protocols of the store, which keeps Cronpost's state, and their values. Nodes and use cases depend only on these.

One file per subject: ``loop``, ``jobs``, ``history``, ``tasks``, ``catalogue``; ``shards`` combines them. The only
implementation is ``redis``. The store makes no decisions: a method applies a transition that the plan made.
"""
