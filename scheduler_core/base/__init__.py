"""Modules that every part of Cronpost uses: settings, errors, logging, metrics, the clock, and small text formats.

Every folder may import this one; it imports no other. Jobs, runs and Redis keys do not belong here.
"""
