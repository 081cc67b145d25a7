"""Counts the fire times of a trigger in each minute of a span, without a step for each of them.

A cron expression has the same seconds in each of its minutes, so the matching minutes are listed and the seconds are
counted. Only minutes in which the zone's offset changes are stepped through. Intervals are counted by arithmetic.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol

from scheduler_core.triggers.cron import CronTrigger
from scheduler_core.triggers.zone import MAX_OFFSET, Zone, load_zone

MINUTE_MS = 60_000
DAY_MINUTES = 1440


class Fires(Protocol):
    """What is stepped through where a count is not computed."""

    def next_after(self, after_ms: int) -> int | None: ...


class _Stretch(NamedTuple):
    """Minutes in which local time passes evenly: from the minute ``first`` of the span on, which is the minute ``wall``
    of local time, counted from 1970-01-01 00:00."""

    first: int
    wall: int
    length: int


def cron_per_minute(trigger: CronTrigger, start_ms: int, minutes: int, offset_ms: int = 0) -> dict[int, int]:
    """Return how often the trigger, with all its fire times shifted by ``offset_ms``, fires in each minute of the span.

    ``start_ms`` is a full minute. Minutes without a fire time are left out.
    """
    shift, rest_ms = divmod(offset_ms, MINUTE_MS)
    # With a rest, a minute of the trigger's own times becomes parts of two minutes of the span.
    first_ms = start_ms - MINUTE_MS * (shift + bool(rest_ms))
    length = minutes + bool(rest_ms)
    times = trigger.times
    later = bisect_left(times.seconds, -(-(MINUTE_MS - rest_ms) // 1000)) if rest_ms else len(times.seconds)
    within, after = later, len(times.seconds) - later
    counts: dict[int, int] = {}
    stretches, odd = _stretches(trigger.zone.name, first_ms // 1000, length, trigger.follows_elapsed_time)
    for index in _matches(trigger, stretches):
        if rest_ms:
            _add(counts, index - 1, within)
            _add(counts, index, after)
        else:
            counts[index] = within
    for index in odd:
        begin_ms = first_ms + MINUTE_MS * index
        for fire_ms in fires_in(trigger, begin_ms, begin_ms + MINUTE_MS):
            _add(counts, (fire_ms + offset_ms - start_ms) // MINUTE_MS, 1)
    counts.pop(-1, None)
    counts.pop(minutes, None)
    return counts


def interval_per_minute(every_ms: int, first_ms: int, end_ms: int, start_ms: int) -> dict[int, int]:
    """Return how often an interval that fires at ``first_ms`` and every ``every_ms`` from then on, before ``end_ms``,
    fires in each minute after ``start_ms``, which is not later than ``first_ms``."""
    if first_ms >= end_ms:
        return {}
    if every_ms >= MINUTE_MS:
        return {(fire_ms - start_ms) // MINUTE_MS: 1 for fire_ms in range(first_ms, end_ms, every_ms)}
    counts: dict[int, int] = {}
    index, passed = (first_ms - start_ms) // MINUTE_MS, 0
    total = -(-(end_ms - first_ms) // every_ms)
    bound_ms = start_ms + MINUTE_MS * (index + 1) - first_ms
    while passed < total:
        until = min(total, -(-bound_ms // every_ms))
        counts[index] = until - passed
        index, passed, bound_ms = index + 1, until, bound_ms + MINUTE_MS
    return counts


def fires_in(trigger: Fires, begin_ms: int, end_ms: int) -> Iterator[int]:
    """List the fire times from ``begin_ms`` on and before ``end_ms``."""
    found = trigger.next_after(begin_ms - 1)
    while found is not None and found < end_ms:
        yield found
        found = trigger.next_after(found)


def _add(counts: dict[int, int], index: int, count: int) -> None:
    if count:
        counts[index] = counts.get(index, 0) + count


def _matches(trigger: CronTrigger, stretches: list[_Stretch]) -> Iterator[int]:
    """List the minutes of the stretches whose local time the trigger allows."""
    times = trigger.times.minutes_of_day()
    for stretch in stretches:
        for day in range(stretch.wall // DAY_MINUTES, (stretch.wall + stretch.length - 1) // DAY_MINUTES + 1):
            if trigger.days.first_from(day) != day:
                continue
            midnight = DAY_MINUTES * day - stretch.wall
            low, high = bisect_left(times, -midnight), bisect_left(times, stretch.length - midnight)
            for time in times[low:high]:
                yield stretch.first + midnight + time


# All expressions in one zone share it. On a day with a clock change it takes some milliseconds.
@lru_cache(maxsize=4096)
def _stretches(zone_name: str, start: int, minutes: int, elapsed: bool) -> tuple[list[_Stretch], list[int]]:
    """Divide a span into stretches, and the minutes that are stepped through. ``start``: in seconds, a full minute.

    For fixed times (not ``elapsed``) a stretch has only minutes that the clocks show for the first time: a repeated
    hour fires nothing, and the minute after a skipped hour is stepped through.
    """
    zone = load_zone(zone_name)
    offset = zone.steady_offset(start - 2 * MAX_OFFSET, start + 60 * minutes)
    if offset is not None and offset % 60 == 0:
        return [_Stretch(0, (start + offset) // 60, minutes)], []
    stretches: list[_Stretch] = []
    odd: list[int] = []
    for index in range(minutes):
        begin = start + 60 * index
        wall = _even_minute(zone, begin, elapsed)
        if wall is None:
            odd.append(index)
            continue
        last = stretches[-1] if stretches else None
        if last is not None and (last.first + last.length, last.wall + last.length) == (index, wall):
            stretches[-1] = last._replace(length=last.length + 1)
        else:
            stretches.append(_Stretch(index, wall, 1))
    return stretches, odd


def _even_minute(zone: Zone, begin: int, elapsed: bool) -> int | None:
    """Return the number of the local minute; None: its fire times must be stepped through."""
    segment = zone.segment(begin)
    if segment.offset % 60 or begin + 59 >= segment.end:
        return None
    if not elapsed and zone.high_water(begin - 1) != begin - 1 + segment.offset:
        return None
    return (begin + segment.offset) // 60
