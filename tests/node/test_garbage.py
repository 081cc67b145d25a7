"""An unreadable entry in any key of the store affects only that entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from scheduler_api.app import create_app
from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.errors import StoreError
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import Timing
from scheduler_core.node.loops.catalogue_sweep import CatalogueSweeper
from scheduler_core.node.loops.sweep import Sweeper
from scheduler_core.node.shard_loops import bounds_of, completed_bounds_of
from scheduler_core.store.redis.keys import CATALOGUE_PARTS, TASK_PARTS, Keys
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from tests.support.examples import sample
from tests.support.factories import answered
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, opened
from tests.support.task_nodes import SteppedTaskNode

pytestmark = pytest.mark.slow  # each is quick, but there are a hundred and fifty of them: a minute in all

RANDOM = b"\xff\xfe\x00 \x93garbage"
MEMBERS = (RANDOM, b"", b"garbage", b"7 seven", b"-1", b"999999999999999999999", b"a\x1fb", b"schedule_x", b"3")
SCORES: tuple[float, ...] = (float("-inf"), -1.5, 0, 1_700_000_000_000.5, 9e14, 1e15, 4.5e15, 7e15, 1e300, float("inf"))
VALUES = (RANDOM, b"", b"garbage", b"inf", b"nan", b"-1", b"1e400", b"9" * 400, b"0x10", b"1 2 3 4 5 6 7", b"\x80")
FIELDS = (RANDOM, b"garbage", b"1", b"m:x", b"m:1")
LISTS = (
    "/jobs", "/jobs?status=active", "/jobs?view=full", "/runs", "/runs?job_id=steady", "/runs?status_filter=SUCCESS",
    "/targets", "/schedules", "/schedules?status_filter=ACTIVE", "/metrics/schedules", "/metrics", "/api/v1/tasks",
    "/api/v1/config", "/jobs/steady", "/jobs/steady/runs", "/jobs/steady/account", "/jobs/steady/pending",
    "/jobs/victim", "/jobs/victim/runs", "/jobs/victim/account", "/targets/1", "/targets/2",
    "/schedules/1", "/schedules/2", "/api/v1/tasks/task_1",
)  # fmt: skip
OWN = {KEYS.history("victim"): "list", KEYS.failures("victim"): "list", f"{KEYS.catalogue('of:')}2": "set"}
KINDS = KEYS.types() | OWN


class Setup:
    """A node with its loops for tasks and its sweepers, and the API; a job, a schedule and tasks that must go on."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store, self.redis = store, redis
        self.clock = ManualClock()
        metrics = Metrics()
        self.node = SteppedTaskNode(store, self.clock, metrics)
        shards = Shards.of_one(store)
        self.context = Context(settings=ApiSettings(), store=shards, clock=self.clock, metrics=metrics)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(self.context)), base_url="http://localhost"
        )
        settings = self.node.node.settings
        sweeper = Sweeper(store, bounds_of(settings), completed_bounds_of(settings), self.clock, metrics)
        self.sweepers: list[Callable[[], Awaitable[Any]]] = [
            CatalogueSweeper(shards, self.clock, metrics).repair,
            CatalogueSweeper(shards, self.clock, metrics).sweep,
            sweeper.sweep,
            sweeper.sweep_completed,
        ]

    async def start(self) -> None:
        await self.node.start()
        for name in ("steady", "victim"):
            answer = await self.client.put(
                f"/jobs/{name}",
                json={
                    "endpoint": f"http://{name}.test/",
                    "cron": "* * * * * *",
                    "payload": 1,
                    "retry_already_running": 1,
                },
            )
            assert answer.status_code == 202, answer.text
        for number in (1, 2):
            target = {"name": f"target{number}", "url": f"http://target{number}.test/"}
            assert (await self.client.post("/targets", json=target)).status_code == 201
            await self.context.schedules.add(f"schedule{number}", number, Timing(1))
        await self.post_task()
        await self.go_on()

    async def post_task(self) -> None:
        task = {"webhookUrl": "http://task.test/", "executeAt": "2020-01-01T00:00:00Z"}
        assert (await self.client.post("/api/v1/tasks", json=task)).status_code == 202

    async def step(self) -> set[str]:
        """Let a node work for two seconds; return which of job, schedule and task sent a request."""
        called: set[str] = set()
        for _ in range(2):
            self.clock.advance(1_000)
            await attempt(self.node.beat)
            await attempt(self.node.reaper.reap)
            for sweep in self.sweepers:
                await attempt(sweep)
            for _ in range(4):
                if not await attempt(self.node.claim):
                    break
                called |= await self.answer()
            if not self.node.has_batch:
                await attempt(self.node.take)
            called |= await self.answer()
            if self.node.has_batch:
                await attempt(self.node.batcher.settle_ended)
        return called

    async def answer(self) -> set[str]:
        called = {entry.job_id for entry in self.node.deliverer.open}
        while self.node.deliverer.open:
            await self.node.answer(answered(200))
        for _ in range(3):
            await attempt(self.node.settle)
        return {"task" if name.startswith("task_") else name for name in called}

    async def go_on(self) -> None:
        """Everything fires within a moment."""
        await self.post_task()
        called: set[str] = set()
        for _ in range(8):
            called |= await self.step()
            if {"steady", "schedule_1", "task"} <= called:
                return
        raise AssertionError(f"only {called} went on")

    async def look(self, *, refused: bool = False) -> None:
        """Every list and view answers; with ``refused``, or says which key cannot be used."""
        for path in LISTS:
            answer = await self.client.get(path)
            if answer.status_code == 422 and refused:
                assert "the key cronpost:{0}:" in answer.json()["detail"], (path, answer.text)
            else:
                assert answer.status_code in (200, 404), (path, answer.status_code, answer.text)


