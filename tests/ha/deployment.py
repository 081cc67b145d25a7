"""A Cronpost under load: three nodes, an API, hundreds of jobs that fire every second, and the checker."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

from scheduler_core.base.events import NODE_STARTED
from scheduler_core.model.run import MissReason
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import IntervalSpec
from tests.support.checker import Account
from tests.support.processes import Cronpost, eventually
from tests.support.recorder import Answer, Received
from tests.support.topologies import Cluster, Sentinels
from tests.system.deployment import EVERY_SECOND, Deployment, Put

BEAT_SECONDS = 0.5
DEAD_SECONDS = 4.0
DOWNTIME_SECONDS = 8.0
LEASE_MS = 1000 * (DEAD_SECONDS - 2 * BEAT_SECONDS)
"""See tests/support/processes.py. Four interpreters and their tests share two cores, so nodes may be silent for a
second or two without a fault."""
SETTINGS: dict[str, Any] = {
    "heartbeat_seconds": BEAT_SECONDS,
    "dead_after_seconds": DEAD_SECONDS,
    "downtime_after_seconds": DOWNTIME_SECONDS,
    "history_per_job": 10_000,
    "base_interval_ms": 200,
}
SHARDS = 16
"""The default of Cronpost with a Cluster."""

PLAIN, SLOW, BUSY, FAILING, PAGES, SCHEDULES = 200, 10, 20, 20, 10, 5
"""The number of jobs of each kind; see ``LoadedDeployment.load``."""
STARTUP_SECONDS = 60.0


@dataclass(frozen=True)
class Upsert:
    """An upsert that ``LoadedDeployment.upserting`` sent."""

    job_id: str
    asked_at_ms: float
    answered_at_ms: float
    status: int | None
    """None: there was no answer."""


@dataclass
class LoadedDeployment(Deployment):
    """What the tests share. ``measured`` is printed when all of them are over."""

    say: Callable[[str], None] = print
    measured: list[str] = field(default_factory=list)
    topology: Sentinels | Cluster | None = None
    nodes: list[Cronpost] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    upserts: list[Upsert] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _server: Cronpost | None = None

    @property
    def server(self) -> Cronpost:
        """The API as a process of its own, which no test disturbs."""
        assert self._server is not None
        return self._server

    def use_server(self, server: Cronpost) -> None:
        """Use ``server`` as the API."""
        self._server = server

    async def start(self, kind: str = "serve", *, through_proxy: bool = False, **settings: Any) -> Cronpost:
        if self.topology is not None:
            settings.setdefault("redis_url", self.topology.url)
            process = self.processes.cronpost(kind, **{**SETTINGS, **settings})
            await process.started()
            return process
        return await super().start(kind, through_proxy=through_proxy, **{**SETTINGS, **settings})

    async def use(self, topology: Sentinels | Cluster) -> None:
        """Use these servers instead of one Redis; they end with the test."""
        self.topology = await self.stack.enter_async_context(topology)

    async def begin(self, *, load: bool = True, **redis: object) -> None:
        """Start an API and three nodes, store the load and wait for its first fires. ``redis`` are
        settings of a Redis."""
        if self.topology is None:
            await self.redis.start(**redis)
        self._server = await self.start("api")
        self.nodes = list(await asyncio.gather(*(self.start("node") for _ in range(3))))
        if load:
            await self.load()
            self.say(f"{len(self.jobs)} jobs on three nodes")

    async def load(self) -> None:
        """Store the jobs and wait until all of them fire. Most fire every second and are answered at once; some are
        slow, sometimes answer 409 or 503, or request two more pages; a few are schedules."""
        self.recorder.rule = answer_by_name
        server = self.server
        plain, slow = _names("plain", PLAIN), _names("slow", SLOW)
        await self.put_many(server, *plain, *slow)
        await self.put_many(server, *_names("busy", BUSY), cron="*/3 * * * * * *", retry_already_running=1)
        await self.put_many(server, *_names("failing", FAILING), cron="*/5 * * * * * *")
        await self.put_many(server, *_names("pages", PAGES), cron="*/10 * * * * * *", continuations=True)
        schedules = await self._put_schedules()
        every_second = [*plain, *slow, *schedules]
        self.jobs = list(self.puts)
        await self.firing(*every_second)

    async def firing(self, *job_ids: str, seconds: float = STARTUP_SECONDS) -> None:
        """Wait until each of these jobs has sent a request that arrived after this call; without names, all jobs that
        fire every second."""
        wanted = set(job_ids or (one for one in self.jobs if one.startswith(("plain", "slow"))))
        seen = len(self.recorder.received)

        def all_have() -> bool:
            nonlocal seen
            received = self.recorder.received
            wanted.difference_update(received[number].job_id for number in range(seen, len(received)))
            seen = len(received)
            return not wanted

        await self.recorder.until(all_have, seconds=seconds, what=f"{len(wanted)} jobs should fire")

    async def tasks_are_called(self) -> None:
        """Post a one-off task and wait until it is delivered."""
        client = await self.server.api()
        task = {"webhookUrl": self.recorder.url, "executeAt": datetime.fromtimestamp(time.time(), UTC).isoformat()}
        task_id = ""

        async def taken() -> bool:
            nonlocal task_id
            answer = await client.post("/api/v1/tasks/", content=msgspec.json.encode([task]))
            assert answer.status_code in {202, 429}, answer.text
            if answer.status_code == 202:
                task_id = answer.json()["ids"][0]
            return answer.status_code == 202

        async def delivered() -> bool:
            answer = await client.get(f"/api/v1/tasks/{task_id}")
            return answer.status_code == 200 and bool(answer.json()["status"] == "delivered")

        await eventually(taken, seconds=STARTUP_SECONDS, what="no task is taken")
        await eventually(delivered, seconds=STARTUP_SECONDS, what="the task is not delivered")

    async def _put_schedules(self) -> list[str]:
        client = await self.server.api()
        target = {"name": "t", "url": self.recorder.url, "method": "POST", "body_template": '{"shop": 7}'}
        answer = await client.post("/targets", json=target)
        assert answer.status_code == 201, answer.text
        target_id = answer.json()["id"]
        return [await self._put_schedule(client, target_id, name) for name in _names("schedule", SCHEDULES)]

    async def _put_schedule(self, client: httpx.AsyncClient, target_id: int, name: str) -> str:
        sent_at = self.now_ms()
        body = {"name": name, "target_id": target_id, "schedule_type": "INTERVAL", "interval_seconds": 1}
        answer = await client.post("/schedules", json=body)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["job_id"]
        view = await self.view(self.server, job_id)
        first_ms = round(datetime.fromisoformat(view["interval_from"]).timestamp() * 1000)
        self.puts[job_id] = Put(EVERY_SECOND, sent_at, self.now_ms(), trigger=IntervalSpec(1000, first_ms))
        return job_id

    # ---- during the faults ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def upserting(self, each_seconds: float = 0.05) -> AsyncIterator[None]:
        """Send upserts of new jobs that fire next year, one after the other; their results are in ``upserts``."""
        enough = asyncio.Event()
        client = await self.server.api()

        async def go_on() -> None:
            for number in itertools.count():
                job_id = f"upsert{number}"
                body = {"id": job_id, "endpoint": self.recorder.url, "cron": "0 0 1 1 *", "payload": None}
                sent_at, status = self.now_ms(), None
                with suppress(httpx.HTTPError):
                    status = (await client.post("/", json=body)).status_code
                self.upserts.append(Upsert(job_id, sent_at, self.now_ms(), status))
                if enough.is_set():
                    return
                await asyncio.sleep(each_seconds)

        going_on = asyncio.create_task(go_on())
        try:
            await self.taken()
            yield
        finally:
            enough.set()
            await going_on

    async def taken(self) -> None:
        """Wait until an upsert that was sent after this call is acknowledged."""
        now = self.now_ms()

        def acknowledged() -> bool:
            recent = self.upserts[-1] if self.upserts else None
            return recent is not None and recent.status == 202 and recent.asked_at_ms >= now

        last = [one.status for one in self.upserts[-5:]]
        await eventually(acknowledged, seconds=STARTUP_SECONDS, what=f"no upsert is acknowledged; the last {last}")

    async def lost_upserts(self) -> list[Upsert]:
        """Return the acknowledged upserts whose jobs do not exist."""
        client = await self.server.api()
        lost = []
        for one in self.upserts:
            if one.status == 202:
                status = (await client.get(f"/jobs/{one.job_id}")).status_code
                assert status in {200, 404}
                if status == 404:
                    lost.append(one)
        return lost

    def longest_refusal_ms(self) -> float:
        """Return the longest time between two acknowledged upserts."""
        taken = [one.answered_at_ms for one in self.upserts if one.status == 202]
        return max((later - earlier for earlier, later in itertools.pairwise(taken)), default=0.0)

    def longest_silence_ms(self, *, job_ids: Sequence[str] = (), since_ms: float = 0.0) -> float:
        """Return the longest time in which no request arrived; with names, no request of these jobs."""
        wanted = set(job_ids)
        at = [
            one.arrived_ms
            for one in self.recorder.received
            if one.arrived_ms >= since_ms and (not wanted or one.job_id in wanted)
        ]
        return max((later - earlier for earlier, later in itertools.pairwise(at)), default=0.0)

    async def busy(self, *nodes: Cronpost) -> Cronpost:
        """Wait until one of these nodes has a few requests open; returns the one with most."""
        known = {str(node.events(NODE_STARTED)[0]["node"]).encode(): node for node in nodes}
        held: Counter[bytes] = Counter()

        async def some_is() -> bool:
            nonlocal held
            leases = await self.redis.client.hvals(Keys().leases)
            held = Counter(holder for holder in (lease.split()[1] for lease in leases) if holder in known)
            return max(held.values(), default=0) >= 5

        await eventually(some_is, seconds=STARTUP_SECONDS, what="a node should have requests open")
        return known[held.most_common(1)[0][0]]

    async def open_requests(self, count: int) -> None:
        """Wait until this many requests are open."""

        def there() -> bool:
            return sum(one.ended_ms is None for one in self.recorder.received[-len(self.jobs) :]) >= count

        await self.recorder.until(there, what=f"{count} open requests")

    def some_node(self) -> Cronpost:
        return random.choice(self.nodes)

    async def replace(self, node: Cronpost, **settings: Any) -> None:
        """Start a node in place of one that has ended."""
        self.nodes.remove(node)
        self.nodes.append(await self.start("node", **settings))

    # ---- the checker ---------------------------------------------------------------------------------------------

    async def stores(self) -> list[RedisStore]:
        """Stores for the checker. It reads from the masters directly, not through a client that handles failovers."""
        if self.topology is None:
            return await super().stores()
        if isinstance(self.topology, Sentinels):
            return [RedisStore(connect((await self.topology.master()).url))]
        found = []
        for shard in range(SHARDS):
            keys = Keys(shard=shard)
            master = await self.topology.master_of_key(keys.due)
            found.append(RedisStore(connect(master.url, connections=2), keys=keys))
        return found

    async def judged(self, what: str = "") -> list[Account]:
        """Check everything against the promises; notes how late the fires were."""
        accounts = await self.check(only=tuple(self.puts), lease_ms=LEASE_MS)
        answers = Counter(one.status for one in self.upserts)
        assert answers.keys() <= {202, 429}, f'an answer was not "try again later": {answers}'
        misses = Counter(miss.reason.value for account in accounts for miss in account.misses)
        runs = [run for account in accounts for run in account.runs]
        first = [one for one in self.recorder.received if one.attempt == 1 and one.reason == "scheduled"]
        late = sorted(one.arrived_ms + one.ahead_ms - one.fire_time_ms for one in first)
        cuts = statistics.quantiles(late, n=100)
        again = sum(
            count - 1 for count in Counter((one.run_id, one.attempt) for one in self.recorder.received).values()
        )
        line = (
            f"{len(runs)} runs of {len(accounts)} jobs; misses {dict(misses) or 'none'}; requests sent again {again}; "
            f"lateness p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, most {late[-1]:.0f} ms"
        )
        self.say(line)
        self.measured.append(f"{what}{': ' if what else ''}{line}")
        return accounts

    def note(self, text: str) -> None:
        """Note a measured value: on the terminal now, and again at the end."""
        self.say(text)
        self.measured.append(text)


def assert_no_downtime(accounts: Sequence[Account], *, outage: bool = False, silence_ms: float = 0.0) -> None:
    """Assert that no fire time became a miss because no node was alive, and that no job is quarantined.

    ``outage``: Redis was away for longer than the time between two fire times, for ``silence_ms`` at most. Beyond
    ``DOWNTIME_SECONDS`` that is downtime by the rule, and some failovers take so long.
    """
    for account in accounts:
        if silence_ms < 1000 * (DOWNTIME_SECONDS - 1):
            assert all(miss.reason is not MissReason.DOWNTIME for miss in account.misses), account.job_id
        assert all(miss.reason is not MissReason.QUARANTINED for miss in account.misses), account.job_id
        if outage or not account.cron.startswith("*/"):
            continue
        # These jobs have seconds to begin, so a late fire is not a miss.
        lost = [miss for miss in account.misses if miss.reason is MissReason.COALESCED]
        assert not lost, f"{account.job_id}: {lost}"


async def every(seconds: float, duration: float) -> AsyncIterator[int]:
    """Yields 0, 1, 2, ... once per ``seconds``, for ``duration``. If a step takes longer, the next ones are not made up
    for."""
    began = time.monotonic()
    for number in itertools.count():
        at = began + number * seconds
        if at - began >= duration:
            return
        if at > time.monotonic():
            await asyncio.sleep(at - time.monotonic())
        yield number


def answer_by_name(request: Received) -> Answer | None:
    """Return the answer of the runner. It depends on the request alone, so it is the same from any node and
    when sent again."""
    kind = request.job_id.rstrip("0123456789")
    if kind == "slow" or request.job_id.endswith("7"):
        return Answer(after_seconds=0.4)
    if kind == "busy" and request.attempt == 1 and request.fire_time_ms // 3000 % 2:
        return Answer(409)
    if kind == "failing" and request.attempt == 1 and request.fire_time_ms // 5000 % 3 == 0:
        return Answer(503)
    if kind == "pages":
        page = msgspec.json.decode(request.body).get("page", 0)
        return Answer(body=b'{"continue": {"payload": {"page": %d}}}' % (page + 1) if page < 2 else b"")
    return None


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}{number}" for number in range(count)]
