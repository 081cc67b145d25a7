"""From a claimed job to a request and back: builds requests, limits what each target gets, and follows open attempts.

Everything here is in the memory of one node. What to do after an attempt is decided in ``plan/settle.py``; how a
request travels is decided in ``delivery/``.
"""
