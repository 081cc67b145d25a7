"""What the endpoints work with: one ``Context`` per process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings, TaskSettings
from scheduler_core.base.errors import StoreRefused
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.node.dispatch.targets import OpenBreaker
from scheduler_core.node.loops.heartbeat import set_clock
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.callbacks import CallbackService
from scheduler_core.usecases.cancel import CancelService
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.targets import TargetService
from scheduler_core.usecases.tasks import TaskService

if TYPE_CHECKING:  # a node without an API does not load starlette
    from prometheus_client.registry import Collector
    from starlette.requests import Request

STORE_SLOTS = 64
"""Requests that work with Redis at the same time; further ones wait. The API's pool of connections has room for
these and some more, so that a burst of requests is served late rather than refused."""
STORE_CONNECTIONS = STORE_SLOTS + 16
WRITE_PROBE_SECONDS = 1.0
MIN_SLOTS_OF_A_SHARD = 4
"""Where there are several shards, none has more than its part of these turns at a time, and requests that ask all of
them have a quarter: the server of some shards that does not answer must not hold up requests for the others."""


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
    """``faults`` answers what keeps the process from doing its job; the node's, where there is one. ``warnings`` what
    is not as it should be although the process does its job. ``fires``: it has a node or more; ``nodes`` are those
    that are processes of their own. ``callbacks``: whether runners can be told where this API is. ``breakers``: those
    that are not closed, by node; None: it has no node.
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
        """Refuses targets when they are stored, as far as that can be known from their URL."""
        self.job_services = self.shards.each(lambda one: JobService(one, clock, metrics))
        self.jobs = self.job_services.lead
        self.callbacks = CallbackService(self.shards, self.job_services)
        self.schedules = ScheduleService(self.shards, clock, metrics)
        self.targets = TargetService(self.shards, clock, self.schedules)
        self.tasks = TaskService(self.store.task_store(task_settings), clock, metrics)
        self.history = HistoryService(self.shards, clock)
        self.cancels = CancelService(self.shards, self.job_services, self.history)
        self._probing = asyncio.Lock()
        self._probed_at: float | None = None
        self._write_faults: list[str] = []
        self._slots = asyncio.Semaphore(STORE_SLOTS)
        of_shard = max(MIN_SLOTS_OF_A_SHARD, STORE_SLOTS // len(self.shards))
        self._slots_of_shard = self.shards.each(lambda _: asyncio.Semaphore(of_shard))
        self._slots_of_all_shards = asyncio.Semaphore(STORE_SLOTS // 4 if len(self.shards) > 1 else STORE_SLOTS)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def store_slot(self, job_id: str | None = None) -> AsyncIterator[JobService]:
        """The right to work with the store; with ``job_id``, as the only request of this process to change that job,
        through the service of its shard.

        Changes of one job are checked against each other in Redis, whoever makes them. Here they only stand in line,
        so that a hundred clients that change one job at once do not have to try a hundred times each. Raises
        StoreUnavailable while Redis has never been reached.
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
        """The right to read a job, with the service of its shard. Raises StoreUnavailable as ``store_slot`` does."""
        async with self._slots_of_shard.of(job_id), self._slots:
            await self._ensure_ready()
            async with self._naming_wrong_keys(job_id):
                yield self.job_services.of(job_id)

    @asynccontextmanager
    async def _naming_wrong_keys(self, job_id: str | None) -> AsyncIterator[None]:
        """Around work with the store: where Redis refuses it because a key holds another type, say which."""
        try:
            yield
        except StoreRefused as error:
            wrong = await self.wrong_keys(job_id) if "WRONGTYPE" in str(error) else {}
            if not wrong:
                raise
            raise StoreRefused("; ".join(wrong.values())) from error

    async def wrong_keys(self, job_id: str | None = None) -> dict[str, str]:
        """The keys of the store that hold another Redis type than they should, each with what is wrong."""
        found = await asyncio.gather(*(store.wrong_keys(job_id) for store in self.shards.all), return_exceptions=True)
        return {key: text for one in found if isinstance(one, dict) for key, text in one.items()}

    async def write_faults(self) -> list[str]:
        """Why upserts would fail now. Asked of Redis once in ``WRITE_PROBE_SECONDS``, however many probes ask."""
        async with self._probing:
            now = self.clock.monotonic()
            if self._probed_at is None or now - self._probed_at >= WRITE_PROBE_SECONDS:
                self._write_faults = await self.shards.write_faults()
                self._probed_at = now
            return self._write_faults

    async def ensure_clock(self) -> None:
        """Set the clock if nothing has set it yet: right after the start, or where no node runs."""
        if not self.clock.is_set:
            await set_clock(self.shards, self.clock)

    async def _ensure_ready(self) -> None:
        if not self.shards.is_confirmed:
            await self.shards.confirm()
        await self.ensure_clock()


def context_of(request: Request) -> Context:
    """The context of the process that serves ``request``."""
    context = request.scope["cronpost"]
    assert isinstance(context, Context)
    return context
