"""Interval triggers, one-time triggers, and the trigger without fire times.

Instants are integer UTC epoch milliseconds. An interval is elapsed time, so changes of local time do not affect it.
Every method takes one or two divisions, however distant the fire time is.
"""

from __future__ import annotations

from scheduler_core.base.errors import InvalidInput

__all__ = ["LAST_INSTANT_MS", "AtTrigger", "IntervalTrigger", "NoTrigger"]

LAST_INSTANT_MS = 253_402_300_799_999
"""The last millisecond of the year 9999. RFC 3339 cannot express later instants, so no fire time is later."""


class IntervalTrigger:
    """Fires at ``anchor_ms + k * every_ms`` for k = 1, 2, ..., up to and including ``end_ms`` if that is given.

    Raises ``InvalidInput`` (``interval_seconds``) if ``every_ms`` is not positive.
    """

    __slots__ = ("_anchor_ms", "_every_ms", "_last_ms")

    def __init__(self, every_ms: int, anchor_ms: int, end_ms: int | None = None) -> None:
        if every_ms < 1:
            raise InvalidInput(f"the interval is {every_ms} ms; it must be positive", field="interval_seconds")
        self._every_ms = every_ms
        self._anchor_ms = anchor_ms
        end = LAST_INSTANT_MS if end_ms is None else min(end_ms, LAST_INSTANT_MS)
        # The last fire time, or the anchor (not a fire time) if the end lies before the first one.
        self._last_ms = anchor_ms + max(end - anchor_ms, 0) // every_ms * every_ms

    def next_after(self, after_ms: int) -> int | None:
        """Return the first fire time later than ``after_ms``, or None after the last one."""
        after = max(after_ms, self._anchor_ms)
        found = after + self._every_ms - (after - self._anchor_ms) % self._every_ms
        return found if found <= self._last_ms else None

    def last_in(self, after_ms: int, until_ms: int) -> int | None:
        """Return the latest fire time with ``after_ms < t <= until_ms``, or None."""
        number = self._number_until(until_ms)
        latest = self._anchor_ms + number * self._every_ms
        return latest if number and latest > after_ms else None

    def count_in(self, after_ms: int, until_ms: int, limit: int) -> int:
        """Return the number of fire times with ``after_ms < t <= until_ms``. ``limit`` is not needed."""
        return max(self._number_until(until_ms) - self._number_until(after_ms), 0)

    count_by_days = count_in

    def _number_until(self, instant_ms: int) -> int:
        """Return the number of fire times up to and including ``instant_ms``."""
        return max(min(instant_ms, self._last_ms) - self._anchor_ms, 0) // self._every_ms


class AtTrigger:
    """Fires once."""

    __slots__ = ("_at_ms",)

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms

    def next_after(self, after_ms: int) -> int | None:
        """Return the fire time if it is later than ``after_ms``, else None."""
        return self._at_ms if after_ms < self._at_ms else None

    def last_in(self, after_ms: int, until_ms: int) -> int | None:
        """Return the fire time t if ``after_ms < t <= until_ms``, else None."""
        return self._at_ms if after_ms < self._at_ms <= until_ms else None

    def count_in(self, after_ms: int, until_ms: int, limit: int) -> int:
        """Return 1 if ``after_ms < t <= until_ms``, else 0."""
        return int(after_ms < self._at_ms <= until_ms)

    count_by_days = count_in


class NoTrigger:
    """Never fires: its job runs only on request."""

    __slots__ = ()

    def next_after(self, after_ms: int) -> int | None:
        """Return None."""
        return None

    def last_in(self, after_ms: int, until_ms: int) -> int | None:
        """Return None."""
        return None

    def count_in(self, after_ms: int, until_ms: int, limit: int) -> int:
        """Return 0."""
        return 0

    count_by_days = count_in
