"""Writes what the process counted in each minute: ends of runs, misses, lateness. One write for each minute.

The counts are those of the metrics. Nothing is added to a fire: once a minute the difference to the last minute is
taken. If the process dies, the counts of its unfinished minute are lost.
"""

from __future__ import annotations

from collections import deque
from zlib import crc32

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.errors import StoreError
from scheduler_core.base.events import STORE_BACK, STORE_LOST, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.statistics import (
    LATENESS,
    MINUTE_MS,
    MISSES,
    NODES,
    RUNS,
    TASK_LATENESS,
    Minute,
    added,
    bound_name,
    grown,
)
from scheduler_core.node.loops.service import Service
from scheduler_core.store.statistics import StatisticsStore

log = get_logger(__name__)

CUT_BEFORE_MS = 100
"""A minute ends this long before the clock does: the runs of the next full minute, which is when most jobs fire, are
never counted in the minute before."""
LATE_MS = 1_000
"""A loop that wakes up too early or too late by this much still finds the minute that ends."""
WRITE_AFTER_MS = 2_000
WRITE_SPREAD_MS = 15_000
"""A process writes its minute from 2 s to 17 s after the end, at a distance that its id selects: after the fires of the
full minute, and not together with all other nodes."""
MOST_KEPT = 60
"""Minutes that wait for a write that Redis accepts. Beyond that, the oldest is added to the one that follows."""


class StatisticsWriter(Service):
    """Cuts and writes the minutes of a process. ``is_node``: the process fires jobs, so its idle minutes are written
    too: they show that it worked. Others write only what they counted."""

    name = "statistics"

    def __init__(
        self, process: str, store: StatisticsStore, clock: RedisClock, metrics: Metrics, *, is_node: bool = True
    ) -> None:
        super().__init__(clock, metrics)
        self._process = process
        self._store = store
        self._redis_clock = clock
        self._is_node = is_node
        self._before = counted(metrics)
        self._sequence = 0
        self._kept: deque[Minute] = deque()
        self._write_after_ms = WRITE_AFTER_MS + crc32(process.encode()) % WRITE_SPREAD_MS

    async def run_once(self) -> None:
        if not self._redis_clock.is_set:
            await self.clock.sleep(1.0)
            return
        passed_ms = (self.clock.now_ms() + CUT_BEFORE_MS) % MINUTE_MS
        await self.clock.sleep((MINUTE_MS - passed_ms) / 1000)
        self.cut((self.clock.now_ms() + CUT_BEFORE_MS + LATE_MS) // MINUTE_MS - 1)
        await self.clock.sleep(self._write_after_ms / 1000)
        await self.write()

    def cut(self, number: int) -> None:
        """End the minute with this number: keep what was counted since the last one."""
        now = counted(self.metrics)
        counts, self._before = grown(self._before, now), now
        if self._is_node:
            counts[NODES] = 1
        if not counts:
            return
        self._sequence += 1
        self._kept.append(Minute(number, self._sequence, counts))
        if len(self._kept) > MOST_KEPT:
            oldest, following = self._kept.popleft(), self._kept.popleft()
            sums = added(oldest.counts, following.counts)
            if self._is_node:
                sums[NODES] = 1
            self._kept.appendleft(Minute(following.number, following.sequence, sums))

    async def write(self) -> None:
        """Write the minutes that wait, oldest first. What Redis does not accept is kept for the next minute.

        A fault is a warning only: it does not keep the node from its work.
        """
        try:
            while self._kept:
                await self._store.add(self._process, self._kept[0])
                self._kept.popleft()
        except StoreError as error:
            self.metrics.store_faults.labels(error.code).inc()
            if not self.warnings:
                log.warning(STORE_LOST, service=self.name, fault=error.code, detail=str(error))
            self.warnings[self.name] = f"statistics are not stored: {error}"
            return
        if self.warnings:
            log.info(STORE_BACK, service=self.name)
        self.warnings.clear()

    async def finish(self) -> None:
        """Stop, and write what was counted in the minute that has begun."""
        was_started = self._task is not None
        await self.stop()
        if was_started and self._redis_clock.is_set:
            self.cut(self.clock.now_ms() // MINUTE_MS)
            await self.write()


def counted(metrics: Metrics) -> dict[str, int]:
    """Return what the process has counted since it started, by the names of ``model.statistics``."""
    found: dict[str, int] = {}
    for (state, _), count in metrics.runs.counts().items():
        found[RUNS + state] = found.get(RUNS + state, 0) + count
    for (reason,), count in metrics.missed.counts().items():
        found[MISSES + reason] = count
    for start, histogram in ((LATENESS, metrics.lateness), (TASK_LATENESS, metrics.task_lateness)):
        for bound, count in histogram.counts().items():
            if count:
                found[start + bound_name(bound)] = count
    return found
