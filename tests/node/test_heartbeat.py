"""The heartbeat: what a node receives with it, and how long the node's leases are valid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Literal

import pytest
from redis.asyncio import Redis

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings, Settings, StoreSettings
from scheduler_core.base.config_check import beat_timeout_seconds
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.downtime import Downtime
from scheduler_core.node.loops.heartbeat import Heartbeat, set_clock
from scheduler_core.node.node import Node
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import at
from tests.support.fault_proxy import FaultProxy, IsCommand, named, script
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.processes import Processes
from tests.support.stores import KEYS, opened, until


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    processes = Processes()
    yield processes
    await processes.close()


@pytest.fixture
async def both(redis_url: str) -> AsyncIterator[tuple[RedisStore, Redis]]:
    async with opened(redis_url) as both:
        yield both


async def test_the_first_heartbeat_names_the_store_for_all_nodes(both: tuple[RedisStore, Redis]) -> None:
    clock = ManualClock()
    one, other = SteppedNode(both[0], clock), SteppedNode(both[0], clock)
    proposed = one.node.store_id
    assert not one.node.holds_lease()
    await one.start()
    await other.start()
    assert one.node.store_id == other.node.store_id == proposed
    assert one.node.holds_lease()


async def test_a_lease_counts_from_before_the_heartbeat_was_sent(both: tuple[RedisStore, Redis]) -> None:
    clock = ManualClock()
    node = SteppedNode(both[0], clock)
    await node.start()
    seen = []
    for step in (4_999, 1):
        clock.advance(step)
        seen.append(node.node.holds_lease())
    await node.beat()
    assert [*seen, node.node.holds_lease()] == [True, False, True]


def test_a_node_may_reap_only_after_heartbeats_without_a_gap_for_the_dead_time() -> None:
    clock = ManualClock()
    node = Node(EngineSettings(), clock)
    seen = []
    for second in range(8):
        node.beat_taken(clock.monotonic())
        seen.append(node.may_reap)
        clock.advance(1_000 if second != 6 else 6_000)
    assert seen == [False] * 5 + [True] * 2 + [False]


async def test_downtimes_reach_every_node_with_its_heartbeat(both: tuple[RedisStore, Redis]) -> None:
    clock = ManualClock()
    node = SteppedNode(both[0], clock)
    await node.start()
    clock.advance(30_000)
    await node.beat()
    assert node.node.downtimes == (Downtime(at(0), at(30)),)
    assert node.node.downtime_count == 1


async def test_heartbeats_keep_their_period_when_redis_is_slow(
    both: tuple[RedisStore, Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    node = SteppedNode(both[0], clock)
    await node.start()
    beats: list[float] = []
    beat = RedisStore.beat

    async def slow(store: RedisStore, **options: object) -> object:
        beats.append(clock.mono)
        clock.advance(300)
        return await beat(store, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(RedisStore, "beat", slow)
    node.heartbeat.start()

    def beaten() -> bool:
        if clock.sleeping:
            clock.advance(10)
        return len(beats) == 4

    await until(beaten)
    await node.heartbeat.stop()
    gaps = [round(later - earlier, 3) for earlier, later in pairwise(beats)]
    assert all(1.0 <= gap <= 1.02 for gap in gaps), gaps


async def test_the_clock_is_set_by_redis_and_does_not_lead_it(both: tuple[RedisStore, Redis]) -> None:
    clock = RedisClock()
    for _ in range(20):
        await set_clock(both[0], clock)
        now = clock.now_ms()
        assert now <= await both[0].time_ms()
    await asyncio.sleep(0)
    assert await both[1].exists(KEYS.nodes) == 0


async def test_a_failed_heartbeat_is_tried_again_within_one_period(both: tuple[RedisStore, Redis]) -> None:
    """Otherwise it could be taken for dead when Redis is back and the others have sent heartbeats."""
    clock = ManualClock()
    node = SteppedNode(both[0], clock, settings=EngineSettings(heartbeat_seconds=0.3))
    await node.start()
    await both[1].delete(KEYS.nodes)
    await both[1].set(KEYS.nodes, "no sorted set")  # every beat fails
    node.heartbeat.start()
    pauses = []
    for _ in range(20):
        await until(lambda: bool(clock.sleeping))
        pauses.append(clock.sleeping[0][0] - clock.monotonic())
        clock.advance(round(pauses[-1] * 1000) + 1)
        await until(lambda: not clock.sleeping or clock.sleeping[0][0] > clock.monotonic())
    assert max(pauses) <= node.node.settings.heartbeat_seconds
    assert not node.node.holds_lease()
    await both[1].delete(KEYS.nodes)

    def beats_again() -> bool:
        clock.advance(301)  # repeatedly: it may not be asleep yet
        return node.node.holds_lease()

    await until(beats_again)
    await node.heartbeat.stop()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["request", "reply"])
async def test_a_connection_that_dies_silently_under_the_heartbeat_costs_no_lease(
    stage: Literal["request", "reply"], processes: Processes
) -> None:
    """Real time: the node's beats have a timeout of their own, which fits into the lease several times."""
    redis = processes.redis()
    await redis.start()
    settings = EngineSettings(heartbeat_seconds=0.3, dead_after_seconds=1.5, downtime_after_seconds=2)
    lost: list[float] = []
    async with FaultProxy(redis.socket) as proxy:
        shards = open_shards(
            proxy.url,
            number=1,
            timeout_seconds=1.5,
            beat_timeout_seconds=beat_timeout_seconds(
                Settings(engine=settings, store=StoreSettings(redis_timeout_seconds=1.5))
            ),
        )
        clock = RedisClock()
        node = Node(settings, clock)
        heartbeat = Heartbeat(node, shards.lead, clock, Metrics())
        await heartbeat.beat(starting=True)
        heartbeat.start()
        for command in (named("TIME"), script("node/beat")):
            before = len(proxy.seen)
            fault = proxy.on(command, hold=stage)
            await fault.triggered()

            def went_on(command: IsCommand = command, before: int = before) -> bool:
                if not node.holds_lease():
                    lost.append(clock.monotonic())
                return sum(command(one) for _, one in proxy.seen[before:]) > 8

            await until(went_on)
        await heartbeat.stop()
        for fault in proxy._faults:
            fault.release()
        await shards.aclose()
    assert not lost


async def test_a_heartbeat_that_arrives_after_its_successor_does_not_age_the_node(
    both: tuple[RedisStore, Redis],
) -> None:
    clock = ManualClock()
    node = SteppedNode(both[0], clock)
    await node.start()
    clock.advance(3_000)
    await node.beat()
    late = SteppedNode(both[0], ManualClock(clock.now - 1_000))
    late.node.id = node.node.id
    await late.beat()
    assert await both[1].zscore(KEYS.nodes, node.node.id) == clock.now
    back = SteppedNode(both[0], ManualClock(clock.now - 3_600_000))
    back.node.id = node.node.id
    await back.beat()
    assert await both[1].zscore(KEYS.nodes, node.node.id) == back.clock.now, "but Redis's clock may be set back"
