"""A job was claimed: which run starts, and which fire times became none?

Everything is decided as of the run's *first* claim, from facts that the store keeps until the run is settled. A node
that takes the job over from a dead one therefore decides the same, and delivers the same run under the same id.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.job import Downtime, Job, JobState, LastRun, Lease, Pending
from scheduler_core.plan.misses import last_outside, misses_around
from scheduler_core.run import MissReason, Reason, Record, Run, RunState, run_id
from scheduler_core.transition import Transition, is_finished
from scheduler_core.trigger import compile_trigger

QUARANTINE_AFTER_LOSSES = 3
"""A job whose run took this many nodes in a row with it is set aside: it may be what kills them."""


class Work(msgspec.Struct, frozen=True):
    """A run to deliver."""

    job: Job
    run: Run
    state: JobState
    """The job's state as it will be when the run is settled, but for what the run itself comes to."""
    records: tuple[Record, ...] = ()
    """Misses found at the claim; recorded with the settle."""


def plan_claim(
    job: Job, state: JobState, lease: Lease, *, downtimes: Sequence[Downtime], store_id: str
) -> Work | Transition:
    """Decide what a claimed job does: a run to deliver, or a transition when there is none.

    ``downtimes`` are the times without a living node, oldest first.
    """
    now_ms = lease.first_claimed_at_ms
    if state.quarantine is not None:
        return Transition(state)
    if state.open is not None and state.open.in_flight:
        decided = _take_over(job, state, state.open, now_ms=now_ms)
    else:
        # A downtime that ended later began with the death of the node that had claimed the run. To whoever takes it
        # over it is no reason to decide otherwise: the run may have been delivered already.
        known = [downtime for downtime in downtimes if downtime.until_ms <= now_ms]
        decided = _decide(job, state, lease, downtimes=known, store_id=store_id)
    if isinstance(decided, Work) and lease.losses >= QUARANTINE_AFTER_LOSSES:
        return _quarantine(decided, lease.losses, now_ms=now_ms)
    return decided


def quarantine_unreadable(state: JobState | None, reason: str) -> Transition:
    """Set a job aside whose stored documents cannot be read."""
    return Transition(replace(state or JobState(), quarantine=reason))


def end_run(state: JobState, run: Run, final: RunState, *, now_ms: int, message: str = "") -> tuple[JobState, Run]:
    """``state`` without an open run, and ``run`` as it is recorded, ended as ``final`` at ``now_ms``."""
    ended = replace(
        run,
        state=final,
        ended_at_ms=now_ms,
        retry_at_ms=None,
        conflict=False,
        in_flight=False,
        detached=False,
        payload=None,
        message=message or run.message,
        excerpt="" if final is RunState.SUCCEEDED else run.excerpt,
    )
    last = LastRun(ended.id, ended.fire_time_ms, final, now_ms, ended.last_status)
    succeeded = ended.fire_time_ms if final is RunState.SUCCEEDED else state.last_success_ms
    return replace(state, open=None, last=last, last_success_ms=succeeded), ended


def _decide(
    job: Job, state: JobState, lease: Lease, *, downtimes: Sequence[Downtime], store_id: str
) -> Work | Transition:
    now_ms = lease.first_claimed_at_ms
    trigger = compile_trigger(job.trigger)
    due_ms = None if state.is_held else state.next_fire_ms
    latest_ms = trigger.last_in(due_ms - 1, now_ms) if due_ms is not None and due_ms <= now_ms else None
    records: tuple[Record, ...] = ()

    waiting = state.open
    passed_reason = MissReason.COALESCED
    if waiting is not None:
        taken_over = latest_ms is not None and (
            not waiting.conflict or (job.recovery_check and any(d.covers(latest_ms) for d in downtimes))
        )
        if not taken_over:
            if waiting.retry_at_ms is not None and waiting.retry_at_ms > now_ms:
                return Transition(state)
            return Work(job, replace(waiting, state=RunState.OPEN, retry_at_ms=None), replace(state, open=None))
        state, ended = end_run(
            state, waiting, RunState.SUPERSEDED, now_ms=now_ms, message="the next fire time took over"
        )
        records = (ended,)
        passed_reason = MissReason.OVERLAP

    entry = _due_pending(state, now_ms)
    if latest_ms is None or due_ms is None:
        return _start_pending(job, state, entry, records) if entry else _rest(state, records)
    if entry is not None and entry.not_before_ms < due_ms:
        return _start_pending(job, state, entry, records)

    chosen: int | None = latest_ms
    reason = Reason.SCHEDULED
    if any(d.covers(latest_ms) for d in downtimes):
        if job.recovery_check:
            reason = Reason.RECOVERY
        else:
            chosen = last_outside(trigger, due_ms, latest_ms, downtimes)
    misses = misses_around(trigger, due_ms, latest_ms, chosen, passed_reason, downtimes, now_ms=now_ms)
    state = replace(state, next_fire_ms=trigger.next_after(latest_ms))
    if chosen is None:
        return _rest(state, (*records, *misses))
    run = Run(
        id=run_id(now_ms, store_id, lease.first_fence), fire_time_ms=chosen, reason=reason, job_version=job.version
    )
    return Work(job, run, state, (*records, *misses))


def _take_over(job: Job, state: JobState, run: Run, *, now_ms: int) -> Work | Transition:
    """The node that worked this run is gone, and the job was changed while it did."""
    if not run.detached:
        return Work(job, replace(run, in_flight=False), replace(state, open=None))
    after, ended = end_run(
        state, run, RunState.LOST, now_ms=now_ms, message="its node died, and the job was changed meanwhile"
    )
    if now_ms < job.created_at_ms:
        after = replace(after, last=state.last)  # a run of an earlier job under this id
    return _rest(after, (ended,))


def _quarantine(work: Work, losses: int, *, now_ms: int) -> Transition:
    reason = f"{losses} nodes in a row died or froze while they worked its run {work.run.id}"
    state, ended = end_run(work.state, work.run, RunState.LOST, now_ms=now_ms, message=reason)
    return Transition(replace(state, quarantine=reason), (*work.records, ended))


def _rest(state: JobState, records: tuple[Record, ...]) -> Transition:
    return Transition(state, records, remove=is_finished(state))


def _due_pending(state: JobState, now_ms: int) -> Pending | None:
    entry = min(state.pending, key=lambda pending: pending.not_before_ms, default=None)
    return entry if entry is not None and entry.not_before_ms <= now_ms else None


def _start_pending(job: Job, state: JobState, entry: Pending, records: tuple[Record, ...]) -> Work:
    run = Run(
        id=entry.run_id,
        fire_time_ms=entry.not_before_ms,
        reason=Reason.MANUAL,
        job_version=job.version,
        payload=entry.payload,
    )
    rest = tuple(other for other in state.pending if other is not entry)
    return Work(job, run, replace(state, pending=rest), records)


def plan_claim_tombstone(state: JobState, *, now_ms: int) -> Transition:
    """A deleted job whose last run was in flight on a node that died: record that, and let the tombstone go."""
    if state.open is None:
        return Transition(None, remove=True)
    _, ended = end_run(
        state, state.open, RunState.LOST, now_ms=now_ms, message="its node died, and the job was deleted"
    )
    return Transition(None, (ended,), remove=True)
