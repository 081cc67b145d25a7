"""The reaper: it takes back what dead nodes held, and nothing of those that live."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.run import Run
from scheduler_core.store.redis_store import RedisStore
from tests.support.factories import answered, at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import opened, put, until


class Bench:
    """A node that holds a run, and another that watches."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.holder = SteppedNode(store, self.clock)
        self.watcher = SteppedNode(store, self.clock)

    async def begin(self) -> None:
        await self.holder.start()
        await self.watcher.start()
        await put(self.redis, make_job("a"), make_state(0))
        assert await self.holder.claim() == 1

    async def reap_once(self) -> bool:
        """One round of the watcher's loop; whether it took the run back."""
        self.watcher.reaper.start()
        await until(lambda: bool(self.clock.sleeping))
        await self.watcher.reaper.stop()
        lease = (await self.store.read("a")).snapshot.lease
        return lease is not None and lease.node == "-"


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    async with opened(redis_url) as (store, redis):
        bench = Bench(store, redis)
        await bench.begin()
        yield bench
        await bench.holder.crash()
        await bench.watcher.crash()


async def test_the_run_of_a_dead_node_goes_on_elsewhere_under_the_same_id(bench: Bench) -> None:
    taken = []
    for _ in range(7):
        taken.append(await bench.reap_once())
        bench.clock.advance(1_000)
        await bench.watcher.beat()
    assert taken == [False] * 6 + [True]
    assert await bench.watcher.claim() == 1
    again = bench.watcher.deliverer.open[0]
    assert again.run_id == bench.holder.deliverer.open[0].run_id
    assert again.header("Cronpost-Attempt") == "2", "the request of the dead node may have been sent"
    await bench.watcher.answer(answered(200))
    await bench.watcher.settle()
    (run,) = await bench.store.history("a")
    assert isinstance(run, Run)
    assert run.fire_time_ms == at(0)


async def test_a_node_that_beats_keeps_its_runs(bench: Bench) -> None:
    for _ in range(20):
        bench.clock.advance(1_000)
        await bench.holder.beat()
        await bench.watcher.beat()
        assert not await bench.reap_once()


async def test_when_redis_was_away_for_all_each_node_gets_the_time_to_beat_again(bench: Bench) -> None:
    for _ in range(6):
        bench.clock.advance(1_000)
        await bench.holder.beat()
        await bench.watcher.beat()
    bench.clock.advance(60_000)
    await bench.watcher.beat()
    assert not await bench.reap_once()
    bench.clock.advance(3_000)
    await bench.holder.beat()
    for _ in range(4):
        await bench.watcher.beat()
        bench.clock.advance(1_000)
        assert not await bench.reap_once()


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000])
async def test_nodes_that_believe_a_jump_of_the_clock_one_after_the_other_do_not_rob_each_other(
    bench: Bench, jump_ms: int
) -> None:
    holders_clock = ManualClock()
    bench.holder.clock = bench.holder.heartbeat._redis_clock = bench.holder.heartbeat.clock = holders_clock
    for _ in range(7):
        for clock in (bench.clock, holders_clock):
            clock.advance(1_000)
        await bench.holder.beat()
        await bench.watcher.beat()
    assert bench.watcher.node.may_reap
    # The watcher has its doubts first, then believes; the holder follows two seconds later.
    bench.clock.doubt = True
    assert not await bench.reap_once()
    bench.clock.doubt = False
    bench.clock.now += jump_ms
    bench.clock.jumps += 1
    for second in range(10):
        await bench.watcher.beat()
        assert not await bench.reap_once(), second
        for clock in (bench.clock, holders_clock):
            clock.advance(1_000)
        if second == 2:
            holders_clock.now += jump_ms
        await bench.holder.beat()


async def test_a_node_that_died_before_the_clock_went_back_is_dead_all_the_same(bench: Bench) -> None:
    bench.clock.now -= 3_600_000
    bench.clock.jumps += 1
    taken = []
    for _ in range(8):
        await bench.watcher.beat()
        taken.append(await bench.reap_once())
        bench.clock.advance(1_000)
    assert taken[:5] == [False] * 5
    assert taken[-1]


async def test_a_sole_server_voids_all_leases_at_once(bench: Bench) -> None:
    assert await bench.watcher.reaper.reap(void_all=True) == 1
    assert await bench.watcher.claim() == 1


async def test_a_run_that_kills_three_nodes_sets_its_job_aside(bench: Bench) -> None:
    for _ in range(3):
        await bench.watcher.reaper.reap(void_all=True)
        nodes = SteppedNode(bench.store, bench.clock)
        await nodes.start()
        await nodes.claim()
        sent = len(nodes.deliverer.open)
        await nodes.crash()
        if not sent:
            await nodes.settle()
    stored = await bench.store.read("a")
    assert stored.snapshot.state is not None
    assert stored.snapshot.state.quarantine is not None
    assert stored.snapshot.lease is None
