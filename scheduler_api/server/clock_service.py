"""The clock of a process without a node of its own."""

from __future__ import annotations

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.clock_watch import ClockWatch
from scheduler_core.node.loops.heartbeat import set_clock
from scheduler_core.node.loops.service import Service
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards

CLOCK_SECONDS = 2.0
"""How often the clock is set. In that time a drift of 100 ppm makes 0.2 ms."""


class ClockService(Service):
    """Synchronises the clock with Redis. In a node, the heartbeat does this."""

    name = "clock"

    def __init__(self, store: Shards[RedisStore], clock: RedisClock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._redis_clock = clock
        self._watch = ClockWatch(clock, metrics)
        self.warnings = self._watch.warnings

    async def run_once(self) -> None:
        await set_clock(self._store, self._redis_clock)
        self._watch.look()
        await self.clock.sleep(CLOCK_SECONDS)
