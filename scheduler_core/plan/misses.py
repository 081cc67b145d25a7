"""Makes misses: ranges of fire times that did not become runs.

Each range costs a few evaluations of the trigger, however many fire times it contains.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.pause import Pause
from scheduler_core.model.run import Miss, MissReason
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.triggers.trigger import Trigger

COUNTED_STEPS = 16
"""The count of a miss may cost this many evaluations of the trigger, where it cannot be calculated."""


def make_miss(trigger: Trigger, first_ms: int, last_ms: int, reason: MissReason, *, now_ms: int) -> Miss:
    """Return the miss of all fire times from ``first_ms`` to ``last_ms``, which are fire times themselves."""
    count = 1 if first_ms == last_ms else trigger.count_in(first_ms - 1, last_ms, COUNTED_STEPS)
    return Miss(reason=reason, first_ms=first_ms, last_ms=last_ms, recorded_at_ms=now_ms, count=count)


def pass_over(
    job: Job,
    state: JobState,
    reason: MissReason,
    *,
    now_ms: int,
    pauses: Sequence[Pause] = (),
    until_ms: int | None = None,
) -> tuple[JobState, tuple[Miss, ...]]:
    """Record the undecided fire times up to ``until_ms`` (None: now) as a miss, and move the position past them.

    While the trigger is blocked, the reason of the block replaces ``reason``. Fire times in a pause of everything have
    the reason ``paused``.
    """
    first_ms, until_ms = state.next_fire_ms, now_ms if until_ms is None else until_ms
    if first_ms is None or first_ms > until_ms:
        return state, ()
    trigger, reason = trigger_of(job), state.trigger_blocked_by or reason
    if pauses and reason is not MissReason.PAUSED:
        misses = misses_around(trigger, first_ms, until_ms, None, reason, (), now_ms=now_ms, pauses=pauses)
    else:
        misses = miss_through(trigger, first_ms, until_ms, reason, now_ms=now_ms)
    return replace(state, next_fire_ms=trigger.next_after(until_ms)), misses


def miss_through(
    trigger: Trigger, first_ms: int | None, until_ms: int, reason: MissReason, *, now_ms: int
) -> tuple[Miss, ...]:
    """Return the miss of all fire times from ``first_ms`` (a fire time) to ``until_ms``; empty if there are none."""
    if first_ms is None or first_ms > until_ms:
        return ()
    last = trigger.last_in(first_ms - 1, until_ms)
    if last is None:
        return ()
    return (make_miss(trigger, first_ms, last, reason, now_ms=now_ms),)


def last_outside(trigger: Trigger, first_ms: int, last_ms: int, downtimes: Sequence[Downtime]) -> int | None:
    """Return the latest fire time in [first, last] at which a node was alive: it is late, not missed."""
    for downtime in reversed(downtimes):
        if downtime.covers(last_ms):
            earlier = trigger.last_in(first_ms - 1, downtime.after_ms)
            if earlier is None:
                return None
            last_ms = earlier
    return last_ms


def misses_around(
    trigger: Trigger,
    first_ms: int,
    last_ms: int,
    chosen_ms: int | None,
    reason: MissReason,
    downtimes: Sequence[Downtime],
    *,
    now_ms: int,
    pauses: Sequence[Pause] = (),
) -> tuple[Miss, ...]:
    """Return the misses of all fire times in [first, last] except the chosen one, with a range for each downtime and
    for each pause of everything. An instant in both belongs to the pause."""
    if first_ms == last_ms == chosen_ms:
        return ()
    ranges: list[Miss] = []
    for pause in pauses:
        end_ms = last_ms if pause.end_ms is None else min(last_ms, pause.end_ms - 1)
        begin_ms = max(first_ms, pause.from_ms)
        if begin_ms > end_ms:
            continue
        if begin_ms > first_ms:
            ranges += misses_around(trigger, first_ms, begin_ms - 1, chosen_ms, reason, downtimes, now_ms=now_ms)
        ranges += _misses_in(trigger, begin_ms - 1, end_ms, chosen_ms, MissReason.PAUSED, now_ms)
        first_ms = end_ms + 1
    cuts = [(d.after_ms, d.until_ms - 1) for d in downtimes if d.until_ms > first_ms and d.after_ms < last_ms]
    position = first_ms - 1
    for after, until in [*cuts, (last_ms, last_ms)]:
        spans = (
            (position, min(after, last_ms), reason),
            (max(after, position), min(until, last_ms), MissReason.DOWNTIME),
        )
        for start, end, why in spans:
            ranges.extend(_misses_in(trigger, start, end, chosen_ms, why, now_ms))
        position = max(position, until)
    return tuple(ranges)


def _misses_in(
    trigger: Trigger, after_ms: int, until_ms: int, chosen_ms: int | None, reason: MissReason, now_ms: int
) -> list[Miss]:
    """Return the misses of the fire times in (after, until], except the one that became a run."""
    if chosen_ms is not None and after_ms < chosen_ms <= until_ms:
        return [
            *_misses_in(trigger, after_ms, chosen_ms - 1, None, reason, now_ms),
            *_misses_in(trigger, chosen_ms, until_ms, None, reason, now_ms),
        ]
    if after_ms >= until_ms:
        return []
    first = trigger.next_after(after_ms)
    if first is None or first > until_ms:
        return []
    last = trigger.last_in(after_ms, until_ms)
    return [make_miss(trigger, first, first if last is None else last, reason, now_ms=now_ms)]
