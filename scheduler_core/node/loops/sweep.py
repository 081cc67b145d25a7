"""Trims the history of all jobs together, by age, number and bytes. The history of each job is trimmed as it grows."""

from __future__ import annotations

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.events import RUNS_TRIMMED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import Service
from scheduler_core.store.history import Bounds, HistoryStore

log = get_logger(__name__)

PERIOD_SECONDS = 1.0
PAUSE_SECONDS = 0.005
"""Pause between two pages, so that Redis can serve other commands."""
PAGES = 100
"""The maximum number of pages per round."""


class Sweeper(Service):
    """Trims one bounded page at a time. Every node does this; an entry is trimmed once."""

    name = "sweep"

    def __init__(self, history: HistoryStore, bounds: Bounds, clock: RedisClock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._history = history
        self._bounds = bounds
        self._redis_clock = clock

    async def run_once(self) -> None:
        # After a jump of the clock everything may look old, and trimming cannot be undone.
        if not self._redis_clock.in_doubt:
            await self.sweep()
        await self.clock.sleep(PERIOD_SECONDS)

    async def sweep(self) -> int:
        """Trim the runs beyond the bounds, at most ``PAGES`` pages; return how many runs."""
        trimmed = 0
        for _ in range(PAGES):
            gone, more = await self._history.sweep(self._bounds, now_ms=self.clock.now_ms())
            trimmed += gone
            if not more:
                break
            await self.clock.sleep(PAUSE_SECONDS)
        if trimmed:
            self.metrics.trimmed.inc(trimmed)
            log.debug(RUNS_TRIMMED, count=trimmed)
        return trimmed
