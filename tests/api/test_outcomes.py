"""What a client may conclude from an answer when Redis is slow, frozen or disconnected during a change."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from scheduler_api.context import Context
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of, job
from tests.support.fault_proxy import FaultProxy, script
from tests.support.processes import freeze
from tests.support.stores import redis_of, until

TIMEOUT_SECONDS = 0.5
FAR = "2090-01-01T00:00:00Z"
TASK = {"webhookUrl": "http://127.0.0.1:9/", "executeAt": FAR}
TARGET = {"name": "new", "url": "http://127.0.0.1:9/"}
PENDING = [{"payload": 1, "not_before": FAR}]

Write = tuple[str, str, Any, str]
"""Method, path, body, and the script that carries the change out."""

WRITES: list[Write] = [
    ("POST", "/", job(id="new"), "job/create"),
    ("POST", "/", job(id="a", payload="changed"), "job/change"),
    ("DELETE", "/jobs/a", None, "job/change"),
    ("POST", "/jobs/a/pause", None, "job/change"),
    ("POST", "/jobs/a/run", None, "job/change"),
    ("PUT", "/jobs/a/pending", PENDING, "job/change"),
    ("POST", "/api/v1/tasks", TASK, "task/insert"),
    ("DELETE", "/api/v1/tasks/task_1", None, "task/delete"),
    ("PATCH", "/api/v1/config", {"select_size": 7}, "task/settings"),
    ("POST", "/targets", TARGET, "catalogue/add_target"),
    ("PUT", "/targets/1", {"url": "http://127.0.0.1:9/other"}, "catalogue/change_target"),
    ("DELETE", "/targets/1", None, "catalogue/drop_target"),
    ("PUT", "/schedules/1", {"name": "other"}, "catalogue/change_schedule"),
    (
        "POST",
        "/schedules",
        {"name": "new", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 3600},
        "catalogue/reserve_schedule",
    ),
]
VOLATILE = ("claims", "nodes", "counts")


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A redis-server that a test may freeze."""
    with EmbeddedRedis(tmp_path) as server:
        yield server


@asynccontextmanager
async def api_on(url: str) -> AsyncIterator[httpx.AsyncClient]:
    store = RedisStore(connect(url, timeout_seconds=TIMEOUT_SECONDS))
    context = Context(settings=ApiSettings(), store=store, clock=RedisClock(), metrics=Metrics())
    async with client_of(context) as client:
        yield client
    await store.aclose()


async def fill(client: httpx.AsyncClient) -> None:
    """Store one object of each kind, so that every script is loaded."""
    assert (await client.post("/", json=job(id="a"))).status_code == 202
    assert (await client.post("/api/v1/tasks", json=TASK)).status_code == 202
    assert (await client.post("/targets", json=TARGET | {"name": "stored"})).status_code == 201
    schedule = {"name": "stored", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 3600}
    assert (await client.post("/schedules", json=schedule)).status_code == 201


async def contents(redis: Any) -> dict[bytes, Any]:
    return {key: await redis.dump(key) for key in await redis.keys("*")}


async def send(client: httpx.AsyncClient, write: Write) -> httpx.Response:
    method, path, body, _ = write
    return await client.request(method, path, json=body)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: f"{write[0]} {write[1]} {write[3]}")
async def test_a_change_that_arrives_after_its_deadline_is_not_carried_out(
    own_redis: EmbeddedRedis, write: Write
) -> None:
    redis = Redis.from_url(own_redis.url)
    async with FaultProxy(own_redis.socket_path) as proxy, api_on(proxy.url) as client:
        await fill(client)
        before = await contents(redis)
        held = proxy.on(script(write[3]), hold="request", times=3)
        answer = await send(client, write)
        assert (answer.status_code, answer.json().get("code")) == (429, "outcome_unknown"), answer.text
        held.release()
        await until(lambda: held.forwarded)
        await client.get("/jobs/a")
        assert await contents(redis) == before
        assert (await send(client, write)).status_code < 300
    await redis.aclose()