async def attempt(operation: Callable[[], Awaitable[Any]]) -> Any:
    """Ignore a refusal, which a service tries again later. Any other exception is a fault of Cronpost."""
    try:
        return await operation()
    except StoreError:
        return None


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        await setup.start()
        yield setup
        await setup.node.crash()
        await setup.client.aclose()


async def fill(redis: Any, key: str, kind: str) -> None:
    """Put foreign entries into a key beside its own."""
    if kind == "zset":
        for number, member in enumerate(MEMBERS):
            await redis.zadd(key, {member: SCORES[number % len(SCORES)]})
        for number, score in enumerate(SCORES):
            await redis.zadd(key, {b"garbage%d" % number: score})
            await redis.zadd(key, {b"%s%d" % (RANDOM, number): score})
    elif kind == "hash":
        for field in FIELDS:
            for value in VALUES:
                await redis.hsetnx(key, field + value[:3], value)
            await redis.hsetnx(key, field, RANDOM)
    elif kind == "list":
        await redis.rpush(
            key, *VALUES, b"S1s", b"S1s RUN x", b"xabc", b"b", b"m1 \xff", b"S99999999999999999999s RUN 1"
        )
        await redis.lpush(key, b"x" + b"9" * 40)
    else:
        await redis.sadd(key, *MEMBERS)


async def spoil(redis: Any, key: str, kind: str, value: bytes) -> None:
    """Put garbage in place of the entries of a key that belong to the victims."""
    if kind == "hash":
        for field in await redis.hkeys(key):
            if not is_of_the_steady(field):
                await redis.hset(key, field, value)
    elif kind == "zset":
        for member in await redis.zrange(key, 0, -1):
            if not is_of_the_steady(member):
                await redis.zadd(key, {member: float("inf")})
    elif kind == "list":
        await redis.rpush(key, value)
        await redis.lset(key, 0, value)


def is_of_the_steady(name: bytes) -> bool:
    return name.endswith((b"steady", b"_1", b"target1", b"schedule1")) or name == b"1"


