"""Completion by callback: the deadlines of a run that its runner has accepted and not completed yet."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import CallbackTimes, JobState
from scheduler_core.model.run import Run, RunState


def taken(job: Job, run: Run, *, now_ms: int) -> Run:
    """Return ``run`` as taken: it waits for completion, with the timeouts of the definition that it started with.

    Its job wakes up when the run counts as lost.
    """
    run = replace(
        run,
        state=RunState.TAKEN,
        taken_at_ms=now_ms,
        run_timeout_ms=job.policies.run_timeout_ms,
        heartbeat_timeout_ms=job.policies.heartbeat_timeout_ms,
        conflict=False,
        in_flight=False,
    )
    return replace(run, retry_at_ms=lost_at_ms(run))


def with_heartbeat(run: Run, *, progress: float | None, note: str, now_ms: int) -> Run:
    """Return ``run`` after a heartbeat."""
    run = replace(run, heartbeat_at_ms=now_ms, progress=run.progress if progress is None else progress, note=note)
    return replace(run, retry_at_ms=lost_at_ms(run)) if run.state is RunState.TAKEN else run


def with_callback_time(state: JobState, run: Run, *, now_ms: int) -> JobState:
    """Return ``state`` with the time that the runner took for ``run``, which it has just completed; unchanged if it
    never took it. The mean of these times estimates how long a taken run lasts."""
    if run.taken_at_ms is None:
        return state
    times = state.callback_times or CallbackTimes(0, 0)
    took_ms = max(0, now_ms - run.taken_at_ms)
    return replace(state, callback_times=CallbackTimes(times.runs + 1, times.total_ms + took_ms))


def lost_at_ms(run: Run, downtimes: Sequence[Downtime] = ()) -> int:
    """Return when a taken run counts as lost: its run timeout or its heartbeat timeout, whichever ends first.

    No heartbeat can arrive while no node and no API is running, so the heartbeat timeout restarts after a downtime.
    """
    taken_at_ms = run.taken_at_ms or 0
    deadline = taken_at_ms + (run.run_timeout_ms or 0)
    if run.heartbeat_timeout_ms is None:
        return deadline
    silent_since = max(taken_at_ms, run.heartbeat_at_ms or 0)
    for downtime in downtimes:
        if downtime.after_ms <= silent_since + run.heartbeat_timeout_ms:
            silent_since = max(silent_since, downtime.until_ms)
    return min(deadline, silent_since + run.heartbeat_timeout_ms)
