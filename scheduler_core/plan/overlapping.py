"""Plans runs of jobs with ``overlap: allow``: up to ``max_concurrent`` runs are claimed and settled beside the job."""

from __future__ import annotations

from msgspec.structs import replace

from scheduler_core.model.job_state import JobState, Pending
from scheduler_core.model.run import MissReason, Reason
from scheduler_core.model.transition import (
    Spawn,
    Transition,
    is_replay,
    transition_to,
)
from scheduler_core.plan.claim import Work
from scheduler_core.plan.finish import requeue
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.misses import make_miss

FULL_WAIT_MS = 250
"""How long an on-demand run waits when its job has reached ``max_concurrent``."""


def plan_spawn(work: Work, *, now_ms: int) -> Transition:
    """Return the step that makes a run a child run, and advances its job at once.

    Runs that give way to fire times run one at a time.
    """
    spawn = Spawn(work.run, work.job.policies.max_concurrent, replay=is_replay(work.run))
    return replace(transition_to(work.job, work.state, work.records, now_ms=now_ms), spawn=spawn)


def plan_full(work: Work, before: JobState, *, now_ms: int) -> Transition:
    """Return the step of a job that has reached ``max_concurrent``: the fire time is a miss, an on-demand run waits.

    With a replay, all replays wait: they start one after the other.
    """
    if work.run.on_demand:
        until_ms = now_ms + FULL_WAIT_MS
        waiting = requeue(work.state, work.run, until_ms, conflict=False)
        if work.run.reason is Reason.REPLAY:
            waiting = replace(waiting, pending=tuple(_postponed(entry, until_ms) for entry in waiting.pending))
        return Transition(waiting, work.records)
    trigger, state = trigger_of(work.job), work.state
    missed = make_miss(trigger, work.run.fire_time_ms, work.run.fire_time_ms, MissReason.OVERLAP, now_ms=now_ms)
    if state.fired != before.fired:
        # It was counted as a run, possibly as the last one.
        state = replace(state, fired=state.fired - 1, next_fire_ms=trigger.next_after(work.run.fire_time_ms))
    return transition_to(work.job, state, (*work.records, missed), now_ms=now_ms)


def _postponed(entry: Pending, until_ms: int) -> Pending:
    if entry.reason is not Reason.REPLAY:
        return entry
    run = None if entry.run is not None and entry.run.attempt == 0 else entry.run  # not started
    return replace(entry, not_before_ms=max(entry.not_before_ms, until_ms), run=run)
