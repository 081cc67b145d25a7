"""Several nodes that claim from one shard: who claims a small burst, and who claims what is left."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.horizon import LEAST_MS, SHARE_AT_LEAST
from scheduler_core.node.loops.others import CLAIM_AT_LEAST_SECONDS, SPREAD_MS
from scheduler_core.store.redis.keys import CLAIMED
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put, until

NODES = 5
LONG_MS = int(CLAIM_AT_LEAST_SECONDS * 1000)


class Fleet:
    """Nodes that claim by themselves, each with metrics of its own."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.nodes: list[SteppedNode] = []

    async def put(self, count: int, *, seconds: float, prefix: str = "a") -> None:
        for number in range(count):
            await put(self.redis, make_job(f"{prefix}{number}"), make_state(seconds))

    async def start(self, count: int) -> None:
        """Start nodes that know each other and claim once."""
        for _ in range(count):
            settings = EngineSettings(max_in_flight=500, target_max_in_flight=500)
            node = SteppedNode(self.store, self.clock, Metrics(), settings)
            await node.start()
            node.starter.listens(True)
            self.nodes.append(node)
        for node in self.nodes:
            await node.beat()
            node.claimer.start()
        await self.asleep()

    async def asleep(self) -> None:
        await until(lambda: all(node.alarm.sleeping_until_ms is not None for node in self.nodes))

    async def advance(self, ms: int) -> None:
        """Let time pass millisecond by millisecond as far as nodes wake up in it; heartbeats stay fresh."""
        end = self.clock.now + ms
        while self.clock.now < end:
            wake_ms = min((node.alarm.sleeping_until_ms or end for node in self.nodes), default=end)
            self.clock.mono += 1e-6  # so that no sleep is a rounding error longer
            self.clock.advance(max(1, min(end, wake_ms) - self.clock.now))
            await self.asleep_again()

    async def asleep_again(self) -> None:
        now = self.clock.now
        await until(lambda: all((node.alarm.sleeping_until_ms or 0) > now for node in self.nodes))

    async def beat(self) -> None:
        for node in self.nodes:
            await node.beat()

    def count(self, result: str) -> int:
        return sum(node.claimer.metrics.claims._counts.get((result,), 0) for node in self.nodes)

    @property
    def held(self) -> list[int]:
        return [len(node.starter.queue) for node in self.nodes]

    async def stop(self) -> None:
        for node in self.nodes:
            await node.claimer.stop()


@pytest.fixture
async def fleet(redis_url: str) -> AsyncIterator[Fleet]:
    async with opened(redis_url) as (store, redis):
        fleet = Fleet(store, redis)
        yield fleet
        await fleet.stop()


async def test_one_of_many_nodes_claims_a_lone_job_and_the_others_make_no_claim(fleet: Fleet) -> None:
    await fleet.put(1, seconds=3)
    await fleet.start(NODES)
    first = fleet.count("empty")
    assert first == NODES  # a node that has just started has to claim
    for _ in range(2):
        await fleet.advance(1000)
        await fleet.beat()
    await fleet.advance(1000 - LEAST_MS + SPREAD_MS)
    assert sorted(fleet.held) == [0] * (NODES - 1) + [1]
    assert fleet.count("short") == 1
    # Two nodes whose turns are at the same millisecond may both see the job.
    assert fleet.count("empty") - first <= 2
    assert fleet.count("spared") >= NODES * 2


async def test_a_lone_node_claims_without_a_look(fleet: Fleet) -> None:
    await fleet.put(1, seconds=2)
    await fleet.start(1)
    await fleet.advance(1000)
    await fleet.beat()
    await fleet.advance(1000 - LEAST_MS)
    assert fleet.held == [1]
    assert fleet.count("spared") == 0


