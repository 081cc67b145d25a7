"""Reads the time and sleeps. Other modules do so only through a ``Clock``; tests pass one that they control.

A node's clock is the machine's monotonic clock plus an offset from Redis's ``TIME``. So nodes agree on when a job is
due even if their wall clocks are wrong or are stepped.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol


class Clock(Protocol):
    """The time source of the core."""

    def now_ms(self) -> int:
        """Return UTC epoch milliseconds, rounded down. Never runs backwards."""
        ...

    def seconds_until(self, instant_ms: int) -> float:
        """Return for how long to sleep until ``now_ms`` returns this instant; at most 0: it is past."""
        ...

    def monotonic(self) -> float:
        """Return the seconds of a clock that is never set, for durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...

    async def wait_for(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait until ``event`` is set, for at most ``seconds`` (None: no limit). Returns whether it is set."""
        ...


class _LoopClock:
    """Implements durations and sleeps, which are the same for both clocks."""

    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait_for(self, event: asyncio.Event, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await event.wait()
        except TimeoutError:
            return event.is_set()


class SystemClock(_LoopClock):
    """The machine's wall clock, for programs without Redis (``cronpost cron``)."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def seconds_until(self, instant_ms: int) -> float:
        return instant_ms / 1000.0 - time.time()


class RedisClock(_LoopClock):
    """The monotonic clock plus an offset that is measured with Redis's ``TIME``.

    Each sample is (``TIME`` as Redis answered it) minus (the monotonic clock when the answer arrived). An answer takes
    time to arrive, so a sample is too small by part of a round trip, never too large: the clock may lag by that,
    never lead, and nothing fires early. The offset is the largest of the last few samples. Older samples are not used,
    so that the offset follows drift in both directions.

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
        """The number of jumps that were accepted."""
        self.jump_ms = 0.0
        """The size of the last accepted jump: positive if Redis's clock was set ahead, negative if it was set back."""
        self.passed_ms = 0
        """The latest time that ``now_ms`` returned before a jump. If it lies ahead, Redis's clock was set back."""

    @property
    def in_doubt(self) -> bool:
        """Whether the last sample indicated a jump that is not accepted yet."""
        return bool(self._suspects)

    @property
    def is_set(self) -> bool:
        """Whether a sample was accepted."""
        return self._offset_ms is not None

    def sample(self, redis_time_ms: float, *, received_at: float) -> None:
        """Use one answer of ``TIME``, in epoch milliseconds; ``received_at`` is ``monotonic`` on arrival."""
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

    def seconds_until(self, instant_ms: int) -> float:
        if self._offset_ms is None:
            raise RuntimeError("the clock was read before its first sample")
        return (instant_ms - self._offset_ms) / 1000.0 - time.monotonic()

    def deadline_ms(self, within_ms: int) -> int | None:
        """Return the instant ``within_ms`` from now, by Redis's clock; None: no sample was taken yet."""
        return self.now_ms() + within_ms if self.is_set else None

    def wall_offset_ms(self) -> float:
        """Return by how many milliseconds this machine's wall clock is ahead of Redis's. Only for a metric."""
        return time.time() * 1000.0 - self.now_ms()
