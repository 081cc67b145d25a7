"""Transitions: atomic steps of a job, which plans make and the store applies. Also computes the next wake-up."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Pending, Replay
from scheduler_core.model.run import Reason, Record, Run, RunDetail, RunState

OF_RANGES = (Reason.BACKFILL, Reason.RECOVERY)
"""The reasons of runs that come from a range of fire times (``JobState.replays``)."""
REPLAYED = (*OF_RANGES, Reason.REPLAY)
"""The reasons of runs that give way to a fire time that is due."""


class Spawn(msgspec.Struct, frozen=True):
    """A run of a job with ``overlap: allow`` that becomes a child run, claimed and settled beside its job."""

    run: Run
    limit: int
    """How many child runs the job may have at once. If it has that many, the store refuses the step as ``full``."""
    replay: bool = False
    """Whether it gives way to fire times (``is_replay``); a job runs one of these at a time."""


class Mark(msgspec.Struct, frozen=True):
    """Notes in the record of a settled run that another run runs it again, in the step that requests that run."""

    run: Run
    """The settled run, with ``replayed_by``."""
    stored: bytes
    """Its record as it was read. If another one is stored, the store applies nothing of the step."""


class Transition(msgspec.Struct, frozen=True):
    """One atomic step of a job."""

    state: JobState | None
    """The new state. None without ``remove``: nothing is stored under this id, and nothing will be. With ``remove``:
    what stays of the job."""
    records: tuple[Record, ...] = ()
    """Records to append to the job's history, oldest first."""
    job: Job | None = None
    """A new definition to store; None: keep the stored one."""
    revoke: bool = False
    """Revoke the lease of the node that holds it, so that its settle is refused."""
    remove: bool = False
    """Remove the definition, and state and due entry unless ``state`` replaces them. The history stays until it is
    trimmed."""
    detail: RunDetail | None = None
    """Request and answer of the attempt that led to this step; stored if its run is among ``records``."""
    detail_of: str = ""
    """The id of that run."""
    spawn: Spawn | None = None
    mark: Mark | None = None

    @property
    def wake_ms(self) -> int | None:
        return None if self.state is None else next_wake_ms(self.state)


def transition_to(job: Job, state: JobState, records: tuple[Record, ...] = (), *, now_ms: int) -> Transition:
    """Return the step that leaves a job in ``state``, completed if it is finished. A finished child run is removed."""
    if not is_finished(state):
        return Transition(state, records)
    completed, remove = complete(job, state, now_ms=now_ms)
    return Transition(completed, records, remove=remove)


def complete(job: Job, state: JobState, *, now_ms: int) -> tuple[JobState | None, bool]:
    """Return the state to store for a finished job or child run, and whether its definition is removed.

    A job that is deleted when it completes leaves its id and the digest of its definition, so that a repeated upsert
    does not run it again.
    """
    if state.child:
        return None, True
    if job.policies.delete_completed:
        return JobState(deleted=True, completed_at_ms=now_ms, digest=job.digest()), True
    return replace(state, completed_at_ms=now_ms), False


def next_wake_ms(state: JobState) -> int | None:
    """Return when the job next needs a claim, or None if only a client can wake it.

    This is the earliest of the trigger's next fire time, the retry of an open run, the pending entries and the replays.
    A run that occupies the runner (taken, or answered 409) blocks all others until its own time; a run that waits for a
    failing runner ends when the next fire time is due. A held-back run wakes no earlier than its next try. A hold
    without a target, such as a pause of everything, does not apply to runs that clients request.
    """
    if state.quarantine is not None:
        return None
    if state.paused_at_ms is not None:
        trigger_ms = state.ends_at_ms
        if state.pause is not None:
            trigger_ms = _earliest(trigger_ms, state.pause.until_ms)
    else:
        trigger_ms = None if state.trigger_blocked_by is not None else state.next_fire_ms
    wake_ms = trigger_ms
    if state.open is not None:
        blocks = state.open.conflict or state.open.state is RunState.TAKEN
        wake_ms = state.open.retry_at_ms if blocks else _earliest(state.open.retry_at_ms, trigger_ms)
    elif state.pending or state.replays:
        on_demand_ms = min((entry.not_before_ms for entry in startable(state)), default=None)
        replay = next_replay(state)
        wake_ms = _earliest(_earliest(trigger_ms, on_demand_ms), None if replay is None else replay.next_ms)
    held_back = state.held_back
    if held_back is None:
        return wake_ms
    wake_ms = held_back.until_ms if wake_ms is None else max(wake_ms, held_back.until_ms)
    if held_back.target or state.open is not None or not state.pending:
        return wake_ms
    return _earliest(wake_ms, min((one.not_before_ms for one in startable(state, paused=True)), default=None))


def is_replay(run: Run) -> bool:
    """Return whether the run gives way to fire times: a backfill, a run of ``recovery: all``, or a replay."""
    return run.on_demand and run.reason in REPLAYED


def startable(state: JobState, *, paused: bool = False) -> list[Pending]:
    """Return the entries that may start when their time has come. A pause, of the job or of everything (``paused``),
    blocks all but manual and forced ones."""
    paused = paused or state.paused_at_ms is not None
    return [
        entry
        for entry in state.pending
        if entry.failed is None and (not paused or entry.reason is Reason.MANUAL or entry.forced)
    ]


def next_replay(state: JobState) -> Replay | None:
    """Return the range whose next fire time may run now: recoveries before backfills, one at a time. A pause blocks
    all."""
    if not state.replays or state.paused_at_ms is not None:
        return None
    if any(entry.reason in OF_RANGES for entry in state.pending):
        return None
    return next((replay for replay in state.replays if replay.reason is Reason.RECOVERY), state.replays[0])


def _earliest(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)


def is_finished(state: JobState) -> bool:
    """Return whether the job is over unless a client runs or changes it: its trigger is exhausted, nothing waits."""
    return (
        state.next_fire_ms is None
        and state.open is None
        and not state.pending
        and not state.replays
        and state.trigger_blocked_by is None
        and not state.keep
    )
