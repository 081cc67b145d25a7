"""The target kind for ``amqp`` and ``amqps`` URLs: a run becomes a message of AMQP 0-9-1, with a publisher confirm.

``link`` is the client. It is written on the codec pamqp (docs/decisions/0040-brokers.md), which only this folder
imports, and only when a message is sent.
"""
