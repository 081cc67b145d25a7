"""A node: fires jobs. The engine starts and stops it; loops run on timers, dispatch sends the requests of claimed jobs.

Nothing here is called by a request of a client: what clients do with jobs is in ``usecases/``, which needs no node.
"""
