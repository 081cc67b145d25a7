"""The loops of a node, one duty per file: each sleeps until it is due or woken, does its work once, and starts again.

``service`` is their common life cycle; an error of one loop is logged and never ends another. The hot path begins in
``claim`` and ends in ``settle``.
"""
