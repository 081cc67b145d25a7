"""Decides about replays: settled runs that a client requests again.

A replay is a run of its own, with the reason ``replay`` and the fire time of the original. It waits in the pending list
and gives way to fire times that are due. The step that adds it also notes its id in the record of the original.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.base.errors import (
    AlreadyReplayed,
    AlreadySucceeded,
    DefinitionChanged,
    RunConflict,
    TooManyReplays,
)
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Pending, Snapshot
from scheduler_core.model.run import Original, Reason, Run, RunState, run_id_ms
from scheduler_core.model.transition import Transition
from scheduler_core.plan.attention import after_replay
from scheduler_core.plan.continuation import PENDING_BYTES, PENDING_LIMIT
from scheduler_core.plan.in_flight import write_in_flight
from scheduler_core.plan.paused import wake_now

MOST_REPLAYS = 50
"""The maximum number of replays of a job that are not settled: half of the pending list stays free for other runs."""


def plan_replay(
    snapshot: Snapshot,
    original: Run,
    new_id: str,
    *,
    current: bool,
    force: bool,
    most: int = MOST_REPLAYS,
    now_ms: int,
    downtimes: Sequence[Downtime],
    store_id: str,
) -> Transition:
    """Request a replay of ``original``, a settled run of this job, under the id ``new_id``.

    It has the payload of the original, or that of the job's current definition if the original had none of its own. A
    pending entry of the original that was set aside goes: the replay takes its place.

    ``current``: the definition may be another one than that of the original. ``force``: also a run that succeeded, or
    that was replayed before. ``most``: the maximum number of replays of the job that are not settled. Raises
    AlreadyReplayed, AlreadySucceeded, DefinitionChanged, TooManyReplays, and RunConflict if the job is quarantined or
    too many runs wait.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        raise ValueError("the caller has checked that the job exists")
    if original.replayed_by and not force:
        raise AlreadyReplayed(original.id, original.replayed_by)
    if original.state is RunState.SUCCEEDED and not force:
        raise AlreadySucceeded(original.id)
    if not current and not _same_definition(job, original):
        raise DefinitionChanged(original.id)
    if state.quarantine is not None:
        raise RunConflict(f"the job is quarantined ({state.quarantine}); resume it first")
    state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
    if open_replays(state) >= most:
        raise TooManyReplays(f"{most} replays of this job are not settled yet; repeat the request later")
    others = [one for one in state.pending if one.failed is None or one.run_id != original.id]
    if len(others) >= PENDING_LIMIT:
        raise RunConflict(f"{PENDING_LIMIT} runs wait for this job already")
    first = original.reason if original.replay_of is None else original.replay_of.reason
    entry = Pending(
        new_id,
        now_ms,
        original.payload,
        Reason.REPLAY,
        replay_of=Original(original.id, first, original.fire_time_ms),
    )
    pending = (*others, entry)
    if sum(len(one.payload or b"") for one in pending) > PENDING_BYTES:
        raise RunConflict(f"the runs that wait for this job have {PENDING_BYTES} bytes of payload already")
    state = wake_now(replace(state, pending=pending), now_ms=now_ms)
    return Transition(after_replay(state, original.id), records)


def open_replays(state: JobState) -> int:
    """Return how many replays of a job wait or run. A child run is not counted; a job has at most one such replay."""
    waiting = sum(entry.reason is Reason.REPLAY and entry.failed is None for entry in state.pending)
    return waiting + (state.open is not None and state.open.reason is Reason.REPLAY)


def _same_definition(job: Job, original: Run) -> bool:
    """Return whether the job still has the definition that the run ended with. The job that a client created again
    under the id has the versions of the first one: its runs begin later than it."""
    began_ms = run_id_ms(original.id)
    if began_ms is None:
        began_ms = original.fire_time_ms if original.started_at_ms is None else original.started_at_ms
    return original.job_version == job.version and began_ms >= job.created_at_ms