async def test_a_job_that_no_node_took_in_its_turn_is_claimed_by_the_next_one_before_its_wake_up(fleet: Fleet) -> None:
    await fleet.put(1, seconds=2)
    await fleet.start(4)
    first = min(fleet.nodes, key=lambda node: node.claimer._others.delay_ms(at(2)))
    await first.claimer.stop()  # it has just died: the others count it as alive
    fleet.nodes.remove(first)
    await fleet.advance(1000)
    await fleet.beat()
    await fleet.advance(1000 - LEAST_MS + SPREAD_MS)
    assert sum(fleet.held) == 1


async def test_nodes_divide_a_large_burst_and_the_share_of_a_dead_node_is_claimed_when_it_is_due(fleet: Fleet) -> None:
    jobs = 6 * SHARE_AT_LEAST
    await fleet.put(jobs, seconds=2)
    await fleet.start(3)
    dead = fleet.nodes.pop()
    await dead.claimer.stop()
    await fleet.advance(1000)
    await fleet.beat()
    await fleet.advance(1000 - 1)
    assert fleet.held == [jobs // 3, jobs // 3]
    await fleet.advance(1)
    assert await fleet.redis.zcount(KEYS.due, CLAIMED, "+inf") == jobs


async def test_a_node_claims_now_and_then_although_it_sees_nothing(fleet: Fleet) -> None:
    await fleet.start(2)
    for _ in range(2 * LONG_MS // 1000):
        await fleet.advance(1000)
        await fleet.beat()
    assert 2 + 2 <= fleet.count("empty") <= 2 + 2 * 2
    assert fleet.count("spared") >= 2 * (2 * LONG_MS // 1000 - 4)


async def test_a_node_claims_while_a_suspect_may_wait(fleet: Fleet) -> None:
    await fleet.start(2)
    await fleet.advance(1000)
    assert (fleet.count("empty"), fleet.count("spared")) == (2, 2)
    await fleet.redis.hset(KEYS.meta, "suspects", "1")
    assert (await fleet.store.head()).suspects
    await fleet.advance(1000)
    assert fleet.count("empty") >= 3
    assert not (await fleet.store.head()).suspects  # the claim found none


async def test_a_claimer_whose_jobs_were_taken_while_it_waited_for_slots_leaves_them_to_other_shards(
    fleet: Fleet,
) -> None:
    await fleet.start(2)
    node, other = fleet.nodes
    slots = node.node.slots

    def wake_other_shard() -> None:
        pass

    taken = slots.reserve(slots.size, wake_other_shard)
    await fleet.put(1, seconds=0)
    node.alarm.wake()
    await until(lambda: slots.is_waiting(node.alarm.wake))
    await fleet.asleep()
    other.alarm.wake()
    await until(lambda: fleet.count("short") == 1)
    await fleet.asleep()
    rounds = fleet.count("empty") + fleet.count("spared")
    slots.release(taken)
    await until(lambda: fleet.count("empty") + fleet.count("spared") > rounds)
    await fleet.asleep()
    assert slots.reserve(1, wake_other_shard) == 1


async def test_the_turns_of_nodes_differ_and_change_with_the_wake_up(fleet: Fleet) -> None:
    await fleet.start(4)
    turns = [[node.claimer._others.delay_ms(at(second)) for second in range(50)] for node in fleet.nodes]
    assert all(0 <= delay < SPREAD_MS for one in turns for delay in one)
    assert all(len(set(one)) > 5 for one in turns)
    assert len({tuple(one) for one in turns}) == 4
    assert {node.claimer._others.delay_ms(None) for node in fleet.nodes} == {0}


@pytest.mark.parametrize(
    ("score", "wake_ms"),
    [(5.0, 5), (CLAIMED + 5, None), (float("-inf"), 0), (float("inf"), None), (1e14 + 0.5, 10**14)],
)
async def test_the_head_is_the_next_wake_up_that_no_node_holds(fleet: Fleet, score: float, wake_ms: int | None) -> None:
    assert (await fleet.store.head()).wake_ms is None
    await fleet.redis.zadd(KEYS.due, {"a": score})
    head = await fleet.store.head()
    assert (head.wake_ms, head.suspects) == (wake_ms, False)
