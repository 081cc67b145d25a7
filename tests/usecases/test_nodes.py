"""The nodes and shards of an installation, with their state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.node import NodeFacts, StoredNode
from scheduler_core.node.engine import Engine
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.nodes import MOST_DEAD, NodeState, read_fleet
from scheduler_core.version import __version__
from tests.support.factories import make_job, make_state
from tests.support.manual_clock import START_MS, ManualClock
from tests.support.nodes import ScriptedDeliverer
from tests.support.stores import KEYS, beat, put, until

FACTS = NodeFacts("1.2.3", "machine", 7, None, START_MS - 50)


class Setup:
    def __init__(self, shards: Shards[RedisStore], redis: Redis) -> None:
        self.shards, self.redis = shards, redis
        self.clock = ManualClock()

    async def beat(self, node: str, facts: NodeFacts | None = FACTS, *, shards: tuple[int, ...] = (0, 1)) -> None:
        for shard in shards:
            store = self.shards.all[shard]
            await beat(store, node, self.clock.now, facts=None if shard else facts, starting=True)

    async def states(self) -> list[tuple[str, NodeState]]:
        return [(one.id, one.state) for one in (await read_fleet(self.shards, self.clock)).nodes]


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    shards = open_shards(redis_url, number=2)
    redis = Redis.from_url(redis_url)
    yield Setup(shards, redis)
    await redis.aclose()
    await shards.aclose()


async def test_nodes_are_alive_draining_or_dead_by_their_heartbeats(setup: Setup) -> None:
    await setup.beat("dead")
    setup.clock.advance(4_000)
    await setup.beat("old", None)
    await setup.beat("slow", replace(FACTS, dead_after_ms=60_000, started_at_ms=1))
    await setup.beat("stops", replace(FACTS, draining=True))
    setup.clock.advance(1_001)
    assert await setup.states() == [
        ("old", NodeState.ALIVE),
        ("slow", NodeState.ALIVE),
        ("stops", NodeState.DRAINING),
        ("dead", NodeState.DEAD),
    ]
    setup.clock.advance(5_000)
    assert dict(await setup.states()) == {
        "slow": NodeState.ALIVE,
        "old": NodeState.DEAD,
        "stops": NodeState.DEAD,
        "dead": NodeState.DEAD,
    }
    fleet = await read_fleet(setup.shards, setup.clock)
    assert fleet.nodes[0].facts == replace(FACTS, dead_after_ms=60_000, started_at_ms=1)
    assert fleet.nodes[0].last_beat_ms == START_MS + 4_000


async def test_a_node_that_leaves_is_not_listed_and_a_dead_one_is_forgotten_with_its_facts(setup: Setup) -> None:
    await setup.beat("leaves")
    await setup.beat("dead")
    for store in setup.shards.all:
        await store.leave(node="leaves", now_ms=setup.clock.now)
    assert await setup.states() == [("dead", NodeState.ALIVE)]
    assert await setup.redis.hkeys(KEYS.facts) == [b"dead"]
    setup.clock.advance(3_600_001)
    await setup.beat("alive")
    assert await setup.states() == [("alive", NodeState.ALIVE)]
    assert await setup.redis.hkeys(KEYS.facts) == [b"alive"]


async def test_facts_that_a_node_without_them_left_behind_are_removed_by_the_next_start(setup: Setup) -> None:
    await setup.beat("gone")
    await setup.redis.zrem(KEYS.nodes, "gone")
    await setup.beat("new")
    assert await setup.redis.hkeys(KEYS.facts) == [b"new"]


async def test_a_living_node_whose_heartbeats_do_not_reach_a_shard_names_it(setup: Setup) -> None:
    await setup.beat("a")
    await setup.beat("b")
    setup.clock.advance(6_000)
    await setup.beat("a", shards=(0,))
    await setup.beat("b")
    fleet = await read_fleet(setup.shards, setup.clock)
    assert {one.id: one.silent_shards for one in fleet.nodes} == {"a": [1], "b": []}


async def test_facts_of_another_version_are_read_as_far_as_they_are_known(setup: Setup) -> None:
    await setup.beat("later", None)
    await setup.beat("foreign", None)
    later = msgspec.msgpack.encode({"v": "9.0", "new field": [1]})
    await setup.redis.hset(KEYS.facts, mapping={"later": later, "foreign": b"\xc1"})
    found = {one.id: one.facts for one in (await read_fleet(setup.shards, setup.clock)).nodes}
    assert found == {"later": NodeFacts("9.0"), "foreign": None}


async def test_shards_have_their_counts_and_their_server(setup: Setup) -> None:
    await put(setup.redis, make_job("a"), make_state(-1))
    await put(setup.redis, make_job("b"), make_state(60))
    first, second = (await read_fleet(setup.shards, setup.clock)).shards
    assert first.counts is not None
    assert (first.number, first.error, first.counts.jobs, first.counts.due, first.counts.claimed) == (0, None, 2, 1, 0)
    assert second.counts is not None
    assert (second.number, second.counts.jobs) == (1, 0)
    assert first.server == second.server == setup.shards.lead.server()
    assert first.ping_ms is not None
    assert first.info is not None
    assert first.info["used_memory"] > 0
    assert any("append-only file is off" in text for text in first.warnings) == (not int(first.info["aof_enabled"]))


async def test_a_shard_that_does_not_answer_is_shown_and_the_others_too(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.beat("a")
    away = setup.shards.all[1]

    async def refuse() -> list[StoredNode]:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(away, "stored_nodes", refuse)
    fleet = await read_fleet(setup.shards, setup.clock)
    assert [(one.error, one.counts is None) for one in fleet.shards] == [(None, False), ("gone", True)]
    assert [(one.id, one.state, one.silent_shards) for one in fleet.nodes] == [("a", NodeState.ALIVE, [])]


async def test_a_shard_with_a_key_of_a_wrong_type_has_a_warning(setup: Setup) -> None:
    keys = setup.shards.all[1].keys
    for key, is_readable in ((keys.health, True), (keys.suspects, False)):
        await setup.redis.set(key, "x")
        first, second = (await read_fleet(setup.shards, setup.clock)).shards
        assert [text for text in first.warnings if key in text] == []
        assert len([text for text in second.warnings if key in text]) == 1
        assert (second.error is None) == is_readable


async def test_dead_nodes_are_listed_up_to_a_number_latest_first(setup: Setup) -> None:
    beats = {f"node-{number:03}": START_MS - 60_000 - number for number in range(MOST_DEAD + 5)}
    await setup.redis.zadd(KEYS.nodes, beats)
    found = await setup.states()
    assert found == [(f"node-{number:03}", NodeState.DEAD) for number in range(MOST_DEAD)]


async def test_a_node_says_what_it_does_with_its_heartbeats(setup: Setup) -> None:
    settings = EngineSettings(public_url="http://me:8000", dead_after_seconds=7.0)
    deliverer = ScriptedDeliverer()
    engine = Engine(settings, setup.shards, deliverer, setup.clock, Metrics())
    engine.start()
    await engine.started()
    await engine._shards[0].heartbeat.beat()
    (node,) = (await read_fleet(setup.shards, setup.clock)).nodes
    assert node.id == engine.node.id
    assert node.facts is not None
    assert (node.facts.version, node.facts.address) == (__version__, "http://me:8000")
    assert (node.facts.started_at_ms, node.facts.dead_after_ms, node.facts.draining) == (START_MS, 7_000, False)
    await put(setup.redis, make_job("a"), make_state(0))
    engine._shards[0].claimer._alarm.wake()
    await until(lambda: bool(deliverer.open))
    stopping = asyncio.create_task(engine.stop())
    await until(lambda: engine._is_draining)
    await engine._shards[0].heartbeat.beat()
    (node,) = (await read_fleet(setup.shards, setup.clock)).nodes
    assert node.state is NodeState.DRAINING
    assert node.facts is not None
    assert node.facts.in_flight == 1
    setup.clock.advance(round(1000 * settings.drain_grace_seconds))
    await stopping
    assert (await read_fleet(setup.shards, setup.clock)).nodes == []
