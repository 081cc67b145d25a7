"""Runs what a process does beside its API: firing, its clock, the check of the store."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from scheduler_api.server.clock_service import ClockService
from scheduler_api.server.node_supervisor import NodeSupervisor
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.dispatch.targets import OpenBreaker
from scheduler_core.node.engine import Engine
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.statistics import StatisticsWriter
from scheduler_core.node.loops.store_check import StoreCheck
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards

FIRST_CLAIMS_SECONDS = 0.25
"""How long a starting process waits for its first claims at most. On a Redis nearby they take 10 to 20 ms."""


class Services:
    """The parts of a process beside its API.

    A process with one node has an ``engine``, with its own connections to Redis (``engine_store``). A process with
    several has ``nodes``, each a process of its own. The API alone has neither.
    """

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.engine_store: Shards[RedisStore] | None = None
        self.nodes: NodeSupervisor | None = None
        self._clock_service: ClockService | None = None
        self._store_check: StoreCheck | None = None
        self._statistics: StatisticsWriter | None = None

    def start_clock(self, store: Shards[RedisStore], clock: RedisClock, metrics: Metrics) -> None:
        """Keep the clock synchronised with Redis. The heartbeat of an engine does this too."""
        if self.engine is None:
            self._clock_service = ClockService(store, clock, metrics)
            self._clock_service.start()

    def start_statistics(self, store: Shards[RedisStore], clock: RedisClock, metrics: Metrics) -> None:
        """Write what the API counts, such as runs that are completed by callback. A node of this process does it too,
        for both."""
        if self.engine is None:
            process = secrets.token_hex(8)
            self._statistics = StatisticsWriter(process, store.lead.statistics_store(), clock, metrics, is_node=False)
            self._statistics.start()

    def start_store_check(
        self, store: Shards[RedisStore], clock: RedisClock, metrics: Metrics, *, known: set[str]
    ) -> None:
        """Check the settings of Redis from time to time. ``known``: findings that were logged before."""
        self._store_check = StoreCheck(store, clock, metrics, known=known)
        self._store_check.start()

    def start_firing(self) -> None:
        """Start the node, or the node processes."""
        if self.engine is not None:
            self.engine.start()
        if self.nodes is not None:
            self.nodes.start()

    async def first_claims(self) -> None:
        """Wait until the node has claimed once, but not long: Redis may not answer."""
        if self.engine is not None:
            await self.engine.first_claims(FIRST_CLAIMS_SECONDS)

    async def drain(self) -> None:
        """Stop firing and wait until the nodes of this process have ended their open runs."""
        await asyncio.gather(*(part.stop() for part in (self.engine, self.nodes) if part is not None))

    async def stop(self) -> None:
        """Stop the clock and the check of the store."""
        if self._statistics is not None:
            await self._statistics.finish()
        for service in self._others:
            await service.stop()

    async def aclose(self) -> None:
        """Close the connections of the engine."""
        if self.engine_store is not None:
            await self.engine_store.aclose()

    # ---- state --------------------------------------------------------------------------------------------------

    @property
    def _others(self) -> Sequence[Service]:
        services = (self._clock_service, self._store_check, self._statistics)
        return [service for service in services if service is not None]

    def faults(self, *, fires: bool) -> list[str]:
        """List what keeps these parts from their work. ``fires``: ``start_firing`` was due."""
        faults = []
        if fires and self.engine is not None:
            faults += self.engine.faults()
        if fires and self.nodes is not None and not self.nodes.working:
            faults += self.nodes.faults()
        if self._clock_service is not None and self._clock_service.fault is not None:
            faults.append(self._clock_service.fault)
        return faults

    def warnings(self) -> list[str]:
        """List conditions that an operator should see although these parts work. Texts can repeat."""
        warnings = [] if self.engine is None else self.engine.warnings()
        for service in self._others:
            warnings += service.warnings.values()
        if self.nodes is not None and self.nodes.working:
            warnings += self.nodes.faults() + self.nodes.warnings()
        return warnings

    def breakers(self) -> list[tuple[str, list[OpenBreaker]]] | None:
        """List the breakers that are not closed, by node; None if this process has no node."""
        if self.engine is not None:
            return [(self.engine.node.id, self.engine.limiter.breakers())]
        return None if self.nodes is None else self.nodes.breakers()
