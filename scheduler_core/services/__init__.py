"""The background duties of a node, one per file.

* ``claim``: takes due jobs and starts their runs
* ``deliver``: one attempt of a run
* ``settle``: records what came of it
* ``heartbeat``: says that the node lives, and sets its clock
* ``reap``: takes back what dead nodes held
* ``wake``: hears of upserts that come earlier
* ``jobs``: what clients do with jobs; the API calls it
"""
