"""Wakes the claim loop: its alarm, and the subscription to wake-ups that clients set."""

from __future__ import annotations

import asyncio

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import Service
from scheduler_core.store.loop import LoopStore, Release

LONGEST_SLEEP = 1.0
"""Seconds. A stepped clock or a lost message delays a job by no more than this."""


class Alarm:
    """Ends the sleep of the claim loop: at its planned end, at an earlier time that is set during the sleep, or at
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

    def reset(self) -> None:
        """Begin a round of the loop. Times that are set from now on apply to the sleep at its end."""
        self.rang = False
        self.earliest_ms = None

    def wake(self) -> None:
        """Look for due jobs now."""
        self.rang = True
        self._changed.set()

    def wake_at(self, wake_ms: int) -> None:
        """Look for due jobs at ``wake_ms``, if not earlier."""
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
        left_ms = wake_ms - now_ms
        try:
            while left_ms > 0 and not self.rang:
                self._changed.clear()
                if not await self._clock.wait_for(self._changed, left_ms / 1000):
                    return
                left_ms = min(self.sleeping_until_ms - self._clock.now_ms(), longest_ms)
        finally:
            self.sleeping_until_ms = None


class WakeupSubscriber(Service):
    """Subscribes to wake-ups while Redis is reachable. A wake-up that is missed while the subscription is lost delays
    its job by at most the claim loop's longest sleep."""

    name = "wake"

    def __init__(self, store: LoopStore, alarm: Alarm, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._alarm = alarm

    async def run_once(self) -> None:
        async for one in self._store.wake_ups():
            if one is None:
                self.works()
                self._alarm.wake()  # wake-ups may have been missed before the subscription
            elif isinstance(one, Release):
                pass  # this node claims nothing ahead
            else:
                self._alarm.wake_at(one)
        raise StoreUnavailable("the subscription ended")
