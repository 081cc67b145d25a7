"""Decides what a claimed job does: which run starts, and which fire times are misses.

All decisions refer to the run's *first* claim and use facts that the store keeps until the run is settled. A node that
takes the job over from a dead one therefore decides the same, and delivers the same run under the same id.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import HeldBack, JobState, Pending, Replay
from scheduler_core.model.lease import QUARANTINE_AFTER_ALONE, Lease
from scheduler_core.model.pause import Pause, known_pauses, running_pause
from scheduler_core.model.policies import Overlap, Recovery
from scheduler_core.model.run import NEXT_FIRE_TIME, MissReason, Reason, Record, Run, RunState, run_id
from scheduler_core.model.transition import (
    REPLAYED,
    Transition,
    next_replay,
    startable,
    transition_to,
)
from scheduler_core.plan.attention import after_failure
from scheduler_core.plan.callback import lost_at_ms
from scheduler_core.plan.catch_up import catch_up
from scheduler_core.plan.finish import end_run, requeue
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.lost_attempts import with_lost_attempts
from scheduler_core.plan.misses import last_outside, misses_around, pass_over
from scheduler_core.plan.once import why_not_sent
from scheduler_core.plan.passed import finish_and_account, trigger_was_blocked
from scheduler_core.plan.paused import held_entries, hold, is_requested, pass_pauses, resume_in_time
from scheduler_core.triggers.trigger import Trigger


class Work(msgspec.Struct, frozen=True):
    """A run to deliver."""

    job: Job
    run: Run
    state: JobState
    """The job's state after the run, apart from the result of the run itself."""
    records: tuple[Record, ...] = ()
    """Misses found at the claim, recorded with the settle."""


def plan_claim(
    job: Job,
    state: JobState,
    lease: Lease,
    *,
    downtimes: Sequence[Downtime],
    store_id: str,
    now_ms: int | None = None,
    pauses: Sequence[Pause] = (),
) -> Work | Transition:
    """Decide what a claimed job does: a run to deliver, or a transition if no run starts.

    ``downtimes``: periods without a living node, oldest first. ``now_ms``: the time of this claim, used as the end of
    runs that end now; the choice of the run does not depend on it. ``pauses``: pauses of everything, oldest first.
    """
    claimed_at_ms = lease.first_claimed_at_ms
    now_ms = claimed_at_ms if now_ms is None else max(now_ms, claimed_at_ms)
    if state.quarantine is not None:
        return Transition(state)
    held_back = state.held_back
    if held_back is not None:
        state = replace(state, held_back=None)
    if state.open is not None and state.open.in_flight:
        run = with_lost_attempts(state.open, lease)
        decided = _take_over(job, state, run, lease, downtimes, pauses, now_ms=now_ms)
    else:
        # A later downtime began with the death of the node that claimed the run. It must not change the decision: the
        # run may have been delivered already.
        known = tuple(filter(lease.knew, downtimes))
        decided = _decide(
            job,
            state,
            lease,
            downtimes=known,
            store_id=store_id,
            held_back=held_back,
            pauses=known_pauses(pauses, lease) if pauses else (),
        )
        if lease.lost and isinstance(decided, Work):
            decided = replace(decided, run=with_lost_attempts(decided.run, lease))
    if job.policies.at_most_once and isinstance(decided, Work):
        unsent = why_not_sent(decided.run, lease)
        if unsent is not None:
            state, ended = end_run(job, decided.state, decided.run, unsent.final, now_ms=now_ms, message=unsent.why)
            return transition_to(job, state, (*decided.records, ended), now_ms=now_ms)
    # A definition that was changed since the claim has not crashed a node yet.
    if isinstance(decided, Work) and lease.alone >= QUARANTINE_AFTER_ALONE and job.updated_at_ms <= claimed_at_ms:
        return _quarantine(decided, lease, now_ms=now_ms)
    return decided


