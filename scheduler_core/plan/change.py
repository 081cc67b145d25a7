"""A client changes a job: upsert, delete, pause, resume, run now.

Each function takes the job as it is stored and returns the step to take, or None when there is nothing to do. When a
node holds the job's lease, the run in flight is written into the state first, because the change would otherwise hide
it: the settle of that run then finds it there.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.errors import RunConflict
from scheduler_core.job import Downtime, Job, JobState, Pending, Snapshot
from scheduler_core.plan.claim import Work, end_run, plan_claim
from scheduler_core.plan.misses import miss_through
from scheduler_core.run import MissReason, Record, RunState
from scheduler_core.transition import Transition, is_finished
from scheduler_core.trigger import compile_trigger

PENDING_LIMIT = 100
"""How many runs may wait for one job."""


def plan_upsert(
    new: Job, snapshot: Snapshot, *, now_ms: int, downtimes: Sequence[Downtime], store_id: str
) -> Transition | None:
    """Store ``new`` under its id. None: the same definition is stored already.

    The first fire time lies after ``now_ms``. An upsert never fires, and an unchanged trigger keeps its position.
    """
    old, state = snapshot.job, snapshot.state
    if old is None or state is None:
        return _create(new, state, now_ms=now_ms)
    if old.same_definition(new):
        return None
    state, records = _detach(old, state, snapshot, downtimes, store_id, now_ms=now_ms, why="its job was changed")
    if old.trigger != new.trigger:
        state, misses = _skip_due(old, state, MissReason.REPLACED, now_ms=now_ms)
        state = replace(state, next_fire_ms=compile_trigger(new.trigger).next_after(now_ms))
        records = (*records, *misses)
    if state.quarantine is not None:
        state, misses = _skip_due(new, state, MissReason.QUARANTINED, now_ms=now_ms)
        state = replace(state, quarantine=None)
        records = (*records, *misses)
    job = replace(new, version=old.version + 1, created_at_ms=old.created_at_ms, updated_at_ms=now_ms)
    return Transition(state, records, job=job)


def plan_delete(snapshot: Snapshot, *, now_ms: int, downtimes: Sequence[Downtime], store_id: str) -> Transition | None:
    """Remove the job. None: there is none.

    While a request of it may be open, a tombstone with that run stays, until the run is settled or its node dead.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        return None
    state, records = _detach(job, state, snapshot, downtimes, store_id, now_ms=now_ms, why="its job was deleted")
    state, misses = _skip_due(job, state, MissReason.REPLACED, now_ms=now_ms)
    tombstone = JobState(open=state.open, deleted=True) if state.open is not None else None
    return Transition(tombstone, (*records, *misses), remove=True)


def plan_pause(snapshot: Snapshot, *, now_ms: int, downtimes: Sequence[Downtime], store_id: str) -> Transition | None:
    """Hold the trigger. None: it is held already. Raises nothing; the caller has checked that the job exists."""
    job, state = snapshot.job, snapshot.state
    if job is None or state is None or state.paused_at_ms is not None:
        return None
    state, records = _detach(job, state, snapshot, downtimes, store_id, now_ms=now_ms, why="its job was paused")
    return Transition(replace(state, paused_at_ms=now_ms), records)


