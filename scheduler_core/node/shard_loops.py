"""The services of a node for one shard of the store (claim, settle, reap ...), and how they start and stop.

The shards of a node share only its id, clock, slots and deliverer: when the server of one shard is away, the others
continue.
"""

from __future__ import annotations

import contextlib
from functools import partial

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreError
from scheduler_core.base.events import SERVICE_FAILED, STORE_LOST, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import Deliverer, start_all_of
from scheduler_core.model.event import Change
from scheduler_core.model.trace import Traces
from scheduler_core.node.dispatch.dispatcher import Dispatcher
from scheduler_core.node.dispatch.limiter import TargetLimiter
from scheduler_core.node.dispatch.target_cache import TargetCache
from scheduler_core.node.loops.announce import Announcer, announce_health, announce_joined, announce_left
from scheduler_core.node.loops.claim import Claimer
from scheduler_core.node.loops.cut_requests import CutSubscriber
from scheduler_core.node.loops.health_sweep import HealthSweeper
from scheduler_core.node.loops.heartbeat import ClockSync, Heartbeat
from scheduler_core.node.loops.index_check import IndexCheck
from scheduler_core.node.loops.order import Order
from scheduler_core.node.loops.reap import Reaper
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.settle import Settler
from scheduler_core.node.loops.start import Starter
from scheduler_core.node.loops.start_queue import StartQueue
from scheduler_core.node.loops.subscriber import WakeupSubscriber
from scheduler_core.node.loops.suspects import Suspects
from scheduler_core.node.loops.sweep import Sweeper
from scheduler_core.node.loops.wakeups import Alarm
from scheduler_core.node.node import Node
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.store.history import Bounds
from scheduler_core.store.jobs import CompletedBounds
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.job_health import rules_of

log = get_logger(__name__)

FIRST_TRY_SECONDS = 0.1
LONGEST_TRY_SECONDS = 2.0
DAY_MS = 86_400_000
FLUSH_SECONDS = 5.0
"""How long a stopping node tries to settle its last runs."""


