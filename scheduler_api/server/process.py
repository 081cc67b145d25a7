"""One Cronpost process: puts the parts together, runs them until a signal, takes them apart in order.

Start: embedded Redis (if no other is given) - the check of Redis - the node - the API. Stop: ``/ready`` answers 503,
the node drains while the API goes on (runners report the end of their runs to it), the API closes its port and answers
what is open, the embedded Redis writes out what it holds. Where there is more than one
node, each is a process that this one starts, watches and drains (``scheduler_api.server.nodes``).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import uvloop

from scheduler_api.context import STORE_CONNECTIONS, Context
from scheduler_api.server.connections import Connections
from scheduler_api.server.node_link import ParentLink, Report
from scheduler_api.server.nodes import Nodes
from scheduler_core.base.clock import Clock, RedisClock, SystemClock
from scheduler_core.base.config import EngineSettings, Settings, beat_timeout_seconds
from scheduler_core.base.errors import ConfigError, EmbeddedRedisError, StoreError, StoreRefused
from scheduler_core.base.events import (
    API_STARTED,
    API_STOPPED,
    METRICS_SERVED,
    REDIS_DIED,
    STORE_LOST,
    STORE_WARNING,
    bind_to_all,
    flush_logs,
    get_logger,
    log_warnings,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.base.redis_url import parse_redis_url
from scheduler_core.delivery.base import Deliverer
from scheduler_core.delivery.http.client import HttpClient
from scheduler_core.delivery.http.guard import AddressGuard, Own
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.node.dispatch.targets import OpenBreaker
from scheduler_core.node.engine import Engine
from scheduler_core.node.loops.clock_watch import ClockWatch
from scheduler_core.node.loops.heartbeat import set_clock
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.store_check import StoreCheck
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.check import wrong_scheme
from scheduler_core.store.redis.open import default_number, open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards, wrong_number

if TYPE_CHECKING:
    # A node without a port loads neither the API nor uvicorn: run() imports them where they are needed.
    from starlette.routing import BaseRoute

    from scheduler_api.server.listen import ApiServer

log = get_logger(__name__)

NODE_CONNECTIONS = 64
CHECK_AGAIN_SECONDS = 2.0
CLOCK_SECONDS = 2.0
"""How often an API without a node sets its clock; a drift of 100 ppm makes 0.2 ms of that."""
REDIS_LOOK_SECONDS = 1.0
READY_LOOK_SECONDS = 0.05
SHUTTING_DOWN = "shutting down"
"""Why a process is not ready from the first stop signal on."""
GARBAGE_THRESHOLDS = (10_000, 20, 50)
"""A fire allocates some hundred containers, nearly all of which die by reference count. With Python's thresholds (700,
10, 10) looking for cycles among them took 26 to 32 us of each fire; with these, 5 (1,000 fires a second)."""
_CLOCK = SystemClock()
NO_PUBLIC_URL = (
    "CRONPOST_PUBLIC_URL is not set, so jobs with completion 'callback' are refused: set it to the address at which "
    "runners reach the API"
)
EXIT_FORCED = 130
FORCED_FLUSH_SECONDS = 0.2
"""How long a second signal waits for the last log lines to be written."""

Notice = Callable[["Process"], None]
WrapDeliverer = Callable[[Deliverer, RedisClock], Deliverer]


class Process:
    """An API, a node, or both. ``run`` blocks until a signal has stopped it; use an object once.

    ``parent`` is the link to the process that started this one as one of its nodes.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        api: bool = True,
        node: bool = True,
        on_started: Notice | None = None,
        on_ready: Notice | None = None,
        wrap_deliverer: WrapDeliverer | None = None,
        parent: ParentLink | None = None,
    ) -> None:
        self.settings = settings
        self.url: str | None = None
        """Where the API listens."""
        self.embedded: EmbeddedRedis | None = None
        self.context: Context | None = None
        self._with_api = api
        self._with_node = node
        self._on_started = on_started
        self._on_ready = on_ready
        self._wrap = wrap_deliverer
        self._parent = parent
        self._guard = AddressGuard()
        self._engine: Engine | None = None
        self.nodes: Nodes | None = None
        """Those that are processes of their own."""
        self._clock_service: ClockService | None = None
        self._store_check: StoreCheck | None = None
        self._known_findings: set[str] = set()
        self._check_fault: str | None = "Redis has not been reached yet"
        self._stopping: asyncio.Event | None = None
        self._once_more = asyncio.Event()
        """Everything has to be put together anew: it was for another number of shards than the store has."""

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. A second signal ends the process at once.

        Raises ConfigError and EmbeddedRedisError when it cannot start; nothing is left running then.
        """
        sockets: list[socket.socket] = []
        watched: list[socket.socket] = []
        try:
            self._listen(sockets, watched)
            if self.settings.store.redis_url is None:
                self.embedded = EmbeddedRedis(self.settings.store.data_dir, self.settings.store.redis_server)
                self.embedded.start()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                while not runner.run(self._main([sock.dup() for sock in sockets], [sock.dup() for sock in watched])):
                    self._once_more.clear()
        finally:
            for sock in sockets + watched:
                sock.close()
            if self.embedded is not None:
                self.embedded.stop()

    def _listen(self, sockets: list[socket.socket], watched: list[socket.socket]) -> None:
        """Open the ports of the API and of the metrics, if there are any.

        This loads the API and uvicorn: here, because later it would hold up the event loop for a tenth of a second. A
        node without a port does without both.
        """
        host, metrics_port = self.settings.api.host, self.settings.process.metrics_port
        if not self._with_api and metrics_port is None:
            return
        import scheduler_api.app  # noqa: F401 - used by _serve
        from scheduler_api.server.listen import listen

        if self._with_api:
            sockets += listen(host, self.settings.api.port)
        if metrics_port is not None:
            watched += listen(host, metrics_port)

    def stop(self) -> None:
        """What the first signal does. Call from the event loop."""
        if self._stopping is None or self._stopping.is_set():
            flush_logs(FORCED_FLUSH_SECONDS)
            os._exit(EXIT_FORCED)
        self._stopping.set()

    def faults(self) -> list[str]:
        """What keeps the process from doing its job now."""
        if self._stopping is not None and self._stopping.is_set():
            return [SHUTTING_DOWN]
        faults = [] if self._check_fault is None else [self._check_fault]
        if self._engine is not None and self._check_fault is None:
            faults += self._engine.faults()
        if self.nodes is not None and self._check_fault is None and not self.nodes.working:
            faults += self.nodes.faults()
        if self._clock_service is not None and self._clock_service.fault is not None:
            faults.append(self._clock_service.fault)
        return faults

    def warnings(self) -> list[str]:
        """Conditions that an operator should see although the process does its job."""
        warnings = [] if self._engine is None else self._engine.warnings()
        if not self._accepts_callbacks:
            warnings.append(NO_PUBLIC_URL)
        for service in (self._clock_service, self._store_check):
            if service is not None:
                warnings += service.warnings.values()
        if self.nodes is not None and self.nodes.working:
            warnings += self.nodes.faults() + self.nodes.warnings()
        return list(dict.fromkeys(warnings + log_warnings()))

    @property
    def _accepts_callbacks(self) -> bool:
        """Whether jobs with completion by callback may be stored here. An API with a node knows its own address."""
        return self._with_node or self.settings.engine.public_url is not None

    async def _main(self, sockets: list[socket.socket], watched: list[socket.socket]) -> bool:
        """Whether this was the end, and not a beginning with the wrong number of shards. Closes the sockets."""
        is_first = self._stopping is None
        self._stopping = self._stopping or asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        clock, metrics = RedisClock(), Metrics()
        own = own_endpoints(sockets, watched, self._url)
        if self._parent is not None:
            own += self._parent.own
        engine = self.settings.engine
        self._guard = AddressGuard(allow=engine.target_allow, deny=engine.target_deny, own=own)
        store = self._open_store(STORE_CONNECTIONS if self._with_api else NODE_CONNECTIONS)
        await self._first_check(store)
        store = await self._divided(store)
        background: set[asyncio.Task[None]] = set()
        if self._check_fault is not None:
            background.add(asyncio.create_task(self._check_until_good(store), name="cronpost check"))
        if self.embedded is not None:
            background.add(asyncio.create_task(self._keep_redis(self.embedded), name="cronpost redis"))
        if self._with_api:
            from scheduler_api.server.listen import url_of

            self.url = url_of(sockets, self.settings.api.host)
        apart = self._with_node and self.settings.process.nodes > 1
        node_store = self._open_store(NODE_CONNECTIONS, beats=True) if self._with_node and not apart else None
        if node_store is not None:
            self._engine = self._make_engine(node_store, clock, metrics)
            if self._parent is not None:
                bind_to_all(node=self._engine.node.id)
                self._parent.start(self._report, metrics.registry)
        else:
            self.nodes = self._make_nodes(clock, metrics, own) if apart else None
            self._clock_service = ClockService(store, clock, metrics)
            self._clock_service.start()
        if self._parent is None:
            self._store_check = StoreCheck(store, clock, metrics, known=self._known_findings)
            self._store_check.start()
        if self._check_fault is None:
            self._start_firing()
        self.context = Context(
            settings=self.settings.api,
            store=store,
            clock=clock,
            metrics=metrics,
            lane=self.settings.lane,
            faults=self.faults,
            warnings=self.warnings,
            fires=self._with_node,
            callbacks=self._accepts_callbacks,
            nodes=self.nodes,
            breakers=self.breakers,
            guard=self._guard,
        )
        servers: dict[asyncio.Task[None], ApiServer] = {}
        if sockets:
            from scheduler_api.routes import ROUTES

            self._serve(servers, ROUTES, sockets)
            log.info(API_STARTED, address=self.url, docs=f"{self.url}/docs", keys=len(self.settings.api.api_keys))
        if watched:
            from scheduler_api.endpoints import health
            from scheduler_api.server.listen import url_of

            self._serve(servers, health.ROUTES, watched)
            log.info(METRICS_SERVED, address=url_of(watched, self.settings.api.host))
        gc.collect()
        gc.freeze()  # what was loaded for the start stays, and need not be looked at again
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        if self._on_started is not None and is_first:
            self._on_started(self)
        if self._on_ready is not None and is_first:
            background.add(asyncio.create_task(self._tell_when_ready(clock), name="cronpost ready"))
        await self._wait_for_end(servers)

        await self._drain(clock, with_delay=bool(sockets) and self._stopping.is_set())
        for server in servers.values():
            server.stop()
        if servers:
            await asyncio.wait(servers)
        if sockets:
            log.info(API_STOPPED)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for service in (self._clock_service, self._store_check):
            if service is not None:
                await service.stop()
        await store.aclose()
        if node_store is not None:
            await node_store.aclose()
        for sock in sockets + watched:
            sock.close()
        return self._stopping.is_set() or not self._once_more.is_set()

    def _serve(
        self, servers: dict[asyncio.Task[None], ApiServer], routes: Sequence[BaseRoute], sockets: list[socket.socket]
    ) -> None:
        from scheduler_api.app import create_app
        from scheduler_api.server.listen import ApiServer

        assert self.context is not None
        api = self.settings.api
        connections = Connections(api.max_connections, per_address=api.max_connections_per_address)
        server = ApiServer(create_app(self.context, routes), connections)
        servers[asyncio.create_task(server.serve(sockets), name="cronpost api")] = server

    async def _wait_for_end(self, servers: Iterable[asyncio.Task[None]]) -> None:
        assert self._stopping is not None
        events = (self._stopping, self._once_more)
        waiting = [asyncio.create_task(event.wait(), name="cronpost end") for event in events]
        await asyncio.wait([*waiting, *servers], return_when="FIRST_COMPLETED")
        for task in waiting:
            task.cancel()

    async def _drain(self, clock: Clock, *, with_delay: bool) -> None:
        """Let this process's nodes end their open runs; and give load balancers the time to see that it stops."""
        stopping = [stop() for stop in (self._engine and self._engine.stop, self.nodes and self.nodes.stop) if stop]
        if with_delay:
            stopping.append(clock.sleep(self.settings.api.shutdown_delay_seconds))
        await asyncio.gather(*stopping)

    async def _tell_when_ready(self, clock: Clock) -> None:
        assert self._on_ready is not None
        while self.faults():
            await clock.sleep(READY_LOOK_SECONDS)
        self._on_ready(self)

    def _start_firing(self) -> None:
        if self._stopping is not None and self._stopping.is_set():
            return
        if self._engine is not None:
            self._engine.start()
        if self.nodes is not None:
            self.nodes.start()

    def _report(self) -> Report:
        """What a node tells its parent."""
        assert self._engine is not None
        return Report(
            self._engine.node.id,
            self._engine.has_started,
            self.faults(),
            breakers=self._engine.limiter.breakers(),
            warnings=self.warnings(),
        )

    def breakers(self) -> list[tuple[str, list[OpenBreaker]]] | None:
        """The breakers that are not closed, by node; None: there is no node here."""
        if self._engine is not None:
            return [(self._engine.node.id, self._engine.limiter.breakers())]
        return None if self.nodes is None else self.nodes.breakers()

    @property
    def _url(self) -> str:
        url = self.embedded.url if self.embedded is not None else self.settings.store.redis_url
        assert url is not None
        return url

    def _open_store(self, connections: int, *, beats: bool = False) -> Shards[RedisStore]:
        """``beats``: for a node, which sends heartbeats."""
        settings = self.settings
        return open_shards(
            self._url,
            number=settings.store.shards or default_number(self._url),
            timeout_seconds=settings.store.redis_timeout_seconds,
            connections=connections,
            beat_timeout_seconds=beat_timeout_seconds(settings) if beats else None,
            prefix=settings.store.key_prefix,
            retention=Retention(
                entries=settings.engine.history_per_job,
                failures=settings.engine.history_failures_per_job,
                after_ms=int(
                    86_400_000
                    * max(settings.engine.history_retention_days, settings.engine.history_failure_retention_days)
                ),
            ),
        )

    async def _divided(self, store: Shards[RedisStore]) -> Shards[RedisStore]:
        """``store`` with as many shards as are stored. If that cannot be told now, nothing begins before it can.

        Raises ConfigError if another number is set.
        """
        try:
            stored = await store.stored_number()
        except StoreError as error:
            self._set_check_fault(str(error))
            return store
        if stored != len(store):
            await store.aclose()
            if self.settings.store.shards is not None:
                raise ConfigError(wrong_number(stored, len(store)))
        chosen = msgspec.structs.replace(self.settings.store, shards=stored)
        self.settings = msgspec.structs.replace(self.settings, store=chosen)
        if stored != len(store):
            store = self._open_store(STORE_CONNECTIONS if self._with_api else NODE_CONNECTIONS)
        store.is_confirmed = True
        return store

    def _make_nodes(self, clock: RedisClock, metrics: Metrics, own: Sequence[Own]) -> Nodes:
        settings = msgspec.structs.replace(self.settings, engine=self._engine_settings())
        if self.embedded is None:
            return Nodes(settings, clock, metrics, own=own)
        store = msgspec.structs.replace(settings.store, redis_url=self.embedded.url)
        settings = msgspec.structs.replace(settings, store=store)
        inherit = () if self.embedded.lock is None else (self.embedded.lock,)
        return Nodes(settings, clock, metrics, sole=True, inherit=inherit, own=own)

    def _engine_settings(self) -> EngineSettings:
        engine = self.settings.engine
        if engine.public_url is None and self.url is not None:
            engine = msgspec.structs.replace(engine, public_url=callback_base(self.url))
        return engine

    def _make_engine(self, store: Shards[RedisStore], clock: RedisClock, metrics: Metrics) -> Engine:
        engine = self._engine_settings()
        deliverer: Deliverer = HttpClient(
            clock=clock,
            guard=self._guard,
            max_connections=2 * engine.max_in_flight,  # of jobs, and as many of one-off tasks
            read_limit_bytes=engine.read_limit_bytes,
            keep_bytes=engine.keep_bytes,
        )
        if self._wrap is not None:
            deliverer = self._wrap(deliverer, clock)
        lane = self.settings.lane
        sole = self.embedded is not None or (self._parent is not None and self._parent.sole)
        return Engine(engine, store, deliverer, clock, metrics, lane=lane, sole=sole)

    # ---- the check of Redis -------------------------------------------------------------------------------------

    async def _first_check(self, store: Shards[RedisStore]) -> None:
        """At the start a Redis that breaks promises stops the process; one that cannot be reached does not."""
        if self.embedded is not None or self._parent is not None:
            self._check_fault = None  # started by us, with our settings; or looked at by the parent
            return
        fatal = await self._check(store)
        if fatal is not None:
            await store.aclose()
            raise ConfigError(fatal)

    def _redis_is_good(self) -> bool:
        return self._check_fault is None

    async def _check_until_good(self, store: Shards[RedisStore]) -> None:
        """Redis was away at the start. Once it is there, it has to be good before the node begins; the process
        lives on meanwhile, and /ready says why it is not ready."""
        while not self._redis_is_good():
            assert self._stopping is not None
            if await _CLOCK.wait_for(self._stopping, CHECK_AGAIN_SECONDS):
                return
            await self._check(store)
            if self._redis_is_good():
                try:
                    stored = await store.stored_number()
                    if stored != len(store) and self.settings.store.shards is None and self._parent is None:
                        chosen = msgspec.structs.replace(self.settings.store, shards=stored)
                        self.settings = msgspec.structs.replace(self.settings, store=chosen)
                        self._once_more.set()
                        return
                    await store.confirm()
                except StoreError as error:
                    self._set_check_fault(str(error))
        self._start_firing()

    async def _check(self, store: Shards[RedisStore]) -> str | None:
        """Look once; the fatal finding, if there is one. Sets the fault that ``faults`` tells."""
        try:
            infos = await store.server_infos()
        except StoreRefused as error:
            fatal = wrong_scheme(error, store.topology)
            if fatal is not None:
                self._set_check_fault(fatal)
                return fatal
            if "NOPERM" not in str(error) and "no permissions" not in str(error):
                self._set_check_fault(str(error))
                return None
            log.warning(STORE_WARNING, detail="this user may not ask INFO, so Redis's settings were not checked")
            self._check_fault = None
            return None
        except StoreError as error:
            self._set_check_fault(str(error))
            return None
        findings = store.lead.findings(infos, store.topology)
        fatal = next((finding.text for finding in findings if finding.fatal), None)
        for finding in findings:
            if not finding.fatal:
                log.warning(STORE_WARNING, detail=finding.text)
                self._known_findings.add(finding.text)
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
                    assert self._stopping is not None
                    await _CLOCK.wait_for(self._stopping, CHECK_AGAIN_SECONDS)


