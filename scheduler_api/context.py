"""What the endpoints work with: one :class:`Context` per process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from starlette.requests import Request

from scheduler_core.clock import RedisClock
from scheduler_core.config import ApiSettings, LaneSettings
from scheduler_core.metrics import Metrics
from scheduler_core.services.callbacks import CallbackService
from scheduler_core.services.catalogue import CatalogueService
from scheduler_core.services.heartbeat import set_clock
from scheduler_core.services.history import HistoryService
from scheduler_core.services.jobs import JobService
from scheduler_core.services.tasks import TaskService
from scheduler_core.store.catalogue_store import CatalogueStore
from scheduler_core.store.history_store import HistoryStore
from scheduler_core.store.lane_store import LaneStore
from scheduler_core.store.redis_store import RedisStore

STORE_TURNS = 64
"""Requests that work with Redis at the same time; further ones wait. The API's pool of connections has room for
these and some more, so that a burst of requests is served late rather than refused."""
STORE_CONNECTIONS = STORE_TURNS + 16


class Context:
    """``faults`` answers what keeps the process from doing its job; the node's, where there is one."""

    def __init__(
        self,
        *,
        settings: ApiSettings,
        store: RedisStore,
        clock: RedisClock,
        metrics: Metrics,
        lane: LaneSettings | None = None,
        faults: Callable[[], list[str]] = list,
    ) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self.metrics = metrics
        self.faults = faults
        self.jobs = JobService(store, clock, metrics)
        self.callbacks = CallbackService(store, self.jobs)
        self.catalogue = CatalogueService(CatalogueStore(store), store, clock, metrics)
        self.tasks = TaskService(LaneStore(store, lane), clock, metrics)
        self.history = HistoryService(store, HistoryStore(store), clock)
        self._turns = asyncio.Semaphore(STORE_TURNS)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, job_id: str | None = None) -> AsyncIterator[JobService]:
        """The right to work with the store; with ``job_id``, as the only request of this process to change that job.

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
            async with self._turns:
                await self.ensure_clock()
                yield self.jobs
        finally:
            if lock is not None:
                lock.release()

    async def ensure_clock(self) -> None:
        """Set the clock if nothing has set it yet: right after the start, or where no node runs."""
        if not self.clock.is_set:
            await set_clock(self.store, self.clock)


def context_of(request: Request) -> Context:
    """The context of the process that serves ``request``."""
    context = request.scope["cronpost"]
    assert isinstance(context, Context)
    return context
