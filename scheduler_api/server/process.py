"""One Cronpost process: builds its parts, runs them until a signal, stops them in order.

Start: ports, embedded Redis (unless another is configured), check of Redis, node, API. The modules of the API are
loaded after the node has claimed for the first time: until then, clients wait in the queue of the open port. Stop:
``/ready`` answers 503, the node drains while the API still answers (runners report the end of their runs to it), the
API closes its port and answers open requests, the embedded Redis writes its data to disk. With more than one node, each
node is a process that this one starts, supervises and drains (``scheduler_api.server.node_supervisor``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import uvloop

from scheduler_api.context import STORE_CONNECTIONS, Context
from scheduler_api.server.addresses import own_endpoints
from scheduler_api.server.garbage import tune_garbage_collection
from scheduler_api.server.load_rest import load_rest
from scheduler_api.server.node_link import ParentLink
from scheduler_api.server.node_supervisor import NodeSupervisor
from scheduler_api.server.open_files import allow_open_files
from scheduler_api.server.parts import WrapDeliverer, build_engine, build_nodes, open_store, with_shards
from scheduler_api.server.ports import Ports
from scheduler_api.server.process_redis import ProcessRedis, keep_running
from scheduler_api.server.services import Services
from scheduler_api.server.state import ProcessState
from scheduler_api.server.stop_signal import StopSignal
from scheduler_core.base.clock import Clock, RedisClock
from scheduler_core.base.config import Settings
from scheduler_core.base.events import bind_to_all
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.http.guard import AddressGuard, OwnEndpoint
from scheduler_core.delivery.registry import installed_kinds
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.traces import open_traces
from scheduler_core.usecases.job_health import rules_of

if TYPE_CHECKING:
    # A node without a port loads neither the API nor uvicorn.
    from scheduler_api.server.api_servers import ApiServers
    from scheduler_core.traces.otel import OtelTraces

NODE_CONNECTIONS = 64
READY_LOOK_SECONDS = 0.05

Notice = Callable[["Process"], None]


class Process:
    """An API, a node, or both. ``run`` blocks until a signal has stopped it; use an object once.

    ``parent`` is the link to the process that started this one as one of its nodes. ``on_started`` is called when all
    parts have been started, ``on_ready`` when nothing keeps the process from its work.
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
        self.context: Context | None = None
        self._with_api = api
        self._with_node = node
        self._on_started = on_started
        self._on_ready = on_ready
        self._wrap = wrap_deliverer
        self._parent = parent
        self._ports = Ports()
        self._guard = AddressGuard()
        self._store: Shards[RedisStore] | None = None
        self._redis = ProcessRedis()
        self._stop_signal = StopSignal()
        # A process with a node gives it the API's address if no other is set.
        accepts_callbacks = node or settings.engine.public_url is not None
        self.state = ProcessState(self._redis.check, self._stop_signal, accepts_callbacks=accepts_callbacks)
        self._said_started = self._said_ready = False
        """``on_started`` and ``on_ready`` are called once, also if the process starts over."""
        self._starting_over = asyncio.Event()
        """The parts were built for another number of shards than the store has, and must be built again."""
        self._background: set[asyncio.Task[None]] = set()
        self._servers: ApiServers | None = None
        self._traces: OtelTraces | None = None

    @property
    def url(self) -> str | None:
        """Where the API listens."""
        return self._ports.url

    @property
    def embedded(self) -> EmbeddedRedis | None:
        """The Redis that this process started."""
        return self._redis.embedded

    @property
    def nodes(self) -> NodeSupervisor | None:
        """The nodes that are processes of their own."""
        return self.state.services.nodes

    # ---- start and stop, in order ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. A second signal ends the process at once.

        Raises ConfigError or EmbeddedRedisError if the process cannot start; then nothing is left running.
        """
        clients = self.settings.api.max_connections if self._with_api else 0
        allow_open_files(2 * self.settings.engine.max_in_flight + clients)  # attempts of jobs, calls of tasks
        installed_kinds()  # one that cannot be loaded stops the start
        if self.settings.process.traces:
            self._traces = open_traces()
        try:
            self._ports.open(self.settings, with_api=self._with_api)
            self._redis.start(self.settings, is_checked=self._parent is not None)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                while not runner.run(self._main(self._ports.duplicate())):
                    self._starting_over.clear()
        finally:
            self._ports.close()
            self._redis.stop()
            if self._traces is not None:
                self._traces.close()

    async def _main(self, ports: Ports) -> bool:
        """Start the parts, wait for the end, stop the parts. Closes ``ports``.

        Returns whether the process ends; if not, it starts over with the number of shards that the store has.
        """
        self._stop_signal.install()
        clock, metrics = RedisClock(), Metrics()
        if self._traces is not None:
            self._traces.count_in(metrics)
            metrics.run_ended = self._traces.run_ended
        own = self._own_endpoints(ports)
        self._guard = AddressGuard(
            allow=self.settings.engine.target_allow,
            deny=self.settings.engine.target_deny,
            own=own,
            servers=self._found_servers,
        )

        connections = STORE_CONNECTIONS if self._with_api else NODE_CONNECTIONS
        store, self.settings = await self._redis.open_store(self.settings, connections)
        self._store = store
        self._start_watching_redis(store)
        self.state.services = services = self._build_services(clock, metrics, own)
        services.start_clock(store, clock, metrics)
        services.start_statistics(store, clock, metrics)
        if self._parent is None:
            services.start_store_check(store, clock, metrics, known=self._redis.check.findings)
        tune_garbage_collection()
        if self._redis.check.passed():
            self._start_firing()
            await services.first_claims()
        await asyncio.to_thread(load_rest, with_api=bool(ports.api or ports.metrics))
        self.context = self._build_context(store, clock, metrics)
        self._start_servers(ports)
        tune_garbage_collection()
        self._notify(clock)

        await self._wait_for_end()
        self.context.events.shut_down()  # its streams do not end by themselves
        await self.context.forecasts.shut_down()

        # Load balancers need time to notice that the process stops.
        delay = self.settings.api.shutdown_delay_seconds if ports.api and self._stop_signal.is_set else 0
        await asyncio.gather(services.drain(), clock.sleep(delay))
        if self._servers is not None:
            await self._servers.stop()
        await self._stop_background()
        await self.context.aclose()
        await services.stop()
        await store.aclose()
        await services.aclose()
        ports.close()
        return self._stop_signal.is_set or not self._starting_over.is_set()

    # ---- Redis ----------------------------------------------------------------------------------------------------

    def _own_endpoints(self, ports: Ports) -> list[OwnEndpoint]:
        own = own_endpoints(ports.api, ports.metrics, self._redis.url)
        return own if self._parent is None else [*own, *self._parent.own]

    def _found_servers(self) -> list[tuple[str, int]]:
        """List the servers of Redis that the clients of this process have found by themselves."""
        stores = (self._store, self.state.services.engine_store)
        return [server for store in stores if store is not None for server in store.lead.servers()]

    def _start_watching_redis(self, store: Shards[RedisStore]) -> None:
        if not self._redis.check.passed():
            self._background.add(asyncio.create_task(self._fire_when_redis_is_good(store), name="cronpost check"))
        if self.embedded is not None:
            watching = keep_running(self.embedded, self._stop_signal.event)
            self._background.add(asyncio.create_task(watching, name="cronpost redis"))

    async def _fire_when_redis_is_good(self, store: Shards[RedisStore]) -> None:
        """Wait for a Redis that was unreachable at the start, then fire. ``/ready`` gives the reason until then."""
        fixed = self.settings.store.shards is not None or self._parent is not None
        other_number = await self._redis.check.until_passed(store, self._stop_signal.event, fixed=fixed)
        if other_number is None:
            self._start_firing()
        else:
            self.settings = with_shards(self.settings, other_number)
            self._starting_over.set()

    # ---- nodes and services ---------------------------------------------------------------------------------------

    def _build_services(self, clock: RedisClock, metrics: Metrics, own: Sequence[OwnEndpoint]) -> Services:
        """Build the node of this process, or the supervisor of several, and link this node to its parent process."""
        services = Services()
        if not self._with_node:
            return services
        if self.settings.process.nodes > 1:
            services.nodes = build_nodes(self.settings, clock, metrics, own, url=self.url, embedded=self.embedded)
            return services
        services.engine_store = store = open_store(self.settings, self._redis.url, NODE_CONNECTIONS, beats=True)
        sole = self.embedded is not None or (self._parent is not None and self._parent.sole)
        services.engine = build_engine(
            self.settings,
            store,
            clock,
            metrics,
            self._guard,
            url=self.url,
            sole=sole,
            wrap=self._wrap,
            traces=self._traces,
        )
        if self._parent is not None:
            bind_to_all(node=services.engine.node.id)
            self._parent.start(self.state.report, metrics.registry)
        return services

    def _start_firing(self) -> None:
        if not self._stop_signal.is_set:
            self.state.services.start_firing()

    async def _stop_background(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._background.clear()

    # ---- the API --------------------------------------------------------------------------------------------------

    def _build_context(self, store: Shards[RedisStore], clock: RedisClock, metrics: Metrics) -> Context:
        return Context(
            settings=self.settings.api,
            store=store,
            clock=clock,
            metrics=metrics,
            task_settings=self.settings.tasks,
            faults=self.state.faults,
            warnings=self.state.warnings,
            fires=self._with_node,
            callbacks=self.state.accepts_callbacks,
            nodes=self.nodes,
            breakers=self.state.breakers,
            guard=self._guard,
            health_rules=rules_of(self.settings.engine),
            engine_settings=self.settings.engine,
            metrics_label=self.settings.engine.metrics_label,
            public_url=self.settings.engine.public_url,
        )

    def _start_servers(self, ports: Ports) -> None:
        if not ports.api and not ports.metrics:
            return
        from scheduler_api.server.api_servers import ApiServers

        assert self.context is not None
        self._servers = ApiServers(self.context)
        self._servers.start(ports.api, ports.metrics)

    # ---- the end, and what others see -----------------------------------------------------------------------------

    def _notify(self, clock: Clock) -> None:
        if self._on_started is not None and not self._said_started:
            self._said_started = True
            self._on_started(self)
        if self._on_ready is not None and not self._said_ready:
            self._background.add(asyncio.create_task(self._notify_when_ready(clock), name="cronpost ready"))

    async def _notify_when_ready(self, clock: Clock) -> None:
        assert self._on_ready is not None
        while self.state.faults():
            await clock.sleep(READY_LOOK_SECONDS)
        self._said_ready = True
        self._on_ready(self)

    async def _wait_for_end(self) -> None:
        """Wait for a signal, for the need to start over, or for a server that ended by itself."""
        events = (self._stop_signal.event, self._starting_over)
        waiting = [asyncio.create_task(event.wait(), name="cronpost end") for event in events]
        servers = () if self._servers is None else self._servers.tasks
        await asyncio.wait([*waiting, *servers], return_when="FIRST_COMPLETED")
        for task in waiting:
            task.cancel()
