"""A node: fires jobs. The engine starts and stops it; loops run on timers, dispatch sends the requests of claimed jobs.

No request of a client is handled here: that is in ``usecases/``, which needs no node.
"""
