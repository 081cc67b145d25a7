"""A clock that only a test moves."""

from __future__ import annotations

import asyncio

from scheduler_core.base.clock import RedisClock

START_MS = 1_798_761_000_000
"""2026-12-31T23:50:00Z: ten minutes before a year ends, so that a trigger of that year runs out."""


class ManualClock(RedisClock):
    """Stands still until ``advance``. It ignores Redis's time. A sleep ends when the clock has advanced far enough.

    ``now`` and ``mono`` move together, unless a test steps one of them.
    """

    def __init__(self, now: int = START_MS) -> None:
        super().__init__()
        self.now = now
        self.mono = 1_000.0
        self.doubt = False
        self.sleeping: list[tuple[float, asyncio.Event]] = []
        self.waiting: list[tuple[float, asyncio.Event]] = []
        """Deadline and event of each ``wait_for``."""

    @property
    def is_set(self) -> bool:
        return True

    @property
    def in_doubt(self) -> bool:
        return self.doubt

    def sample(self, redis_time_ms: float, *, received_at: float) -> None:
        pass

    def now_ms(self) -> int:
        return self.now

    def seconds_until(self, instant_ms: int) -> float:
        return (instant_ms - self.now) / 1000

    def deadline_ms(self, within_ms: int) -> int | None:
        return None  # it does not follow Redis's clock

    def monotonic(self) -> float:
        return self.mono

    def wall_offset_ms(self) -> float:
        return 0.0

    def advance(self, ms: int) -> None:
        """Let time pass, and end the sleeps and waits whose time is over."""
        self.now += ms
        self.mono += ms / 1000
        for until, event in (*self.sleeping, *self.waiting):
            if until <= self.mono:
                event.set()

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        entry = (self.mono + seconds, asyncio.Event())
        self.sleeping.append(entry)
        try:
            await entry[1].wait()
        finally:
            self.sleeping.remove(entry)

    async def wait_for(self, event: asyncio.Event, seconds: float | None) -> bool:
        entry = (float("inf") if seconds is None else self.mono + seconds, asyncio.Event())
        if entry[0] <= self.mono:
            return event.is_set()
        self.waiting.append(entry)
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(entry[1].wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            self.waiting.remove(entry)
            for wait in waits:
                wait.cancel()
