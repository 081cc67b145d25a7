"""One atomic step of a job, and when it wakes next. Plans make transitions, the store applies them."""

from __future__ import annotations

import msgspec

from scheduler_core.model.job import Job, JobState, Pending, Replay
from scheduler_core.model.run import Reason, Record, Run, RunDetail, RunState

REPLAYED = (Reason.BACKFILL, Reason.RECOVERY)
"""The reasons of runs that come from a replay."""


class Spawn(msgspec.Struct, frozen=True):
    """A run of a job that allows overlap: it becomes a unit of its own, claimed and settled beside its job."""

    run: Run
    limit: int
    """How many such runs the job may have at once; with so many the step is refused as ``full``."""
    replay: bool = False
    """It is run again or belatedly: of these, the job has one at a time."""


class Transition(msgspec.Struct, frozen=True):
    """One atomic step of a job."""

    state: JobState | None
    """The new state. None with ``remove`` unset: nothing is stored under this id, and nothing will be."""
    records: tuple[Record, ...] = ()
    """What to append to the job's history, oldest first."""
    job: Job | None = None
    """A new definition to store; None leaves the stored one."""
    revoke: bool = False
    """A client's change: the node that holds the job's lease loses it, and what it settles is refused."""
    remove: bool = False
    """The job goes: definition, state and due entry. Its history stays until it is trimmed."""
    detail: RunDetail | None = None
    """What the attempt that led to this step sent and was answered; stored if its run is among ``records``."""
    detail_of: str = ""
    """The id of that run."""
    spawn: Spawn | None = None

    @property
    def wake_ms(self) -> int | None:
        return None if self.state is None else next_wake_ms(self.state)


def transition_to(state: JobState, records: tuple[Record, ...] = ()) -> Transition:
    """The step that leaves a job in ``state``, or removes it if nothing can ever come of it again."""
    finished = is_finished(state)
    return Transition(None if finished else state, records, remove=finished)


def next_wake_ms(state: JobState) -> int | None:
    """When the job next needs attention, or None when only a client can wake it.

    The earliest of the trigger's next fire time, the retry of an open run, the runs that were asked for and the fire
    times that are run again. A run that the runner is busy with (taken, or answered 409) keeps all others out until
    its own time; one that waits for a failing runner is superseded by the next fire time. What is held back for its
    target's sake wakes no earlier than it may try again.
    """
    if state.quarantine is not None:
        return None
    wake_ms = _next_wake_ms(state)
    if state.held_back is None:
        return wake_ms
    return state.held_back.until_ms if wake_ms is None else max(wake_ms, state.held_back.until_ms)


def _next_wake_ms(state: JobState) -> int | None:
    if state.paused_at_ms is not None:
        trigger_ms = state.ends_at_ms
    else:
        trigger_ms = None if state.trigger_blocked_by is not None else state.next_fire_ms
    if state.open is not None:
        if state.open.conflict or state.open.state is RunState.TAKEN:
            return state.open.retry_at_ms
        return _earliest(state.open.retry_at_ms, trigger_ms)
    if not state.pending and not state.replays:
        return trigger_ms
    on_demand_ms = min((entry.not_before_ms for entry in startable(state)), default=None)
    replay = next_replay(state)
    return _earliest(_earliest(trigger_ms, on_demand_ms), None if replay is None else replay.next_ms)


def is_replay(run: Run) -> bool:
    """Whether the run comes from a replay: a backfill, or a belated run of ``recovery: all``."""
    return run.on_demand and run.reason in REPLAYED


def startable(state: JobState) -> list[Pending]:
    """The entries that may start when their time has come: a pause lets only those through that a client sent or
    forced."""
    return [
        entry
        for entry in state.pending
        if entry.failed is None and (state.paused_at_ms is None or entry.reason is Reason.MANUAL or entry.forced)
    ]


def next_replay(state: JobState) -> Replay | None:
    """The range whose next fire time may be run now: belated runs before those that are run again, one at a time. A
    pause holds them."""
    if not state.replays or state.paused_at_ms is not None:
        return None
    if any(entry.reason in REPLAYED for entry in state.pending):
        return None
    return next((replay for replay in state.replays if replay.reason is Reason.RECOVERY), state.replays[0])


def _earliest(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)


def is_finished(state: JobState) -> bool:
    """Whether nothing can ever come of this job again: its trigger is exhausted and nothing waits."""
    return (
        state.next_fire_ms is None
        and state.open is None
        and not state.pending
        and not state.replays
        and state.trigger_blocked_by is None
        and not state.keep
    )
