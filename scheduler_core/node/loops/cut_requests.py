"""Cancels the open requests of runs that a client has cancelled."""

from __future__ import annotations

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.events import RUN_CUT, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.start import Starter
from scheduler_core.node.node import Node
from scheduler_core.store.loop import LoopStore

log = get_logger(__name__)


class CutSubscriber(Service):
    """Subscribes to cancelled runs, and aborts those of their requests that are open on this node. If a message is
    lost, the request continues, and Redis refuses its result."""

    name = "cut"

    def __init__(self, node: Node, store: LoopStore, starter: Starter, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._node = node
        self._store = store
        self._starter = starter

    async def run_once(self) -> None:
        async for run_id in self._store.runs_to_cut():
            self.works()
            if run_id is not None and self._cut(run_id):
                await self._store.confirm_cut(run_id)
        raise StoreUnavailable("the subscription ended")

    def _cut(self, run_id: str) -> bool:
        for attempt in self._node.in_flight:
            if attempt.run_id == run_id:
                job_id, fence = attempt.lease_id
                log.info(RUN_CUT, job_id=job_id, run_id=run_id, fence=fence)
                return attempt.cut()
        return self._starter.cut(run_id)
