"""A keeper of alerts that a test steps, with a notifier that records what it is asked to send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import MaySend
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.notify.notifier import Notifier
from scheduler_core.delivery.notify.result import Result
from scheduler_core.model.alerts import AlertCondition, Channel, ChannelKind, Message, Rule
from scheduler_core.node.loops.alerts import LEASE_MS, AlertSweeper
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.alerts import AlertService
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import answered, make_job
from tests.support.manual_clock import ManualClock
from tests.support.nodes import ScriptedDeliverer, SteppedNode

SENT = Result(sent=True, status=200, text="the answer was 200")
FAILED = Result(status=503, text="the answer was 503")
REFUSED = Result(refused=True, status=404, text="the answer was 404")


class RecordingNotifier(Notifier):
    """Records messages, and answers each attempt with ``answer``."""

    def __init__(self) -> None:
        super().__init__(ScriptedDeliverer(), AddressGuard(), base_url="http://cronpost.test")
        self.tried: list[tuple[int, Message]] = []
        self.answer: Callable[[Channel, Message], Result] = lambda channel, message: SENT
        self.hung: dict[int, asyncio.Event] = {}
        """Channels that do not answer before the event."""

    async def send(self, channel: Channel, message: Message, may_send: MaySend) -> Result:
        if channel.id in self.hung:
            await self.hung[channel.id].wait()
        if not may_send():
            return Result(text="not sent")
        self.tried.append((channel.id, message))
        return self.answer(channel, message)

    @property
    def told(self) -> list[tuple[AlertCondition, list[str]]]:
        """What was sent: each condition with the jobs that the message names; attempts with one id count once."""
        latest = {message.id: message for _, message in self.tried}
        return [(one.on, [job.job_id for job in one.jobs]) for one in latest.values()]

    def take(self) -> list[tuple[AlertCondition, list[str]]]:
        """Return ``told``, and forget it."""
        found, self.tried = self.told, []
        return found


class Fleet:
    """A node that runs jobs, and a keeper of alerts, on one store."""

    def __init__(self, store: RedisStore, clock: ManualClock | None = None) -> None:
        self.store = store
        self.clock = clock or ManualClock()
        self.shards = Shards.of_one(store)
        self.notifier = RecordingNotifier()
        self.node = SteppedNode(store, self.clock)
        self.jobs = JobService(store, self.clock, Metrics())
        self.service = AlertService(self.shards, self.clock)
        self.learns = True
        """Whether keepers learn the version of the rules before each step, as from a heartbeat."""
        self.sweeper = self.new_keeper()

    def new_keeper(self) -> AlertSweeper:
        """Return the keeper of another node."""
        node = SteppedNode(self.store, self.clock)
        node.node.beat_taken(self.clock.monotonic())
        return AlertSweeper(node.node, self.shards, self.clock, Metrics(), self.notifier)

    async def channel(self, **fields: Any) -> Channel:
        given: dict[str, Any] = {"kind": ChannelKind.WEBHOOK, "url": "http://receiver.test/", "name": "ops"} | fields
        return await self.service.add_channel(Channel(0, **given))

    async def rule(self, *on: AlertCondition, channels: Sequence[int] = (), **fields: Any) -> Rule:
        if not channels:
            channels = ((await self.channel()).id,)
        return await self.service.add_rule(Rule(0, "rule", on, tuple(channels), **({"group_ms": 0} | fields)))

    async def sweep(
        self, sweeper: AlertSweeper | None = None, *, after_ms: int = 5_000
    ) -> list[tuple[AlertCondition, list[str]]]:
        """Let ``after_ms`` pass, sweep, send everything that is due, and return what was sent."""
        await self.step(sweeper, after_ms=after_ms)
        return self.notifier.take()

    async def step(self, sweeper: AlertSweeper | None = None, *, after_ms: int = 5_000) -> None:
        """Let ``after_ms`` pass, sweep, and send everything that is due."""
        self.clock.advance(after_ms)
        sweeper = sweeper or self.sweeper
        await self.beat(sweeper)
        try:
            await sweeper.step()
        finally:
            await sweeper.sent()

    async def beat(self, sweeper: AlertSweeper | None = None) -> None:
        """Give the keeper what a heartbeat of its node would return, without ending a downtime."""
        node = (sweeper or self.sweeper)._node
        node.beat_taken(self.clock.monotonic())
        if not self.learns:
            return
        version = await self.store.alert_book().version()
        node.alert_book = b"%d" % version if version else b""

    async def fail_over(self) -> AlertSweeper:
        """Let the keeper's node die; return the keeper of another, when the lease is over."""
        self.sweeper._lease_until = 0.0
        self.clock.advance(LEASE_MS + 1)
        self.sweeper = self.new_keeper()
        return self.sweeper

    async def add(self, *job_ids: str, **fields: Any) -> None:
        """Store jobs that run only when ``run`` asks for it."""
        for job_id in job_ids:
            await self.jobs.upsert(make_job(job_id, **({"trigger": CronSpec("0 0 15 6 *")} | fields)))

    async def run(self, job_id: str, status: int = 200) -> None:
        """Run a job once, on request, and settle the answer: 200 succeeds, 404 fails without a retry."""
        await self.node.beat()
        await self.jobs.run_now(job_id, force=True)
        assert await self.node.claim() == 1
        await self.node.answer(answered(status))
        await self.node.settle()

    async def fail(self, *job_ids: str, times: int = 1) -> None:
        for job_id in job_ids:
            for _ in range(times):
                await self.run(job_id, 404)

    async def live(self, ms: int) -> None:
        """Let time pass while the node sends heartbeats."""
        await self.node.beat()
        while ms > 0:
            self.clock.advance(min(ms, 9_000))
            ms -= 9_000
            await self.node.beat()

    async def run_due(self, status: int = 200) -> None:
        """Run what is due, and settle the answers."""
        await self.node.beat()
        await self.node.claim()
        while self.node.deliverer.open:
            await self.node.answer(answered(status))
        await self.node.settle()
