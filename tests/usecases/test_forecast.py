"""The forecast of a store: which jobs it reads, and how often it is computed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.model.pause import PauseTerms
from scheduler_core.plan.forecast import forecast
from scheduler_core.store.redis.codec import encode_job, encode_state
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.settlements import score
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.forecast import (
    AGAIN_SECONDS,
    FRESH_SECONDS,
    MINUTES,
    Compute,
    ForecastService,
    ForecastState,
    compute_in_process,
)
from scheduler_core.usecases.forecast_process import answer
from tests.support.factories import at, make_job, make_state
from tests.support.manual_clock import START_MS, ManualClock

SHARDS = 3


class RestlessClock(ManualClock):
    """Sleeps no time between two pages of jobs."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Setup:
    def __init__(self, shards: Shards[RedisStore], redis: Redis) -> None:
        self.shards, self.redis = shards, redis
        self.clock = RestlessClock()
        self.computed = 0
        self.fault: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    def service(self, *, most_jobs: int = 10_000, seed: int = 1, compute: Compute | None = None) -> ForecastService:
        chance = random.Random(seed)
        compute = self.compute if compute is None else compute
        return ForecastService(self.shards, self.clock, compute=compute, chance=chance, most_jobs=most_jobs)

    async def compute(self, question: bytes) -> bytes:
        self.computed += 1
        await self.go.wait()
        if self.fault is not None:
            raise self.fault
        return answer(question)

    async def put(self, job_id: str, expression: str = "0 * * * *", **state: object) -> None:
        job, position = make_job(job_id, trigger=CronSpec(expression)), make_state(600, **state)
        keys = self.shards.of(job_id).keys
        await self.redis.hset(keys.jobs, job_id, encode_job(job))
        await self.redis.hset(keys.states, job_id, encode_state(position))
        await self.redis.zadd(keys.due, {job_id: score(position)})
        await self.redis.zadd(keys.ids, {job_id: 0})


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    shards = open_shards(redis_url, number=SHARDS)
    redis = Redis.from_url(redis_url)
    yield Setup(shards, redis)
    await redis.aclose()
    await shards.aclose()


async def test_few_jobs_are_read_completely_over_all_shards(setup: Setup) -> None:
    for number in range(120):
        await setup.put(f"job-{number}")
    await setup.put("paused", paused_at_ms=at(0))
    await setup.put("paused until", paused_at_ms=at(0), pause=PauseTerms(until_ms=at(7_200)))
    await setup.redis.hset(setup.shards.of("job-0").keys.jobs, "job-0", b"unreadable")
    view = await setup.service(compute=compute_in_process).get(wait_seconds=60)
    found = view.forecast
    assert (view.state, view.error) == (ForecastState.READY, None)
    assert found is not None
    assert found.start_ms == START_MS
    assert len(found.fires) == len(found.errors) == MINUTES
    assert (found.jobs, found.sampled, found.firing, found.unreadable) == (122, 122, 120, 1)
    hours = [place for place, fires in enumerate(found.fires) if fires]
    assert hours == list(range(10, MINUTES, 60))
    assert [found.fires[place] for place in hours[:3]] == [119, 119, 120]
    assert (found.total, found.total_error) == (119 * 24 + 22, 0)
    assert len(found.peaks[0].groups[0].job_ids) == 10


async def test_of_many_jobs_each_is_equally_likely_to_be_drawn(setup: Setup) -> None:
    for number in range(60):
        await setup.put(f"job-{number}")
    drawn: Counter[str] = Counter()
    for seed in range(60):
        sample = await setup.service(most_jobs=20, seed=seed).draw()
        assert (sample.jobs, sample.sampled, len({job.id for job in sample.firing})) == (60, 20, 20)
        drawn.update(job.id for job in sample.firing)
    assert len(drawn) == 60
    for store in setup.shards.all:
        ids = await store.page_ids(after="", prefix="", limit=60)
        mean = sum(drawn[job_id] for job_id in ids) / len(ids)
        assert 15 < mean < 25


async def test_requests_at_the_same_time_compute_once_and_get_the_earlier_forecast(setup: Setup) -> None:
    await setup.put("a")
    service = setup.service()
    setup.go.clear()
    first, second = await asyncio.gather(service.get(), service.get())
    assert first == second
    assert (first.state, first.forecast) == (ForecastState.COMPUTING, None)
    setup.go.set()
    ready = await service.get(wait_seconds=60)
    assert (ready.state, ready.computed_at_ms, setup.computed) == (ForecastState.READY, START_MS, 1)
    setup.clock.advance(round(1000 * FRESH_SECONDS) - 1)
    assert await service.get() == ready
    setup.clock.advance(1)
    setup.go.clear()
    again = await service.get()
    assert (again.state, again.forecast) == (ForecastState.COMPUTING, ready.forecast)
    setup.go.set()
    renewed = await service.get(wait_seconds=60)
    assert renewed.forecast is not None
    assert renewed.forecast.start_ms == START_MS + 1000 * FRESH_SECONDS
    assert setup.computed == 2


async def test_a_failed_forecast_says_why_and_is_tried_again(setup: Setup) -> None:
    service = setup.service()
    setup.fault = RuntimeError("no memory")
    failed = await service.get(wait_seconds=60)
    assert (failed.state, failed.forecast, failed.error) == (ForecastState.FAILED, None, "RuntimeError: no memory")
    setup.fault = None
    assert (await service.get(wait_seconds=60)).state is ForecastState.FAILED
    setup.clock.advance(round(1000 * AGAIN_SECONDS))
    ready = await service.get(wait_seconds=60)
    assert (ready.state, ready.error, setup.computed) == (ForecastState.READY, None, 2)


async def test_a_process_that_stops_ends_the_computation(setup: Setup) -> None:
    service = setup.service()
    setup.go.clear()
    await service.get()
    await service.shut_down()
    await service.shut_down()
    assert (await setup.service().draw()).jobs == 0


async def test_a_process_that_ends_with_an_error_is_reported(setup: Setup) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 1: .*ValidationError"):
        await compute_in_process(b"\x01")


async def test_a_job_with_an_unknown_zone_counts_as_one_that_does_not_fire(setup: Setup) -> None:
    await setup.put("a")
    sample = await setup.service().draw()
    job = sample.firing[0]
    job = type(job)(job.id, job.target, CronSpec("0 * * * *", "Nowhere/City"))
    assert forecast([job], sampled=1, jobs=1, start_ms=START_MS, minutes=MINUTES).total == 0
