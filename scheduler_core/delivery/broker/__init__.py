"""What the kinds of target for message brokers share: URLs, connections, the facts of a run that a message carries.

The folders ``redis_stream``, ``amqp`` and ``celery`` have one kind each. A broker's confirm is the success of a run.
"""
