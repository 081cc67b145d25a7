"""Ends a run, or returns it to the pending list. Only this module writes settled runs."""

from __future__ import annotations

from msgspec.structs import replace

from scheduler_core.model.health import FAILED, counts
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, LastRun, Pending, Totals
from scheduler_core.model.run import Run, RunState
from scheduler_core.plan.attention import after_failure
from scheduler_core.plan.failures import failures_after_failure, failures_after_success, how_it_failed


def end_run(
    job: Job | None, state: JobState, run: Run, final: RunState, *, now_ms: int, message: str = ""
) -> tuple[JobState, Run]:
    """Return ``state`` without an open run, and the record of ``run`` with the state ``final`` at ``now_ms``.

    A continuation that did not succeed, or the replay of one, leaves a pending entry that is set aside: it is listed,
    can be revived, and does not block the trigger. The record keeps the run's own payload, which a replay needs. A run
    of an earlier job under this id is recorded, but does not count for ``job``.
    """
    ended = replace(
        run,
        state=final,
        ended_at_ms=now_ms,
        retry_at_ms=None,
        conflict=False,
        in_flight=False,
        detached=False,
        on_demand=False,
        list_replaced=False,
        completed=None,
        message=message or run.message,
        excerpt="" if final is RunState.SUCCEEDED else run.excerpt,
    )
    state = replace(state, open=None)
    set_aside = (
        final not in (RunState.SUCCEEDED, RunState.CANCELLED) and run.is_set_aside_on_failure and not run.detached
    )
    if set_aside:
        why = ended.message or how_it_failed(ended)
        entry = Pending(run.id, now_ms, run.payload, run.reason, failed=why, replay_of=run.replay_of)
        state = replace(state, pending=(*state.pending, entry))
    if job is None or (run.started_at_ms is not None and run.started_at_ms < job.created_at_ms):
        return state, ended
    totals = state.totals
    latest = ended.attempts[-1] if ended.attempts else None
    latency = 0.0 if latest is None else latest.latency_ms
    last = LastRun(ended.id, ended.fire_time_ms, final, now_ms, None if latest is None else latest.status)
    if final is not RunState.SUCCEEDED:
        totals = Totals(totals.runs + 1, totals.succeeded, totals.latency_ms + latency)
        failures = failures_after_failure(state, ended)
        state = replace(state, last=last, totals=totals, failures=failures)
        if final in FAILED and not set_aside:
            state = after_failure(state, ended.id, now_ms)
        return state, ended
    if state.failures is not None:
        state = replace(state, failures=failures_after_success(state.failures, ended))
    if state.unresolved is not None and counts(run.reason):
        state = replace(state, unresolved=None)
    totals = Totals(totals.runs + 1, totals.succeeded + 1, totals.latency_ms + latency)
    return replace(
        state,
        last=last,
        totals=totals,
        last_success_ms=max(ended.fire_time_ms, state.last_success_ms or 0),
        last_success_start_ms=max(ended.started_at_ms or 0, state.last_success_start_ms or 0),
    ), ended


def requeue(state: JobState, run: Run, retry_at_ms: int, *, conflict: bool) -> JobState:
    """Return ``state`` with an on-demand run back in the pending list, where it waits for its next attempt."""
    waiting = replace(
        run, state=RunState.RETRYING, retry_at_ms=retry_at_ms, conflict=conflict, in_flight=False, payload=None
    )
    entry = Pending(run.id, retry_at_ms, run.payload, run.reason, waiting, replay_of=run.replay_of)
    return replace(state, pending=(*state.pending, entry))