async def test_a_job_put_while_redis_is_frozen_is_refused_and_not_stored_after_the_thaw(
    own_redis: EmbeddedRedis,
) -> None:
    pid = own_redis.pid
    assert pid is not None
    async with api_on(own_redis.url) as client:
        await fill(client)
        await client.post("/", json=job(id="loads the script"))
        freeze(pid)
        try:
            answer = await client.post("/", json=job(id="new"))
            changed = await client.post("/jobs/a/run")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (answer.status_code, answer.json()["code"]) == (429, "outcome_unknown")
        assert int(answer.headers["retry-after"]) >= 1
        assert (changed.status_code, changed.json()["code"]) == (429, "store_unavailable")  # it could not be read
        assert (await client.get("/jobs/new")).status_code == 404
        assert (await client.get("/jobs/a")).json()["pending"] == []
        assert (await client.post("/", json=job(id="new"))).json()["changed"]


async def test_a_lost_reply_is_reported_and_retry_after_lies_beyond_the_deadline(own_redis: EmbeddedRedis) -> None:
    redis = Redis.from_url(own_redis.url)
    async with FaultProxy(own_redis.socket_path) as proxy, api_on(proxy.url) as client:
        await fill(client)
        for name in ("job/create", "job/change"):
            fault = proxy.on(script(name), lose="reply")
            answer = await client.post("/", json=job(id="new", payload=name))
            assert fault.hits == 1
            assert (answer.status_code, answer.json()["code"]) == (429, "outcome_unknown")
            assert int(answer.headers["retry-after"]) >= TIMEOUT_SECONDS
            again = await client.post("/", json=job(id="new", payload=name))
            assert (again.status_code, again.json()["changed"]) == (202, False)  # it was stored
    await redis.aclose()


async def test_a_lost_request_is_unknown_too_and_repeating_it_stores_it(own_redis: EmbeddedRedis) -> None:
    async with FaultProxy(own_redis.socket_path) as proxy, api_on(proxy.url) as client:
        await fill(client)
        proxy.on(script("job/create"), lose="request")
        assert (await client.post("/", json=job(id="new"))).json()["code"] == "outcome_unknown"
        again = await client.post("/", json=job(id="new"))
        assert (again.status_code, again.json()["changed"]) == (202, True)


async def test_a_change_that_was_not_sent_or_was_refused_is_reported_as_not_stored(own_redis: EmbeddedRedis) -> None:
    async with FaultProxy(own_redis.socket_path) as proxy, api_on(proxy.url) as client:
        await fill(client)
        await proxy.refuse()
        for write in WRITES:
            answer = await send(client, write)
            assert (answer.status_code, answer.json()["code"]) == (429, "store_unavailable"), (write, answer.text)
        await proxy.accept()
        redis: Any = Redis.from_url(own_redis.url)
        await redis.config_set("maxmemory", "1")
        answer = await client.post("/", json=job(id="new"))
        assert (answer.status_code, answer.json()["code"]) == (429, "store_unavailable")
        await redis.config_set("maxmemory", "0")
        await redis.aclose()


async def test_each_result_of_a_batch_says_whether_its_outcome_is_known(own_redis: EmbeddedRedis) -> None:
    jobs = [job(id=f"b{number:04}") for number in range(300)]
    async with FaultProxy(own_redis.socket_path) as proxy, api_on(proxy.url) as client:
        await fill(client)
        proxy.on(script("job/create"), lose="reply")
        results = (await client.post("/jobs:batch", json=jobs)).json()
        codes = [one["code"] for one in results]
        assert codes == ["outcome_unknown"] * 128 + ["store_unavailable"] * 172
        stored = [(await client.get(f"/jobs/{one['id']}")).status_code for one in (jobs[0], jobs[127], jobs[128])]
        assert stored == [200, 200, 404]


# ---- idempotency keys ------------------------------------------------------------------------------------------------


async def pending(client: httpx.AsyncClient, job_id: str = "a") -> list[str]:
    return [one["run_id"] for one in (await client.get(f"/jobs/{job_id}/pending")).json()["pending"]]


