"""Decides about runs that clients request beside the trigger (now, later, for past fire times) and the pending list."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput, RunConflict
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Pending, Replay, Snapshot
from scheduler_core.model.run import MissReason, Reason, Record
from scheduler_core.model.transition import REPLAYED, Transition, startable, transition_to
from scheduler_core.plan.catch_up import REPLAY_LIMIT
from scheduler_core.plan.change import cancel_entries
from scheduler_core.plan.continuation import PENDING_BYTES, PENDING_LIMIT
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.in_flight import write_in_flight
from scheduler_core.plan.misses import pass_over
from scheduler_core.plan.paused import wake_now


class Skipped(msgspec.Struct, frozen=True):
    """Why a requested run is not started, and when it would be."""

    why: str
    next_at_ms: int


class Started(msgspec.Struct, frozen=True):
    """The requested run; ``transition`` is None if it is due already."""

    run_id: str
    transition: Transition | None


def plan_run_now(
    snapshot: Snapshot,
    entry: Pending,
    *,
    force: bool,
    bare: bool,
    now_ms: int,
    downtimes: Sequence[Downtime],
    store_id: str,
) -> Started | Skipped:
    """Request a run. ``bare``: the request has neither payload nor time, so an entry that waits goes first.

    A bare request starts the earliest pending entry (a client's, too, but no replay), or the default run if none is
    pending; not before the entry's time, and the default run not within ``min_interval_ms`` of the last successful
    start. ``force`` ignores both, starts a continuation although the job is paused, and queues behind a run that is not
    settled. Raises RunConflict if a run of the job is not settled (open, waiting for a retry, or requested before), and
    if too many entries wait already.
    """
    job, state = _present(snapshot)
    if state.quarantine is not None:
        raise RunConflict(f"the job is quarantined ({state.quarantine}); resume it first")
    requested = [
        one
        for one in state.pending
        if one.reason is Reason.MANUAL and (one.run is not None or one.not_before_ms <= now_ms)
    ]
    if not force and (snapshot.lease is not None or state.open is not None or requested):
        raise RunConflict("a run of this job is not settled; use force to queue behind it")
    state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
    paused = state.paused_at_ms is not None or snapshot.paused_by_all(now_ms)
    if bare and not force and paused and any(one.holds_trigger for one in state.pending):
        raise RunConflict("the job is paused with continuations waiting; resume it, or say what to run")
    may_start = [one for one in startable(state, paused=paused) if one.reason is not Reason.REPLAY]
    waiting = may_start
    if force:
        waiting = [one for one in state.pending if one not in requested and (one in may_start or one.holds_trigger)]
    if bare and waiting:
        earliest = min(waiting, key=lambda one: one.not_before_ms)
        paused_continuation = paused and earliest not in may_start
        if earliest.not_before_ms <= now_ms and not paused_continuation:
            return Started(earliest.run_id, None)
        if not force:
            return Skipped("not_due", earliest.not_before_ms)
        sooner = replace(earliest, not_before_ms=min(now_ms, earliest.not_before_ms), forced=paused_continuation)
        pending = tuple(sooner if one is earliest else one for one in state.pending)
        return Started(earliest.run_id, Transition(wake_now(replace(state, pending=pending), now_ms=now_ms), records))
    if bare and not force and state.last_success_start_ms is not None:
        next_at = state.last_success_start_ms + job.policies.min_interval_ms
        if now_ms < next_at:
            return Skipped("too_soon", next_at)
    if len(state.pending) >= PENDING_LIMIT:
        raise RunConflict(f"{PENDING_LIMIT} runs wait for this job already")
    pending = (*state.pending, entry)
    if sum(len(one.payload or b"") for one in pending) > PENDING_BYTES:
        raise RunConflict(f"the runs that wait for this job have {PENDING_BYTES} bytes of payload already")
    return Started(entry.run_id, Transition(replace(state, pending=pending), records))


def plan_backfill(
    snapshot: Snapshot,
    *,
    start_ms: int,
    end_ms: int,
    limit: int,
    backfill_id: str,
    now_ms: int,
    downtimes: Sequence[Downtime],
    store_id: str,
) -> tuple[Replay, Transition]:
    """Run the fire times from ``start_ms`` to ``end_ms`` again, the oldest first, ``limit`` of them at most.

    Undecided fire times are left to the trigger. Raises InvalidInput if the range has no past fire time, and
    RunConflict if the job has too many unfinished backfills.
    """
    job, state = _present(snapshot)
    if state.quarantine is not None:
        raise RunConflict(f"the job is quarantined ({state.quarantine}); resume it first")
    if sum(replay.reason is Reason.BACKFILL for replay in state.replays) >= REPLAY_LIMIT:
        raise RunConflict(f"{REPLAY_LIMIT} backfills of this job are under way already")
    until_ms = min(end_ms, now_ms)
    if state.next_fire_ms is not None:
        until_ms = min(until_ms, state.next_fire_ms - 1)
    trigger = trigger_of(job)
    first = trigger.next_after(start_ms - 1)
    last = trigger.last_in(start_ms - 1, until_ms) if start_ms <= until_ms else None
    if first is None or last is None:
        raise InvalidInput("the job has no fire times of the past in this range", field="start")
    count = trigger.count_in(first - 1, last, limit)
    replay = Replay(Reason.BACKFILL, first, last, limit if count is None else min(count, limit), backfill_id)
    state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
    return replay, Transition(wake_now(replace(state, replays=(*state.replays, replay)), now_ms=now_ms), records)


def plan_replace_pending(
    snapshot: Snapshot, entries: Sequence[Pending], *, now_ms: int, downtimes: Sequence[Downtime], store_id: str
) -> Transition:
    """Replace the pending list with ``entries``. The old entries are recorded as cancelled, except backfills,
    recoveries and replays, which stay. Continuations in the answer of a run in flight will be dropped, and a run in
    flight from the old list is not retried."""
    job, state = _present(snapshot)
    state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
    was_blocked = state.trigger_blocked_by is MissReason.HELD
    belated = tuple(one for one in state.pending if one.reason in REPLAYED and one.failed is None)
    replaced = [one for one in state.pending if one not in belated]
    cancelled = cancel_entries(job, replaced, now_ms=now_ms, why="the pending list was replaced")
    run = state.open
    if run is not None:
        detached = run.detached or run.reason is Reason.CONTINUATION
        state = replace(state, open=replace(run, list_replaced=True, detached=detached))
    state = wake_now(replace(state, pending=(*entries, *belated)), now_ms=now_ms)
    misses: tuple[Record, ...] = ()
    if was_blocked and not entries:
        state, misses = pass_over(job, state, MissReason.HELD, now_ms=now_ms, pauses=snapshot.pauses)
    return transition_to(job, state, (*records, *cancelled, *misses), now_ms=now_ms)


def plan_revive(
    snapshot: Snapshot, run_id: str, new_id: str, *, now_ms: int, downtimes: Sequence[Downtime], store_id: str
) -> Transition | None:
    """Make a pending entry that was set aside due again, under a new run id. None: no such entry."""
    job, state = _present(snapshot)
    failed = next((one for one in state.pending if one.run_id == run_id and one.failed is not None), None)
    if failed is None:
        return None
    state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
    again = Pending(new_id, now_ms, failed.payload, failed.reason, replay_of=failed.replay_of)
    pending = tuple(again if one is failed else one for one in state.pending)
    return Transition(wake_now(replace(state, pending=pending), now_ms=now_ms), records)


def _present(snapshot: Snapshot) -> tuple[Job, JobState]:
    if snapshot.job is None or snapshot.state is None:
        raise ValueError("the caller has checked that the job exists")
    return snapshot.job, snapshot.state
