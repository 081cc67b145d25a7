"""Ends the sleep of the loops that wait for wake-ups."""

from __future__ import annotations

import asyncio

from scheduler_core.base.clock import Clock

LONGEST_SLEEP = 1.0
"""Seconds. A stepped clock or a lost message delays a job by no more than this."""


class Alarm:
    """Ends the sleep of a loop: at the time that it sleeps until, at an earlier one that is set during the sleep, or at
    once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = asyncio.Event()
        self.rang = False
        """Whether the next sleep ends at once."""
        self.earliest_ms: int | None = None
        """The earliest time that was set since ``reset``, while the loop was awake. The answer of a claim in flight
        may not include it."""
        self.sleeping_until_ms: int | None = None
        """None: the loop is awake."""
        self.lead_ms = 0
        """How much earlier than ``wake_at`` says the loop wakes: it claims jobs ahead of their wake-ups."""

    def reset(self) -> None:
        """Begin a round of the loop. Times that are set from now on apply to the sleep at its end."""
        self.rang = False
        self.earliest_ms = None

    def wake(self) -> None:
        """Look for due jobs now."""
        self.rang = True
        self._changed.set()

    def wake_at(self, wake_ms: int) -> None:
        """Look for due jobs at ``wake_ms``, or ``lead_ms`` before it, if not earlier."""
        wake_ms -= self.lead_ms
        if self.sleeping_until_ms is None:
            if self.earliest_ms is None or wake_ms < self.earliest_ms:
                self.earliest_ms = wake_ms
        elif wake_ms < self.sleeping_until_ms:
            self.sleeping_until_ms = wake_ms
            self._changed.set()

    async def sleep(self, until_ms: int | None) -> None:
        """Sleep until ``until_ms`` (None: the longest sleep), or until the alarm ends the sleep earlier."""
        longest_ms = int(LONGEST_SLEEP * 1000)
        now_ms = self._clock.now_ms()
        wake_ms = now_ms + longest_ms
        for earlier_ms in (until_ms, self.earliest_ms):
            if earlier_ms is not None and earlier_ms < wake_ms:
                wake_ms = earlier_ms
        self.sleeping_until_ms = wake_ms
        left = self._clock.seconds_until(wake_ms)
        try:
            while left > 0 and not self.rang:
                self._changed.clear()
                if not await self._clock.wait_for(self._changed, left):
                    return
                left = min(self._clock.seconds_until(self.sleeping_until_ms), LONGEST_SLEEP)
        finally:
            self.sleeping_until_ms = None
