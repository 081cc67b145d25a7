"""The days that the day, month, weekday and year fields of a cron expression allow.

croniter finds them, unless a field has days that depend on the month: it knows ``L`` and ``fri#2``, but not ``L-3``,
``15W`` and ``LW``. Those are found in tables of whole years.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import isleap, monthrange
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from functools import lru_cache

from scheduler_core.triggers.cron_fields import CronFields, Field
from scheduler_core.triggers.cron_rules import FIRST_YEAR, LAST_YEAR

# croniter gets dates without a zone.
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a local date
FIRST_DAY = 0
LAST_DAY = (date(LAST_YEAR, 12, 31) - _EPOCH.date()).days

_REMEMBERED_DAYS = 64


class EveryDay:
    """Days are numbered from 1970-01-01 and end with the last year."""

    def first_from(self, day: int) -> int | None:
        return None if day > LAST_DAY else max(day, FIRST_DAY)

    def last_until(self, day: int) -> int | None:
        return None if day < FIRST_DAY else min(day, LAST_DAY)


class CalendarDays:
    """The dates that a day pattern allows. croniter finds them as midnights without a zone.

    A croniter search takes from 30 microseconds to a few milliseconds, and its answer never changes, so the last few
    answers are cached. Jobs that differ only in their time of day share them.
    """

    def __init__(self, pattern: str, *, either_day: bool) -> None:
        from croniter import croniter  # not at the start of a process: most expressions fire on every day

        # croniter searches a limited number of years ahead; the limit must cover all our years.
        self._cron = croniter(
            pattern,
            _EPOCH,
            day_or=either_day,
            max_years_between_matches=LAST_YEAR - FIRST_YEAR + 1,
            second_at_beginning=True,
        )
        self._next: dict[int, int | None] = {}
        # The days from the first up to the second have the second as their answer: a count asks about each of them.
        self._stretch = (0, -1)
        self._previous: dict[int, int | None] = {}

    def first_from(self, day: int) -> int | None:
        start, end = self._stretch
        if start <= day <= end:
            return end
        try:
            answer = self._next[day]
        except KeyError:
            answer = None if day > LAST_DAY else self._ask(max(day, FIRST_DAY), backwards=False)
            self._remember(self._next, day, answer)
        if answer is not None:
            self._stretch = (day, answer)
        return answer

    def last_until(self, day: int) -> int | None:
        try:
            return self._previous[day]
        except KeyError:
            answer = None if day < FIRST_DAY else self._ask(min(day, LAST_DAY), backwards=True)
            return self._remember(self._previous, day, answer)

    def _ask(self, day: int, *, backwards: bool) -> int | None:
        from croniter import CroniterBadDateError

        # Both questions exclude the moment they start from: ask from just before, or from just after, the date.
        start = _EPOCH + (timedelta(days=day + 1) if backwards else timedelta(days=day, seconds=-1))
        try:
            found: datetime = (self._cron.get_prev if backwards else self._cron.get_next)(datetime, start)
        except CroniterBadDateError:
            return None
        number = (found - _EPOCH).days
        return number if FIRST_DAY <= number <= LAST_DAY else None

    @staticmethod
    def _remember(answers: dict[int, int | None], day: int, answer: int | None) -> int | None:
        if len(answers) >= _REMEMBERED_DAYS:
            answers.clear()
        answers[day] = answer
        return answer


class YearlyDays:
    """The dates that fields with days such as ``L``, ``15W`` or ``fri#2`` allow.

    A year is one of 14 kinds: it begins on one of seven weekdays, and may be a leap year. The days of a kind are the
    bits of one number, made when they are first needed. So a search takes at most one step for each year.
    """

    def __init__(self, day_of_month: Field, month: Field, day_of_week: Field, year: Field, *, either_day: bool) -> None:
        self._day_of_month = day_of_month
        self._months = month.values
        self._day_of_week = day_of_week
        self._years = year.values
        self._either_day = either_day
        self._days_of_kind: dict[tuple[int, bool], int] = {}

    def first_from(self, day: int) -> int | None:
        if day > LAST_DAY:
            return None
        start = _date(max(day, FIRST_DAY))
        for year in self._years[bisect_left(self._years, start.year) :]:
            days = self._days(year)
            if year == start.year:
                passed = start.timetuple().tm_yday - 1
                days = days >> passed << passed
            if days:
                return _new_year(year) + (days & -days).bit_length() - 1
        return None

    def last_until(self, day: int) -> int | None:
        if day < FIRST_DAY:
            return None
        end = _date(min(day, LAST_DAY))
        for year in reversed(self._years[: bisect_right(self._years, end.year)]):
            days = self._days(year)
            if year == end.year:
                days &= (1 << end.timetuple().tm_yday) - 1
            if days:
                return _new_year(year) + days.bit_length() - 1
        return None

    def _days(self, year: int) -> int:
        """Return the days of a year as bits; bit 0 is January 1."""
        kind = date(year, 1, 1).weekday(), isleap(year)
        days = self._days_of_kind.get(kind)
        if days is None:
            days = self._days_of_kind[kind] = self._make_days(year)
        return days

    def _make_days(self, year: int) -> int:
        days = 0
        for month in self._months:
            begins = date(year, month, 1)
            first_weekday = begins.isoweekday() % 7
            length = monthrange(year, month)[1]
            dates = _relative_days(self._day_of_month, first_weekday, length)
            dates |= _days_as_bits(day for day in self._day_of_month.values if day <= length)
            weekdays = _relative_days(self._day_of_week, first_weekday, length)
            for weekday in self._day_of_week.values:
                weekdays |= _days_as_bits(range(1 + (weekday - first_weekday) % 7, length + 1, 7))
            allowed = dates | weekdays if self._either_day else dates & weekdays
            days |= allowed << begins.timetuple().tm_yday - 1
        return days


def _relative_days(field: Field, first_weekday: int, length: int) -> int:
    found = (each.day_in(first_weekday, length) for each in field.relative)
    return _days_as_bits(day for day in found if day is not None)


def _days_as_bits(days: Iterable[int]) -> int:
    bits = 0
    for day in days:
        bits |= 1 << day - 1
    return bits


def _date(day: int) -> date:
    return _EPOCH.date() + timedelta(days=day)


def _new_year(year: int) -> int:
    return (date(year, 1, 1) - _EPOCH.date()).days


EVERY_DAY = EveryDay()


def matching_days(fields: CronFields) -> EveryDay | CalendarDays | YearlyDays:
    day_of_month, day_of_week = fields.day_of_month, fields.day_of_week
    any_day = day_of_month.full and day_of_week.full
    if fields.either_day:
        # Either is enough: one that allows every day makes the other meaningless.
        any_day = day_of_month.full or day_of_week.full
    if any_day and fields.month.full and fields.year.full:
        return EVERY_DAY
    if not any_day and (day_of_month.relative or day_of_week.relative):
        return _yearly_days(day_of_month, fields.month, day_of_week, fields.year, fields.either_day)
    pattern = " ".join(
        (
            "0 0 0",
            "*" if any_day or day_of_month.full else _listed(day_of_month),
            "*" if fields.month.full else _listed(fields.month),
            "*" if any_day or day_of_week.full else _listed(day_of_week),
            *(() if fields.year.full else (_listed(fields.year),)),
        )
    )
    return _calendar_days(pattern, fields.either_day and not any_day)


@lru_cache(maxsize=1024)
def _calendar_days(pattern: str, either_day: bool) -> CalendarDays:
    return CalendarDays(pattern, either_day=either_day)


def _listed(field: Field) -> str:
    return ",".join(map(str, field.values))


@lru_cache(maxsize=1024)
def _yearly_days(day_of_month: Field, month: Field, day_of_week: Field, year: Field, either_day: bool) -> YearlyDays:
    return YearlyDays(day_of_month, month, day_of_week, year, either_day=either_day)