def quarantine_unreadable(state: JobState | None, reason: str, *, child: bool = False, now_ms: int = 0) -> Transition:
    """Quarantine a job whose stored documents cannot be read. A child run (``child``) ends as lost instead: in
    quarantine it would count towards ``max_concurrent`` for ever."""
    if not child:
        return Transition(after_failure(replace(state or JobState(), quarantine=reason), "", now_ms))
    if state is None or state.open is None:
        return Transition(None, remove=True)
    _, ended = end_run(None, state, state.open, RunState.LOST, now_ms=now_ms, message=reason)
    return Transition(None, (ended,), remove=True)


def is_spawned(work: Work) -> bool:
    """Return whether the run becomes a child run: its job has ``overlap: allow``, and it is not a child run already.

    Continuations and replays of them stay with the job, because they come from its pending list and return there.
    """
    allows = work.job.policies.overlap is Overlap.ALLOW
    return allows and not work.state.child and not work.run.is_set_aside_on_failure


def _decide(
    job: Job,
    state: JobState,
    lease: Lease,
    *,
    downtimes: Sequence[Downtime],
    store_id: str,
    held_back: HeldBack | None = None,
    pauses: Sequence[Pause] = (),
) -> Work | Transition:
    now_ms = lease.first_claimed_at_ms
    records: tuple[Record, ...] = ()
    if state.pause is not None:
        state, records = resume_in_time(job, state, now_ms=now_ms)
    if state.ends_at_ms is not None and state.ends_at_ms <= now_ms:
        state, records = pass_over(job, replace(state, ends_at_ms=None), MissReason.PAUSED, now_ms=now_ms)
    if pauses:
        pause = running_pause(pauses, now_ms)
        if pause is not None:
            return _during_pause(job, state, records, pause, pauses, downtimes, now_ms=now_ms)
        if state.trigger_blocked_by is None:
            state, missed = pass_pauses(job, state, pauses, downtimes, now_ms=now_ms)
            records = (*records, *missed)
    trigger = trigger_of(job)
    due_ms = None if state.trigger_blocked_by is not None else state.next_fire_ms
    latest_ms = trigger.last_in(due_ms - 1, now_ms) if due_ms is not None and due_ms <= now_ms else None

    waiting = state.open
    passed_reason = MissReason.COALESCED if held_back is None else held_back.miss_reason
    if waiting is not None:
        taken_over = latest_ms is not None and _is_overtaken(waiting, job, latest_ms, downtimes)
        if not taken_over:
            if waiting.retry_at_ms is not None and waiting.retry_at_ms > now_ms:
                return Transition(state, records)
            if waiting.state is RunState.TAKEN:
                return _lost(job, state, waiting, records, downtimes, pauses, now_ms=now_ms)
            run = replace(waiting, state=RunState.OPEN, retry_at_ms=None)
            return Work(job, run, replace(state, open=None), records)
        state, ended = _overtaken(job, state, waiting, now_ms=now_ms)
        records = (*records, ended)
        if held_back is None or not held_back.breaker:
            passed_reason = MissReason.OVERLAP

    entry = _due_entry(state, now_ms) if state.pending else None
    if latest_ms is None or due_ms is None:
        return _start_on_demand(job, state, entry, records, lease, trigger, store_id)
    if entry is not None and entry.reason not in REPLAYED and entry.not_before_ms < due_ms:
        return _start_entry(job, state, entry, records)

    chosen: int | None = latest_ms
    reason = Reason.SCHEDULED
    recovery = job.recovery
    caught: tuple[Record, ...] = ()
    if recovery is Recovery.ALL:
        found = catch_up(job, state, due_ms, latest_ms, downtimes, reason=passed_reason, now_ms=now_ms)
        if found is not None:
            state, caught = found.state, found.records
            if found.rest_ms is None:
                return _start_on_demand(job, state, entry, (*records, *caught), lease, trigger, store_id)
            due_ms = found.rest_ms
    elif downtimes and any(downtime.covers(latest_ms) for downtime in downtimes):
        if recovery is Recovery.NONE:
            chosen = last_outside(trigger, due_ms, latest_ms, downtimes)
        else:
            reason = Reason.RECOVERY
    misses = misses_around(trigger, due_ms, latest_ms, chosen, passed_reason, downtimes, now_ms=now_ms)
    records = (*records, *caught, *misses)
    state = replace(state, next_fire_ms=trigger.next_after(latest_ms))
    if chosen is None:
        return transition_to(job, state, records, now_ms=now_ms)
    if job.policies.max_runs is not None:
        state = replace(state, fired=state.fired + 1)
        if state.fired >= job.policies.max_runs:
            state = replace(state, next_fire_ms=None)
    run = Run(
        id=run_id(now_ms, store_id, lease.first_fence), fire_time_ms=chosen, reason=reason, job_version=job.version
    )
    return Work(job, run, state, records)


