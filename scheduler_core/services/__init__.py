"""The background duties of a node, one per file.

* :mod:`claim`: takes due jobs and starts their runs
* :mod:`deliver`: one attempt of a run
* :mod:`settle`: records what came of it
* :mod:`heartbeat`: says that the node lives, and sets its clock
* :mod:`reap`: takes back what dead nodes held
* :mod:`wake`: hears of upserts that come earlier
* :mod:`jobs`: what clients do with jobs; the API calls it
"""
