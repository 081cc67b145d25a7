"""Checks that a change of a job starts from the version that its client has seen.

The check is part of the plan. The store writes the planned step only if the job is still the one that was planned from,
so of two clients that name the same version only one can change the job.
"""

from __future__ import annotations

from collections.abc import Collection

from scheduler_core.base.errors import JobExists, JobNotFound, RunConflict, VersionMismatch
from scheduler_core.model.transition import Transition
from scheduler_core.store.jobs import StoredJob
from scheduler_core.usecases.job_reads import exists
from scheduler_core.usecases.release import Plan

ANY = "*"
IfMatch = Collection[str]
"""The ETags that a client accepts; ``ANY``: of each stored job; ``ABSENT``: none, the job must not exist."""
ABSENT: IfMatch = frozenset({""})
"""Compare with ``is``: a client can send an empty ETag."""


def check_etag(stored: StoredJob, if_match: IfMatch | None) -> None:
    """Raise VersionMismatch unless the job is stored in one of these versions. None: any, also none at all.

    Raise JobExists if it is stored and must not exist.
    """
    if if_match is ABSENT:
        if exists(stored):
            raise JobExists(None if stored.snapshot.job is None else stored.snapshot.job.etag)
        return
    if if_match is None or (ANY in if_match and exists(stored)):
        return
    etag = None if stored.snapshot.job is None else stored.snapshot.job.etag
    if etag is None or etag not in if_match:
        raise VersionMismatch(etag)


def check_existing(job_id: str, stored: StoredJob, if_match: IfMatch | None) -> None:
    """Raise JobNotFound, RunConflict (the stored job cannot be read) or VersionMismatch."""
    if not exists(stored):
        raise JobNotFound(job_id)
    if stored.fault is not None:
        raise RunConflict(f"the stored job cannot be read ({stored.fault}): put it again or delete it")
    check_etag(stored, if_match)


def requiring(plan: Plan, if_match: IfMatch | None) -> Plan:
    """Return ``plan`` with ``check_etag`` before it."""
    if if_match is None:
        return plan

    def checked(stored: StoredJob, now_ms: int) -> Transition | None:
        check_etag(stored, if_match)
        return plan(stored, now_ms)

    return checked