def _during_pause(
    job: Job,
    state: JobState,
    records: tuple[Record, ...],
    pause: Pause,
    pauses: Sequence[Pause],
    downtimes: Sequence[Downtime],
    *,
    now_ms: int,
) -> Work | Transition:
    """Decide during a pause of everything: requested runs start, a taken run can be lost, all else is held back."""
    waiting = state.open
    if waiting is None:
        held = held_entries(state, pause)
        entries = [one for one in startable(state) if one not in held and one.not_before_ms <= now_ms]
        if not entries:
            return hold(job, state, pause, records, now_ms=now_ms)
        return _start_entry(job, state, min(entries, key=lambda pending: pending.not_before_ms), records)
    is_due = waiting.retry_at_ms is None or waiting.retry_at_ms <= now_ms
    if waiting.state is RunState.TAKEN:
        if not is_due:
            return Transition(state, records)
        return _lost(job, state, waiting, records, downtimes, pauses, now_ms=now_ms)
    if is_due and is_requested(waiting, pause):
        run = replace(waiting, state=RunState.OPEN, retry_at_ms=None)
        return Work(job, run, replace(state, open=None), records)
    return hold(job, state, pause, records, now_ms=now_ms)


def _is_overtaken(waiting: Run, job: Job, latest_ms: int, downtimes: Sequence[Downtime]) -> bool:
    """Return whether a due fire time overtakes the waiting run. It does not while the runner is busy with that run,
    unless no node was alive at the fire time and the job has a recovery policy."""
    if waiting.state is RunState.TAKEN:
        return False
    if not waiting.conflict:
        return True
    return job.recovery is not Recovery.NONE and any(downtime.covers(latest_ms) for downtime in downtimes)


def _overtaken(job: Job, state: JobState, waiting: Run, *, now_ms: int) -> tuple[JobState, Run]:
    """End a waiting run because a later fire time is due: as failed if one of its attempts failed, so that a runner
    which refuses every connection does not look healthy; else as superseded."""
    final = RunState.FAILED if waiting.has_failed_attempt else RunState.SUPERSEDED
    run = replace(waiting, ended_by=NEXT_FIRE_TIME)
    return end_run(job, state, run, final, now_ms=now_ms, message="the next fire time took over")


def _lost(
    job: Job,
    state: JobState,
    run: Run,
    records: tuple[Record, ...],
    downtimes: Sequence[Downtime],
    pauses: Sequence[Pause],
    *,
    now_ms: int,
) -> Transition:
    """End a taken run as lost, or wait longer if a downtime prevented the runner's callbacks."""
    lost_at = lost_at_ms(run, downtimes)
    if lost_at > now_ms:
        return Transition(replace(state, open=replace(run, retry_at_ms=lost_at)), records)
    in_time = run.taken_at_ms is not None and now_ms < run.taken_at_ms + (run.run_timeout_ms or 0)
    why = f"the runner took it: {'no heartbeat in time' if in_time else 'not completed in time'}"
    trigger_blocked = trigger_was_blocked(state, run)
    state, ended = finish_and_account(
        job,
        state,
        run,
        RunState.LOST,
        now_ms=now_ms,
        downtimes=downtimes,
        pauses=pauses,
        trigger_blocked=trigger_blocked,
        message=why,
    )
    return transition_to(job, state, (*records, *ended), now_ms=now_ms)


