"""Starts and stops a node with its shards, and reports its faults."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings, TaskSettings
from scheduler_core.base.events import NODE_DRAINING, NODE_STARTED, NODE_STOPPED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import Deliverer
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.notify.notifier import Notifier
from scheduler_core.model.node import NodeFacts
from scheduler_core.model.trace import Traces
from scheduler_core.node.dispatch.limiter import TargetLimiter
from scheduler_core.node.loops.alerts import AlertSweeper
from scheduler_core.node.loops.catalogue_sweep import CatalogueSweeper
from scheduler_core.node.loops.heartbeat import ClockSync
from scheduler_core.node.loops.operations import OperationCarrier
from scheduler_core.node.loops.order import Order
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.statistics import StatisticsWriter
from scheduler_core.node.loops.task_batches import TaskBatcher, TaskWakeupSubscriber
from scheduler_core.node.node import Node
from scheduler_core.node.shard_loops import FLUSH_SECONDS, NodeShard
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.report import start_series
from scheduler_core.version import __version__

log = get_logger(__name__)


class Engine:
    """One node. ``sole``: this process has just started its Redis, so no other node can be alive.

    Each shard has its own services. One-off tasks and the repair of targets and schedules belong to the first shard and
    depend only on it.
    """

    def __init__(
        self,
        settings: EngineSettings,
        store: Shards[ShardStore] | ShardStore,
        deliverer: Deliverer,
        clock: RedisClock,
        metrics: Metrics,
        *,
        task_settings: TaskSettings | None = None,
        sole: bool = False,
        guard: AddressGuard | None = None,
        traces: Traces | None = None,
    ) -> None:
        """``guard``: decides to which addresses e-mails may be sent; None: the default one."""
        shards = store if isinstance(store, Shards) else Shards.of_one(store)
        self._deliverer = deliverer
        timekeeper = ClockSync(clock, metrics)
        self.node = Node(settings, clock)
        self.limiter = TargetLimiter(self.node.slots, settings, clock, metrics)
        order = Order(clock)
        nodes = [self.node]
        nodes += [Node(settings, clock, node_id=self.node.id, slots=self.node.slots) for _ in shards.all[1:]]
        self._shards = [
            NodeShard(
                node, one, shards, deliverer, clock, metrics, timekeeper, self.limiter, order, sole=sole, traces=traces
            )
            for node, one in zip(nodes, shards.all, strict=True)
        ]
        start_series(metrics)
        metrics.stored_runs_limit.set(settings.history_max_runs)
        metrics.stored_bytes_limit.set(settings.history_max_megabytes << 20)
        self._started_at_ms: int | None = None
        self._is_draining = False
        self._host = platform.node()
        self.node.facts = self._facts
        metrics.in_flight.set_function(lambda: len(self.node.in_flight))
        metrics.not_started.set_function(lambda: sum(len(shard.queue) for shard in self._shards))
        metrics.unsettled.set_function(lambda: sum(shard.settler.unsettled for shard in self._shards))
        first = self._shards[0]
        task_store = first.store.task_store(task_settings)
        self._task_batcher = TaskBatcher(
            self.node,
            task_store,
            deliverer,
            clock,
            metrics,
            may_reclaim=first.reaper.may_reclaim,
            sole=sole,
            traces=traces,
        )
        self._task_wakeups = TaskWakeupSubscriber(task_store, self._task_batcher, clock, metrics)
        self._catalogue_sweeper = CatalogueSweeper(shards, clock, metrics)
        self._operation_carrier = OperationCarrier(self.node, shards, clock, metrics)
        self._statistics = StatisticsWriter(self.node.id, first.store.statistics_store(), clock, metrics)
        notifier = Notifier(deliverer, guard or AddressGuard(), base_url=settings.public_url or "")
        self._alert_sweeper = AlertSweeper(self.node, shards, clock, metrics, notifier)
        self._of_all: tuple[Service, ...] = (
            self._task_batcher,
            self._task_wakeups,
            self._catalogue_sweeper,
            self._operation_carrier,
            self._statistics,
            self._alert_sweeper,
        )
        for service in self._of_all:
            service.shard = first.number if len(shards) > 1 else None
        self._starting: asyncio.Task[None] | None = None

    @property
    def services(self) -> list[Service]:
        """Every service of the node."""
        return [service for shard in self._shards for service in shard.services] + list(self._of_all)

    def start(self) -> None:
        """Start in the background, because the process must run even while Redis is away."""
        self._starting = asyncio.create_task(self._start(), name="cronpost start")

    async def started(self) -> None:
        """Wait until the node fires the jobs of every shard."""
        if self._starting is not None:
            await self._starting

    async def first_claims(self, seconds: float) -> None:
        """Wait until the node has claimed once from every shard, at most ``seconds``."""
        clock = self.node.clock
        await asyncio.gather(*(clock.wait_for(shard.claimer.has_claimed, seconds) for shard in self._shards))

    @property
    def has_started(self) -> bool:
        """Whether the services of every shard have been started."""
        return all(shard.has_started for shard in self._shards)

    def faults(self) -> list[str]:
        """Return what keeps this node from working now; empty: nothing does."""
        found = [(shard.number, fault) for shard in self._shards for fault in shard.faults()]
        found += [(0, service.fault) for service in self._of_all if service.fault is not None]
        return [f"shard {number}: {fault}" if len(self._shards) > 1 else fault for number, fault in found]

    def warnings(self) -> list[str]:
        """Return conditions that an operator should see although the node works."""
        return list(dict.fromkeys(text for service in self.services for text in service.warnings.values()))

    async def stop(self) -> None:
        """Stop claiming, wait for attempts in flight, release the rest, leave.

        Takes at most the grace time for attempts and a few seconds to settle. Runs whose results Redis has not accepted
        by then are reclaimed by another node, or at the next start.
        """
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._starting
        shards = [shard for shard in self._shards if shard.has_started]
        if not shards:
            await self._deliverer.aclose()
            return
        grace = self.node.settings.drain_grace_seconds
        log.info(NODE_DRAINING, node=self.node.id, open=len(self.node.in_flight), grace_seconds=grace)
        self._is_draining = True
        self._task_batcher.stop_taking()
        await asyncio.gather(*(shard.stop_claiming() for shard in shards))
        await self._task_wakeups.stop()
        await self._catalogue_sweeper.stop()
        await self._operation_carrier.stop()
        await self._alert_sweeper.stop()
        task_batches = asyncio.create_task(self._task_batcher.finish(grace_seconds=grace, settle_seconds=FLUSH_SECONDS))
        await self.node.slots.drain(self.node.clock, grace)
        left = list(self.node.in_flight)
        for attempt in left:
            attempt.cancel()
        settled = all(await asyncio.gather(*(shard.leave() for shard in shards)))
        settled = await task_batches and settled
        await self._statistics.finish()
        await asyncio.gather(*(shard.say_goodbye() for shard in shards))
        await self._deliverer.aclose()
        log.info(NODE_STOPPED, node=self.node.id, released=len(left), settled=settled)

    def _facts(self) -> NodeFacts:
        """Return what the heartbeat says about the node, for people."""
        if self._started_at_ms is None:
            self._started_at_ms = self.node.clock.now_ms()
        return NodeFacts(
            version=__version__,
            host=self._host,
            pid=os.getpid(),
            address=self.node.settings.public_url,
            started_at_ms=self._started_at_ms,
            dead_after_ms=self.node.dead_after_ms,
            in_flight=len(self.node.in_flight),
            claimed_ahead=sum(len(shard.queue) for shard in self._shards),
            draining=self._is_draining,
        )

    async def _start(self) -> None:
        async with asyncio.TaskGroup() as starting:
            starting.create_task(self._start_first())
            for shard in self._shards[1:]:
                starting.create_task(shard.start())
        log.info(NODE_STARTED, node=self.node.id, store=self.node.store_id)

    async def _start_first(self) -> None:
        await self._shards[0].start()
        for service in self._of_all:
            service.start()
