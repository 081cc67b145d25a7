"""The times of day that the hour, minute and second fields of a cron expression allow."""

from __future__ import annotations

from bisect import bisect_left

from scheduler_core.triggers.cron_fields import Field


class TimesOfDay:
    """Finds matching times of day, in seconds from midnight, without a list of them (up to 86,400)."""

    __slots__ = ("_hours", "_minutes", "_seconds", "first", "last", "per_day")

    def __init__(self, hour: Field, minute: Field, second: Field) -> None:
        self._hours = hour.values
        self._minutes = minute.values
        self._seconds = second.values
        self.first = self._hours[0] * 3600 + self._minutes[0] * 60 + self._seconds[0]
        self.last = self._hours[-1] * 3600 + self._minutes[-1] * 60 + self._seconds[-1]
        self.per_day = len(self._hours) * len(self._minutes) * len(self._seconds)

    @property
    def seconds(self) -> tuple[int, ...]:
        """The seconds at which each matching minute has its times."""
        return self._seconds

    def minutes_of_day(self) -> list[int]:
        """Return the matching minutes, counted from midnight, ascending."""
        return [60 * hour + minute for hour in self._hours for minute in self._minutes]

    def count_until(self, time: int) -> int:
        """Return the number of matching times up to and including ``time``."""
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
        """Return the first matching time of the day at or after ``time``, or None."""
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
        """Return the last matching time of the day at or before ``time``, or None."""
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
