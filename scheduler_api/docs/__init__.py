"""The documentation of the API for people: ``/docs`` and ``/redoc``, with their styles and scripts in ``static/``.

The pages are built in the browser from ``/openapi.json``; nothing is loaded from elsewhere.
"""
