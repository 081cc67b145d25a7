"""What clients do: with jobs, runs, one-off tasks, targets and schedules. The API calls these; they need no node.

A use case reads from the store, lets the plan decide, and writes; it repeats that if the job changed in between.
Nothing here runs on a timer, and nothing here knows HTTP.
"""
