"""Computes the fire times of cron expressions, intervals and single instants, in any time zone.

Pure functions of a rule and an instant in epoch milliseconds, without I/O and without a clock. Jobs do not
belong here: ``plan/fire_times.py`` adds the bounds and the jitter of a job's policies.
"""
