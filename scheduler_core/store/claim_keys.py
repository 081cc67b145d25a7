"""Claim keys: the names under which Redis stores, and nodes claim, what can be claimed.

A claim key is a job's id, or the id of a child run: one run of a job that allows overlap.
"""

from __future__ import annotations

CHILD = "\x1f"
"""Between the id of a job that allows overlap and the id of one of its runs: the unit under which that run is claimed.
No job id holds it, because ids are printable."""
REPLAY = "~"
"""Before the run id in the unit of a fire time that is run again or belatedly. These sort after all others, and are
counted by that: they go one at a time."""


def child_id(job_id: str, run_id: str, *, replay: bool = False) -> str:
    """The unit of one run of a job that allows overlap."""
    return f"{job_id}{CHILD}{REPLAY if replay else ''}{run_id}"


def job_of_claim_key(claim_key: str) -> str:
    """The id of the job that a claimed unit belongs to: itself, unless it is a run of a job that allows overlap."""
    return claim_key.partition(CHILD)[0]
