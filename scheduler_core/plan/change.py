"""Changes of a job by clients: upsert, delete, pause, resume.

Each function takes the stored job and returns the step to take, or None if nothing changes. If a node holds the job's
lease, the run in flight is written into the state first (``in_flight``).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Pending, Snapshot
from scheduler_core.model.pause import PauseTerms
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import MissReason, Reason, Record, Run, RunState
from scheduler_core.model.transition import Transition, is_finished, transition_to
from scheduler_core.plan.claim import Work
from scheduler_core.plan.finish import end_run
from scheduler_core.plan.fire_times import same_fire_times, trigger_of
from scheduler_core.plan.given import first_fire_ms
from scheduler_core.plan.held_back import drop_hold_back
from scheduler_core.plan.in_flight import detach, write_in_flight
from scheduler_core.plan.misses import make_miss, pass_over
from scheduler_core.plan.paused import recount
from scheduler_core.triggers.trigger import AtSpec, IntervalSpec, OnRequestSpec


def plan_upsert(
    new: Job,
    snapshot: Snapshot,
    *,
    now_ms: int,
    downtimes: Sequence[Downtime],
    store_id: str,
    children: bool = False,
    restart: bool = False,
) -> Transition | None:
    """Store ``new``, whose trigger is complete (``plan.given``), under its id. None: the same definition is stored
    already.

    The first fire time lies after ``now_ms``, except of a new trigger ``now``. An unchanged trigger keeps its position;
    with ``restart``, that of a completed job starts again. A change that leaves no fire time (``max_runs`` is reached)
    completes the job. A change of labels and description alone leaves runs and state as they are. ``children``: child
    runs of an earlier job under this id are still open.
    """
    old, state = snapshot.job, snapshot.state
    if old is None or state is None:
        return _create(new, state, now_ms=now_ms, children=children)
    restart = restart and is_finished(state)
    if old.same_definition(new) and not restart:
        return None
    if old.same_runs(new) and not restart:
        state, records = write_in_flight(old, state, snapshot, downtimes, store_id)
        return Transition(state, records, job=_next_version(new, old, now_ms))
    state, records = detach(old, state, snapshot, downtimes, store_id, now_ms=now_ms, why="its job was changed")
    if restart or not same_fire_times(old, new):
        state, misses = pass_over(old, state, MissReason.REPLACED, now_ms=now_ms, pauses=snapshot.pauses)
        state, dropped = _drop_replays(old, state, now_ms=now_ms)
        state = replace(state, next_fire_ms=first_fire_ms(new, now_ms), fired=0, held_back=None)
        records = (*records, *misses, *dropped)
    elif old.policies.max_runs != new.policies.max_runs:
        moved = recount(new, state, now_ms=now_ms)
        if moved.next_fire_ms is None:
            state, misses = pass_over(old, state, MissReason.REPLACED, now_ms=now_ms, pauses=snapshot.pauses)
            records = (*records, *misses)
        state = replace(state, next_fire_ms=moved.next_fire_ms)
    if state.paused_at_ms is not None:
        state = replace(state, ends_at_ms=_end_of(new, now_ms))
    if state.quarantine is not None:
        state, misses = pass_over(new, state, MissReason.QUARANTINED, now_ms=now_ms, pauses=snapshot.pauses)
        state = replace(state, quarantine=None, unresolved=None)
        records = (*records, *misses)
    if state.held_back is not None:
        # The new definition may have another target, so the next try is at once.
        state = replace(state, held_back=replace(state.held_back, until_ms=now_ms, placed=False))
    awaits_children = old.policies.overlap is Overlap.ALLOW and new.policies.overlap is not Overlap.ALLOW
    state = replace(state, keep=_keeps(new), awaits_children=awaits_children or state.awaits_children)
    job = _next_version(new, old, now_ms)
    step = transition_to(job, state, records, now_ms=now_ms)
    return step if step.remove else replace(step, job=job)


def _next_version(new: Job, old: Job, now_ms: int) -> Job:
    return replace(new, version=old.version + 1, created_at_ms=old.created_at_ms, updated_at_ms=now_ms)


def plan_delete(snapshot: Snapshot, *, now_ms: int, downtimes: Sequence[Downtime], store_id: str) -> Transition | None:
    """Remove the job. None: no such job.

    While a request of the job may be open, or its runner has taken a run, a tombstone with that run stays until the run
    is settled or completed, or its node is dead. Pending entries are recorded as cancelled.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        return None
    why = "its job was deleted"
    state, records = detach(job, state, snapshot, downtimes, store_id, now_ms=now_ms, why=why)
    state, misses = pass_over(job, state, MissReason.REPLACED, now_ms=now_ms, pauses=snapshot.pauses)
    state, dropped = _drop_replays(job, state, now_ms=now_ms)
    cancelled = cancel_entries(job, state.pending, now_ms=now_ms, why=why)
    tombstone = None
    if state.open is not None:
        tombstone = JobState(open=replace(state.open, detached=True), deleted=True)
    return Transition(tombstone, (*records, *misses, *dropped, *cancelled), remove=True)


