"""Cancels a run that is not settled: open, waiting for a retry, taken by its runner, or still in the pending list."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job_state import Snapshot
from scheduler_core.model.lease import Lease
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, MissReason, Record, Run, RunState, keep_attempts
from scheduler_core.model.transition import Transition, transition_to
from scheduler_core.plan.change import cancel_entries
from scheduler_core.plan.complete import end_found, find_run
from scheduler_core.plan.in_flight import write_in_flight
from scheduler_core.plan.misses import pass_over
from scheduler_core.plan.passed import trigger_was_blocked

WHY = "cancelled by a client"
WHY_OPEN = "cancelled by a client while its request was open"


def plan_cancel_run(
    snapshot: Snapshot, run_id: str, *, now_ms: int, downtimes: Sequence[Downtime], store_id: str
) -> Transition | None:
    """End the run as cancelled and remove its pending entry. None: this job has no such unsettled run.

    If a node holds the run, the same step revokes its lease: the result of the request is refused, and the job does not
    wait for it. The request, which may have been sent, is recorded as a lost attempt.
    """
    found = find_run(snapshot, run_id, downtimes, store_id)
    if found is None:
        return _cancel_waiting(snapshot, run_id, now_ms=now_ms, downtimes=downtimes, store_id=store_id)
    run, lease = found.run, snapshot.lease
    trigger_blocked = trigger_was_blocked(found.state, run)
    why = WHY
    revoke = run.in_flight and lease is not None
    if revoke and lease is not None and lease.node != "-":
        run, why = _with_open_attempt(run, lease), WHY_OPEN
    step = end_found(
        snapshot.job,
        replace(found, run=replace(run, in_flight=False, completed=None)),
        RunState.CANCELLED,
        now_ms=now_ms,
        downtimes=downtimes,
        pauses=snapshot.pauses,
        message=why,
        trigger_blocked=trigger_blocked,
    )
    return replace(step, revoke=revoke)


def _cancel_waiting(
    snapshot: Snapshot, run_id: str, *, now_ms: int, downtimes: Sequence[Downtime], store_id: str
) -> Transition | None:
    """Cancel a run that has not started: remove its pending entry. The fire times that a continuation held until now
    are a miss."""
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        return None
    state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
    entry = next((one for one in state.pending if one.run_id == run_id and one.failed is None), None)
    if entry is None:
        return None
    was_held = state.trigger_blocked_by is MissReason.HELD
    state = replace(state, pending=tuple(one for one in state.pending if one is not entry))
    cancelled = cancel_entries(job, [entry], now_ms=now_ms, why=WHY)
    misses: tuple[Record, ...] = ()
    if was_held and state.trigger_blocked_by is None:
        state, misses = pass_over(job, state, MissReason.HELD, now_ms=now_ms, pauses=snapshot.pauses)
    return transition_to(job, state, (*records, *cancelled, *misses), now_ms=now_ms)


def _with_open_attempt(run: Run, lease: Lease) -> Run:
    started_at_ms = run.started_at_ms or lease.first_claimed_at_ms
    attempt = Attempt(run.attempt + 1, lease.fence, started_at_ms, 0.0, OutcomeKind.LOST, message=WHY_OPEN)
    return replace(
        run, attempt=attempt.number, attempts=keep_attempts(run.attempts, attempt), started_at_ms=started_at_ms
    )
