"""Planning: pure functions that decide. Given a job, its state and the time, what is due, what was missed, when next.

No I/O, no clock, no randomness in here; whoever calls hands these in. The store applies what comes out in one step.

* ``claim``: a job was claimed: which run starts?
* ``settle``: an attempt ended: is the run over, what passed meanwhile, when does the job wake next?
* ``change``: a client upserts, deletes, pauses, resumes, asks for a run.
"""
