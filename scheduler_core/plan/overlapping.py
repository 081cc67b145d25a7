"""Runs of a job with ``overlap: allow``: each is claimed and settled beside its job, up to ``max_concurrent``."""

from __future__ import annotations

from msgspec.structs import replace

from scheduler_core.model.job import (
    JobState,
)
from scheduler_core.model.run import MissReason
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
"""How long a run that was asked for waits when as many of its job run as may."""


def plan_spawn(work: Work) -> Transition:
    """The step that makes a run of a job with ``overlap: allow`` a unit of its own, and moves its job on at once.

    Fire times that are run again or belatedly go one at a time.
    """
    spawn = Spawn(work.run, work.job.policies.max_concurrent, replay=is_replay(work.run))
    return replace(transition_to(work.state, work.records), spawn=spawn)


def plan_full(work: Work, before: JobState, *, now_ms: int) -> Transition:
    """The step of a job that allows overlap when as many of its runs are open as may: the fire time is missed."""
    if work.run.on_demand:
        waiting = requeue(work.state, work.run, now_ms + FULL_WAIT_MS, conflict=False)
        return Transition(waiting, work.records)
    trigger, state = trigger_of(work.job), work.state
    missed = make_miss(trigger, work.run.fire_time_ms, work.run.fire_time_ms, MissReason.OVERLAP, now_ms=now_ms)
    if state.fired != before.fired:
        # It was counted as a run, and may have been the last.
        state = replace(state, fired=state.fired - 1, next_fire_ms=trigger.next_after(work.run.fire_time_ms))
    return transition_to(state, (*work.records, missed))
