"""Computes the fire times of a cron expression, with Debian's rules for clock changes.

``cron_fields`` reads the text. ``cron_days`` finds the next or the last *date* that the day, month, weekday and year
fields allow, most of them with croniter. The time of day (``cron_times``) is three table look-ups. This module applies
the zone's clock changes itself, because croniter fires fixed times twice when clocks go back, and loses fires around
changes that are not whole hours.

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

from typing import Protocol

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron_count import Budget, MatchCounter, TooCostly
from scheduler_core.triggers.cron_days import EVERY_DAY, FIRST_DAY, LAST_DAY, matching_days
from scheduler_core.triggers.cron_fields import CronFields, read_fields, split_zone
from scheduler_core.triggers.cron_rules import LAST_YEAR, refuse
from scheduler_core.triggers.cron_times import TimesOfDay
from scheduler_core.triggers.zone import DAY, MAX_OFFSET, REPLAY_LIMIT, Zone, load_zone

__all__ = ["CronTrigger", "check_fires_again", "cron_trigger", "parse_cron", "zone_of_expression"]

# Instants outside are treated as the edge, where the table of the zone is still valid.
_EARLIEST = -1
_LATEST = (LAST_DAY + 1) * DAY + MAX_OFFSET


def parse_cron(expression: str, timezone: str | None = None, job_id: str | None = None) -> CronTrigger:
    """Compile an expression; a prefix ``TZ=`` replaces ``timezone``. Not cached: see ``compile_trigger``.

    Raises ``InvalidInput``: ``cron``, ``timezone``, or ``id`` if the expression uses ``H`` and there is no id.
    """
    zone, text = zone_of_expression(expression, timezone)
    return cron_trigger(text, zone, job_id)


def zone_of_expression(expression: str, timezone: str | None) -> tuple[Zone, str]:
    """Return the zone of an expression, UTC by default, and the expression without its prefix.

    Raises ``InvalidInput``: ``cron``, also for the zone of a prefix; ``timezone`` if that is unknown, or is not the
    zone of the prefix.
    """
    prefix, text = split_zone(expression)
    if prefix is None:
        return load_zone("UTC" if timezone is None else timezone), text
    if timezone is not None and timezone != prefix:
        raise InvalidInput(
            f"the expression has the time zone {prefix!r}, and timezone is {timezone!r}: leave out one of them",
            field="timezone",
        )
    try:
        return load_zone(prefix), text
    except InvalidInput as error:
        raise InvalidInput(error.detail, field="cron") from None


def cron_trigger(text: str, zone: Zone, job_id: str | None = None) -> CronTrigger:
    """Compile an expression without a prefix. Raises ``InvalidInput``: ``cron``, or ``id`` as ``parse_cron`` does."""
    trigger = CronTrigger(text, read_fields(text, job_id), zone)
    if trigger.days.first_from(FIRST_DAY) is None:
        refuse("the expression never fires: none of its months and years has such a day")
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

    Immutable except for its cache, so all jobs with the same expression and zone share one, on one thread. A call takes
    the same time for near and for distant fire times.
    """

    __slots__ = ("_clock", "_elapsed", "_older", "_recent", "_zone", "days", "expression", "timezone")

    def __init__(self, expression: str, fields: CronFields, zone: Zone) -> None:
        self.expression = expression
        self.timezone = zone.name
        self.days = matching_days(fields)
        self._clock = TimesOfDay(fields.hour, fields.minute, fields.second)
        self._zone = zone
        self._elapsed = fields.follows_elapsed_time
        # Two stretches (start, end) without a fire time inside: every question from start up to just before end has
        # the answer end. Many jobs share a trigger and ask about the same second; each asks about the fire time that
        # is due (the older stretch) and about the one after it (the recent one).
        self._recent: tuple[int, int] = (0, 0)
        self._older: tuple[int, int] = (0, 0)

    @property
    def times(self) -> TimesOfDay:
        """The times of day at which it fires."""
        return self._clock

    @property
    def zone(self) -> Zone:
        return self._zone

    @property
    def follows_elapsed_time(self) -> bool:
        """Whether a repeated hour counts twice and a skipped one not at all."""
        return self._elapsed

    def next_after(self, after_ms: int) -> int | None:
        """Return the first fire time later than ``after_ms``, or None if none follows up to the last year."""
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
        """Return the latest fire time with ``after_ms < t <= until_ms``, or None."""
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
        """Return the number of fire times with ``after_ms < t <= until_ms``, or None if it can neither be computed nor
        be counted in ``limit`` steps.

        It can be computed if every day matches and the zone's offset does not change in between (in UTC it never does).
        """
        after, until = max(after_ms // 1000, _EARLIEST), min(until_ms // 1000, _LATEST)
        if after >= until:
            return 0
        if self.days is EVERY_DAY:
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

    def count_by_days(self, after_ms: int, until_ms: int, limit: int) -> int | None:
        """Return the number of fire times with ``after_ms < t <= until_ms``, or None if more than ``limit`` matching
        dates and clock changes lie between."""
        after, until = max(after_ms // 1000, _EARLIEST), min(until_ms // 1000, _LATEST)
        if after >= until:
            return 0
        counter = MatchCounter(self.days, self._clock, self._zone)
        try:
            return (counter.elapsed if self._elapsed else counter.fixed)(after, until, Budget(limit))
        except TooCostly:
            return None

    def _matches_until(self, wall: int) -> int:
        """Return the number of matching wall seconds up to and including ``wall``, if every day matches."""
        day, time = divmod(min(wall, (LAST_DAY + 1) * DAY - 1), DAY)
        if day < FIRST_DAY:
            return 0
        return (day - FIRST_DAY) * self._clock.per_day + self._clock.count_until(time)

    # Wall seconds that match, independent of the zone.

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

    # Elapsed time: search the segments of constant offset one after the other. Two days ahead no passed wall time can
    # repeat, so from there on the search jumps to the next match.

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