def own_endpoints(sockets: Iterable[socket.socket], watched: Iterable[socket.socket], redis_url: str) -> list[Own]:
    """The endpoints of this process and its Redis, which no job may call unless an operator allows it."""
    own = [_own(sock, "the API of Cronpost") for sock in sockets]
    own += [_own(sock, "the metrics of Cronpost") for sock in watched]
    for host, port in parse_redis_url(redis_url).hosts:
        # A Redis on loopback usually listens on the other addresses of the machine too.
        is_local = host in {"127.0.0.1", "::1", "localhost"}
        hosts = ("0.0.0.0", "::") if is_local else (host,)
        own += [Own(one, port, "the Redis of Cronpost") for one in hosts]
    return own


def _own(sock: socket.socket, what: str) -> Own:
    host, port, *_ = sock.getsockname()
    return Own(host, port, what)


def callback_base(url: str) -> str:
    """Where runners call back to an API that listens at ``url``. One that listens on all addresses is reached on
    loopback at least: by runners of this machine, which are all that can be known of."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


class ClockService(Service):
    """Keeps the clock of a process without a node set; a node's heartbeat does the same."""

    name = "clock"

    def __init__(self, store: Shards[RedisStore], clock: RedisClock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._redis_clock = clock
        self._watch = ClockWatch(clock, metrics)
        self.warnings = self._watch.warnings

    async def run_once(self) -> None:
        await set_clock(self._store, self._redis_clock)
        self._watch.look()
        await self.clock.sleep(CLOCK_SECONDS)
