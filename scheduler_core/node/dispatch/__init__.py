"""From a claimed job to a request and back: limits what each target gets, builds calls, keeps attempts in flight.

Everything here is in the memory of one node. What to do after an attempt is decided in ``plan/settle.py``; how a
request travels is decided in ``delivery/``.
"""
