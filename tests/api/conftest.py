"""The API in the test's own process, on the real Redis, without a node: nothing fires unless a test starts one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from scheduler_api.app import create_app
from scheduler_api.context import STORE_CONNECTIONS, Context
from scheduler_core.clock import RedisClock
from scheduler_core.config import ApiSettings
from scheduler_core.metrics import Metrics
from scheduler_core.store.redis_store import RedisStore, connect

EXAMPLE: dict[str, Any] = {
    "id": "job-scheduler-unique-id",
    "endpoint": "http://localhost:8080/enqueue",
    "cron": "*/10 * * * * * *",
    "payload": {"id": "1", "queue": "test-queue", "timeout": 30, "persist_data": True, "payload": "say my name"},
    "retry_already_running": 3,
    "recovery_check": True,
}


def job(**changes: Any) -> dict[str, Any]:
    """The example job with some fields changed; a field given as ``...`` is left out."""
    return {name: value for name, value in {**EXAMPLE, **changes}.items() if value is not ...}


@pytest.fixture
def api_settings() -> ApiSettings:
    """Overridden by tests that need others."""
    return ApiSettings()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(connect(redis_url, connections=STORE_CONNECTIONS))
    yield store
    await store.aclose()


@pytest.fixture
def context(store: RedisStore, api_settings: ApiSettings) -> Context:
    return Context(settings=api_settings, store=store, clock=RedisClock(), metrics=Metrics())


@pytest.fixture
async def client(context: Context) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(context) as client:
        yield client


def client_of(context: Context) -> httpx.AsyncClient:
    """A client that talks to the application without a socket. What the application raises, the client raises."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(context)), base_url="http://localhost")


@pytest.fixture
def contents(redis_url: str) -> Callable[[], dict[bytes, Any]]:
    """Answers all that Redis holds, to compare before and after."""
    from redis import Redis

    def read() -> dict[bytes, Any]:
        with Redis.from_url(redis_url) as redis:
            return {key: redis.dump(key) for key in redis.scan_iter("*")}

    return read
