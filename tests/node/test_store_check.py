"""A Redis whose configuration changes while Cronpost runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.store_check import LOOK_SECONDS, StoreCheck
from scheduler_core.store.redis.check import fullest
from scheduler_core.store.redis.open import open_shards
from tests.support.manual_clock import ManualClock
from tests.support.processes import Processes, RedisServer
from tests.support.stores import until


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    processes = Processes()
    redis = processes.redis()
    await redis.start()
    yield redis
    await processes.close()


async def test_an_eviction_policy_is_noticed_within_a_minute_and_so_is_its_correction(
    redis: RedisServer,
) -> None:
    clock = ManualClock()
    shards = open_shards(redis.url, number=1)
    check = StoreCheck(shards, clock, Metrics())
    check.start()
    await until(lambda: bool(clock.sleeping))
    assert check.warnings == {}
    for name, value, expected in (
        ("maxmemory-policy", "allkeys-lru", "it would silently delete jobs"),
        ("maxmemory-policy", "volatile-ttl", "history of jobs early"),
        ("maxmemory-policy", "noeviction", ""),
        ("appendonly", "no", "append-only file is off"),
    ):
        await redis.set_config(name, value)
        clock.advance(round(LOOK_SECONDS * 1000))

        def is_found(words: str = expected) -> bool:
            texts = list(check.warnings.values())
            return texts == [] if words == "" else len(texts) == 1 and words in texts[0]

        await until(is_found)
        await until(lambda: bool(clock.sleeping))
    assert check.fault is None
    await check.stop()
    await shards.aclose()


async def test_a_forbidden_info_causes_no_warning(redis: RedisServer) -> None:
    await redis.set_config("maxmemory-policy", "allkeys-lru")
    await redis.command("ACL", "SETUSER", "few", "on", ">secret", "~*", "+@all", "-info")
    shards = open_shards(redis.url.replace("unix://", "unix://few:secret@"), number=1)
    check = StoreCheck(shards, ManualClock(), Metrics())
    await check.look()
    assert check.warnings == {}
    await shards.aclose()


async def test_the_latest_findings_stay_while_redis_is_away(redis: RedisServer) -> None:
    await redis.set_config("maxmemory-policy", "allkeys-lru")
    shards = open_shards(redis.url, number=1)
    check = StoreCheck(shards, ManualClock(), Metrics())
    await check.look()
    await redis.kill()
    await check.look()
    assert len(check.warnings) == 1
    await shards.aclose()


async def test_the_memory_of_redis_and_its_limit_are_metrics(redis: RedisServer) -> None:
    await redis.set_config("maxmemory", str(1 << 30))
    shards = open_shards(redis.url, number=1)
    metrics = Metrics()
    await StoreCheck(shards, ManualClock(), metrics).look()
    assert metrics.registry.get_sample_value("cronpost_store_memory_limit_bytes") == 1 << 30
    assert 100_000 < (metrics.registry.get_sample_value("cronpost_store_memory_bytes") or 0) < 1 << 30
    await shards.aclose()


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        ([{"used_memory": 5, "maxmemory": 10}, {"used_memory": 900, "maxmemory": 1000}], (900, 1000)),
        ([{"used_memory": 9, "maxmemory": 10}, {"used_memory": 700, "maxmemory": 1000}], (9, 10)),
        ([{"used_memory": 9, "maxmemory": 0}, {"used_memory": 700, "maxmemory": 0}], (700, 0)),
        ([{}], (0, 0)),
    ],
)
def test_of_several_servers_the_fullest_counts(infos: list[dict[str, int]], expected: tuple[int, int]) -> None:
    memory = fullest(infos)
    assert (memory.used_bytes, memory.limit_bytes) == expected
