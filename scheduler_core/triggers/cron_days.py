"""The days that the day, month, weekday and year fields of a cron expression allow. croniter finds them."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache

from croniter import CroniterBadDateError, croniter

from scheduler_core.triggers.cron_fields import FIRST_YEAR, LAST_YEAR, CronFields, Field

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
        # croniter searches a limited number of years ahead; the limit must cover all our years.
        self._cron = croniter(
            pattern,
            _EPOCH,
            day_or=either_day,
            max_years_between_matches=LAST_YEAR - FIRST_YEAR + 1,
            second_at_beginning=True,
        )
        self._next: dict[int, int | None] = {}
        self._previous: dict[int, int | None] = {}

    def first_from(self, day: int) -> int | None:
        try:
            return self._next[day]
        except KeyError:
            answer = None if day > LAST_DAY else self._ask(max(day, FIRST_DAY), backwards=False)
            return self._remember(self._next, day, answer)

    def last_until(self, day: int) -> int | None:
        try:
            return self._previous[day]
        except KeyError:
            answer = None if day < FIRST_DAY else self._ask(min(day, LAST_DAY), backwards=True)
            return self._remember(self._previous, day, answer)

    def _ask(self, day: int, *, backwards: bool) -> int | None:
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


EVERY_DAY = EveryDay()


def matching_days(fields: CronFields) -> EveryDay | CalendarDays:
    day_of_month, day_of_week = fields.day_of_month, fields.day_of_week
    any_day = day_of_month.full and day_of_week.full
    if fields.either_day:
        # Either is enough: one that allows every day makes the other meaningless.
        any_day = day_of_month.full or day_of_week.full
    if any_day and fields.month.full and fields.year.full:
        return EVERY_DAY
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
