"""A process of Cronpost: starts Redis if none is configured, then the node and the API, and stops them in order.

``process`` is the place to begin. Also here: HTTP/1.1 (``request_parser``: strict parsing; ``protocol``: limits,
deadlines), the node processes of ``--nodes`` (``node_supervisor``).
Not here: what an endpoint answers, see ``endpoints/``.
"""
