"""The HTTP face of Cronpost: endpoints, request and response bodies, the description, the command line, the server.

It reaches the core through ``usecases/`` and ``node/`` of ``scheduler_core``, and never uses Redis itself.
"""
