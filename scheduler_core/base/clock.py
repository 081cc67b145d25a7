"""The only place that reads time or sleeps. Everything else is given a ``Clock``; tests drive one by hand.

A node's clock runs on the machine's monotonic clock and is set by Redis's ``TIME``, so that nodes whose wall clocks
are wrong, or are stepped while they run, still agree on when a job is due.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol


class Clock(Protocol):
    """Time as the core sees it."""

    def now_ms(self) -> int:
        """UTC epoch milliseconds, rounded down. Never runs backwards."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that is never set; for durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...

    async def wait_for(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Return when ``event`` is set, or after ``seconds`` (None: never); whether it is set."""
        ...


class _LoopClock:
    """Durations and sleeps, which are the same for every clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait_for(self, event: asyncio.Event, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await event.wait()
        except TimeoutError:
            return event.is_set()


class SystemClock(_LoopClock):
    """The machine's wall clock, for programs that have no Redis to ask (``cronpost cron``)."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class RedisClock(_LoopClock):
    """The monotonic clock plus an offset that is learned from Redis's ``TIME``.

    Each sample is (``TIME`` as Redis answered it) minus (the monotonic clock when the answer arrived). An answer takes
    time to arrive, so a sample is too small by part of a round trip, never too large: the clock may lag by that,
    never lead, and nothing fires early. The largest of the last few samples is the best; taking only the last few
    lets the offset follow drift in both directions.

    A sample that differs from the offset by more than ``jump_ms`` is accepted only when ``agreeing`` samples in a row
    agree within ``jump_ms``; a single odd sample changes nothing. Until then ``now_ms`` continues with the old offset
    and never runs back; after that it uses the new one. Fired runs do not fire again, because each job stores its
    position.
    """

    WINDOW = 8

    def __init__(self, *, jump_ms: float = 1000.0, agreeing: int = 3) -> None:
        self._jump_ms = jump_ms
        self._agreeing = agreeing
        self._samples: deque[float] = deque(maxlen=self.WINDOW)
        self._suspects: list[float] = []
        self._offset_ms: float | None = None
        self._floor_ms = 0
        self.jumps = 0
        """How many jumps were believed."""
        self.jump_ms = 0.0
        """The size of the last one: positive if Redis's clock was set ahead, negative if it was set back."""
        self.passed_ms = 0
        """The latest time that was shown before a jump. While it lies ahead, Redis's clock was set back."""

    @property
    def in_doubt(self) -> bool:
        """Whether the last sample spoke of a jump that is not believed yet."""
        return bool(self._suspects)

    @property
    def is_set(self) -> bool:
        """Whether a first sample was taken."""
        return self._offset_ms is not None

    def sample(self, redis_time_ms: float, *, received_at: float) -> None:
        """Take in one answer of ``TIME``, in epoch milliseconds; ``received_at`` is ``monotonic`` on arrival."""
        offset = redis_time_ms - received_at * 1000.0
        if self._offset_ms is None or abs(offset - self._offset_ms) <= self._jump_ms:
            self._suspects.clear()
            self._accept(offset)
            return
        if self._suspects and abs(offset - self._suspects[-1]) > self._jump_ms:
            self._suspects.clear()
        self._suspects.append(offset)
        if len(self._suspects) >= self._agreeing:
            before = self._offset_ms
            self.passed_ms = max(self.passed_ms, self.now_ms())
            self._samples.clear()
            self._floor_ms = 0
            self.jumps += 1
            for suspect in self._suspects:
                self._accept(suspect)
            self._suspects.clear()
            self.jump_ms = self._offset_ms - before

    def _accept(self, offset: float) -> None:
        self._samples.append(offset)
        self._offset_ms = max(self._samples)

    def now_ms(self) -> int:
        if self._offset_ms is None:
            raise RuntimeError("the clock was read before its first sample")
        now = int(time.monotonic() * 1000.0 + self._offset_ms)
        if now < self._floor_ms:
            return self._floor_ms
        self._floor_ms = now
        return now

    def deadline_ms(self, within_ms: int) -> int | None:
        """The instant, by Redis's clock, that lies ``within_ms`` ahead; None: Redis's clock is not known yet."""
        return self.now_ms() + within_ms if self.is_set else None

    def wall_offset_ms(self) -> float:
        """How far this machine's wall clock is ahead of Redis's, in milliseconds. A metric; nothing depends on it."""
        return time.time() * 1000.0 - self.now_ms()
