"""A Redis whose configuration changes while Cronpost runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.store_check import LOOK_SECONDS, StoreCheck
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
