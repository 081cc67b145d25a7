"""The target kind for ``redis+stream`` URLs: a run becomes an entry of a Redis stream.

``link`` is the only client of a Redis outside the store; it speaks the protocol itself, with hiredis as its parser
(docs/decisions/0040-brokers.md).
"""
