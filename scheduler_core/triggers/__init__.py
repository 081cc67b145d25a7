"""Fire times: what a cron expression, an interval or a single instant yields, in any time zone.

Pure functions of a rule and an instant, in epoch milliseconds; no I/O and no clock. Jobs do not belong here: the bounds
and the jitter of a job's policies are added in ``plan/fire_times.py``.
"""
