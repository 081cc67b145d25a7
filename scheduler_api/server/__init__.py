"""The process ``cronpost serve``: starts Redis if none is given, then the API and the node, and stops them in order.

Also HTTP/1.1 at the socket (limits, deadlines, strict parsing) and the node processes of ``--nodes``. What an endpoint
answers is in ``endpoints/``.
"""
