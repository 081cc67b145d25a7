"""Jobs that a node has claimed ahead of their wake-up: what clients see until then."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_api.wire.answers.jobs import Job, show_job
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import RunState
from scheduler_core.store.history import Query
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.account import AccountPage, read_account
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.job_list import page_of_jobs
from scheduler_core.usecases.jobs import JobService
from tests.support.ahead import AheadNode, WaitingClock
from tests.support.factories import at, make_job, make_state, retrying
from tests.support.stores import KEYS, opened, put

FIRE_TIME = 10
"""The fire time that the node holds ahead, in seconds after the start."""


class Bench:
    """Services, a clock that stands 0.3 s before the fire time, and a node."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = WaitingClock()
        self.clock.advance(9_700)
        self.jobs = JobService(store, self.clock, Metrics())
        self.history = HistoryService(Shards.of_one(store), self.clock)
        self.node = AheadNode(store, redis)

    async def hold(self, job_id: str = "a", state: JobState | None = None) -> None:
        """Store a job that the node holds ahead of the fire time."""
        await put(self.redis, make_job(job_id, updated_at_ms=at(1)), state or make_state(FIRE_TIME))
        await self.node.claim(job_id, at(FIRE_TIME))

    async def shown(self, job_id: str = "a") -> Job:
        return show_job(await self.jobs.get(job_id))

    async def account(self, job_id: str = "a") -> AccountPage:
        return await read_account(self.store, self.clock, job_id, from_ms=at(5), to_ms=at(15), after=None, limit=10)


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    async with opened(redis_url) as (store, redis):
        yield Bench(store, redis)


async def test_a_job_claimed_ahead_is_active_without_an_open_run_until_its_fire_time(bench: Bench) -> None:
    await bench.hold()
    shown = await bench.shown()
    assert (shown.status, shown.open_run) == ("active", None)
    assert isinstance(shown.next_fire_times, list)
    assert shown.next_fire_times[0] == "2026-12-31T23:50:10Z"
    page = await page_of_jobs(Shards.of_one(bench.store), bench.clock, status="active")
    assert [view.id for view in page.jobs] == ["a"]
    bench.clock.advance(300)
    shown = await bench.shown()
    assert shown.status == "running"
    assert shown.open_run is not None
    assert shown.open_run.node == "node"


async def test_a_run_claimed_ahead_of_its_retry_waits_for_that_retry(bench: Bench) -> None:
    await bench.hold(state=make_state(20, open=retrying(0, FIRE_TIME)))
    await bench.redis.zadd(KEYS.retrying, {"a": at(0)})
    shown = await bench.shown()
    assert shown.status == "retrying"
    assert shown.open_run is not None
    assert (shown.open_run.state, shown.open_run.retry_at) == (RunState.RETRYING, "2026-12-31T23:50:10Z")
    (found,) = (await bench.history.find(Query())).runs
    assert found.run.state is RunState.RETRYING
    bench.clock.advance(300)
    (found,) = (await bench.history.find(Query())).runs
    assert found.run.state is RunState.OPEN


async def test_the_lists_of_runs_have_a_run_claimed_ahead_from_its_fire_time_on(bench: Bench) -> None:
    await bench.hold()
    assert not (await bench.history.find(Query())).runs
    assert not (await bench.history.find(Query(), job_id="a")).runs
    bench.clock.advance(300)
    (found,) = (await bench.history.find(Query())).runs
    assert [one.run for one in (await bench.history.find(Query(), job_id="a")).runs] == [found.run]
    assert (found.run.fire_time_ms, found.run.started_at_ms) == (at(FIRE_TIME), at(FIRE_TIME))


async def test_the_account_has_a_run_claimed_ahead_from_its_fire_time_on(bench: Bench) -> None:
    await bench.hold()
    before = await bench.account()
    assert (before.entries, before.account.until_ms) == ([], at(FIRE_TIME))
    bench.clock.advance(300)
    (entry,) = (await bench.account()).entries
    assert entry.run is not None
    assert (entry.first_ms, entry.settled) == (at(FIRE_TIME), False)
