"""Makes and splits claim keys: the ids of everything that a node can claim.

A claim key is a job's id, or the id of a child run (one run of a job that allows overlap).
"""

from __future__ import annotations

CHILD = "\x1f"
"""Separates the job id and the run id in the claim key of a child run. No job id contains it: ids are printable."""
REPLAY = "~"
"""Precedes the run id in the claim key of a backfill or a belated run. These sort after all other child runs, which
makes them countable: a job runs one of them at a time."""


def child_id(job_id: str, run_id: str, *, replay: bool = False) -> str:
    """Return the claim key of a child run."""
    return f"{job_id}{CHILD}{REPLAY if replay else ''}{run_id}"


def job_of_claim_key(claim_key: str) -> str:
    """Return the id of the job to which a claim key belongs."""
    return claim_key.partition(CHILD)[0]
