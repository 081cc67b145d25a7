"""The target kinds for ``celery+redis`` and ``celery+amqp`` URLs: a run becomes a task of Celery.

The message is that of Celery's protocol 2, written without Celery (docs/decisions/0040-brokers.md), and travels on the
connections of ``redis_stream`` and ``amqp``.
"""
