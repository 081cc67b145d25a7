"""A whole node: it starts, fires, drains and releases. It uses Redis's own clock, so each wait here is a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.run import Run, RunState
from scheduler_core.node.engine import Engine
from scheduler_core.node.loops.heartbeat import set_clock
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import answered, make_job
from tests.support.nodes import ScriptedDeliverer
from tests.support.stores import KEYS, opened, until


class Setup:
    """Engines on one store."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = RedisClock()
        self.jobs = JobService(store, self.clock, Metrics())
        self.engines: list[Engine] = []

    async def start(self, *, sole: bool = False, grace: float = 10.0) -> tuple[Engine, ScriptedDeliverer]:
        deliverer = ScriptedDeliverer()
        clock = RedisClock()
        engine = Engine(EngineSettings(drain_grace_seconds=grace), self.store, deliverer, clock, Metrics(), sole=sole)
        self.engines.append(engine)
        engine.start()
        await engine.started()
        await set_clock(self.store, self.clock)
        return engine, deliverer

    async def ask_for(self, name: str) -> str:
        await self.jobs.upsert(make_job(name, trigger=make_job().trigger))
        return (await self.jobs.run_now(name, force=True)).run_id or ""


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        yield setup
        for engine in setup.engines:
            for service in engine.services:
                await service.stop()
            for task in list(engine.node.in_flight):
                task.cancel()


async def test_a_run_now_is_sent_and_recorded(setup: Setup) -> None:
    engine, deliverer = await setup.start()
    assert engine.faults() == []
    run_id = await setup.ask_for("a")
    await until(lambda: bool(deliverer.open))
    assert deliverer.open[0].run_id == run_id
    deliverer.open[0].answer.set_result(answered(200))

    async def recorded() -> bool:
        return any(isinstance(one, Run) and one.id == run_id for one in await setup.store.history("a"))

    await until(recorded)
    await engine.stop()
    assert deliverer.closed


async def test_a_stopping_node_lets_open_requests_end(setup: Setup) -> None:
    engine, deliverer = await setup.start()
    run_id = await setup.ask_for("a")
    await until(lambda: bool(deliverer.open))
    stopping = asyncio.ensure_future(engine.stop())
    await until(lambda: engine._shards[0].claimer._task is None)
    assert not stopping.done()
    deliverer.open[0].answer.set_result(answered(200))
    await stopping
    runs = {one.id: one.state for one in await setup.store.history("a") if isinstance(one, Run)}
    assert runs[run_id] is RunState.SUCCEEDED
    assert await setup.redis.exists(KEYS.leases, KEYS.nodes) == 0


async def test_an_attempt_that_outlasts_the_grace_time_is_released_and_continues_elsewhere(setup: Setup) -> None:
    first, deliverer = await setup.start(grace=0.05)
    run_id = await setup.ask_for("a")
    await until(lambda: bool(deliverer.open))
    await first.stop()
    assert deliverer.open == []
    assert await setup.redis.exists(KEYS.nodes) == 0
    _, successor = await setup.start()
    await until(lambda: bool(successor.open))
    assert successor.open[0].run_id == run_id
    assert int(successor.open[0].header("Cronpost-Fence")) > int(deliverer.seen[0].header("Cronpost-Fence"))


async def test_a_sole_node_reclaims_at_once_what_the_killed_one_held(setup: Setup) -> None:
    killed, deliverer = await setup.start()
    run_id = await setup.ask_for("a")
    await until(lambda: bool(deliverer.open))
    for service in killed.services:
        await service.stop()
    _, successor = await setup.start(sole=True)
    await until(lambda: bool(successor.open), seconds=4)
    assert successor.open[0].run_id == run_id


async def test_a_node_waits_for_its_redis_and_reports_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    await asyncio.to_thread(server.start)
    url = server.url
    await asyncio.to_thread(server.stop)
    store, deliverer = RedisStore(connect(url)), ScriptedDeliverer()
    engine = Engine(EngineSettings(), store, deliverer, RedisClock(), Metrics())
    assert engine.faults()
    engine.start()
    await until(lambda: "Redis did not answer" in engine.faults()[0])
    await asyncio.to_thread(server.start)
    await engine.started()
    assert engine.faults() == []
    await asyncio.to_thread(server.stop)
    await until(lambda: bool(engine.faults()))
    await asyncio.to_thread(server.start)
    await until(lambda: engine.faults() == [])
    await engine.stop()
    await store.aclose()
    await asyncio.to_thread(server.stop)


async def test_a_node_that_is_stopped_before_it_started_ends(tmp_path: Path) -> None:
    store, deliverer = RedisStore(connect(f"unix://{tmp_path}/nobody.sock")), ScriptedDeliverer()
    engine = Engine(EngineSettings(), store, deliverer, RedisClock(), Metrics())
    engine.start()
    await until(lambda: "Redis did not answer" in engine.faults()[0])
    await engine.stop()
    assert deliverer.closed
    await store.aclose()
