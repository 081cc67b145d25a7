"""The loops of a node, one duty per file: each sleeps until it is due or woken, does one round, and starts again.

``service`` is their common life cycle; an error of a loop is logged and ends no loop. The hot path begins in ``claim``
and ends in ``settle``.
"""