@pytest.mark.parametrize("lose", ["request", "reply"])
async def test_a_run_request_that_is_repeated_with_its_key_starts_one_run(own_redis: EmbeddedRedis, lose: Any) -> None:
    key = {"Idempotency-Key": "deploy 7"}
    async with FaultProxy(own_redis.socket_path) as proxy, api_on(proxy.url) as client:
        await fill(client)
        proxy.on(script("job/change"), lose=lose)
        lost = await client.post("/jobs/a/run", headers=key)
        assert (lost.status_code, lost.json()["code"]) == (429, "outcome_unknown")
        answers = [await client.post("/jobs/a/run", headers=key) for _ in range(3)]
        assert [one.status_code for one in answers] == [202] * 3
        assert await pending(client) == [answers[0].json()["run_id"]]
        assert len({one.text for one in answers}) == 1


async def test_simultaneous_requests_with_one_key_start_one_run(client: httpx.AsyncClient) -> None:
    await client.post("/", json=job(id="a"))
    body = {"payload": [1], "not_before": FAR}
    answers = await asyncio.gather(
        *(client.post("/jobs/a/run", json=body, headers={"Idempotency-Key": "k"}) for _ in range(10))
    )
    assert {one.text for one in answers} == {answers[0].text}
    assert len(await pending(client)) == 1
    other = await client.post("/jobs/a/run", json=body, headers={"Idempotency-Key": "another"})
    assert other.json()["run_id"] != answers[0].json()["run_id"]


async def test_a_key_belongs_to_one_job_and_one_body(client: httpx.AsyncClient) -> None:
    for name in ("a", "b"):
        await client.post("/", json=job(id=name))
    key = {"Idempotency-Key": "k"}
    first = await client.post("/jobs/a/run", json={"payload": 1}, headers=key)
    for body in ({"payload": 2}, {"payload": 1, "not_before": FAR}, {"payload": 1, "force": True}, {}):
        refused = await client.post("/jobs/a/run", json=body, headers=key)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert (await client.post("/jobs/b/run", json={"payload": 2}, headers=key)).status_code == 202
    assert (await client.post("/jobs/a/run", json={"payload": 1}, headers=key)).json() == first.json()


async def test_a_skipped_request_gets_the_same_answer_again_and_a_refused_one_is_tried_again(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/", json=job(id="a"))
    await client.post("/jobs/a/run", json={"payload": 1, "not_before": FAR})
    key = {"Idempotency-Key": "poke"}
    skipped = await client.post("/jobs/a/run", headers=key)
    assert skipped.json() == {"skipped": "not_due", "next_at": FAR}
    assert (await client.put("/jobs/a/pending", json=[])).status_code == 200
    assert (await client.post("/jobs/a/run", headers=key)).json() == skipped.json()
    await client.post("/jobs/a/run")
    refused = await client.post("/jobs/a/run", headers={"Idempotency-Key": "other"})
    assert refused.status_code == 409
    await client.put("/jobs/a/pending", json=[])
    assert (await client.post("/jobs/a/run", headers={"Idempotency-Key": "other"})).status_code == 202


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "caf\u00e9".encode(), b"\x01"])
async def test_an_invalid_key_is_refused(client: httpx.AsyncClient, key: Any) -> None:
    await client.post("/", json=job(id="a"))
    answer = await client.post("/jobs/a/run", headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["field"]) == (400, "Idempotency-Key")


async def test_kept_answers_expire_after_a_day_and_are_bounded(
    client: httpx.AsyncClient, context: Context, contents: Callable[[], dict[bytes, Any]]
) -> None:
    await client.post("/", json=job(id="a"))
    keys, redis = redis_of(context.store).keys, redis_of(context.store).client
    kept: Any = redis
    for number in range(100_000 // 1000):
        await kept.zadd(keys.answered, {f"{number}-{one}": 9e12 + number for one in range(1000)})
    await kept.zadd(keys.answered, {"expired": 1})
    await kept.hset(keys.answers, "expired", b"?")
    for name in ("one", "two"):
        await client.post("/jobs/a/run", json={"payload": 1}, headers={"Idempotency-Key": name})
    assert await kept.zscore(keys.answered, "expired") is None
    assert not await kept.hexists(keys.answers, "expired")
    assert await kept.zcard(keys.answered) <= 100_001
    (digest, *_) = await kept.hkeys(keys.answers)
    until_ms = await kept.zscore(keys.answered, digest)
    assert 0 < until_ms - context.clock.now_ms() <= 86_400_000
