"""The events that nodes append beside the changes of jobs: starts of runs, nodes, health that a sweep finds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.event import Event
from scheduler_core.model.health import HealthRules
from scheduler_core.node.engine import Engine
from scheduler_core.node.loops.announce import announce_health
from scheduler_core.node.loops.health_sweep import PERIOD_SECONDS, HealthSweeper
from scheduler_core.node.loops.heartbeat import set_clock
from scheduler_core.store.events import Position
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import SECOND, answered, at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import ScriptedDeliverer, SteppedNode
from tests.support.stores import opened, put, until


class Setup:
    """A store that somebody listens to."""

    def __init__(self, store: RedisStore, redis: Redis, began: Position) -> None:
        self.store, self.redis, self._began = store, redis, began

    async def events(self, *types: str) -> list[Event]:
        found = await self.store.read_events(self._began, limit=10_000)
        return [one.event for one in found if not types or one.event.type in types]


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        yield Setup(store, redis, await store.listen())


async def test_a_node_announces_itself_and_the_start_of_a_run_that_lasts(setup: Setup) -> None:
    deliverer = ScriptedDeliverer()
    engine = Engine(EngineSettings(drain_grace_seconds=0), setup.store, deliverer, RedisClock(), Metrics())
    engine.start()
    await engine.started()
    clock = RedisClock()
    await set_clock(setup.store, clock)
    jobs = JobService(setup.store, clock, Metrics())
    await jobs.upsert(make_job())
    run_id = (await jobs.run_now("job", force=True)).run_id

    async def is_announced() -> bool:
        return [one.run_id for one in await setup.events("run.started")] == [run_id]

    await until(is_announced)
    assert len(deliverer.open) == 1, "the run has not ended"
    await engine.stop()
    joined, left = await setup.events("node.joined", "node.left")
    assert (joined.type, joined.node, joined.reason) == ("node.joined", engine.node.id, "")
    assert (left.type, left.node, left.reason) == ("node.left", engine.node.id, "stopped")


async def test_a_node_that_dies_is_announced_once_by_each_node_that_reaps(setup: Setup) -> None:
    clock = ManualClock()
    survivor, victim = SteppedNode(setup.store, clock), SteppedNode(setup.store, clock)
    await survivor.start()
    await victim.start()
    for _ in range(8):
        clock.advance(SECOND)
        await survivor.beat()
        if survivor.reaper.may_reclaim():
            await survivor.reaper._take_turn()
    (left,) = await setup.events("node.left")
    assert (left.node, left.reason) == (victim.node.id, "dead")


@pytest.mark.parametrize("jobs", [1, 5])
async def test_the_start_of_a_run_comes_before_its_end_although_it_is_appended_in_batches(
    setup: Setup, jobs: int
) -> None:
    clock = ManualClock()
    node = SteppedNode(setup.store, clock)
    await node.start()
    names = [f"job{number}" for number in range(jobs)]
    for name in names:
        await put(setup.redis, make_job(name), make_state(0))
    assert await node.claim(jobs) == jobs
    for _ in names:
        await node.answer(answered(503))
    await node.settle()
    assert [one.type for one in await setup.events() if one.job_id == names[0]] == ["run.started", "run.attempt_failed"]
    clock.advance(2 * SECOND)
    await node.beat()
    await node.claim(jobs)
    for _ in names:
        await node.answer(answered(200))
    await node.settle()
    for name in names:
        found = [one.type for one in await setup.events() if one.job_id == name]
        assert found == ["run.started", "run.attempt_failed", "run.settled", "job.health_changed"]


async def test_without_a_listener_no_start_is_noted(setup: Setup) -> None:
    clock = ManualClock()
    node = SteppedNode(setup.store, clock)
    await setup.redis.flushall()
    await node.start()
    await put(setup.redis, make_job(), make_state(0))
    await node.claim()
    await node.answer(answered(200))
    await node.settle()
    assert not setup.store.is_watched
    assert setup.store._started == {}


async def test_jobs_that_a_sweep_finds_late_are_announced_also_after_a_fault(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    sweeper = HealthSweeper(setup.store, clock, Metrics(), HealthRules(), changed=partial(announce_health, setup.store))
    job = make_job("a", labels={"team": "billing"})
    await put(setup.redis, job, make_state(0, last_success_ms=at(-10)))
    clock.advance(20 * SECOND)
    append = setup.store.append_events

    async def refuse(_: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(setup.store, "append_events", refuse)
    with pytest.raises(StoreUnavailable):
        await sweeper.sweep()
    assert await setup.events() == []
    monkeypatch.setattr(setup.store, "append_events", append)
    clock.advance(round(PERIOD_SECONDS * SECOND))
    assert await sweeper.sweep()
    await put(setup.redis, job, make_state(100, last_success_ms=at(10)))
    clock.advance(round(PERIOD_SECONDS * SECOND))
    assert await sweeper.sweep()
    late, ok = await setup.events("job.health_changed")
    assert (late.job_id, late.state, late.reason, late.labels) == ("a", "late", "", {"team": "billing"})
    assert (ok.state, ok.reason) == ("ok", "late")
