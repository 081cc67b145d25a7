"""Triggers that are arithmetic: fire times at equal distances, and a single one.

Instants are integer UTC epoch milliseconds, and clocks that change are of no concern: a distance is elapsed time. Every
answer is one division, however far away it lies.
"""

from __future__ import annotations

from scheduler_core.base.errors import InvalidInput

__all__ = ["LAST_INSTANT_MS", "AtTrigger", "IntervalTrigger"]

LAST_INSTANT_MS = 253_402_300_799_999
"""The last millisecond of the year 9999. Later instants cannot be written as RFC 3339: no fire time lies there."""


class IntervalTrigger:
    """Fires at ``anchor_ms + k * every_ms`` for k = 1, 2, ..., up to and including ``end_ms`` if there is one.

    Raises ``InvalidInput`` (``interval_seconds``) for a distance that is not positive.
    """

    __slots__ = ("_anchor_ms", "_every_ms", "_last_ms")

    def __init__(self, every_ms: int, anchor_ms: int, end_ms: int | None = None) -> None:
        if every_ms < 1:
            raise InvalidInput(f"an interval of {every_ms} ms: it must be positive", field="interval_seconds")
        self._every_ms = every_ms
        self._anchor_ms = anchor_ms
        end = LAST_INSTANT_MS if end_ms is None else min(end_ms, LAST_INSTANT_MS)
        # The last fire time; the anchor itself, which is none, when the end comes before the first.
        self._last_ms = anchor_ms + max(end - anchor_ms, 0) // every_ms * every_ms

    def next_after(self, after_ms: int) -> int | None:
        """The first fire time later than ``after_ms``, or None when there is none up to the end."""
        after = max(after_ms, self._anchor_ms)
        found = after + self._every_ms - (after - self._anchor_ms) % self._every_ms
        return found if found <= self._last_ms else None

    def last_in(self, after_ms: int, until_ms: int) -> int | None:
        """The latest fire time with ``after_ms < t <= until_ms``, or None."""
        number = self._number_until(until_ms)
        latest = self._anchor_ms + number * self._every_ms
        return latest if number and latest > after_ms else None

    def count_in(self, after_ms: int, until_ms: int, limit: int) -> int:
        """How many fire times there are with ``after_ms < t <= until_ms``; costs nothing, whatever ``limit`` is."""
        return max(self._number_until(until_ms) - self._number_until(after_ms), 0)

    def _number_until(self, instant_ms: int) -> int:
        """How many fire times there are up to and including ``instant_ms``."""
        return max(min(instant_ms, self._last_ms) - self._anchor_ms, 0) // self._every_ms


class AtTrigger:
    """Fires once."""

    __slots__ = ("_at_ms",)

    def __init__(self, at_ms: int) -> None:
        self._at_ms = at_ms

    def next_after(self, after_ms: int) -> int | None:
        """The fire time if it lies after ``after_ms``."""
        return self._at_ms if after_ms < self._at_ms else None

    def last_in(self, after_ms: int, until_ms: int) -> int | None:
        """The fire time if ``after_ms < t <= until_ms``."""
        return self._at_ms if after_ms < self._at_ms <= until_ms else None

    def count_in(self, after_ms: int, until_ms: int, limit: int) -> int:
        """1 or 0."""
        return int(after_ms < self._at_ms <= until_ms)
