"""The plain values that all other parts pass around: jobs, runs, misses, outcomes, transitions, tasks, targets.

A value holds data and what follows from its own fields; it does no I/O and reads no clock. How values are stored is in
``store/``, how clients see them in ``scheduler_api/wire/``, and what happens to them next in ``plan/``.
"""
