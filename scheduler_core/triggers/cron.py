"""Fire times of a cron expression: croniter for the calendar, and Debian's rules for clocks that change.

What is whose. ``cron_fields`` reads the text, and refuses what croniter would take and Vixie cron
would not. croniter answers one question: which is the next (or the last) *date* that the day, month, weekday and year
fields allow. The time of day is three table look-ups, and how it meets the zone's clocks is decided here, because
croniter fires fixed times twice when clocks go back and loses fires around changes that are not whole hours.

The rules, those of Debian's cron (find_jobs and the loop around it in cron.c). The minute and hour fields decide:

* If one of them starts with ``*`` the job follows elapsed time: it fires at exactly those instants at which the
  clocks show a matching time. A repeated hour counts twice, a skipped one not at all.
* Else it is a fixed-time job and fires once for each matching time: at the first instant at which the clocks show it
  or a later time. A time that comes twice fires the first time. A time that is skipped fires at the first instant
  after the gap, and all such times of one gap together are one fire time, since a fire time is an instant. (Debian
  starts the command once for each, in succession.) Clocks set forward by more than three hours have changed calendar,
  and nothing is made up for.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Protocol

from croniter import CroniterBadDateError, croniter

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron_fields import FIRST_YEAR, LAST_YEAR, CronFields, Field, read_expression
from scheduler_core.triggers.zone import DAY, MAX_OFFSET, REPLAY_LIMIT, Zone, load_zone

__all__ = ["CronTrigger", "check_fires_again", "parse_cron"]

# croniter is asked about dates of no zone in particular.
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a date on the wall
_FIRST_DAY = 0
_LAST_DAY = (date(LAST_YEAR, 12, 31) - _EPOCH.date()).days

# Instants outside are answered as if asked for at the edge; at the edge the table of zones still holds.
_EARLIEST = -1
_LATEST = (_LAST_DAY + 1) * DAY + MAX_OFFSET

_REMEMBERED_DAYS = 64


def parse_cron(expression: str, timezone: str = "UTC") -> CronTrigger:
    """Compile an expression; raises ``InvalidInput`` naming ``cron`` or ``timezone``. Not cached: see
    ``compile_trigger``."""
    fields = read_expression(expression)
    trigger = CronTrigger(expression, fields, load_zone(timezone))
    if trigger.days.first_from(_FIRST_DAY) is None:
        raise InvalidInput("the expression never fires: its years do not have that day", field="cron")
    return trigger


class _Fires(Protocol):
    def next_after(self, after_ms: int) -> int | None: ...


def check_fires_again(trigger: _Fires, now_ms: int) -> None:
    """Raise ``InvalidInput`` if a trigger that a client has just sent has no fire time after now."""
    if trigger.next_after(now_ms) is None:
        raise InvalidInput(
            f"the expression never fires again: its last fire time has passed (years after {LAST_YEAR} do not count)",
            field="cron",
        )


class CronTrigger:
    """The fire times of one expression in one zone: whole seconds, as UTC epoch milliseconds, strictly increasing.

    Immutable but for what it remembers, so one serves all jobs with the same expression and zone, on one thread.
    Every answer takes the same time however far away it lies.
    """

    __slots__ = ("_clock", "_elapsed", "_older", "_recent", "_zone", "days", "expression", "timezone")

    def __init__(self, expression: str, fields: CronFields, zone: Zone) -> None:
        self.expression = expression
        self.timezone = zone.name
        self.days = _matching_days(fields)
        self._clock = _TimesOfDay(fields.hour, fields.minute, fields.second)
        self._zone = zone
        self._elapsed = fields.follows_elapsed_time
        # Two stretches (start, end) without a fire time inside: every question from start up to just before end has
        # the answer end. Many jobs share a trigger and ask about the same second; each asks about the fire time that
        # is due (the older stretch) and about the one after it (the recent one).
        self._recent: tuple[int, int] = (0, 0)
        self._older: tuple[int, int] = (0, 0)

    def next_after(self, after_ms: int) -> int | None:
        """The first fire time later than ``after_ms``, or None when there is none up to the last year."""
        start, end = self._recent
        if start <= after_ms < end:
            return end
        start, end = self._older
        if start <= after_ms < end:
            return end
        after = min(max(after_ms // 1000, _EARLIEST), _LATEST)
        found = self._next_elapsed(after) if self._elapsed else self._next_fixed(after)
        if found is None:
            return None
        answer = found * 1000
        if answer <= after_ms:
            # A caller that loops until the answer lies ahead would never end.
            raise RuntimeError(f"{self.expression!r} in {self.timezone}: {answer} does not come after {after_ms}")
        if self._recent[1] != answer:
            self._older = self._recent
        self._recent = (after_ms, answer)
        return answer

    def last_in(self, after_ms: int, until_ms: int) -> int | None:
        """The latest fire time with ``after_ms < t <= until_ms``, or None."""
        first = self.next_after(after_ms)
        if first is None or first > until_ms:
            return None
        second = self.next_after(first)
        if second is None or second > until_ms:
            return first
        until = min(until_ms // 1000, _LATEST)
        found = self._last_elapsed(until) if self._elapsed else self._last_fixed(until)
        if found is None or found * 1000 < second:
            raise RuntimeError(f"{self.expression!r} in {self.timezone}: {found} is not the last up to {until_ms}")
        return found * 1000

    def count_in(self, after_ms: int, until_ms: int, limit: int) -> int | None:
        """How many fire times there are with ``after_ms < t <= until_ms``; None if that is neither arithmetic nor told
        in ``limit`` steps.

        It is arithmetic when every day matches and the clocks do not change in between: always in UTC.
        """
        after, until = max(after_ms // 1000, _EARLIEST), min(until_ms // 1000, _LATEST)
        if after >= until:
            return 0
        if self.days is _EVERY_DAY:
            offset = self._zone.steady_offset(after, until)
            if offset is not None and (self._elapsed or self._zone.high_water(after) == after + offset):
                return self._matches_until(until + offset) - self._matches_until(after + offset)
        count, found = 0, self.next_after(after_ms)
        while found is not None and found <= until_ms:
            count += 1
            if count > limit:
                return None
            found = self.next_after(found)
        return count

    def _matches_until(self, wall: int) -> int:
        """How many wall seconds match up to and including ``wall``, where every day matches."""
        day, time = divmod(min(wall, (_LAST_DAY + 1) * DAY - 1), DAY)
        if day < _FIRST_DAY:
            return 0
        return (day - _FIRST_DAY) * self._clock.per_day + self._clock.count_until(time)

    # Wall seconds that match, whatever the zone's clocks do.

    def _wall_from(self, wall: int) -> int | None:
        day, time = divmod(wall, DAY)
        found = self.days.first_from(day)
        if found is None:
            return None
        if found == day:
            later = self._clock.first_from(time)
            if later is not None:
                return day * DAY + later
            found = self.days.first_from(day + 1)
            if found is None:
                return None
        return found * DAY + self._clock.first

    def _wall_until(self, wall: int) -> int | None:
        day, time = divmod(wall, DAY)
        found = self.days.last_until(day)
        if found is None:
            return None
        if found == day:
            earlier = self._clock.last_until(time)
            if earlier is not None:
                return day * DAY + earlier
            found = self.days.last_until(day - 1)
            if found is None:
                return None
        return found * DAY + self._clock.last

    # Fixed times: each fires when the highest time that the clocks have shown passes it.

    def _next_fixed(self, after: int) -> int | None:
        wall = self._zone.high_water(after)
        while (match := self._wall_from(wall + 1)) is not None:
            instant, gap = self._zone.reach(match)
            if gap <= REPLAY_LIMIT:
                return instant
            wall = self._zone.wall(instant) - 1
        return None

    def _last_fixed(self, until: int) -> int | None:
        wall = self._zone.high_water(until)
        while (match := self._wall_until(wall)) is not None:
            instant, gap = self._zone.reach(match)
            if gap <= REPLAY_LIMIT:
                return instant
            wall = self._zone.wall(instant) - gap - 1
        return None

    # Elapsed time: look through the stretches of unchanged offset, one after the other. Those two days ahead cannot
    # show again what was passed already, so from there on a long wait is jumped over.

    def _next_elapsed(self, after: int) -> int | None:
        start = after + 1
        while True:
            segment = self._zone.segment(start)
            far = self._wall_from(start + segment.offset)
            match, stop = far, start + 2 * MAX_OFFSET
            while True:
                if match is not None and match - segment.offset < segment.end:
                    return match - segment.offset
                if segment.end >= stop:
                    break
                segment = self._zone.segment(segment.end)
                match = self._wall_from(segment.start + segment.offset)
            if far is None:
                return None
            start = max(stop, far - MAX_OFFSET)

    def _last_elapsed(self, until: int) -> int | None:
        end = until
        while True:
            segment = self._zone.segment(end)
            far = self._wall_until(end + segment.offset)
            match, stop = far, end - 2 * MAX_OFFSET
            while True:
                if match is not None and match - segment.offset >= segment.start:
                    return match - segment.offset
                if segment.start <= stop:
                    break
                segment = self._zone.segment(segment.start - 1)
                match = self._wall_until(segment.end - 1 + segment.offset)
            if far is None:
                return None
            end = min(stop, far + MAX_OFFSET)


class _TimesOfDay:
    """The matching times of a day, in seconds from midnight; found without listing them (there may be 86,400)."""

    __slots__ = ("_hours", "_minutes", "_seconds", "first", "last", "per_day")

    def __init__(self, hour: Field, minute: Field, second: Field) -> None:
        self._hours = hour.values
        self._minutes = minute.values
        self._seconds = second.values
        self.first = self._hours[0] * 3600 + self._minutes[0] * 60 + self._seconds[0]
        self.last = self._hours[-1] * 3600 + self._minutes[-1] * 60 + self._seconds[-1]
        self.per_day = len(self._hours) * len(self._minutes) * len(self._seconds)

    def count_until(self, time: int) -> int:
        """How many times match up to and including ``time``."""
        hours, minutes, seconds = self._hours, self._minutes, self._seconds
        hour, rest = divmod(time, 3600)
        minute, second = divmod(rest, 60)
        at = bisect_left(hours, hour)
        count = at * len(minutes) * len(seconds)
        if at == len(hours) or hours[at] != hour:
            return count
        within = bisect_left(minutes, minute)
        count += within * len(seconds)
        if within == len(minutes) or minutes[within] != minute:
            return count
        return count + bisect_left(seconds, second + 1)

    def first_from(self, time: int) -> int | None:
        """The first matching time at or after ``time``, or None if the day has none left."""
        hours, minutes, seconds = self._hours, self._minutes, self._seconds
        hour, rest = divmod(time, 3600)
        minute, second = divmod(rest, 60)
        at = bisect_left(hours, hour)
        if at == len(hours):
            return None
        if hours[at] > hour:
            return hours[at] * 3600 + minutes[0] * 60 + seconds[0]
        within = bisect_left(minutes, minute)
        if within < len(minutes) and minutes[within] == minute:
            exact = bisect_left(seconds, second)
            if exact < len(seconds):
                return hour * 3600 + minute * 60 + seconds[exact]
            within += 1
        if within < len(minutes):
            return hour * 3600 + minutes[within] * 60 + seconds[0]
        at += 1
        return None if at == len(hours) else hours[at] * 3600 + minutes[0] * 60 + seconds[0]

    def last_until(self, time: int) -> int | None:
        """The last matching time at or before ``time``, or None if the day has none so far."""
        hours, minutes, seconds = self._hours, self._minutes, self._seconds
        hour, rest = divmod(time, 3600)
        minute, second = divmod(rest, 60)
        at = bisect_left(hours, hour + 1) - 1
        if at < 0:
            return None
        if hours[at] < hour:
            return hours[at] * 3600 + minutes[-1] * 60 + seconds[-1]
        within = bisect_left(minutes, minute + 1) - 1
        if within >= 0 and minutes[within] == minute:
            exact = bisect_left(seconds, second + 1) - 1
            if exact >= 0:
                return hour * 3600 + minute * 60 + seconds[exact]
            within -= 1
        if within >= 0:
            return hour * 3600 + minutes[within] * 60 + seconds[-1]
        at -= 1
        return None if at < 0 else hours[at] * 3600 + minutes[-1] * 60 + seconds[-1]


class _EveryDay:
    """Days are numbered from 1970-01-01 and end with the last year."""

    def first_from(self, day: int) -> int | None:
        return None if day > _LAST_DAY else max(day, _FIRST_DAY)

    def last_until(self, day: int) -> int | None:
        return None if day < _FIRST_DAY else min(day, _LAST_DAY)


class _CalendarDays:
    """The dates that a day pattern allows, found by croniter, which is asked for midnights without a zone.

    An answer of croniter takes 30 microseconds to a few milliseconds and stays true for ever, so the last
    few are remembered; jobs that differ only in their time of day share them.
    """

    def __init__(self, pattern: str, *, either_day: bool) -> None:
        # croniter looks only so many years ahead; all of ours must be within its sight.
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
            answer = None if day > _LAST_DAY else self._ask(max(day, _FIRST_DAY), backwards=False)
            return self._remember(self._next, day, answer)

    def last_until(self, day: int) -> int | None:
        try:
            return self._previous[day]
        except KeyError:
            answer = None if day < _FIRST_DAY else self._ask(min(day, _LAST_DAY), backwards=True)
            return self._remember(self._previous, day, answer)

    def _ask(self, day: int, *, backwards: bool) -> int | None:
        # Both questions exclude the moment they start from: ask from just before, or from just after, the date.
        start = _EPOCH + (timedelta(days=day + 1) if backwards else timedelta(days=day, seconds=-1))
        try:
            found: datetime = (self._cron.get_prev if backwards else self._cron.get_next)(datetime, start)
        except CroniterBadDateError:
            return None
        number = (found - _EPOCH).days
        return number if _FIRST_DAY <= number <= _LAST_DAY else None

    @staticmethod
    def _remember(answers: dict[int, int | None], day: int, answer: int | None) -> int | None:
        if len(answers) >= _REMEMBERED_DAYS:
            answers.clear()
        answers[day] = answer
        return answer


_EVERY_DAY = _EveryDay()


def _matching_days(fields: CronFields) -> _EveryDay | _CalendarDays:
    day_of_month, day_of_week = fields.day_of_month, fields.day_of_week
    any_day = day_of_month.full and day_of_week.full
    if fields.either_day:
        # Either is enough: one that allows every day makes the other meaningless.
        any_day = day_of_month.full or day_of_week.full
    if any_day and fields.month.full and fields.year.full:
        return _EVERY_DAY
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
def _calendar_days(pattern: str, either_day: bool) -> _CalendarDays:
    return _CalendarDays(pattern, either_day=either_day)


def _listed(field: Field) -> str:
    return ",".join(map(str, field.values))
