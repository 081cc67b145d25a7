"""Decides, after a run ends, which fire times that passed during it still get a run and which are misses."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.pause import Pause
from scheduler_core.model.policies import Overlap, Recovery
from scheduler_core.model.run import MissReason, Reason, Record, Run, RunState
from scheduler_core.model.transition import is_replay
from scheduler_core.plan.catch_up import catch_up
from scheduler_core.plan.finish import end_run
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.misses import misses_around, pass_over
from scheduler_core.plan.paused import pass_pauses_during_run, resume_in_time
from scheduler_core.triggers.trigger import Trigger


def finish_and_account(
    job: Job,
    state: JobState,
    run: Run,
    final: RunState,
    *,
    now_ms: int,
    downtimes: Sequence[Downtime],
    trigger_blocked: bool,
    message: str = "",
    covers_until_ms: int | None = None,
    pauses: Sequence[Pause] = (),
) -> tuple[JobState, tuple[Record, ...]]:
    """End a run and account for the fire times that passed while it was open.

    ``state`` is the job's without that run; ``trigger_blocked`` is the answer of ``trigger_was_blocked`` for both."""
    state, ended = end_run(job, state, run, final, now_ms=now_ms, message=message)
    state, passed = account_for_passed(
        job,
        state,
        run,
        trigger_blocked=trigger_blocked,
        now_ms=now_ms,
        downtimes=downtimes,
        covers_until_ms=covers_until_ms,
        pauses=pauses,
    )
    return state, (ended, *passed)


def trigger_was_blocked(state: JobState, run: Run) -> bool:
    """Return whether continuations blocked the trigger while ``run`` was open; ``state`` is the job's without it."""
    return run.reason is Reason.CONTINUATION or state.trigger_blocked_by is not None


def account_for_passed(
    job: Job,
    state: JobState,
    run: Run,
    *,
    trigger_blocked: bool,
    now_ms: int,
    downtimes: Sequence[Downtime],
    covers_until_ms: int | None = None,
    pauses: Sequence[Pause] = (),
) -> tuple[JobState, tuple[Record, ...]]:
    """Account for the fire times that passed while ``run``, which just ended, was not settled.

    The latest of them gets a run with ``overlap: queue_one``, and after a replay, which must not cost a regular fire
    time. If some fell into a downtime (the node of this run died and the run was taken over), the job's recovery policy
    decides about them. Fire times that get a run stay due or become a replay; all others are misses.
    ``covers_until_ms``: the run covers fire times up to then, because it waited for a busy runner until then.

    ``trigger_blocked``: continuations blocked the trigger during the run. Nothing is accounted for until the block
    ends; then all these fire times are one miss. While a job is paused or quarantined, nothing is accounted for: the
    resume does that, or the end of the pause if it came during the run. Fire times in a pause of everything are misses
    for ``paused``; while it lasts, they stay undecided.
    """
    caught: tuple[Record, ...] = ()
    if state.pause is not None:
        state, caught = resume_in_time(job, state, now_ms=now_ms)
        if state.paused_at_ms is None:
            trigger_blocked = run.reason is Reason.CONTINUATION
    due_ms, until_ms = state.next_fire_ms, now_ms
    if due_ms is None or due_ms > now_ms or state.trigger_blocked_by in (MissReason.PAUSED, MissReason.QUARANTINED):
        return state, caught
    if trigger_blocked:
        if state.trigger_blocked_by is not None:
            return state, caught
        state, misses = pass_over(job, state, MissReason.HELD, now_ms=now_ms, pauses=pauses)
        return state, (*caught, *misses)
    if pauses:
        state, misses, until_ms = pass_pauses_during_run(job, state, pauses, downtimes, now_ms=now_ms)
        caught, due_ms = (*caught, *misses), state.next_fire_ms
        if due_ms is None or due_ms > until_ms:
            return state, caught
    trigger = trigger_of(job)
    latest = trigger.last_in(due_ms - 1, until_ms)
    if latest is None:
        return state, caught
    gets_run = (job.overlap is Overlap.QUEUE_ONE or is_replay(run)) and not (
        covers_until_ms is not None and latest <= covers_until_ms
    )
    if job.recovery is Recovery.ALL and downtimes:
        found = catch_up(job, state, due_ms, latest, downtimes, reason=MissReason.OVERLAP, now_ms=now_ms)
        if found is not None:
            state, caught = found.state, (*caught, *found.records)
            if found.rest_ms is None:
                return state, caught
            due_ms = found.rest_ms
    elif job.recovery is Recovery.LATEST and not gets_run:
        gets_run = any(_fires_within(trigger, due_ms, downtime) for downtime in downtimes)
    misses = misses_around(
        trigger, due_ms, latest, latest if gets_run else None, MissReason.OVERLAP, downtimes, now_ms=now_ms
    )
    next_fire = latest if gets_run else trigger.next_after(latest)
    return replace(state, next_fire_ms=next_fire), (*caught, *misses)


def _fires_within(trigger: Trigger, due_ms: int, downtime: Downtime) -> bool:
    """Return whether a fire time from ``due_ms`` on, itself one, fell into the downtime."""
    if downtime.until_ms <= due_ms:
        return False
    return trigger.last_in(max(due_ms - 1, downtime.after_ms), downtime.until_ms - 1) is not None
