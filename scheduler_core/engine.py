"""A node: starts the services in order, stops them in order, and says what keeps it from working."""

from __future__ import annotations

import asyncio
import contextlib

from scheduler_core.backoff import RetryPolicy
from scheduler_core.clock import RedisClock
from scheduler_core.config import EngineSettings, LaneSettings
from scheduler_core.delivery.base import Deliverer
from scheduler_core.errors import StoreError
from scheduler_core.events import NODE_DRAINING, NODE_STARTED, NODE_STOPPED, SERVICE_FAILED, STORE_LOST, get_logger
from scheduler_core.metrics import Metrics
from scheduler_core.node import Node
from scheduler_core.services.catalogue import TargetCache
from scheduler_core.services.catalogue_sweep import CatalogueSweeper
from scheduler_core.services.claim import Claimer
from scheduler_core.services.deliver import Courier
from scheduler_core.services.heartbeat import Heartbeat
from scheduler_core.services.lane import Lane, LaneListener
from scheduler_core.services.reap import Reaper
from scheduler_core.services.settle import Settler
from scheduler_core.services.sweep import Sweeper
from scheduler_core.services.wake import WakeListener
from scheduler_core.store.catalogue_store import CatalogueStore
from scheduler_core.store.history_store import Bounds, HistoryStore
from scheduler_core.store.lane_store import LaneStore
from scheduler_core.store.redis_store import RedisStore

log = get_logger(__name__)

FIRST_TRY_SECONDS = 0.1
LONGEST_TRY_SECONDS = 2.0
DAY_MS = 86_400_000
FLUSH_SECONDS = 5.0
"""How long a stopping node goes on trying to tell Redis how its last runs ended."""


class Engine:
    """One node. ``sole``: its Redis was just started by this process, so no other node can live."""

    def __init__(
        self,
        settings: EngineSettings,
        store: RedisStore,
        deliverer: Deliverer,
        clock: RedisClock,
        metrics: Metrics,
        *,
        lane: LaneSettings | None = None,
        sole: bool = False,
    ) -> None:
        self.node = Node(settings, clock)
        self._store = store
        self._deliverer = deliverer
        self._clock = clock
        self._sole = sole
        self._settler = Settler(store, retry_policy(settings), clock, metrics)
        catalogue = CatalogueStore(store)
        targets = TargetCache(catalogue)
        courier = Courier(self.node, deliverer, self._settler, clock, metrics, store=store, targets=targets)
        self._claimer = Claimer(self.node, store, courier, self._settler, clock, metrics)
        self._settler.woken = self._claimer.wake_at
        self._heartbeat = Heartbeat(self.node, store, clock, metrics)
        self._reaper = Reaper(self.node, store, self._claimer, clock, metrics)
        self._listener = WakeListener(store, self._claimer, clock, metrics)
        lane_store = LaneStore(store, lane)
        may_take_back = self._reaper.may_take_back
        self._lane = Lane(self.node, lane_store, deliverer, clock, metrics, may_take_back=may_take_back, sole=sole)
        self._lane_listener = LaneListener(lane_store, self._lane, clock, metrics)
        self._catalogue_sweeper = CatalogueSweeper(catalogue, store, clock, metrics)
        self._sweeper = Sweeper(HistoryStore(store), bounds_of(settings), clock, metrics)
        self._services = (
            self._heartbeat,
            self._settler,
            self._claimer,
            self._reaper,
            self._listener,
            self._lane,
            self._lane_listener,
            self._catalogue_sweeper,
            self._sweeper,
        )
        self._starting: asyncio.Task[None] | None = None
        self._start_fault: str | None = "the node is starting"

    def start(self) -> None:
        """Begin in the background: Redis may be away, and the process is alive all the same."""
        self._starting = asyncio.create_task(self._start(), name="cronpost start")

    async def started(self) -> None:
        """Wait until the node fires jobs."""
        if self._starting is not None:
            await self._starting

    def faults(self) -> list[str]:
        """What keeps this node from doing its job now; empty if nothing does."""
        if self._start_fault is not None:
            return [self._start_fault]
        faults = [service.fault for service in self._services if service.fault is not None]
        if not self.node.lease_holds:
            faults.append("heartbeat: the last beat is too long ago; other nodes may take over its runs")
        return faults

    async def stop(self) -> None:
        """Stop claiming, let open attempts end, hand back the rest, leave.

        Takes at most the grace time for open attempts and a few seconds to settle. What Redis cannot be told by then
        is found by the reaper of another node, or of the next start.
        """
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._starting
        if self._start_fault is not None:
            await self._deliverer.aclose()
            return
        grace = self.node.settings.drain_grace_seconds
        log.info(NODE_DRAINING, node=self.node.id, open=len(self.node.in_flight), grace_seconds=grace)
        self._lane.stop_taking()
        await self._claimer.stop()
        await self._listener.stop()
        await self._lane_listener.stop()
        await self._catalogue_sweeper.stop()
        await self._sweeper.stop()
        await self._reaper.stop()
        lane = asyncio.create_task(self._lane.finish(grace_seconds=grace, settle_seconds=FLUSH_SECONDS))
        if self.node.in_flight:
            await asyncio.wait(self.node.in_flight, timeout=grace)
        left = list(self.node.in_flight)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        with contextlib.suppress(StoreError):
            await self._claimer.give_back_lost()
        settled = await self._settler.flush(FLUSH_SECONDS)
        settled = await lane and settled
        await self._settler.stop()
        await self._heartbeat.stop()
        with contextlib.suppress(StoreError):
            await self._store.leave(node=self.node.id, now_ms=self._clock.now_ms())
        await self._deliverer.aclose()
        log.info(NODE_STOPPED, node=self.node.id, handed_back=len(left), settled=settled)

    async def _start(self) -> None:
        pause = FIRST_TRY_SECONDS
        while True:
            try:
                await self._heartbeat.beat(starting=True, sole=self._sole)
                break
            except StoreError as error:
                if self._start_fault != str(error):
                    log.warning(STORE_LOST, service="start", fault=error.code, detail=str(error))
                self._start_fault = str(error)
            except Exception as error:
                # A node that gave up here would be silent for ever.
                self._start_fault = f"the node cannot start: {type(error).__name__}: {error}"
                log.exception(SERVICE_FAILED, service="start")
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_TRY_SECONDS)
        if self._sole:
            with contextlib.suppress(StoreError):  # the reaper finds them later
                await self._reaper.reap(void_all=True)
        for service in self._services:
            service.start()
        self._start_fault = None
        log.info(NODE_STARTED, node=self.node.id, store=self.node.store_id)


def bounds_of(settings: EngineSettings) -> Bounds:
    """How much history is kept in all under these settings."""
    return Bounds(
        success_age_ms=int(settings.history_retention_days * DAY_MS),
        failure_age_ms=int(settings.history_failure_retention_days * DAY_MS),
        successes=settings.history_max_runs,
        failures=settings.history_max_runs,
        bytes=settings.history_max_megabytes << 20,
    )


def retry_policy(settings: EngineSettings) -> RetryPolicy:
    """The retry policy of ``POST /`` jobs under these settings."""
    return RetryPolicy(
        cap_ms=int(settings.retry_max_delay_seconds * 1000),
        retry_after_cap_ms=int(settings.retry_after_max_seconds * 1000),
        max_age_ms=int(settings.retry_for_max_seconds * 1000),
    )
