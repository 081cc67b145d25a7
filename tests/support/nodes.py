"""Nodes that a test steps one operation at a time, with the test's own clock and deliverer."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec.structs import replace

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import CoroutineDeliverer, MaySend, start_all_of
from scheduler_core.delivery.http.request import Request, request_of
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.trace import Traces
from scheduler_core.node.dispatch.dispatcher import Dispatcher
from scheduler_core.node.dispatch.in_flight import InFlight
from scheduler_core.node.dispatch.limiter import TargetLimiter
from scheduler_core.node.dispatch.target_cache import TargetCache
from scheduler_core.node.loops.claim import Claimer
from scheduler_core.node.loops.heartbeat import Heartbeat
from scheduler_core.node.loops.order import Order
from scheduler_core.node.loops.reap import Reaper
from scheduler_core.node.loops.settle import Settler
from scheduler_core.node.loops.start import Starter
from scheduler_core.node.loops.start_queue import StartQueue
from scheduler_core.node.loops.suspects import Suspects
from scheduler_core.node.loops.wakeups import Alarm
from scheduler_core.node.node import Node
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.store.loop import ClaimedJob
from scheduler_core.store.redis.catalogue import RedisCatalogue
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import over_http
from tests.support.manual_clock import ManualClock
from tests.support.stores import until


class OpenRequest(msgspec.Struct, eq=False):
    """A request that waits for the test to answer it."""

    request: Request
    answer: asyncio.Future[Outcome]

    def header(self, name: str) -> str:
        return dict(self.request.headers)[name]

    def has(self, name: str) -> bool:
        return name in dict(self.request.headers)

    @property
    def job_id(self) -> str:
        return self.header("Cronpost-Job-Id")

    @property
    def run_id(self) -> str:
        return self.header("Idempotency-Key")


class ScriptedDeliverer(CoroutineDeliverer[None]):
    """Holds each request open until the test answers it."""

    def __init__(self) -> None:
        self.open: list[OpenRequest] = []
        self.seen: list[OpenRequest] = []
        self.arrived = asyncio.Event()
        self.closed = False

    async def send(self, call: Call, _: None, /) -> Outcome:
        entry = OpenRequest(request_of(call), asyncio.get_running_loop().create_future())
        self.open.append(entry)
        self.seen.append(entry)
        self.arrived.set()
        try:
            outcome = replace(await entry.answer, sent_headers=entry.request.headers)
            return over_http(outcome, *call.retry_statuses) if outcome.kind is OutcomeKind.RESPONSE else outcome
        finally:
            self.open.remove(entry)

    async def _run(self, call: Call, may_send: MaySend) -> Outcome:
        return await self._attempt(call, may_send)  # without the deadline: the test's clock stands still

    async def aclose(self) -> None:
        self.closed = True


class SteppedNode:
    """The services of one node. None of them is started: the test calls what they would do."""

    def __init__(
        self,
        store: RedisStore,
        clock: ManualClock,
        metrics: Metrics | None = None,
        settings: EngineSettings | None = None,
        traces: Traces | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        self.store = store
        self.clock = clock
        self.node = Node(settings or EngineSettings(), clock)
        self.deliverer = ScriptedDeliverer()
        self.alarm = Alarm(clock)
        queue = StartQueue()
        self.suspects = Suspects(self.node, self.alarm.wake, queue)
        self.order = Order(clock)
        self.settler = Settler(
            store,
            RetryPolicy(),
            clock,
            metrics,
            wake_at=self.alarm.wake_at,
            suspects=self.suspects,
            order=self.order,
            attention=store.attention_store(),
            traces=traces,
        )
        self.targets = TargetCache(RedisCatalogue(store))
        limiter = TargetLimiter(self.node.slots, self.node.settings, clock, metrics)
        self.dispatcher = Dispatcher(
            self.node,
            self.deliverer.start,
            self.settler,
            limiter,
            store=store,
            targets=self.targets,
            prepare=self.deliverer.prepare,
            start_all=start_all_of(self.deliverer),
        )
        self.starter = Starter(self.node, self.dispatcher, self.settler, queue, self.order, clock, metrics)
        self.claimer = Claimer(
            self.node, store, self.starter, self.settler, self.alarm, self.suspects, self.targets, clock, metrics
        )
        self.heartbeat = Heartbeat(self.node, store, clock, metrics)
        self.reaper = Reaper(self.node, store, self.alarm.wake, clock, metrics)
        self.frozen = False

    async def start(self, *, sole: bool = False) -> None:
        await self.heartbeat.beat(starting=True, sole=sole)

    async def beat(self) -> None:
        await self.heartbeat.beat()

    async def claim(self, limit: int = 10, *, ahead_ms: int = 0) -> int:
        """Claim once and let the requests of due jobs begin; returns the number of claimed jobs."""
        claim = await self.claimer._claim(limit, ahead_ms)
        self.starter.put(claim.jobs)
        await self.start_due()
        return len(claim.jobs)

    async def start_due(self) -> None:
        """Start the claimed jobs whose wake-ups have come, and let their requests begin."""
        self.starter.start_due(len(self.starter.queue))
        await asyncio.sleep(0)
        # Some attempts read the store first. Wait for them, so that the open requests do not depend on its speed.
        attempts = [attempt for attempt in self.node.in_flight if isinstance(attempt, InFlight)]
        await until(lambda: all(attempt.call is not None or attempt.is_over for attempt in attempts))
        await asyncio.sleep(0)  # the last request to begin reaches the deliverer

    def start_run(self, claimed: ClaimedJob) -> None:
        """Start what a claimed job has to do now."""
        self.starter.start_run(self.starter.planned(claimed, self.clock.now_ms()))

    async def answer(self, outcome: Outcome, index: int = 0) -> OpenRequest:
        """Answer one of the open requests and let the attempt end."""
        entry = self.deliverer.open[index]
        entry.answer.set_result(outcome)
        for _ in range(5):  # the deliverer returns, the attempt ends, its task is removed from the list
            await asyncio.sleep(0)
        assert entry not in self.deliverer.open
        return entry

    async def settle(self) -> None:
        """Write all ended attempts to Redis."""
        while not self.settler.is_idle:
            await self.settler.run_once()

    async def crash(self) -> None:
        """End like a killed node: send nothing to Redis any more."""
        for attempt in list(self.node.in_flight):
            attempt.cancel()
        for _ in range(5):  # the tasks of their requests end
            await asyncio.sleep(0)

    async def leave(self) -> None:
        """End in order, as the engine does."""
        self.starter.release_all()
        await self.crash()
        await self.claimer.release_lost_claim()
        await self.settle()
        await self.store.leave(node=self.node.id, now_ms=self.clock.now_ms())
