"""Fixtures for tests of the store: a store on a real, empty Redis, and a client to look behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.support.stores import check_keys, dump


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A separate client, so that the test sees what is stored and not what the store has in memory."""
    client = Redis.from_url(redis_url)
    yield client
    await client.config_set("maxmemory", 0)
    check_keys(await dump(client))
    await client.aclose()


@pytest.fixture
async def store(redis: Redis, redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(connect(redis_url), retention=Retention(entries=5, after_ms=60_000))
    yield store
    await store.aclose()
