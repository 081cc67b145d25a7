"""The dashboard: one HTML shell for every path below ``/ui``, with its styles and scripts in ``static/``.

It is built in the browser from the answers of the API that every client uses; nothing is loaded from elsewhere.
"""