def plan_resume(snapshot: Snapshot, *, now_ms: int) -> Transition | None:
    """Let the trigger go on, and revive a quarantined job. None: it is not held.

    The fire times that were held are one miss; nothing is caught up. A job whose trigger ran out meanwhile goes.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None or not state.is_held:
        return None
    # A run that was claimed while the trigger was held was asked for by someone or waited for its retry: neither
    # downtimes nor the store's id have a part in it.
    state, records = _write_in_flight(job, state, snapshot, (), "")
    reason = MissReason.PAUSED if state.paused_at_ms is not None else MissReason.QUARANTINED
    state, misses = _skip_due(job, state, reason, now_ms=now_ms)
    if state.next_fire_ms is None:
        state = replace(state, next_fire_ms=compile_trigger(job.trigger).next_after(now_ms))
    state = replace(state, paused_at_ms=None, quarantine=None)
    if is_finished(state):
        return Transition(None, (*records, *misses), remove=True)
    return Transition(state, (*records, *misses))


def plan_run_now(
    snapshot: Snapshot, entry: Pending, *, force: bool, downtimes: Sequence[Downtime], store_id: str
) -> Transition | None:
    """Ask for a run besides the trigger's. None: there is no such job.

    Raises RunConflict if a run of the job is not settled, unless ``force``, which queues behind it; and if too many
    wait already.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        return None
    if state.quarantine is not None:
        raise RunConflict(f"the job is quarantined ({state.quarantine}); resume it first")
    if not force and (snapshot.lease is not None or state.open is not None or state.pending):
        raise RunConflict("a run of this job is not settled; ask with force to queue behind it")
    if len(state.pending) >= PENDING_LIMIT:
        raise RunConflict(f"{PENDING_LIMIT} runs wait for this job already")
    state, records = _write_in_flight(job, state, snapshot, downtimes, store_id)
    return Transition(replace(state, pending=(*state.pending, entry)), records)


def _create(new: Job, state: JobState | None, *, now_ms: int) -> Transition:
    """A new job. Where a tombstone stands, its run stays open in the new state until it is settled."""
    fresh = JobState(
        next_fire_ms=compile_trigger(new.trigger).next_after(now_ms),
        open=state.open if state is not None and state.deleted else None,
    )
    return Transition(fresh, job=replace(new, version=1, created_at_ms=now_ms, updated_at_ms=now_ms))


def _write_in_flight(
    job: Job, state: JobState, snapshot: Snapshot, downtimes: Sequence[Downtime], store_id: str
) -> tuple[JobState, tuple[Record, ...]]:
    """Write the run that a node works on (or worked on, before it died) into the state."""
    if snapshot.lease is None or (state.open is not None and state.open.in_flight):
        return state, ()
    planned = plan_claim(job, state, snapshot.lease, downtimes=downtimes, store_id=store_id)
    if not isinstance(planned, Work):
        return state, ()
    return replace(planned.state, open=replace(planned.run, in_flight=True)), planned.records


def _detach(
    job: Job,
    state: JobState,
    snapshot: Snapshot,
    downtimes: Sequence[Downtime],
    store_id: str,
    *,
    now_ms: int,
    why: str,
) -> tuple[JobState, tuple[Record, ...]]:
    """No run that started before this change is tried again: one in flight may end, one that waits is cancelled."""
    state, records = _write_in_flight(job, state, snapshot, downtimes, store_id)
    if state.open is None:
        return state, records
    if state.open.in_flight:
        return replace(state, open=replace(state.open, detached=True)), records
    waited_for_runner = state.open.conflict
    state, ended = end_run(state, state.open, RunState.CANCELLED, now_ms=now_ms, message=why)
    records = (*records, ended)
    if waited_for_runner and not state.is_held:
        state, misses = _skip_due(job, state, MissReason.OVERLAP, now_ms=now_ms)
        records = (*records, *misses)
    return state, records


def _skip_due(job: Job, state: JobState, reason: MissReason, *, now_ms: int) -> tuple[JobState, tuple[Record, ...]]:
    """Record the fire times up to now that are not accounted for as a miss, and move the position past them.

    While the trigger is held, what passed was missed for that reason, whatever is happening now.
    """
    if state.next_fire_ms is None or state.next_fire_ms > now_ms:
        return state, ()
    if state.paused_at_ms is not None:
        reason = MissReason.PAUSED
    elif state.quarantine is not None:
        reason = MissReason.QUARANTINED
    trigger = compile_trigger(job.trigger)
    misses = miss_through(trigger, state.next_fire_ms, now_ms, reason, now_ms=now_ms)
    return replace(state, next_fire_ms=trigger.next_after(now_ms)), misses
