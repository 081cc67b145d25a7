"""Completion by callback: a run that its runner has taken, until the runner says how it ended."""

from __future__ import annotations

from msgspec.structs import replace

from scheduler_core.job import Job
from scheduler_core.run import Run, RunState


def taken(job: Job, run: Run, *, now_ms: int) -> Run:
    """``run`` as it waits for its completion. It wakes its job when it has to be given up for lost."""
    run = replace(run, state=RunState.TAKEN, taken_at_ms=now_ms, conflict=False, in_flight=False)
    return replace(run, retry_at_ms=lost_at_ms(job, run))


def heard(job: Job, run: Run, *, progress: float | None, note: str, now_ms: int) -> Run:
    """``run`` after a sign of life."""
    run = replace(run, heard_at_ms=now_ms, progress=run.progress if progress is None else progress, note=note)
    return replace(run, retry_at_ms=lost_at_ms(job, run)) if run.state is RunState.TAKEN else run


def lost_at_ms(job: Job, run: Run) -> int:
    """When a taken run is lost: too long after it was taken, or after the last sign of life."""
    taken_at_ms = run.taken_at_ms or 0
    deadline = taken_at_ms + job.policies.run_timeout_ms
    if job.policies.heartbeat_timeout_ms is None:
        return deadline
    return min(deadline, max(taken_at_ms, run.heard_at_ms or 0) + job.policies.heartbeat_timeout_ms)