class NodeShard:
    """One node's services for the shard whose store is ``store``."""

    def __init__(
        self,
        node: Node,
        store: ShardStore,
        shards: Shards[ShardStore],
        deliverer: Deliverer,
        clock: RedisClock,
        metrics: Metrics,
        timekeeper: ClockSync,
        limiter: TargetLimiter,
        order: Order,
        *,
        sole: bool,
        traces: Traces | None = None,
    ) -> None:
        settings = node.settings
        self.node = node
        self.store = store
        self.number = store.number
        self.start_fault: str | None = "the node is starting"
        self._clock = clock
        self._sole = sole
        alarm = Alarm(clock)
        self.queue = StartQueue()
        suspects = Suspects(node, alarm.wake, self.queue)
        self.heartbeat = Heartbeat(node, store, clock, metrics, shard=self.number, timekeeper=timekeeper)
        self.settler = Settler(
            store,
            retry_policy(settings),
            clock,
            metrics,
            wake_at=alarm.wake_at,
            suspects=suspects,
            order=order,
            in_flight=node.in_flight,
            takes_writes=lambda: self.heartbeat.fault is None,
            attention=store.attention_store(),
            traces=traces,
        )
        catalogue = shards.lead.catalogue_store()
        targets = TargetCache(catalogue if store is shards.lead else store.target_copies(catalogue))
        dispatcher = Dispatcher(
            node,
            deliverer.start,
            self.settler,
            limiter,
            store=store,
            targets=targets,
            prepare=deliverer.prepare,
            start_all=start_all_of(deliverer),
        )
        self.reaper = Reaper(node, store, alarm.wake, clock, metrics)
        self._starter = Starter(node, dispatcher, self.settler, self.queue, order, clock, metrics, shards=len(shards))
        self._listener = WakeupSubscriber(
            store, alarm, self._starter, targets, clock, metrics, heartbeat_seconds=settings.heartbeat_seconds
        )
        self._cutter = CutSubscriber(node, store, self._starter, clock, metrics)
        kept = completed_bounds_of(settings, len(shards))
        self._sweeper = Sweeper(store, bounds_of(settings, len(shards)), kept, clock, metrics)
        self._index_check = IndexCheck(store, clock, metrics)
        self._announcer = Announcer(store, clock, metrics)
        self.health_sweeper = HealthSweeper(
            store,
            clock,
            metrics,
            rules_of(settings),
            label=settings.metrics_label,
            changed=partial(announce_health, store),
        )
        others = (
            self.heartbeat,
            self.settler,
            self._starter,
            self.reaper,
            self._listener,
            self._cutter,
            self._sweeper,
            self._index_check,
            self._announcer,
            self.health_sweeper,
        )
        self.claimer = Claimer(
            node, store, self._starter, self.settler, alarm, suspects, targets, clock, metrics, services=others
        )
        self.services: tuple[Service, ...] = (*others[:2], self.claimer, *others[2:])
        for service in self.services:
            service.shard = self.number if len(shards) > 1 else None

    @property
    def has_started(self) -> bool:
        return self.start_fault is None

    def faults(self) -> list[str]:
        """Return what keeps this node from working on this shard now; empty: nothing does."""
        if self.start_fault is not None:
            return [self.start_fault]
        faults = [service.fault for service in self.services if service.fault is not None]
        if not self.node.holds_lease():
            faults.append("heartbeat: the last heartbeat is too old; other nodes may take over its runs")
        return faults

    async def start(self) -> None:
        """Send the first heartbeat, as soon as Redis accepts it, and start the services."""
        pause = FIRST_TRY_SECONDS
        while True:
            try:
                await self.heartbeat.beat(starting=True, sole=self._sole)
                break
            except StoreError as error:
                if self.start_fault != str(error):
                    log.warning(STORE_LOST, service="start", fault=error.code, detail=str(error))
                self.start_fault = str(error)
            except Exception as error:
                # Always try again: otherwise the node would stay idle without notice.
                self.start_fault = f"the node cannot start: {type(error).__name__}: {error}"
                log.exception(SERVICE_FAILED, service="start")
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_TRY_SECONDS)
        if self._sole:
            with contextlib.suppress(StoreError):  # the reaper tries again
                await self.reaper.reap(void_all=True)
        for service in self.services:
            service.start()
        self.start_fault = None
        if self.number == 0:
            await announce_joined(self.store, self.node.id)

    async def stop_claiming(self) -> None:
        """Claim nothing more on this shard."""
        await self.claimer.stop()
        await self._listener.stop()
        await self._starter.stop()
        self._starter.release_all()
        await self._sweeper.stop()
        await self._index_check.stop()
        await self.health_sweeper.stop()
        await self.reaper.stop()

    async def leave(self) -> bool:
        """Settle the remaining runs after the last attempt has ended, and stop; return whether everything is
        settled."""
        with contextlib.suppress(StoreError):
            await self.claimer.release_lost_claim()
        settled = await self.settler.flush(FLUSH_SECONDS)
        await self.settler.stop()
        await self._cutter.stop()
        await self._announcer.stop()
        return settled

    async def say_goodbye(self) -> None:
        """Stop the heartbeat and remove the node's entry, so that other nodes need not wait until it counts as dead.

        If something is left to settle, the entry stays: when the node counts as dead, other nodes reclaim its leases.
        """
        await self.heartbeat.stop()
        if self.settler.unsettled or self.claimer.may_hold_more:
            return
        with contextlib.suppress(StoreError):
            await self.store.leave(node=self.node.id, now_ms=self._clock.now_ms())
        if self.number == 0:
            await announce_left(self.store, [self.node.id], Change.STOPPED)


def bounds_of(settings: EngineSettings, shards: int = 1) -> Bounds:
    """Return how much history one of ``shards`` shards keeps in all under these settings."""
    return Bounds(
        success_age_ms=int(settings.history_retention_days * DAY_MS),
        failure_age_ms=int(settings.history_failure_retention_days * DAY_MS),
        successes=-(-settings.history_max_runs // shards),
        failures=-(-settings.history_max_runs // shards),
        bytes=(settings.history_max_megabytes << 20) // shards,
    )


def completed_bounds_of(settings: EngineSettings, shards: int = 1) -> CompletedBounds:
    """Return how many completed jobs one of ``shards`` shards keeps, and how long: as long as the records of runs."""
    days = max(settings.history_retention_days, settings.history_failure_retention_days)
    return CompletedBounds(age_ms=int(days * DAY_MS), most=-(-settings.completed_max // shards))


def retry_policy(settings: EngineSettings) -> RetryPolicy:
    """Return the retry policy of ``POST /`` jobs under these settings."""
    return RetryPolicy(
        cap_ms=int(settings.retry_max_delay_seconds * 1000),
        retry_after_cap_ms=int(settings.retry_after_max_seconds * 1000),
        max_age_ms=int(settings.retry_for_max_seconds * 1000),
    )
