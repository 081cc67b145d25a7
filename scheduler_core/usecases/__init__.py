"""Operations of clients on jobs, runs, one-off tasks, targets and schedules. The API calls them; they need no node.

A use case reads from the store, lets the plan decide, and writes; it repeats this if the job changed in between.
Nothing here runs on a timer or depends on HTTP.
"""