def test_every_key_has_a_type() -> None:
    values = [getattr(KEYS, name) for name in dir(Keys) if isinstance(getattr(Keys, name), property)]
    named = {value for value in values if isinstance(value, str)}
    named |= {key for value in values if isinstance(value, tuple) for key in value}
    named -= {KEYS.root, KEYS.wake, KEYS.cut, KEYS.was_cut, KEYS.probe}  # channels, and one that is only written
    assert named <= set(KEYS.types()), named - set(KEYS.types())
    assert {KEYS.tasks(part) for part, kind in TASK_PARTS.items() if kind} <= set(KEYS.types())
    assert {KEYS.catalogue(part) for part, kind in CATALOGUE_PARTS.items() if kind} <= set(KEYS.types())


@pytest.mark.random
@pytest.mark.parametrize("key", KINDS)
async def test_foreign_and_unreadable_entries_in_a_key_do_not_stop_the_others(setup: Setup, key: str) -> None:
    await fill(setup.redis, key, KINDS[key])
    await setup.look()
    await setup.go_on()
    assert (await setup.client.get("/ready")).status_code == 200
    for value in sample((RANDOM, b"", b"inf", b"9" * 400), one_in=4):
        await spoil(setup.redis, key, KINDS[key], value)
        await setup.look()
        await setup.go_on()
    await setup.look()


GARBAGE: dict[str, Callable[[Any, str], Awaitable[Any]]] = {
    "string": lambda redis, key: redis.set(key, RANDOM),
    "list": lambda redis, key: redis.rpush(key, RANDOM, b""),
    "set": lambda redis, key: redis.sadd(key, *MEMBERS),
    "hash": lambda redis, key: redis.hset(key, RANDOM, b"x"),
    "zset": lambda redis, key: redis.zadd(key, {RANDOM: 1}),
    "stream": lambda redis, key: redis.xadd(key, {b"x": RANDOM}),
}
STOPPED_BY = {
    "schedule": {"jobs", "states", "due", "leases", "claims", "meta", "nodes", "catalogue:targets"},
    "task": {"meta", "nodes", "lane:fresh", "lane:failed", "lane:running", "lane:tasks", "lane:batch", "lane:settings"}
    | {"lane:delivered", "lane:stale"},
    "job": {"jobs", "states", "due", "leases", "claims", "meta", "nodes"},
}
"""For each face: the keys without which it cannot fire."""


@pytest.mark.random
@pytest.mark.parametrize("key", KINDS)
async def test_a_key_of_the_wrong_type_is_reported_and_work_continues_when_it_is_restored(
    setup: Setup, key: str
) -> None:
    redis, part = setup.redis, key.removeprefix(f"{KEYS.root}:")
    wrong = [(kind, put) for kind, put in GARBAGE.items() if kind != KINDS[key]]
    for kind, put in sample(wrong, one_in=5):
        kept = bool(await redis.exists(key))
        if kept:
            await redis.rename(key, KEYS.history("kept"))
        await put(redis, key)
        await setup.look(refused=True)
        ready = await setup.client.get("/ready")
        assert ready.status_code == (503 if key in KEYS.of_the_loop else 200), ready.text
        if key in KEYS.types():
            assert f"the key {key} holds a {kind}" in ready.text
        await attempt(setup.post_task) if part not in STOPPED_BY["task"] else None
        called = await setup.step() | await setup.step()
        assert "steady" in called or part in STOPPED_BY["job"], called
        assert "schedule_1" in called or part in STOPPED_BY["schedule"], called
        assert "task" in called or part in STOPPED_BY["task"], called
        await redis.delete(key)
        if kept:
            await redis.rename(KEYS.history("kept"), key)
        await setup.go_on()
    await setup.look()
    assert (await setup.client.get("/ready")).json()["ready"]


