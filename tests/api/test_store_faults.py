"""The answers to clients when Redis fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from scheduler_api.context import Context
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import EXAMPLE, client_of, job

REQUESTS = [
    ("POST", "/", EXAMPLE),
    ("PUT", "/jobs/a", job(id="a")),
    ("DELETE", "/?job_id=a", None),
    ("DELETE", "/jobs/a", None),
    ("GET", "/jobs/a", None),
    ("GET", "/jobs", None),
    ("GET", "/jobs/a/runs", None),
    ("POST", "/jobs/a/pause", None),
    ("POST", "/jobs/a/resume", None),
    ("POST", "/jobs/a/run", None),
]


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A redis-server that a test may stop and damage."""
    with EmbeddedRedis(tmp_path) as server:
        yield server


def context_on(url: str) -> Context:
    store = RedisStore(connect(url, timeout_seconds=2))
    return Context(settings=ApiSettings(), store=store, clock=RedisClock(), metrics=Metrics())


async def test_while_redis_is_down_every_request_is_429_and_afterwards_it_works_again(
    own_redis: EmbeddedRedis,
) -> None:
    context = context_on(own_redis.url)
    async with client_of(context) as client:
        assert (await client.post("/", json=EXAMPLE)).status_code == 202
        await asyncio.to_thread(own_redis.stop)
        for method, target, body in REQUESTS:
            answer = await client.request(method, target, json=body)
            assert answer.status_code == 429, (method, target)
            assert answer.headers["retry-after"].isdecimal()
            assert answer.json()["code"] == "store_unavailable"
        assert (await client.get("/health")).status_code == 200
        ready = await client.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["reasons"]
        assert (await client.get("/metrics", headers={"Accept": "text/plain"})).status_code == 200
        assert (await client.get("/cron/next?expr=@daily")).status_code == 200
        own_redis.start()
        assert (await client.get(f"/jobs/{EXAMPLE['id']}")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
    await context.store.aclose()


async def test_a_redis_that_was_never_up_is_429_too(tmp_path: Path) -> None:
    context = context_on(f"unix://{tmp_path}/nobody.sock")
    async with client_of(context) as client:
        for method, target, body in REQUESTS:
            answer = await client.request(method, target, json=body)
            assert answer.status_code == 429, (method, target)
        assert (await client.get("/health")).json() == {"status": "healthy", "scheduler_running": True}
    await context.store.aclose()


async def test_bad_input_is_400_even_while_redis_is_down(tmp_path: Path) -> None:
    context = context_on(f"unix://{tmp_path}/nobody.sock")
    async with client_of(context) as client:
        assert (await client.post("/", json=job(id=""))).status_code == 400
    await context.store.aclose()


async def test_a_full_redis_is_429_and_nothing_is_changed(
    client: httpx.AsyncClient, redis_url: str, contents: Callable[[], dict[bytes, Any]]
) -> None:
    await client.post("/", json=EXAMPLE)
    before = contents()
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory", "1")
        answer = await client.post("/", json=job(payload="changed"))
        redis.config_set("maxmemory", "0")
    assert answer.status_code == 429
    assert "memory" in answer.json()["detail"]
    assert contents() == before


async def test_a_replica_is_429(own_redis: EmbeddedRedis) -> None:
    context = context_on(own_redis.url)
    async with client_of(context) as client:
        assert (await client.post("/", json=EXAMPLE)).status_code == 202
        with Redis.from_url(own_redis.url) as redis:
            redis.replicaof("127.0.0.1", "1")
            assert (await client.post("/", json=job(payload=1))).status_code == 429
            redis.replicaof("NO", "ONE")
        assert (await client.post("/", json=job(payload=1))).status_code == 202
    await context.store.aclose()


async def test_a_wrong_password_is_422(own_redis: EmbeddedRedis) -> None:
    with Redis.from_url(own_redis.url) as redis:
        redis.config_set("requirepass", "a-password")
        for url in (own_redis.url, own_redis.url.replace("unix://", "unix://:another@")):
            context = context_on(url)
            async with client_of(context) as client:
                for method, target, body in REQUESTS:
                    answer = await client.request(method, target, json=body)
                    assert answer.status_code == 422, (method, target, answer.text)
                    assert answer.json()["code"] == "store_refused"
                    assert "another" not in answer.text
            await context.store.aclose()
        redis.config_set("requirepass", "")


async def test_a_key_of_another_type_is_422_and_nothing_is_changed(
    client: httpx.AsyncClient, redis_url: str, contents: Callable[[], dict[bytes, Any]]
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set("cronpost:{0}:jobs", "not a hash")
    before = contents()
    answer = await client.post("/", json=EXAMPLE)
    assert answer.status_code == 422
    assert contents() == before


async def test_a_user_without_permission_is_422(own_redis: EmbeddedRedis) -> None:
    with Redis.from_url(own_redis.url) as redis:
        redis.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+time", "+multi", "+exec")
        context = context_on(own_redis.url.replace("unix://", "unix://reader:secret@"))
        async with client_of(context) as client:
            assert (await client.get("/jobs")).status_code == 200
            answer = await client.post("/", json=EXAMPLE)
            assert answer.status_code == 422
        await context.store.aclose()
        assert redis.dbsize() == 0


async def test_a_job_that_cannot_be_read_is_shown_as_quarantined_and_can_be_replaced(
    client: httpx.AsyncClient, redis_url: str
) -> None:
    await client.post("/", json=job(id="a"))
    await client.post("/", json=job(id="b"))
    with Redis.from_url(redis_url) as redis:
        redis.hset("cronpost:{0}:jobs", "a", b"\xc1 garbage")
    shown = (await client.get("/jobs/a")).json()
    assert shown["status"] == "quarantined"
    assert "cannot be read" in shown["quarantine_reason"]
    assert [one["id"] for one in (await client.get("/jobs")).json()["jobs"]] == ["a", "b"]
    assert (await client.post("/jobs/a/pause")).status_code == 409
    assert (await client.post("/", json=job(id="a"))).status_code == 202
    assert (await client.get("/jobs/a")).json()["status"] == "active"


async def test_an_unexpected_error_is_500_without_details(
    client: httpx.AsyncClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret detail")

    monkeypatch.setattr(context.jobs, "get", broken)
    answer = await client.get("/jobs/a")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
