"""One Cronpost process: puts the parts together, runs them until a signal, takes them apart in order.

Start: embedded Redis (if no other is given) - the check of Redis - the node - the API. Stop: the API takes no more
requests, the node drains, connections close, the embedded Redis writes out what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable

import msgspec
import uvloop

from scheduler_api.app import create_app
from scheduler_api.context import STORE_CONNECTIONS, Context
from scheduler_api.server import ApiServer, listen, url_of
from scheduler_core.clock import RedisClock
from scheduler_core.config import Settings
from scheduler_core.delivery.base import Deliverer
from scheduler_core.delivery.guard import AddressGuard
from scheduler_core.delivery.http import HttpDeliverer
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.engine import Engine
from scheduler_core.errors import ConfigError, EmbeddedRedisError, StoreError, StoreRefused
from scheduler_core.events import API_STARTED, API_STOPPED, REDIS_DIED, STORE_LOST, STORE_WARNING, get_logger
from scheduler_core.metrics import Metrics
from scheduler_core.services.base import Service
from scheduler_core.services.heartbeat import set_clock
from scheduler_core.store.check import check_server
from scheduler_core.store.keys import Keys
from scheduler_core.store.redis_store import RedisStore, Retention, connect

log = get_logger(__name__)

NODE_CONNECTIONS = 64
CHECK_AGAIN_SECONDS = 2.0
CLOCK_SECONDS = 2.0
"""How often an API without a node sets its clock; a drift of 100 ppm makes 0.2 ms of that."""
REDIS_LOOK_SECONDS = 1.0
GARBAGE_THRESHOLDS = (10_000, 20, 50)
"""A fire allocates some hundred containers, nearly all of which die by reference count. With Python's thresholds (700,
10, 10) looking for cycles among them took 26 to 32 us of each fire; with these, 5 (1,000 fires a second)."""
EXIT_FORCED = 130

Notice = Callable[["Process"], None]
WrapDeliverer = Callable[[Deliverer, RedisClock], Deliverer]


class Process:
    """An API, a node, or both. ``run`` blocks until a signal has stopped it; use an object once."""

    def __init__(
        self,
        settings: Settings,
        *,
        api: bool = True,
        node: bool = True,
        on_started: Notice | None = None,
        wrap_deliverer: WrapDeliverer | None = None,
    ) -> None:
        self.settings = settings
        self.url: str | None = None
        """Where the API listens."""
        self.embedded: EmbeddedRedis | None = None
        self.context: Context | None = None
        self._with_api = api
        self._with_node = node
        self._on_started = on_started
        self._wrap = wrap_deliverer
        self._engine: Engine | None = None
        self._clock_service: ClockService | None = None
        self._check_fault: str | None = "Redis has not been reached yet"
        self._stopping: asyncio.Event | None = None

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. A second signal ends the process at once.

        Raises ConfigError and EmbeddedRedisError when it cannot start; nothing is left running then.
        """
        sockets = listen(self.settings.api.host, self.settings.api.port) if self._with_api else []
        try:
            if self.settings.store.redis_url is None:
                self.embedded = EmbeddedRedis(self.settings.store.data_dir)
                self.embedded.start()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main(sockets))
        finally:
            for sock in sockets:
                sock.close()
            if self.embedded is not None:
                self.embedded.stop()

    def stop(self) -> None:
        """What the first signal does. Call from the event loop."""
        if self._stopping is None or self._stopping.is_set():
            os._exit(EXIT_FORCED)
        self._stopping.set()

    def faults(self) -> list[str]:
        """What keeps the process from doing its job now."""
        faults = [] if self._check_fault is None else [self._check_fault]
        if self._engine is not None and self._check_fault is None:
            faults += self._engine.faults()
        if self._clock_service is not None and self._clock_service.fault is not None:
            faults.append(self._clock_service.fault)
        return faults

    async def _main(self, sockets: list[socket.socket]) -> None:
        self._stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        clock, metrics = RedisClock(), Metrics()
        store = self._open_store(STORE_CONNECTIONS if self._with_api else NODE_CONNECTIONS)
        await self._first_check(store)
        background: set[asyncio.Task[None]] = set()
        if self._check_fault is not None:
            background.add(asyncio.create_task(self._check_until_good(store), name="cronpost check"))
        if self.embedded is not None:
            background.add(asyncio.create_task(self._keep_redis(self.embedded), name="cronpost redis"))
        if self._with_api:
            self.url = url_of(sockets, self.settings.api.host)
        node_store = self._open_store(NODE_CONNECTIONS) if self._with_node else None
        if node_store is not None:
            self._engine = self._make_engine(node_store, clock, metrics)
            if self._check_fault is None:
                self._engine.start()
        else:
            self._clock_service = ClockService(store, clock, metrics)
            self._clock_service.start()
        self.context = Context(
            settings=self.settings.api,
            store=store,
            clock=clock,
            metrics=metrics,
            lane=self.settings.lane,
            faults=self.faults,
        )
        server = ApiServer(create_app(self.context)) if self._with_api else None
        serving = None
        if server is not None:
            serving = asyncio.create_task(server.serve(sockets), name="cronpost api")
            log.info(API_STARTED, address=self.url, keys=len(self.settings.api.api_keys))
        gc.collect()
        gc.freeze()  # what was loaded for the start stays, and need not be looked at again
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        if self._on_started is not None:
            self._on_started(self)
        await self._wait_for_end(serving)

        if server is not None and serving is not None:
            server.stop()
            await serving
            log.info(API_STOPPED)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if self._engine is not None:
            await self._engine.stop()
        if self._clock_service is not None:
            await self._clock_service.stop()
        await store.aclose()
        if node_store is not None:
            await node_store.aclose()

    async def _wait_for_end(self, serving: asyncio.Task[None] | None) -> None:
        assert self._stopping is not None
        stopping = asyncio.create_task(self._stopping.wait(), name="cronpost signal")
        await asyncio.wait([stopping] + ([serving] if serving is not None else []), return_when="FIRST_COMPLETED")
        stopping.cancel()

    def _open_store(self, connections: int) -> RedisStore:
        settings = self.settings
        url = self.embedded.url if self.embedded is not None else settings.store.redis_url
        assert url is not None
        return RedisStore(
            connect(url, timeout_seconds=settings.store.redis_timeout_seconds, connections=connections),
            keys=Keys(prefix=settings.store.key_prefix),
            retention=Retention(
                entries=settings.engine.history_per_job,
                failures=settings.engine.history_failures_per_job,
                after_ms=int(
                    86_400_000
                    * max(settings.engine.history_retention_days, settings.engine.history_failure_retention_days)
                ),
            ),
        )

    def _make_engine(self, store: RedisStore, clock: RedisClock, metrics: Metrics) -> Engine:
        engine = self.settings.engine
        if engine.public_url is None and self.url is not None:
            engine = msgspec.structs.replace(engine, public_url=callback_base(self.url))
        deliverer: Deliverer = HttpDeliverer(
            clock=clock,
            guard=AddressGuard(),
            max_connections=2 * engine.max_in_flight,  # of jobs, and as many of one-off tasks
            read_limit_bytes=engine.read_limit_bytes,
            keep_bytes=engine.keep_bytes,
        )
        if self._wrap is not None:
            deliverer = self._wrap(deliverer, clock)
        lane = self.settings.lane
        return Engine(engine, store, deliverer, clock, metrics, lane=lane, sole=self.embedded is not None)

    # ---- the check of Redis -------------------------------------------------------------------------------------

    async def _first_check(self, store: RedisStore) -> None:
        """At the start a Redis that breaks promises stops the process; one that cannot be reached does not."""
        if self.embedded is not None:
            self._check_fault = None  # started by us, with our settings
            return
        fatal = await self._check(store)
        if fatal is not None:
            await store.aclose()
            raise ConfigError(fatal)

    async def _check_until_good(self, store: RedisStore) -> None:
        """Redis was away at the start. Once it is there, it has to be good before the node begins; the process
        lives on meanwhile, and /ready says why it is not ready."""
        while self._check_fault is not None:
            with contextlib.suppress(TimeoutError):
                assert self._stopping is not None
                await asyncio.wait_for(self._stopping.wait(), CHECK_AGAIN_SECONDS)
                return
            await self._check(store)
        if self._engine is not None:
            self._engine.start()

    async def _check(self, store: RedisStore) -> str | None:
        """Look once; the fatal finding, if there is one. Sets the fault that :meth:`faults` tells."""
        try:
            info = await store.server_info()
        except StoreRefused as error:
            if "NOPERM" not in str(error) and "no permissions" not in str(error):
                self._set_check_fault(str(error))
                return None
            log.warning(STORE_WARNING, detail="this user may not ask INFO, so Redis's settings were not checked")
            self._check_fault = None
            return None
        except StoreError as error:
            self._set_check_fault(str(error))
            return None
        findings = check_server(info)
        fatal = next((finding.text for finding in findings if finding.fatal), None)
        for finding in findings:
            if not finding.fatal:
                log.warning(STORE_WARNING, detail=finding.text)
        if fatal is not None:
            self._set_check_fault(fatal)
        else:
            self._check_fault = None
        return fatal

    def _set_check_fault(self, fault: str) -> None:
        if fault != self._check_fault:
            log.warning(STORE_LOST, service="check", detail=fault)
        self._check_fault = fault

    async def _keep_redis(self, embedded: EmbeddedRedis) -> None:
        """Start the embedded redis-server again whenever it dies."""
        while True:
            if await asyncio.to_thread(embedded.wait_until_dead, REDIS_LOOK_SECONDS):
                try:
                    await asyncio.to_thread(embedded.ensure_running)
                except EmbeddedRedisError as error:
                    log.error(REDIS_DIED, detail=str(error))
                    with contextlib.suppress(TimeoutError):
                        assert self._stopping is not None
                        await asyncio.wait_for(self._stopping.wait(), CHECK_AGAIN_SECONDS)


def callback_base(url: str) -> str:
    """Where runners call back to an API that listens at ``url``. One that listens on all addresses is reached on
    loopback at least: by runners of this machine, which are all that can be known of."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


class ClockService(Service):
    """Keeps the clock of a process without a node set; a node's heartbeat does the same."""

    name = "clock"

    def __init__(self, store: RedisStore, clock: RedisClock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._redis_clock = clock

    async def run_once(self) -> None:
        await set_clock(self._store, self._redis_clock)
        self.metrics.clock_offset.set(self._redis_clock.wall_offset_ms() / 1000)
        await self.clock.sleep(CLOCK_SECONDS)
