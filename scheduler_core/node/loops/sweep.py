"""Trims what all jobs together have left: the history by age, number and bytes, completed jobs by age and number.

The history of each job is trimmed as it grows.
"""

from __future__ import annotations

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.events import JOBS_TRIMMED, RUNS_TRIMMED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import Service
from scheduler_core.plan.change import plan_forget
from scheduler_core.store.history import Bounds
from scheduler_core.store.jobs import CompletedBounds
from scheduler_core.store.shards import ShardStore

log = get_logger(__name__)

PERIOD_SECONDS = 1.0
PAUSE_SECONDS = 0.005
"""Pause between two pages, so that Redis can serve other commands."""
PAGES = 100
"""The maximum number of pages per round."""
JOBS_AT_ONCE = 100
"""Completed jobs of each kind (kept, or deleted with only the id known) that are removed in one page."""


class Sweeper(Service):
    """Trims one bounded page at a time. Every node does this; an entry is trimmed once."""

    name = "sweep"

    def __init__(
        self, store: ShardStore, bounds: Bounds, completed: CompletedBounds, clock: RedisClock, metrics: Metrics
    ) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._history = store.history_store()
        self._bounds = bounds
        self._completed = completed
        self._redis_clock = clock

    async def run_once(self) -> None:
        # After a jump of the clock everything may look old, and trimming cannot be undone.
        if not self._redis_clock.in_doubt:
            await self.sweep()
            await self.sweep_completed()
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

    async def sweep_completed(self) -> int:
        """Remove the completed jobs beyond the bounds, at most ``PAGES`` pages; return how many.

        A job that a client restarted since it was found, or another node removed, is left as it is.
        """
        removed = 0
        for _ in range(PAGES):
            ids = await self._store.beyond(self._completed, now_ms=self.clock.now_ms(), limit=JOBS_AT_ONCE)
            if not ids:
                break
            found = zip(ids, await self._store.read_many(ids), strict=True)
            steps = [(job_id, stored, plan_forget(stored.snapshot)) for job_id, stored in found]
            changes = [(job_id, stored, step) for job_id, stored, step in steps if step is not None]
            if not changes:
                break
            gone = (await self._store.change_many(changes)).count(True)
            if not gone:
                break
            removed += gone
            await self.clock.sleep(PAUSE_SECONDS)
        if removed:
            log.debug(JOBS_TRIMMED, count=removed)
        return removed
