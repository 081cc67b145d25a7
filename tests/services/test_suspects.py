"""A run that kills its nodes is set aside, and none of those that were claimed together with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.delivery.base import NOT_SENT
from scheduler_core.run import Run, RunState
from scheduler_core.store.redis_store import RedisStore
from tests.support.factories import answered, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import opened, put, until

JOBS = [f"job{number}" for number in range(12)]


@pytest.fixture
async def stored(redis_url: str) -> AsyncIterator[tuple[RedisStore, Redis]]:
    async with opened(redis_url) as (store, redis):
        for job_id in JOBS:
            await put(redis, make_job(job_id), make_state(0))
        yield store, redis


@pytest.mark.parametrize("culprit", ["job0", "job7"])
async def test_one_poisonous_run_takes_no_other_job_of_its_batch_along(
    stored: tuple[RedisStore, Redis], culprit: str
) -> None:
    store, _ = stored
    clock = ManualClock()
    node = SteppedNode(store, clock)
    await node.start()
    deaths = 0
    for _ in range(200):
        await node.claim(limit=100)
        if any(entry.job_id == culprit for entry in node.deliverer.open):
            # As when the process is killed: nothing of it is told to Redis.
            await node.crash()
            await store.reap(now_ms=clock.now_ms(), dead_after_ms=5_000, void_all=True)
            node = SteppedNode(store, clock)
            await node.start()
            deaths += 1
            continue
        while node.deliverer.open:
            await node.answer(answered(200))
        await node.settle()
        clock.advance(200)
        await node.beat()
    snapshots = {job_id: (await store.read(job_id)).snapshot for job_id in JOBS}
    set_aside = [job_id for job_id, one in snapshots.items() if one.state is not None and one.state.quarantine]
    assert set_aside == [culprit]
    assert deaths == 3
    for job_id in JOBS:
        runs = [record for record in await store.history(job_id) if isinstance(record, Run)]
        assert {run.state for run in runs} == ({RunState.LOST} if job_id == culprit else {RunState.SUCCEEDED})


async def test_a_request_that_was_not_wanted_any_more_hands_its_job_back(stored: tuple[RedisStore, Redis]) -> None:
    store, _ = stored
    clock = ManualClock()
    node = SteppedNode(store, clock)
    await node.start()
    asked: list[bool] = []

    class Nothing:
        def cancel(self) -> None:
            pass

    def start(request: object, done: object, wanted: object) -> Nothing:
        assert callable(done)
        assert callable(wanted)
        clock.advance(node.node.dead_after_ms + 1)  # frozen for longer than its lease, while it connects
        asked.append(wanted())
        asyncio.get_running_loop().call_soon(done, NOT_SENT)
        return Nothing()

    node.courier.start = start
    (claimed,) = (await node.claimer._claim(1)).jobs
    node.claimer._start(claimed)
    await until(lambda: not node.node.in_flight)
    assert asked == [False]
    await node.settle()
    read = await store.read(claimed.id)
    assert read.snapshot.lease is not None
    assert (read.snapshot.lease.node, read.snapshot.lease.losses) == ("-", 0)
    assert await store.history(claimed.id) == []
    await node.crash()
