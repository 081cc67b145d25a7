"""Gives the endpoints their use cases, settings and store slots: one ``Context`` for each process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from scheduler_api.access.client_address import ClientAddresses
from scheduler_api.access.refusal_log import RefusalLog
from scheduler_api.access.throttle import SignInThrottle
from scheduler_api.wire.answers.events import show_notice
from scheduler_core.base.api_keys import KnownKeys
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings, EngineSettings, TaskSettings
from scheduler_core.base.errors import StoreRefused
from scheduler_core.base.events import SIGN_IN_REFUSED, SIGN_IN_THROTTLED
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.model.health import DEFAULT_RULES, HealthRules
from scheduler_core.node.dispatch.targets import OpenBreaker
from scheduler_core.node.loops.heartbeat import set_clock
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.alerts import AlertService
from scheduler_core.usecases.attention import AttentionService
from scheduler_core.usecases.callbacks import CallbackService
from scheduler_core.usecases.cancel import CancelService
from scheduler_core.usecases.events import EventFeed
from scheduler_core.usecases.forecast import ForecastService
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.job_targets import JobTargets
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.labels import LabelService
from scheduler_core.usecases.operations import OperationService
from scheduler_core.usecases.pauses import PauseService
from scheduler_core.usecases.replay import ReplayService
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.sessions import SessionService
from scheduler_core.usecases.target_statistics import TargetStatisticsReader
from scheduler_core.usecases.target_tries import TargetTries
from scheduler_core.usecases.targets import TargetService
from scheduler_core.usecases.tasks import TaskService

if TYPE_CHECKING:  # a node without an API does not load starlette
    from prometheus_client.registry import Collector
    from starlette.requests import Request

    from scheduler_core.delivery.base import Deliverer
    from scheduler_core.delivery.notify.notifier import Notifier

STORE_SLOTS = 64
"""Requests that use Redis at the same time; further ones wait. The API's connection pool is a little larger, so that a
burst of requests is served late instead of being refused."""
STORE_CONNECTIONS = STORE_SLOTS + 16
TESTS_AT_ONCE = 4
WRITE_PROBE_SECONDS = 1.0
MIN_SLOTS_OF_A_SHARD = 4
"""With several shards, each shard has an equal part of the slots, but at least this many; requests to all shards have a
quarter. So a Redis server that does not answer blocks only the requests to its own shards."""


class NodeProcesses(Protocol):
    """The node processes that this server started."""

    @property
    def wanted(self) -> int:
        """How many nodes there should be."""

    @property
    def working(self) -> int:
        """How many nodes work now."""

    async def metrics(self) -> Collector:
        """The metrics of this process and of all its nodes, added up."""


class Context:
    """The services and the state that endpoints use.

    ``faults`` lists what keeps the process from its work, ``warnings`` what needs attention although it works.
    ``fires``: the process has at least one node; ``nodes`` are those that are separate processes. ``callbacks``: the
    address of this API for runners is known. ``breakers`` lists those that are not closed, by node; None: no node.
    """

    def __init__(
        self,
        *,
        settings: ApiSettings,
        store: Shards[ShardStore] | ShardStore,
        clock: RedisClock,
        metrics: Metrics,
        task_settings: TaskSettings | None = None,
        faults: Callable[[], list[str]] = list,
        warnings: Callable[[], list[str]] = list,
        fires: bool = True,
        nodes: NodeProcesses | None = None,
        callbacks: bool = True,
        breakers: Callable[[], list[tuple[str, list[OpenBreaker]]] | None] = lambda: None,
        guard: AddressGuard | None = None,
        health_rules: HealthRules = DEFAULT_RULES,
        engine_settings: EngineSettings | None = None,
        metrics_label: str | None = None,
        public_url: str | None = None,
    ) -> None:
        self.settings = settings
        self.shards = store if isinstance(store, Shards) else Shards.of_one(store)
        self.store = self.shards.lead
        self.clock = clock
        for one in self.shards.all:
            one.clock = clock
        self.metrics = metrics
        self.faults = faults
        self.warnings = warnings
        self.fires = fires
        self.nodes = nodes
        self.takes_callbacks = callbacks
        self.breakers = breakers
        self.guard = AddressGuard() if guard is None else guard
        """Refuses forbidden targets when they are stored, as far as their URL shows it."""
        self.health_rules = health_rules
        self.metrics_label = metrics_label
        """The label by which nodes count unhealthy jobs; None: by none."""
        self._engine_settings = engine_settings or EngineSettings()
        self.history_per_job = self._engine_settings.history_per_job
        self._notifier: Notifier | None = None
        self._deliverer: Deliverer | None = None
        self.sending = asyncio.Semaphore(TESTS_AT_ONCE)
        """Test messages of alerts that are sent at the same time; further ones wait."""
        self.alerts = AlertService(self.shards, clock)
        self.public_url = public_url
        """The address of this API for others, if it is set."""
        self.keys = KnownKeys(settings.api_keys)
        self.sessions = SessionService(self.store.session_store(), clock, self.keys)
        self.client_addresses = ClientAddresses(settings.trusted_proxies)
        self.sign_in_throttle = SignInThrottle(clock)
        self.refused_sign_ins = RefusalLog(SIGN_IN_REFUSED, clock)
        self.throttled_sign_ins = RefusalLog(SIGN_IN_THROTTLED, clock)
        self.job_targets = JobTargets(self.shards, clock)
        self.job_services = self.shards.each(lambda one: JobService(one, clock, metrics, targets=self.job_targets))
        self.jobs = self.job_services.lead
        self.callbacks = CallbackService(self.shards, self.job_services)
        self.schedules = ScheduleService(self.shards, clock, metrics)
        self.targets = TargetService(self.shards, clock, self.schedules)
        self.target_tries = TargetTries(self.shards, self.job_services, self.targets, clock)
        self.target_statistics = TargetStatisticsReader(self.shards)
        task_store = self.store.task_store(task_settings)
        self.tasks = TaskService(task_store, clock, metrics)
        self.attention = AttentionService(self.shards, self.job_services, task_store, clock)
        self.labels = LabelService(self.shards, clock)
        self.history = HistoryService(self.shards, clock)
        self.pauses = PauseService(self.shards, clock)
        self.cancels = CancelService(self.shards, self.job_services, self.history)
        self.events = EventFeed(self.shards, clock, metrics, show=show_notice, most=settings.events_max_listeners)
        self.forecasts = ForecastService(self.shards, clock)
        self.replays = ReplayService(self.job_services, self.history)
        self.operations = OperationService(self.shards, self.job_services, self.history, clock)
        self._probing = asyncio.Lock()
        self._probed_at: float | None = None
        self._write_faults: list[str] = []
        self._slots = asyncio.Semaphore(STORE_SLOTS)
        of_shard = max(MIN_SLOTS_OF_A_SHARD, STORE_SLOTS // len(self.shards))
        self._slots_of_shard = self.shards.each(lambda _: asyncio.Semaphore(of_shard))
        self._slots_of_all_shards = asyncio.Semaphore(STORE_SLOTS // 4 if len(self.shards) > 1 else STORE_SLOTS)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def notifier(self) -> Notifier:
        """Return what sends test messages of alerts from this process. Opened at the first use."""
        if self._notifier is None:
            # Only nodes, and processes that send a test, load a client.
            from scheduler_core.delivery.base import Environment
            from scheduler_core.delivery.notify.notifier import Notifier
            from scheduler_core.delivery.registry import installed_kinds

            self._deliverer = installed_kinds().open(Environment(self.clock, self._engine_settings, self.guard))
            self._notifier = Notifier(self._deliverer, self.guard, base_url=self._engine_settings.public_url or "")
        return self._notifier

    async def aclose(self) -> None:
        """Close the connections of test messages."""
        if self._notifier is not None:
            await self._notifier.aclose()
        if self._deliverer is not None:
            await self._deliverer.aclose()

    @asynccontextmanager
    async def store_slot(self, job_id: str | None = None) -> AsyncIterator[JobService]:
        """Acquire a store slot. With ``job_id``, also take this process's lock on that job; yields the service of its
        shard.

        Redis detects concurrent changes of one job anyway. The lock only avoids retries: without it, a hundred clients
        that change one job at once would retry up to a hundred times each. Raises StoreUnavailable if Redis has never
        been reached.
        """
        lock = None
        if job_id is not None:
            lock = self._locks.get(job_id)
            if lock is None:
                lock = self._locks[job_id] = asyncio.Lock()
            await lock.acquire()
        try:
            async with self._slots_of_all_shards if job_id is None else self._slots_of_shard.of(job_id), self._slots:
                await self._ensure_ready()
                async with self._naming_wrong_keys(job_id):
                    yield self.jobs if job_id is None else self.job_services.of(job_id)
        finally:
            if lock is not None:
                lock.release()

    @asynccontextmanager
    async def read_slot(self, job_id: str) -> AsyncIterator[JobService]:
        """Acquire a store slot to read a job; yields the service of its shard. Raises as ``store_slot`` does."""
        async with self._slots_of_shard.of(job_id), self._slots:
            await self._ensure_ready()
            async with self._naming_wrong_keys(job_id):
                yield self.job_services.of(job_id)

    @asynccontextmanager
    async def lead_slot(self) -> AsyncIterator[None]:
        """Acquire a store slot for the first shard. Raises as ``store_slot`` does."""
        async with self._slots_of_shard.lead, self._slots:
            await self._ensure_ready()
            yield

    @asynccontextmanager
    async def _naming_wrong_keys(self, job_id: str | None) -> AsyncIterator[None]:
        """Add the names of the keys to Redis's error that a key has another type."""
        try:
            yield
        except StoreRefused as error:
            wrong = await self.wrong_keys(job_id) if "WRONGTYPE" in str(error) else {}
            if not wrong:
                raise
            raise StoreRefused("; ".join(wrong.values())) from error

    async def wrong_keys(self, job_id: str | None = None) -> dict[str, str]:
        """Find the keys that have a wrong Redis type; returns a text for each."""
        found = await asyncio.gather(*(store.wrong_keys(job_id) for store in self.shards.all), return_exceptions=True)
        return {key: text for one in found if isinstance(one, dict) for key, text in one.items()}

    async def write_faults(self) -> list[str]:
        """List why upserts would fail now. Redis is checked at most once in ``WRITE_PROBE_SECONDS`` for all probes."""
        async with self._probing:
            now = self.clock.monotonic()
            if self._probed_at is None or now - self._probed_at >= WRITE_PROBE_SECONDS:
                self._write_faults = await self.shards.write_faults()
                self._probed_at = now
            return self._write_faults

    async def ensure_clock(self) -> None:
        """Set the clock if it is not set yet: right after the start, or without a node."""
        if not self.clock.is_set:
            await set_clock(self.shards, self.clock)

    async def _ensure_ready(self) -> None:
        if not self.shards.is_confirmed:
            await self.shards.confirm()
        await self.ensure_clock()


def context_of(request: Request) -> Context:
    """Return the context of this process."""
    context = request.scope["cronpost"]
    assert isinstance(context, Context)
    return context
