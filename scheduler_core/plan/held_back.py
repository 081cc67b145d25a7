"""Holds a due run back because of its target, or for want of a slot.

Nothing is sent, nothing is counted, no fire time is decided.

The claim is undone except for a mark (``HeldBack``) in the job's state with the reason and the time of the next try.
The next claim decides again: for the same fire time, or for a later one that is due by then. Earlier ones are then
misses with the reason of the mark.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.job import Job
from scheduler_core.model.job_state import HeldBack, HoldReason, JobState
from scheduler_core.model.lease import Lease
from scheduler_core.model.pause import Pause
from scheduler_core.model.run import Record, RunState
from scheduler_core.model.transition import Transition, transition_to
from scheduler_core.plan.claim import Work
from scheduler_core.plan.finish import end_run, requeue
from scheduler_core.plan.misses import pass_over


def may_release(lease: Lease) -> bool:
    """Return whether a claim can be undone. A run that was taken over from another node may have been sent under its
    id. It must stay the same run, so its lease is released with the facts of the first claim instead."""
    return lease.fence == lease.first_fence


def without_slot(now_ms: int, wake_ms: int) -> HeldBack:
    """Return the mark of a run that got no slot of its node in time. It can be claimed again at once, by any node, and
    keeps its place among the due jobs: that of its wake-up."""
    return HeldBack(HoldReason.LIMIT, now_ms, wake_ms)


def plan_hold_back(before: JobState, held_back: HeldBack) -> Transition:
    """Return the step that holds a job's run back. ``before``: the state at the claim."""
    old = before.held_back
    if old is not None and not old.is_pause:
        held_back = replace(held_back, since_ms=old.since_ms, breaker=held_back.breaker or old.breaker)
    return Transition(replace(before, held_back=held_back))


def plan_hold_back_changed(job: Job | None, state: JobState, work: Work, *, now_ms: int) -> Transition | None:
    """Return the step for a job that was changed since the claim. None: the stored state does not contain the run.

    The change has stored the run in ``state.open`` as in flight, although it was never sent. The run ends if the change
    forbids another attempt; otherwise it waits again where it waited before.
    """
    run = state.open
    if run is None or run.id != work.run.id or not run.in_flight:
        return None
    others = replace(state, open=None)
    gone = job is None or state.deleted
    if run.completed is None and not run.detached and not gone:
        waiting = replace(run, in_flight=False, state=RunState.RETRYING, retry_at_ms=now_ms)
        if run.on_demand and not state.child:
            return Transition(requeue(others, run, now_ms, conflict=run.conflict))
        return Transition(replace(others, open=waiting))
    final, why = run.completed or RunState.CANCELLED, "its job was changed, paused or deleted before it was sent"
    after, ended = end_run(None if gone else job, others, run, final, now_ms=now_ms, message=why)
    if gone or job is None:
        return Transition(None, (ended,), remove=True)
    return transition_to(job, after, (ended,), now_ms=now_ms)


def drop_hold_back(
    job: Job, state: JobState, *, now_ms: int, pauses: Sequence[Pause] = ()
) -> tuple[JobState, tuple[Record, ...]]:
    """Remove the mark, for a change that removes its reason. Fire times that have passed are misses for that reason."""
    if state.held_back is None:
        return state, ()
    held_back, state = state.held_back, replace(state, held_back=None)
    return pass_over(job, state, held_back.miss_reason, now_ms=now_ms, pauses=pauses)
