"""The reaper: it reclaims the leases of dead nodes, and none of living ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.model.run import Run
from scheduler_core.store.loop import ReapTurn
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import answered, at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put, until


class Setup:
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
        """Run one round of the watcher's loop; return whether it reclaimed the run."""
        self.watcher.reaper.start()
        await until(lambda: bool(self.clock.sleeping))
        await self.watcher.reaper.stop()
        lease = (await self.store.read("a")).snapshot.lease
        return lease is not None and lease.node == "-"


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        await setup.begin()
        yield setup
        await setup.holder.crash()
        await setup.watcher.crash()


async def test_the_run_of_a_dead_node_continues_elsewhere_under_the_same_id(setup: Setup) -> None:
    taken = []
    for _ in range(7):
        taken.append(await setup.reap_once())
        setup.clock.advance(1_000)
        await setup.watcher.beat()
    assert taken == [False] * 6 + [True]
    assert await setup.watcher.claim() == 1
    again = setup.watcher.deliverer.open[0]
    assert again.run_id == setup.holder.deliverer.open[0].run_id
    assert again.header("Cronpost-Attempt") == "2", "the request of the dead node may have been sent"
    await setup.watcher.answer(answered(200))
    await setup.watcher.settle()
    (run,) = await setup.store.history("a")
    assert isinstance(run, Run)
    assert run.fire_time_ms == at(0)


async def test_a_node_with_heartbeats_keeps_its_runs(setup: Setup) -> None:
    for _ in range(20):
        setup.clock.advance(1_000)
        await setup.holder.beat()
        await setup.watcher.beat()
        assert not await setup.reap_once()


async def test_after_an_outage_of_redis_each_node_gets_time_to_send_a_heartbeat(setup: Setup) -> None:
    for _ in range(6):
        setup.clock.advance(1_000)
        await setup.holder.beat()
        await setup.watcher.beat()
    setup.clock.advance(60_000)
    await setup.watcher.beat()
    assert not await setup.reap_once()
    setup.clock.advance(3_000)
    await setup.holder.beat()
    for _ in range(4):
        await setup.watcher.beat()
        setup.clock.advance(1_000)
        assert not await setup.reap_once()


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000])
async def test_nodes_that_accept_a_clock_jump_one_after_the_other_do_not_reclaim_from_each_other(
    setup: Setup, jump_ms: int
) -> None:
    holders_clock = ManualClock()
    setup.holder.clock = setup.holder.heartbeat._redis_clock = setup.holder.heartbeat.clock = holders_clock
    for _ in range(7):
        for clock in (setup.clock, holders_clock):
            clock.advance(1_000)
        await setup.holder.beat()
        await setup.watcher.beat()
    assert setup.watcher.node.may_reap
    # The watcher doubts the jump first, then accepts it; the holder follows two seconds later.
    setup.clock.doubt = True
    assert not await setup.reap_once()
    setup.clock.doubt = False
    setup.clock.now += jump_ms
    setup.clock.jumps += 1
    for second in range(10):
        await setup.watcher.beat()
        assert not await setup.reap_once(), second
        for clock in (setup.clock, holders_clock):
            clock.advance(1_000)
        if second == 2:
            holders_clock.now += jump_ms
        await setup.holder.beat()


async def test_a_node_that_died_before_the_clock_was_set_back_is_dead(setup: Setup) -> None:
    setup.clock.now -= 3_600_000
    setup.clock.jumps += 1
    taken = []
    for _ in range(8):
        await setup.watcher.beat()
        taken.append(await setup.reap_once())
        setup.clock.advance(1_000)
    assert taken[:5] == [False] * 5
    assert taken[-1]


async def test_a_sole_server_voids_all_leases_at_once(setup: Setup) -> None:
    assert await setup.watcher.reaper.reap(void_all=True) == 1
    assert await setup.watcher.claim() == 1


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 20])
async def test_the_examined_leases_do_not_grow_with_the_number_of_nodes(redis_url: str, nodes: int) -> None:
    async with opened(redis_url) as (store, redis):
        clock = ManualClock()
        fleet = [SteppedNode(store, clock) for _ in range(nodes)]
        for node in fleet:
            await node.start()
        for number in range(50):
            await put(redis, make_job(f"job{number}"), make_state(0))
        await fleet[0].claim(limit=50)
        seconds = 100
        for _ in range(seconds):
            clock.advance(1_000)
            for node in fleet:
                await node.beat()
                if node.reaper.may_reclaim():
                    await node.reaper._take_turn()
        assert store.examined == 2 * 50, "one look at its start, and one after a minute"
        # The node that has the turn notices a death at once, and the leases are examined a few times more.
        victim = fleet.pop(0)
        survivor = fleet[0] if fleet else SteppedNode(store, clock)
        for _ in range(15):
            clock.advance(1_000)
            await survivor.heartbeat.beat(starting=survivor.node.downtime_count < 0)
            if survivor.reaper.may_reclaim():
                await survivor.reaper._take_turn()
        lease = (await store.read("job0")).snapshot.lease
        assert lease is not None
        assert lease.node == "-"
        assert store.examined <= 3 * 50
        await victim.crash()


async def test_an_audit_finds_leases_that_heartbeats_do_not_reveal(setup: Setup) -> None:
    for _ in range(7):
        setup.clock.advance(1_000)
        await setup.holder.beat()
        await setup.watcher.beat()
    assert not await setup.reap_once()
    await setup.redis.zrem(KEYS.nodes, setup.holder.node.id)
    taken = []
    for _ in range(62):
        setup.clock.advance(1_000)
        await setup.watcher.beat()
        taken.append(await setup.reap_once())
    assert taken.index(True) >= 50, "nothing says that a node has died"


async def test_an_interrupted_sweep_is_repeated(setup: Setup) -> None:
    for _ in range(7):
        setup.clock.advance(1_000)
        await setup.holder.beat()
        await setup.watcher.beat()
    await setup.watcher.reaper._take_turn()
    setup.clock.advance(6_000)
    await setup.watcher.beat()
    turn = {"now_ms": setup.clock.now, "dead_after_ms": 5_000, "interval_ms": 900, "audit_ms": 60_000}
    assert await setup.store.take_reap_turn(**turn) is ReapTurn.SWEEP, "the node that has the turn dies here"
    assert await setup.store.take_reap_turn(**turn) is ReapTurn.TAKEN
    setup.clock.advance(1_000)
    assert await setup.store.take_reap_turn(**turn | {"now_ms": setup.clock.now}) is ReapTurn.SWEEP


async def test_all_pages_of_one_instant_are_examined(setup: Setup) -> None:
    for number in range(20):
        await put(setup.redis, make_job(f"job{number}"), make_state(0))
    alive = SteppedNode(setup.store, setup.clock)
    await alive.start()
    await setup.watcher.claim(limit=10)
    await alive.claim(limit=10)
    setup.clock.advance(6_000)
    await alive.beat()
    reaped = await setup.store.reap(now_ms=setup.clock.now, dead_after_ms=5_000, page=3)
    assert len(reaped) == 11
    assert not await setup.store.reap(now_ms=setup.clock.now, dead_after_ms=5_000, page=3)
    await alive.crash()