def _take_over(
    job: Job,
    state: JobState,
    run: Run,
    lease: Lease,
    downtimes: Sequence[Downtime],
    pauses: Sequence[Pause],
    *,
    now_ms: int,
) -> Work | Transition:
    """Continue a run whose node died, after its job was changed or its runner called back."""
    others = replace(state, open=None)
    if run.completed is None and not run.detached:
        if state.paused_at_ms is not None and run.on_demand and run.reason is not Reason.MANUAL:
            return Transition(requeue(others, run, now_ms, conflict=run.conflict))
        return Work(job, replace(run, in_flight=False), others)
    # The time of the request is unknown, but not before the claim.
    run = replace(run, started_at_ms=run.started_at_ms or lease.first_claimed_at_ms)
    final, why = run.completed or RunState.LOST, ""
    if run.completed is None:
        why = "its node died, and the job was changed meanwhile"
    trigger_blocked = trigger_was_blocked(others, run)
    state, records = finish_and_account(
        job,
        others,
        run,
        final,
        now_ms=now_ms,
        downtimes=downtimes,
        pauses=pauses,
        trigger_blocked=trigger_blocked,
        message=why,
    )
    return transition_to(job, state, records, now_ms=now_ms)


def _quarantine(work: Work, lease: Lease, *, now_ms: int) -> Transition:
    reason = (
        f"{lease.losses} nodes in a row died or froze while they executed its run {work.run.id}, "
        f"{lease.alone} of them with no other suspect"
    )
    state, ended = end_run(work.job, work.state, work.run, RunState.LOST, now_ms=now_ms, message=reason)
    if state.child:
        return transition_to(work.job, state, (*work.records, ended), now_ms=now_ms)
    return Transition(replace(state, quarantine=reason), (*work.records, ended))


def _due_entry(state: JobState, now_ms: int) -> Pending | None:
    """Return the entry that starts next: replays after all others, then by their not-before times."""
    due = [entry for entry in startable(state) if entry.not_before_ms <= now_ms]
    return min(due, key=lambda entry: (entry.reason is Reason.REPLAY, entry.not_before_ms), default=None)


def _start_on_demand(
    job: Job,
    state: JobState,
    entry: Pending | None,
    records: tuple[Record, ...],
    lease: Lease,
    trigger: Trigger,
    store_id: str,
) -> Work | Transition:
    """Start the due pending entry, or else the next fire time of a range, or else nothing. No fire time is due.

    A recovery goes before a replay, because its fire times are the trigger's.
    """
    replay = next_replay(state)
    belated = replay is not None and replay.reason is Reason.RECOVERY
    if entry is not None and not (belated and entry.reason is Reason.REPLAY):
        return _start_entry(job, state, entry, records)
    if replay is None:
        return transition_to(job, state, records, now_ms=lease.first_claimed_at_ms)
    run = Run(
        id=run_id(lease.first_claimed_at_ms, store_id, lease.first_fence),
        fire_time_ms=replay.next_ms,
        reason=replay.reason,
        job_version=job.version,
        on_demand=True,
    )
    others = tuple(other for other in state.replays if other is not replay)
    return Work(job, run, replace(state, replays=(*_advanced(replay, trigger), *others)), records)


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
            fire_time_ms=entry.fire_time_ms,
            reason=entry.reason,
            job_version=job.version,
            payload=entry.payload,
            on_demand=True,
            replay_of=entry.replay_of,
        )
    return Work(job, run, replace(state, pending=others), records)


def plan_claim_tombstone(
    state: JobState, lease: Lease, *, now_ms: int, downtimes: Sequence[Downtime] = ()
) -> Transition:
    """Record the last run of a deleted job as lost and remove the tombstone. Its node died, or its runner never
    completed it."""
    run = state.open
    if run is None:
        return Transition(state if state.digest else None, remove=True)
    if run.state is RunState.TAKEN and (lost_at := lost_at_ms(run, downtimes)) > now_ms:
        return Transition(replace(state, open=replace(run, retry_at_ms=lost_at)))
    message = "its node died, and the job was deleted"
    if run.state is RunState.TAKEN:
        message = "the runner took it and did not complete it in time; the job was deleted"
    elif run.in_flight:
        run = with_lost_attempts(run, lease)
    _, ended = end_run(None, state, run, run.completed or RunState.LOST, now_ms=now_ms, message=message)
    return Transition(None, (ended,), remove=True)
