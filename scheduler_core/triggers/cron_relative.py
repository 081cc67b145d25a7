"""The days of a month that depend on its length and weekdays: ``L``, ``L-3``, ``15W``, ``LW``, ``5L``, ``5#2``.

Weekdays are 0 (Sunday) to 6. ``day_in`` gets the weekday of the month's first day and the number of its days. It
returns the day of the month, or None if this month does not have it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

_SUNDAY, _SATURDAY = 0, 6


class LastDay(msgspec.Struct, frozen=True):
    """``L``: the last day of the month. ``L-3``: the third day before it."""

    before: int = 0

    def day_in(self, first_weekday: int, length: int) -> int | None:
        return length - self.before if self.before < length else None


class NearestWeekday(msgspec.Struct, frozen=True):
    """``15W``: the day from Monday to Friday that is nearest to day 15, in the same month. ``LW`` (no day): nearest to
    the last day."""

    day: int | None = None

    def day_in(self, first_weekday: int, length: int) -> int | None:
        day = length if self.day is None else self.day
        if day > length:
            return None
        weekday = (first_weekday + day - 1) % 7
        if weekday == _SATURDAY:
            return day - 1 if day > 1 else day + 2
        if weekday == _SUNDAY:
            return day + 1 if day < length else day - 2
        return day


class LastWeekday(msgspec.Struct, frozen=True):
    """``5L``: the last Friday of the month."""

    weekday: int

    def day_in(self, first_weekday: int, length: int) -> int | None:
        last_weekday = (first_weekday + length - 1) % 7
        return length - (last_weekday - self.weekday) % 7


class NthWeekday(msgspec.Struct, frozen=True):
    """``5#2``: the second Friday of the month."""

    weekday: int
    number: int

    def day_in(self, first_weekday: int, length: int) -> int | None:
        day = 1 + (self.weekday - first_weekday) % 7 + 7 * (self.number - 1)
        return day if day <= length else None


RelativeDay: TypeAlias = LastDay | NearestWeekday | LastWeekday | NthWeekday
