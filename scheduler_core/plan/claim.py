"""A job was claimed: which run starts, and which fire times became none?

Everything is decided as of the run's *first* claim, from facts that the store keeps until the run is settled. A node
that takes the job over from a dead one therefore decides the same, and delivers the same run under the same id.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.job import Downtime, Job, JobState, Lease, Overlap, Pending, Recovery, Replay
from scheduler_core.job_trigger import trigger_of
from scheduler_core.plan.catch_up import catch_up
from scheduler_core.plan.ending import end_run
from scheduler_core.plan.misses import last_outside, misses_around, pass_over
from scheduler_core.plan.overlap import account_passed
from scheduler_core.run import MissReason, Reason, Record, Run, RunState, run_id
from scheduler_core.transition import REPLAYED, Spawn, Transition, next_replay, rest, startable
from scheduler_core.trigger import Trigger

QUARANTINE_AFTER_LOSSES = 3
"""A job whose run took this many nodes in a row with it is set aside: it may be what kills them."""
FULL_WAIT_MS = 1_000
"""How long a run that was asked for waits when as many of its job run as may."""


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


def plan_spawn(work: Work) -> Transition:
    """The step that makes a run of a job with ``overlap: allow`` a unit of its own, and moves its job on at once.

    Fire times that are run again go one at a time: they start only when no other run of the job is open.
    """
    one_at_a_time = work.run.asked and work.run.reason in REPLAYED
    limit = 1 if one_at_a_time else work.job.policies.max_concurrent
    run = replace(work.run, asked=False)
    step = rest(work.state, work.records)
    return replace(step, spawn=Spawn(run, limit))


def is_spawned(job: Job, unit: str) -> bool:
    """Whether runs of the claimed ``unit`` become units of their own: the job allows overlap, and is not such a one."""
    return job.policies.overlap is Overlap.ALLOW and unit == job.id


def plan_full(work: Work, before: JobState, *, now_ms: int) -> Transition:
    """The step of a job that allows overlap when as many of its runs are open as may: the fire time is missed."""
    if work.run.asked:
        later = now_ms + FULL_WAIT_MS
        entry = Pending(work.run.id, later, work.run.payload, work.run.reason, replace(work.run, payload=None))
        return Transition(replace(work.state, pending=(*work.state.pending, entry)), work.records)
    state, misses = pass_over(work.job, before, MissReason.OVERLAP, now_ms=now_ms)
    return rest(state, misses)


def _decide(
    job: Job, state: JobState, lease: Lease, *, downtimes: Sequence[Downtime], store_id: str
) -> Work | Transition:
    now_ms = lease.first_claimed_at_ms
    records: tuple[Record, ...] = ()
    if state.ends_at_ms is not None and state.ends_at_ms <= now_ms:
        state, records = pass_over(job, replace(state, ends_at_ms=None), MissReason.PAUSED, now_ms=now_ms)
    trigger = trigger_of(job)
    due_ms = None if state.is_held else state.next_fire_ms
    latest_ms = trigger.last_in(due_ms - 1, now_ms) if due_ms is not None and due_ms <= now_ms else None

    waiting = state.open
    passed_reason = MissReason.COALESCED
    if waiting is not None:
        taken_over = latest_ms is not None and _gives_way(waiting, job, latest_ms, downtimes)
        if not taken_over:
            if waiting.retry_at_ms is not None and waiting.retry_at_ms > now_ms:
                return Transition(state, records)
            if waiting.state is RunState.TAKEN:
                return _lost(job, state, waiting, records, downtimes, now_ms=now_ms)
            run = replace(waiting, state=RunState.OPEN, retry_at_ms=None)
            return Work(job, run, replace(state, open=None), records)
        state, ended = end_run(
            job, state, waiting, RunState.SUPERSEDED, now_ms=now_ms, message="the next fire time took over"
        )
        records = (*records, ended)
        passed_reason = MissReason.OVERLAP

    entry = _due_entry(state, now_ms)
    if latest_ms is None or due_ms is None:
        return _start_asked(job, state, entry, records, lease, trigger, store_id)
    if entry is not None and entry.reason not in REPLAYED and entry.not_before_ms < due_ms:
        return _start_entry(job, state, entry, records)

    chosen: int | None = latest_ms
    reason = Reason.SCHEDULED
    recovery = job.recovery
    caught: tuple[Record, ...] = ()
    if recovery is Recovery.ALL:
        found = catch_up(job, trigger, due_ms, latest_ms, downtimes, reason=passed_reason, now_ms=now_ms)
        if found is not None:
            state = replace(state, replays=(*state.replays, *found.replays))
            caught = found.records
            if found.rest_ms is None:
                state = replace(state, next_fire_ms=trigger.next_after(latest_ms))
                return _start_asked(job, state, entry, (*records, *caught), lease, trigger, store_id)
            due_ms = found.rest_ms
    elif any(d.covers(latest_ms) for d in downtimes):
        if recovery is Recovery.NONE:
            chosen = last_outside(trigger, due_ms, latest_ms, downtimes)
        else:
            reason = Reason.RECOVERY
    misses = misses_around(trigger, due_ms, latest_ms, chosen, passed_reason, downtimes, now_ms=now_ms)
    records = (*records, *caught, *misses)
    state = replace(state, next_fire_ms=trigger.next_after(latest_ms))
    if chosen is None:
        return rest(state, records)
    if job.policies.max_runs is not None:
        state = replace(state, fired=state.fired + 1)
        if state.fired >= job.policies.max_runs:
            state = replace(state, next_fire_ms=None)
    run = Run(
        id=run_id(now_ms, store_id, lease.first_fence), fire_time_ms=chosen, reason=reason, job_version=job.version
    )
    return Work(job, run, state, records)


def _gives_way(waiting: Run, job: Job, latest_ms: int, downtimes: Sequence[Downtime]) -> bool:
    """Whether the run that waits is superseded by a fire time that has come: not while the runner is busy with it,
    unless no node was alive at that fire time and the job wants a run for it."""
    if waiting.state is RunState.TAKEN:
        return False
    if not waiting.conflict:
        return True
    return job.recovery is not Recovery.NONE and any(downtime.covers(latest_ms) for downtime in downtimes)


def _lost(
    job: Job,
    state: JobState,
    run: Run,
    records: tuple[Record, ...],
    downtimes: Sequence[Downtime],
    *,
    now_ms: int,
) -> Transition:
    """The runner took the run and never said how it ended."""
    silent = job.policies.heartbeat_timeout_ms is not None and (
        run.taken_at_ms is None or now_ms < run.taken_at_ms + job.policies.run_timeout_ms
    )
    why = "no sign of life" if silent else "not completed in time"
    state, ended = end_run(job, state, run, RunState.LOST, now_ms=now_ms, message=f"the runner took it: {why}")
    held = run.reason is Reason.CONTINUATION or state.is_held
    state, misses = account_passed(job, state, held=held, now_ms=now_ms, downtimes=downtimes)
    return rest(state, (*records, ended, *misses))


def _take_over(job: Job, state: JobState, run: Run, *, now_ms: int) -> Work | Transition:
    """The node that worked this run is gone, and the job was changed while it did."""
    if run.completed is not None:
        after, ended = end_run(job, state, run, run.completed, now_ms=now_ms)
        held = run.reason is Reason.CONTINUATION or after.is_held
        after, misses = account_passed(job, after, held=held, now_ms=now_ms, downtimes=())
        return rest(after, (ended, *misses))
    if not run.detached:
        return Work(job, replace(run, in_flight=False), replace(state, open=None))
    after, ended = end_run(
        job, state, run, RunState.LOST, now_ms=now_ms, message="its node died, and the job was changed meanwhile"
    )
    if now_ms < job.created_at_ms:
        after = replace(after, last=state.last, totals=state.totals)  # a run of an earlier job under this id
    return rest(after, (ended,))


def _quarantine(work: Work, losses: int, *, now_ms: int) -> Transition:
    reason = f"{losses} nodes in a row died or froze while they worked its run {work.run.id}"
    state, ended = end_run(work.job, work.state, work.run, RunState.LOST, now_ms=now_ms, message=reason)
    return Transition(replace(state, quarantine=reason), (*work.records, ended))


def _due_entry(state: JobState, now_ms: int) -> Pending | None:
    if not state.pending:
        return None
    entry = min(startable(state), key=lambda pending: pending.not_before_ms, default=None)
    return entry if entry is not None and entry.not_before_ms <= now_ms else None


def _start_asked(
    job: Job,
    state: JobState,
    entry: Pending | None,
    records: tuple[Record, ...],
    lease: Lease,
    trigger: Trigger,
    store_id: str,
) -> Work | Transition:
    """No fire time is due: the entry that is, or else a fire time that is run again, or else nothing."""
    if entry is not None:
        return _start_entry(job, state, entry, records)
    replay = next_replay(state)
    if replay is None:
        return rest(state, records)
    run = Run(
        id=run_id(lease.first_claimed_at_ms, store_id, lease.first_fence),
        fire_time_ms=replay.next_ms,
        reason=replay.reason,
        job_version=job.version,
        asked=True,
    )
    return Work(job, run, replace(state, replays=(*_advanced(replay, trigger), *state.replays[1:])), records)


def _advanced(replay: Replay, trigger: Trigger) -> tuple[Replay, ...]:
    following = trigger.next_after(replay.next_ms)
    if following is None or following > replay.last_ms or replay.left <= 1:
        return ()
    return (replace(replay, next_ms=following, left=replay.left - 1),)


def _start_entry(job: Job, state: JobState, entry: Pending, records: tuple[Record, ...]) -> Work:
    others = tuple(other for other in state.pending if other is not entry)
    if entry.run is not None:
        run = replace(entry.run, state=RunState.OPEN, retry_at_ms=None, payload=entry.payload)
    else:
        run = Run(
            id=entry.run_id,
            fire_time_ms=entry.not_before_ms,
            reason=entry.reason,
            job_version=job.version,
            payload=entry.payload,
            asked=True,
        )
    return Work(job, run, replace(state, pending=others), records)


def plan_claim_tombstone(state: JobState, *, now_ms: int) -> Transition:
    """A deleted job whose last run was in flight on a node that died, or was never completed by its runner: record
    that, and let the tombstone go."""
    run = state.open
    if run is None:
        return Transition(None, remove=True)
    if run.state is RunState.TAKEN and run.retry_at_ms is not None and run.retry_at_ms > now_ms:
        return Transition(state)
    message = "its node died, and the job was deleted"
    if run.state is RunState.TAKEN:
        message = "the runner took it and did not complete it in time; the job was deleted"
    _, ended = end_run(None, state, run, run.completed or RunState.LOST, now_ms=now_ms, message=message)
    return Transition(None, (ended,), remove=True)
