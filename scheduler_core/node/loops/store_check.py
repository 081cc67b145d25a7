"""Checks once a minute that Redis is still configured as the promises of Cronpost require, and how full it is.

After the check at the start, a ``CONFIG SET`` or a failover to a server with other settings can break these
requirements. A later finding stops nothing: it is a warning of ``/ready`` and a log line.
"""

from __future__ import annotations

import contextlib

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError
from scheduler_core.base.events import STORE_WARNING, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import Service
from scheduler_core.store.shards import Shards, ShardStore

log = get_logger(__name__)

LOOK_SECONDS = 60.0


class StoreCheck(Service):
    """Repeats the check of the start. ``known``: findings that are in the log already."""

    name = "store check"

    def __init__(
        self, store: Shards[ShardStore], clock: Clock, metrics: Metrics, *, known: set[str] | None = None
    ) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._known = set() if known is None else known

    async def look(self) -> None:
        """Check once. Does nothing if this user may not run INFO, or while Redis is away, which other services
        report."""
        with contextlib.suppress(StoreError):
            infos = await self._store.server_infos()
            memory = self._store.lead.memory(infos)
            self.metrics.store_memory.set(memory.used_bytes)
            self.metrics.store_memory_limit.set(memory.limit_bytes)
            findings = self._store.lead.findings(infos, self._store.topology)
            found = {finding.text: f"store: {finding.text}" for finding in findings}
            for text in found.keys() - self._known:
                log.warning(STORE_WARNING, detail=text)
            self._known = set(found)
            self.warnings = found

    async def run_once(self) -> None:
        await self.look()
        await self.clock.sleep(LOOK_SECONDS)
