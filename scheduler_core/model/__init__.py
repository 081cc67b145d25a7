"""Plain values that all other parts exchange: jobs, runs, misses, outcomes, transitions, tasks, targets.

A value has data and properties computed from its own fields. It does no I/O and reads no clock. ``store/`` encodes
values for Redis, ``scheduler_api/wire/`` for clients, and ``plan/`` decides what happens to them next.
"""
