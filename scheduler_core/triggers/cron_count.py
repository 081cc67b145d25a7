"""Counts the fire times of a cron expression between two instants by dates, without stepping through them.

A day with 86,400 fire times costs as much as a day with one. Changes of the clocks are exact too.
"""

from __future__ import annotations

from scheduler_core.triggers.cron_days import EVERY_DAY, FIRST_DAY, LAST_DAY, CalendarDays, EveryDay, YearlyDays
from scheduler_core.triggers.cron_times import TimesOfDay
from scheduler_core.triggers.zone import DAY, REPLAY_LIMIT, Segment, Zone


class Budget:
    """How many dates and clock changes one count may still examine."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self) -> None:
        """Raise TooCostly if nothing is left."""
        if self.left <= 0:
            raise TooCostly
        self.left -= 1


class TooCostly(Exception):
    """The count would examine more dates than its budget allows."""


class MatchCounter:
    """Counts the wall seconds, and the instants, at which one expression matches."""

    __slots__ = ("_clock", "_days", "_zone")

    def __init__(self, days: EveryDay | CalendarDays | YearlyDays, clock: TimesOfDay, zone: Zone) -> None:
        self._days = days
        self._clock = clock
        self._zone = zone

    def walls(self, after: int, until: int, budget: Budget) -> int:
        """Return the number of matching wall seconds in (after, until]. Raises TooCostly."""
        until = min(until, (LAST_DAY + 1) * DAY - 1)
        after = max(after, FIRST_DAY * DAY - 1)
        if after >= until:
            return 0
        if self._days is EVERY_DAY:
            return self._every_day_until(until) - self._every_day_until(after)
        (first_day, first_time), (last_day, last_time) = divmod(after, DAY), divmod(until, DAY)
        count, day = 0, self._days.first_from(first_day)
        while day is not None and day <= last_day:
            budget.spend()
            count += self._clock.per_day if day < last_day else self._clock.count_until(last_time)
            if day == first_day:
                count -= self._clock.count_until(first_time)
            day = self._days.first_from(day + 1)
        return count

    def _every_day_until(self, wall: int) -> int:
        day, time = divmod(wall, DAY)
        return (day - FIRST_DAY) * self._clock.per_day + self._clock.count_until(time) if day >= FIRST_DAY else 0

    def elapsed(self, after: int, until: int, budget: Budget) -> int:
        """Return the number of instants in (after, until] at which the clocks show a match. Raises TooCostly."""
        count = 0
        for segment in self._segments(after + 1, until, budget):
            start, end = max(after, segment.start - 1), min(until, segment.end - 1)
            count += self.walls(start + segment.offset, end + segment.offset, budget)
        return count

    def fixed(self, after: int, until: int, budget: Budget) -> int:
        """Return the number of instants in (after, until] at which a match is reached for the first time: each once,
        and all matches that one forward change skips together once. Raises TooCostly."""
        zone = self._zone
        count = self.walls(zone.high_water(after), zone.high_water(until), budget)
        for segment in self._segments(after + 1, until, budget):
            if segment.start <= after:
                continue
            shown, begins = zone.high_water(segment.start - 1), segment.start + segment.offset
            gap = begins - 1 - shown
            if gap <= 0:
                continue
            skipped = self.walls(shown, begins - 1, budget)
            if gap > REPLAY_LIMIT:
                count -= skipped
            elif skipped:
                count -= skipped - 1 + self.walls(begins - 1, begins, budget)
        return count

    def _segments(self, start: int, until: int, budget: Budget) -> list[Segment]:
        """Return the spans of constant offset that begin before ``until``, the first one with ``start`` in it."""
        segment = self._zone.segment(start)
        if self._zone.name == "UTC":
            return [Segment(segment.start, until + 1, segment.offset)]
        found = [segment]
        while segment.end <= until:
            budget.spend()
            segment = self._zone.segment(segment.end)
            found.append(segment)
        return found
