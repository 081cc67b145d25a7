"""Decides what pauses do to a job's fire times: the pause of the job until an instant, and pauses of everything."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import HeldBack, HoldReason, JobState, Pending
from scheduler_core.model.pause import Pause, ended_pauses, running_pause
from scheduler_core.model.run import Miss, MissReason, Reason, Record, Run
from scheduler_core.model.transition import Transition, next_replay, startable, transition_to
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.misses import misses_around, pass_over

SHORTEST_STEP_MS = 1_000
LONGEST_STEP_MS = 10_000
"""What waits for a retry during a pause of everything, or for its turn, looks again after a quarter of the time that
the pause has lasted, within these bounds: the bound on its delay after the resume, and on the cost of the pause."""


def resume_in_time(job: Job, state: JobState, *, now_ms: int) -> tuple[JobState, tuple[Miss, ...]]:
    """Resume a job whose pause has an end that has come, as of that end. The fire times before it are one miss."""
    until_ms = None if state.pause is None else state.pause.until_ms
    if until_ms is None or until_ms > now_ms:
        return state, ()
    state, misses = pass_over(job, state, MissReason.PAUSED, now_ms=now_ms, until_ms=until_ms - 1)
    state = replace(state, paused_at_ms=None, pause=None, ends_at_ms=None)
    return recount(job, state, now_ms=until_ms - 1), misses


def recount(job: Job, state: JobState, *, now_ms: int) -> JobState:
    """Return ``state`` with its position recomputed for ``max_runs``, or because the position was lost."""
    if job.policies.max_runs is not None and state.fired >= job.policies.max_runs:
        return replace(state, next_fire_ms=None)
    if state.next_fire_ms is None:
        return replace(state, next_fire_ms=trigger_of(job).next_after(now_ms))
    return state


def held_entries(state: JobState, pause: Pause) -> list[Pending]:
    """Return the entries that a pause of everything holds: all but requested runs, and those that a client forces."""
    requested = startable(state, paused=True)
    return [
        entry
        for entry in startable(state)
        if entry not in requested or (_waited_before(entry.run, pause) and not entry.forced)
    ]


def wake_now(state: JobState, *, now_ms: int) -> JobState:
    """Return ``state`` so that the job is claimed now, for runs that a client adds to a job which a pause of everything
    holds back.

    Its mark would hold them until its next fire time, also after the resume. If the pause lasts, that claim holds the
    job back again, in steps because of these runs.
    """
    held_back = state.held_back
    if held_back is None or not held_back.is_pause:
        return state
    return replace(state, held_back=replace(held_back, until_ms=min(held_back.until_ms, now_ms)))


def is_requested(run: Run, pause: Pause) -> bool:
    """Return whether a client requested the run, so that it starts during a pause of everything, and is retried if it
    started then."""
    return run.reason is Reason.MANUAL and not _waited_before(run, pause)


def _waited_before(run: Run | None, pause: Pause) -> bool:
    """Return whether the run had an attempt before the pause: it waits for its retry until the pause is over."""
    return run is not None and run.started_at_ms is not None and run.started_at_ms < pause.from_ms


def hold(job: Job, state: JobState, pause: Pause, records: tuple[Record, ...], *, now_ms: int) -> Transition:
    """Return the step that holds a job back during a pause of everything.

    The position stays, and nothing is recorded: the next claim after the pause records one miss for all fire times up
    to the end of the pause. So a resume costs nothing per job. The job wakes at its next fire time, and in steps while
    anything else waits. If no fire time follows, no claim would come: then the misses are recorded at once.
    """
    trigger = trigger_of(job)
    wakes: list[int | None] = []
    if state.paused_at_ms is not None:
        wakes += [state.ends_at_ms, None if state.pause is None else state.pause.until_ms]
    elif state.trigger_blocked_by is None and state.next_fire_ms is not None:
        following = trigger.next_after(max(now_ms, state.next_fire_ms - 1))
        if following is None:
            state, misses = pass_over(job, state, MissReason.PAUSED, now_ms=now_ms)
            records = (*records, *misses)
        wakes.append(following)
    step_ms = _step_end(pause, now_ms)
    waiting = state.open
    if waiting is not None:
        retry_ms = waiting.retry_at_ms or 0
        wakes.append(retry_ms if is_requested(waiting, pause) and retry_ms > now_ms else max(retry_ms, step_ms))
    else:
        held = held_entries(state, pause)
        state = replace(
            state,
            pending=tuple(
                replace(one, not_before_ms=max(one.not_before_ms, step_ms))
                if one in held and one.reason is Reason.MANUAL
                else one
                for one in state.pending
            ),
        )
        wakes += [max(one.not_before_ms, step_ms) for one in held]
        wakes += [one.not_before_ms for one in startable(state, paused=True)]
        if next_replay(state) is not None:
            wakes.append(step_ms)
    until_ms = min((wake_ms for wake_ms in wakes if wake_ms is not None), default=None)
    if until_ms is None:
        return transition_to(job, state, records, now_ms=now_ms)
    # A mark that nodes of earlier versions can read: the run waits, whatever its target.
    return Transition(replace(state, held_back=HeldBack(HoldReason.LIMIT, now_ms, until_ms)), records)


def _step_end(pause: Pause, now_ms: int) -> int:
    step_ms = min(LONGEST_STEP_MS, max(SHORTEST_STEP_MS, (now_ms - pause.from_ms) // 4))
    return now_ms + step_ms if pause.end_ms is None else min(pause.end_ms, now_ms + step_ms)


def pass_pauses(
    job: Job, state: JobState, pauses: Sequence[Pause], downtimes: Sequence[Downtime], *, now_ms: int
) -> tuple[JobState, tuple[Miss, ...]]:
    """Record the undecided fire times before the end of the latest pause of everything that is over as misses, and move
    the position past them. Nothing is caught up.

    A fire time shortly before the pause may be among them: its run had not started when the pause came. One in a
    downtime before the pause has that reason.
    """
    first_ms = state.next_fire_ms
    if first_ms is None or first_ms > now_ms:
        return state, ()
    ended = ended_pauses(pauses, first_ms, now_ms)
    if not ended:
        return state, ()
    until_ms = max(pause.end_ms or 0 for pause in ended)
    from_ms = min(pause.from_ms for pause in ended)
    before = [replace(one, until_ms=min(one.until_ms, from_ms)) for one in downtimes if one.after_ms < from_ms - 1]
    trigger = trigger_of(job)
    misses = misses_around(trigger, first_ms, until_ms - 1, None, MissReason.PAUSED, before, now_ms=now_ms)
    return replace(state, next_fire_ms=trigger.next_after(until_ms - 1)), misses


def pass_pauses_during_run(
    job: Job, state: JobState, pauses: Sequence[Pause], downtimes: Sequence[Downtime], *, now_ms: int
) -> tuple[JobState, tuple[Miss, ...], int]:
    """Record the fire times that passed during a run, up to the end of the latest pause of everything that is over.

    Those outside the pauses are misses for ``overlap``. Also returns until when the other fire times are decided now:
    the beginning of the pause that runs, or ``now_ms``. The first claim after that pause decides about those in it.
    """
    running = running_pause(pauses, now_ms)
    until_ms = now_ms if running is None else running.from_ms - 1
    first_ms = state.next_fire_ms
    if first_ms is None or first_ms > until_ms:
        return state, (), until_ms
    ended = ended_pauses(pauses, first_ms, until_ms + 1)
    if not ended:
        return state, (), until_ms
    last_ms = max(pause.end_ms or 0 for pause in ended) - 1
    trigger = trigger_of(job)
    misses = misses_around(trigger, first_ms, last_ms, None, MissReason.OVERLAP, downtimes, now_ms=now_ms, pauses=ended)
    return replace(state, next_fire_ms=trigger.next_after(last_ms)), misses, until_ms
