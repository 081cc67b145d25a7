"""Completes the index of jobs of one shard after an upgrade, and checks it slowly from then on."""

from __future__ import annotations

from scheduler_core.base.clock import Clock
from scheduler_core.base.events import INDEX_COMPLETED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import Service
from scheduler_core.store.shards import ShardStore
from scheduler_core.usecases.index_check import check_index

log = get_logger(__name__)

PAGE = 200
"""Jobs per check: about 5 ms of one core."""
PAUSE_SECONDS = 0.02
"""Between two checks until the index is complete: 1,000,000 jobs take about two minutes."""
PERIOD_SECONDS = 10.0
"""Between two checks of an index that is complete: such a check finds what nodes of an earlier version left out."""


class IndexCheck(Service):
    """Checks one page of jobs at a time. Every node does this; an entry that two nodes add is the same."""

    name = "index"

    def __init__(self, store: ShardStore, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._after = ""
        self._is_complete = False
        self._added = 0

    async def run_once(self) -> None:
        if not self._is_complete:
            self._is_complete = await self._store.find_store().is_indexed()
        if self._is_complete:
            await self.clock.sleep(PERIOD_SECONDS)
        await self.check()
        if not self._is_complete:
            await self.clock.sleep(PAUSE_SECONDS)

    async def check(self) -> None:
        """Check the next page. After the last one, the index is complete, and the check begins again."""
        following, added = await check_index(self._store, after=self._after, limit=PAGE)
        self._added += added
        self._after = "" if following is None else following
        if following is None and not self._is_complete:
            await self._store.find_store().mark_indexed()
            self._is_complete = True
            log.info(INDEX_COMPLETED, entries=self._added)