def plan_forget(snapshot: Snapshot) -> Transition | None:
    """Remove a completed job, or the id that is left of a job which was deleted when it completed. None: it runs again
    or is paused."""
    state = snapshot.state
    if state is not None and state.open is None and (state.deleted or is_finished(state)):
        return Transition(None, remove=True)
    return None


def plan_pause(
    snapshot: Snapshot,
    *,
    now_ms: int,
    downtimes: Sequence[Downtime],
    store_id: str,
    note: str = "",
    until_ms: int | None = None,
) -> Transition | None:
    """Pause the trigger. None: it is paused already, with the same note and end.

    ``until_ms``: the job resumes by itself then (``resume_in_time``). A pause of a paused job replaces note and end; it
    keeps the instant at which the job was paused.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        return None
    terms = PauseTerms(note, until_ms) if note or until_ms is not None else None
    if state.paused_at_ms is not None:
        if state.pause == terms:
            return None
        state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
        return Transition(replace(state, pause=terms), records)
    state, records = detach(job, state, snapshot, downtimes, store_id, now_ms=now_ms, why="its job was paused")
    if state.trigger_blocked_by is MissReason.HELD:
        state, misses = pass_over(job, state, MissReason.HELD, now_ms=now_ms, pauses=snapshot.pauses)
        records = (*records, *misses)
    state, held_back = drop_hold_back(job, state, now_ms=now_ms, pauses=snapshot.pauses)
    records = (*records, *held_back)
    return Transition(replace(state, paused_at_ms=now_ms, ends_at_ms=_end_of(job, now_ms), pause=terms), records)


def plan_resume(snapshot: Snapshot, *, now_ms: int) -> Transition | None:
    """Resume the trigger, also of a quarantined job. None: nothing to resume.

    The fire times that passed during the pause are one miss; nothing is caught up. The job's failure counts as looked
    after. A job whose trigger is exhausted by
    now is completed.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None or (state.paused_at_ms is None and state.quarantine is None):
        return None
    # A run that was claimed while the trigger was blocked came from the pending list or a retry: it depends neither on
    # downtimes nor on the store's id.
    state, records = write_in_flight(job, state, snapshot, (), "")
    reason = MissReason.PAUSED if state.paused_at_ms is not None else MissReason.QUARANTINED
    state, misses = pass_over(job, state, reason, now_ms=now_ms, pauses=snapshot.pauses)
    state = replace(state, paused_at_ms=None, pause=None, quarantine=None, ends_at_ms=None, unresolved=None)
    state = recount(job, state, now_ms=now_ms)
    return transition_to(job, state, (*records, *misses), now_ms=now_ms)


def plan_nothing(snapshot: Snapshot, *, downtimes: Sequence[Downtime], store_id: str) -> Transition:
    """Return a step that leaves an existing job unchanged, for a caller that stores something else in the same step."""
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        raise ValueError("the caller has checked that the job exists")
    return Transition(*write_in_flight(job, state, snapshot, downtimes, store_id))


