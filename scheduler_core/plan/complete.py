"""Decides about callbacks of runners: completion of a run, and heartbeats."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Pending, Snapshot
from scheduler_core.model.pause import Pause
from scheduler_core.model.run import MissReason, Reason, Record, Run, RunState
from scheduler_core.model.transition import Transition, transition_to
from scheduler_core.plan.callback import with_callback_time, with_heartbeat
from scheduler_core.plan.continuation import PENDING_LIMIT, BadContinuation, read_continuations
from scheduler_core.plan.finish import end_run, requeue
from scheduler_core.plan.in_flight import write_in_flight
from scheduler_core.plan.misses import pass_over
from scheduler_core.plan.passed import finish_and_account, trigger_was_blocked
from scheduler_core.plan.settle import DROPPED


class Found(msgspec.Struct, frozen=True):
    """An unsettled run, and its job's state without it."""

    run: Run
    state: JobState
    records: tuple[Record, ...]
    waited: bool = False
    """Whether it waited for its retry in the pending list. There only a continuation blocks the trigger."""


def plan_complete(
    snapshot: Snapshot,
    run_id: str,
    final: RunState,
    *,
    message: str,
    continuation: bytes | None,
    now_ms: int,
    downtimes: Sequence[Downtime],
    store_id: str,
) -> Transition | RunState | None:
    """End a run as its runner reports it. Possible from the start of its first attempt on. None: not open in this job.

    While a request of the run is open, the reported state is stored and applied when that request ends, whatever its
    answer. A repeated report changes nothing and returns the state in which the run will end. ``continuation`` is the
    value of ``continue``. After a delete the result is recorded and starts nothing. Raises InvalidInput for a
    continuation that cannot be accepted.
    """
    found = find_run(snapshot, run_id, downtimes, store_id)
    if found is None:
        return None
    run, state, job = found.run, found.state, snapshot.job
    if run.completed is not None:
        return run.completed
    entries, dropped = _entries(job, state, run, continuation, now_ms=now_ms)
    message = "; ".join(text for text in (run.message, message, dropped) if text)
    trigger_blocked = trigger_was_blocked(state, run)
    state = replace(state, pending=(*state.pending, *entries))
    if run.in_flight:
        run = replace(run, completed=final, message=message)
        return Transition(replace(state, open=run), found.records, remove=state.deleted)
    return end_found(
        job,
        replace(found, run=run, state=state),
        final,
        now_ms=now_ms,
        downtimes=downtimes,
        pauses=snapshot.pauses,
        message=message,
        trigger_blocked=trigger_blocked,
    )


def end_found(
    job: Job | None,
    found: Found,
    final: RunState,
    *,
    now_ms: int,
    downtimes: Sequence[Downtime],
    message: str,
    trigger_blocked: bool,
    pauses: Sequence[Pause] = (),
) -> Transition:
    """Return the step that ends a run without an outcome of a request. ``trigger_blocked``: the answer of
    ``trigger_was_blocked`` for the state before continuations were added to it."""
    run, state = found.run, found.state
    if final is RunState.SUCCEEDED:
        state = with_callback_time(state, run, now_ms=now_ms)
    if job is None or state.deleted:
        _, ended = end_run(None, state, run, final, now_ms=now_ms, message=message)
        return Transition(None, (ended,), remove=True)
    if not found.waited:
        after, records = finish_and_account(
            job,
            state,
            run,
            final,
            now_ms=now_ms,
            downtimes=downtimes,
            pauses=pauses,
            message=message,
            trigger_blocked=trigger_blocked,
        )
        return transition_to(job, after, (*found.records, *records), now_ms=now_ms)
    after, ended = end_run(job, state, run, final, now_ms=now_ms, message=message)
    after = replace(after, open=state.open)
    misses: tuple[Record, ...] = ()
    if run.reason is Reason.CONTINUATION and after.trigger_blocked_by is None:
        after, misses = pass_over(job, after, MissReason.HELD, now_ms=now_ms, pauses=pauses)
    return transition_to(job, after, (*found.records, ended, *misses), now_ms=now_ms)


def plan_heartbeat(
    snapshot: Snapshot,
    run_id: str,
    *,
    progress: float | None,
    note: str,
    now_ms: int,
    downtimes: Sequence[Downtime],
    store_id: str,
) -> tuple[Transition, int | None] | None:
    """Record a heartbeat. Returns the step, and when the run is lost without a further heartbeat (None: no such limit).

    None: the run is not open in this job.
    """
    found = find_run(snapshot, run_id, downtimes, store_id)
    if found is None:
        return None
    run, state = found.run, found.state
    run = with_heartbeat(run, progress=progress, note=note, now_ms=now_ms)
    if found.run.state is RunState.RETRYING and found.run.on_demand and not found.run.in_flight:
        state = requeue(state, run, run.retry_at_ms or now_ms, conflict=run.conflict)
    else:
        state = replace(state, open=run)
    lost_at = run.retry_at_ms if run.state is RunState.TAKEN else None
    return Transition(state, found.records, remove=state.deleted), lost_at


def find_run(snapshot: Snapshot, run_id: str, downtimes: Sequence[Downtime], store_id: str) -> Found | None:
    """Return the run if it is not settled: open, waiting for a retry, or taken."""
    state = snapshot.state
    records: tuple[Record, ...] = ()
    if state is None:
        return None
    if snapshot.job is not None and not state.deleted:
        state, records = write_in_flight(snapshot.job, state, snapshot, downtimes, store_id)
    if state.open is not None and state.open.id == run_id:
        return Found(state.open, replace(state, open=None), records)
    for entry in state.pending:
        if entry.run is not None and entry.run.id == run_id:
            others = tuple(other for other in state.pending if other is not entry)
            return Found(
                replace(entry.run, payload=entry.payload), replace(state, pending=others), records, waited=True
            )
    return None


def _entries(
    job: Job | None, state: JobState, run: Run, continuation: bytes | None, *, now_ms: int
) -> tuple[tuple[Pending, ...], str]:
    """Return the continuations that the runner requests, and why they are dropped if they are."""
    if continuation is None:
        return (), ""
    if job is None or state.deleted or run.list_replaced:
        return (), DROPPED
    if not job.policies.continuations:
        raise InvalidInput("the job does not take continuations", field="continue")
    try:
        entries = read_continuations(continuation, run, now_ms=now_ms)
    except BadContinuation as error:
        raise InvalidInput(str(error), field="continue") from None
    if len(state.pending) + len(entries) > PENDING_LIMIT:
        raise InvalidInput(f"{PENDING_LIMIT} runs wait for this job already", field="continue")
    return entries, ""