async def test_a_target_that_cannot_be_read_is_listed_and_can_be_replaced_and_deleted(setup: Setup) -> None:
    redis: Any = setup.redis
    await redis.hset(KEYS.catalogue("targets"), "2", RANDOM)
    listed = (await setup.client.get("/targets")).json()
    assert [(one["id"], one.get("status")) for one in listed] == [(1, None), (2, "unreadable")]
    assert "cannot be read" in (await setup.client.get("/targets/2")).json()["detail"]
    answer = await setup.client.put("/targets/2", json={"name": "mended"})
    assert (answer.status_code, answer.json()["field"]) == (422, "url")
    answer = await setup.client.put("/targets/2", json={"name": "mended", "url": "http://mended.test/"})
    assert (answer.status_code, answer.json()["name"]) == (200, "mended")
    assert (await setup.client.post("/targets", json={"name": "target2", "url": "http://x.test/"})).status_code == 201
    called = await setup.step() | await setup.step()
    assert "schedule_2" in called
    await redis.hset(KEYS.catalogue("targets"), "2", RANDOM)
    assert (await setup.client.delete("/targets/2")).json()["schedules_deleted"] == 1
    assert (await setup.client.get("/targets/2")).status_code == 404
    assert (await setup.client.post("/targets", json={"name": "mended", "url": "http://x.test/"})).status_code == 201


async def test_a_schedule_whose_row_or_name_cannot_be_read_is_repaired_and_fires(setup: Setup) -> None:
    redis: Any = setup.redis
    for key, field in (("schedules", "2"), ("schedule_names", "schedule2")):
        stored = await redis.hget(KEYS.catalogue(key), field)
        await redis.hset(KEYS.catalogue(key), field, RANDOM)
        answer = await setup.client.post("/schedules/2/pause")
        assert (answer.status_code, answer.json()["name"]) == (200, "schedule2")
        assert (await setup.client.post("/schedules/2/resume")).status_code == 200
        assert (await redis.hget(KEYS.catalogue(key), field)).split(b" ")[0] == stored.split(b" ")[0]
    await redis.hset(KEYS.catalogue("schedules"), "2", RANDOM)
    answer = await setup.client.put("/schedules/2", json={"name": "renamed"})
    assert (answer.status_code, answer.json()["name"]) == (200, "renamed")
    assert "schedule_2" in await setup.step() | await setup.step()
    await redis.hset(KEYS.catalogue("schedules"), "2", RANDOM)
    assert (await setup.client.delete("/schedules/2")).status_code == 200
    assert (await setup.client.get("/schedules/2")).status_code == 404


@pytest.mark.parametrize("score", [float("inf"), 1e300, 7e15, 4.5e15, 9e14, float("-inf"), -5.0, None])
async def test_a_job_whose_wake_up_is_impossible_or_missing_fires_again(setup: Setup, score: float | None) -> None:
    if score is None:
        await setup.redis.zrem(KEYS.due, "victim", "schedule_2")
    else:
        await setup.redis.zadd(KEYS.due, {"victim": score, "schedule_2": score})
    called = await setup.step() | await setup.step()
    assert {"victim", "schedule_2", "steady"} <= called


async def test_a_repaired_wake_up_does_not_fire_a_job_early_or_wake_a_paused_one(setup: Setup) -> None:
    assert (await setup.client.post("/jobs/victim/pause")).status_code == 200
    job = {"endpoint": "http://late.test/", "cron": "0 0 1 1 *", "payload": 1}
    assert (await setup.client.put("/jobs/late", json=job)).status_code == 202
    before = await setup.redis.zscore(KEYS.due, "late"), await setup.redis.zscore(KEYS.due, "victim")
    await setup.redis.zadd(KEYS.due, {"late": float("inf"), "victim": float("inf")})
    called = await setup.step() | await setup.step()
    assert not called & {"late", "victim"}
    assert (await setup.redis.zscore(KEYS.due, "late"), await setup.redis.zscore(KEYS.due, "victim")) == before


async def test_a_task_with_an_impossible_score_is_called_at_its_time(setup: Setup) -> None:
    answer = await setup.client.post(
        "/api/v1/tasks", json={"webhookUrl": "http://t.test/", "executeAt": "2026-12-31T23:59:59Z"}
    )
    (number,) = answer.json()["ids"]
    member = f"{int(number.removeprefix('task_')):016d}"
    before = await setup.redis.zscore(KEYS.tasks("fresh"), member)
    await setup.redis.zadd(KEYS.tasks("fresh"), {member: float("inf")})
    assert (await setup.client.get(f"/api/v1/tasks/{number}")).json()["status"] == "pending"
    await setup.step()
    assert await setup.redis.zscore(KEYS.tasks("fresh"), member) == before