def plan_cancel_unit(
    snapshot: Snapshot,
    *,
    now_ms: int,
    why: str,
    deleted: bool = False,
    downtimes: Sequence[Downtime],
    store_id: str,
) -> Transition | None:
    """Stop retrying a child run after its job was changed, paused or deleted. None: the run is over.

    An on-demand run continues after a change; with ``deleted``, no run does.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        return None
    state, records = detach(job, state, snapshot, downtimes, store_id, now_ms=now_ms, why=why)
    run = state.open
    if deleted and run is not None:
        if run.in_flight or run.state is RunState.TAKEN:
            state = replace(state, open=replace(run, detached=True))
        else:
            state, ended = end_run(job, state, run, RunState.CANCELLED, now_ms=now_ms, message=why)
            records = (*records, ended)
    return transition_to(job, replace(state, quarantine=None), records, now_ms=now_ms)


def plan_outdated(work: Work, *, now_ms: int) -> Transition:
    """Return the step that cancels a child run which is due after its job was changed or deleted.

    The change itself cancels such runs; this covers those that it did not reach.
    """
    state, ended = end_run(
        work.job, work.state, work.run, RunState.CANCELLED, now_ms=now_ms, message="its job was changed or deleted"
    )
    return transition_to(work.job, state, (*work.records, ended), now_ms=now_ms)


def cancel_entries(job: Job, entries: Sequence[Pending], *, now_ms: int, why: str) -> tuple[Run, ...]:
    """Return the records of cancelled pending entries. An entry that is set aside has its record already."""
    cancelled: list[Run] = []
    for entry in entries:
        if entry.failed is not None:
            continue
        run = entry.run or Run(
            id=entry.run_id,
            fire_time_ms=entry.fire_time_ms,
            reason=entry.reason,
            job_version=job.version,
            replay_of=entry.replay_of,
        )
        run = replace(run, payload=entry.payload)
        cancelled.append(end_run(None, JobState(), run, RunState.CANCELLED, now_ms=now_ms, message=why)[1])
    return tuple(cancelled)


def _create(new: Job, state: JobState | None, *, now_ms: int, children: bool) -> Transition:
    """Create a job. The run of a tombstone stays open in the new state until it is settled."""
    left = state.open if state is not None and state.deleted else None
    fresh = JobState(
        next_fire_ms=first_fire_ms(new, now_ms),
        open=None if left is None else replace(left, list_replaced=True),
        keep=_keeps(new),
        awaits_children=children and new.policies.overlap is not Overlap.ALLOW,
    )
    return Transition(fresh, job=replace(new, version=1, created_at_ms=now_ms, updated_at_ms=now_ms))


def _keeps(job: Job) -> bool:
    """Return whether the job never completes: a schedule, or a job that runs only on request."""
    return job.policies.keep or type(job.trigger) is OnRequestSpec


def _end_of(job: Job, now_ms: int) -> int | None:
    """Return the last fire time after ``now_ms`` of a trigger with an end, so that a paused job wakes up then."""
    ends_at_ms = job.policies.ends_at_ms
    if isinstance(job.trigger, IntervalSpec) and job.trigger.end_ms is not None:
        ends_at_ms = job.trigger.end_ms if ends_at_ms is None else min(ends_at_ms, job.trigger.end_ms)
    if isinstance(job.trigger, AtSpec):
        ends_at_ms = job.trigger.at_ms if ends_at_ms is None else min(ends_at_ms, job.trigger.at_ms)
    return None if ends_at_ms is None else trigger_of(job).last_in(now_ms, ends_at_ms + job.policies.jitter_ms)


def _drop_replays(job: Job, state: JobState, *, now_ms: int) -> tuple[JobState, tuple[Record, ...]]:
    """Remove the replays of a trigger that was replaced, and record their end."""
    records: list[Record] = []
    for replay in state.replays:
        if replay.reason is Reason.RECOVERY:
            trigger = trigger_of(job)
            records.append(make_miss(trigger, replay.next_ms, replay.last_ms, MissReason.REPLACED, now_ms=now_ms))
            continue
        again = Run(
            id=replay.id,
            fire_time_ms=replay.next_ms,
            reason=replay.reason,
            job_version=job.version,
        )
        message = "this fire time and later ones are not run again: the job was changed"
        records.append(end_run(None, JobState(), again, RunState.CANCELLED, now_ms=now_ms, message=message)[1])
    return replace(state, replays=()), tuple(records)
