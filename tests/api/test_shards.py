"""The API over four shards of one Redis: each endpoint uses the right shard, lists are merged, counts are sums."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from scheduler_api.context import STORE_CONNECTIONS, STORE_SLOTS, Context
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from tests.api.conftest import client_of, job
from tests.api.runner import Runner, running, until
from tests.api.test_connections import serving
from tests.support.listener import listening
from tests.support.stores import redis_of

NAMES = [f"job-{number}" for number in range(20)]


@pytest.fixture
async def shards(redis_url: str) -> AsyncIterator[Shards[RedisStore]]:
    shards = open_shards(redis_url, number=4, connections=STORE_CONNECTIONS)
    yield shards
    await shards.aclose()


@pytest.fixture
def context(shards: Shards[RedisStore], api_settings: ApiSettings) -> Context:
    return Context(settings=api_settings, store=shards, clock=RedisClock(), metrics=Metrics())


async def put_all(client: httpx.AsyncClient, **fields: Any) -> None:
    for name in NAMES:
        answer = await client.post("/", json=job(id=name, cron="0 0 1 1 *", **fields))
        assert answer.status_code == 202, answer.text


async def listed(client: httpx.AsyncClient, path: str, key: str | None = "jobs") -> list[Any]:
    """List all entries of a list, page by page along its links."""
    found: list[Any] = []
    following: str | None = path
    while following is not None:
        answer = await client.get(following)
        assert answer.status_code == 200, answer.text
        found += answer.json() if key is None else answer.json()[key]
        following = answer.links["next"]["url"] if "next" in answer.links else None
    return found


async def run_all(client: httpx.AsyncClient, runner: Runner) -> None:
    for name in NAMES:
        assert (await client.post(f"/jobs/{name}/run", json={"force": True})).status_code == 202
    await until(client, "/runs?limit=100", lambda runs: [run["status"] for run in runs] == ["SUCCESS"] * len(NAMES))


async def test_jobs_are_one_list_in_the_order_of_their_ids(client: httpx.AsyncClient, context: Context) -> None:
    await put_all(client)
    assert len({context.shards.number_of(name) for name in NAMES}) == 4
    assert [one["id"] for one in await listed(client, "/jobs?limit=3")] == sorted(NAMES)
    assert [one["id"] for one in await listed(client, "/jobs?limit=4&prefix=job-1")] == sorted(NAMES)[1:12]
    for name in NAMES[::3]:
        assert (await client.post(f"/jobs/{name}/pause")).status_code == 200
    assert [one["id"] for one in await listed(client, "/jobs?limit=2&status=paused")] == sorted(NAMES[::3])
    for name in NAMES:
        assert (await client.get(f"/jobs/{name}")).json()["id"] == name
        assert (await client.delete(f"/jobs/{name}")).status_code == 200
        assert (await client.get(f"/jobs/{name}")).status_code == 404
    assert await listed(client, "/jobs") == []


async def test_runs_are_one_list_newest_first_with_any_page_size(client: httpx.AsyncClient, context: Context) -> None:
    await put_all(client, labels={"team": "a"})
    async with running(context) as runner:
        await run_all(client, runner)
        whole = (await client.get("/runs?limit=100")).json()
        starts = [run["started_at"] for run in whole]
        assert starts == sorted(starts, reverse=True)
        ids = [run["id"] for run in whole]
        assert len(set(ids)) == len(NAMES)
        assert [run["id"] for run in await listed(client, "/runs?limit=3", None)] == ids
        assert [run["id"] for run in await listed(client, "/runs?limit=6&status_filter=SUCCESS", None)] == ids
        assert [run["id"] for run in await listed(client, "/runs?limit=6&label=team:a", None)] == ids
        skipped = await client.get("/runs?skip=7&limit=5")
        assert [run["id"] for run in skipped.json()] == ids[7:12]
        for run in whole:
            assert (await client.get(f"/runs/{run['id']}")).json()["job_id"] == run["job_id"]
            (own,) = (await client.get("/runs", params={"job_id": run["job_id"]})).json()
            assert own["id"] == run["id"]
            (record,) = (await client.get(f"/jobs/{run['job_id']}/runs")).json()["runs"]
            assert record["id"] == run["id"]
            account = (await client.get(f"/jobs/{run['job_id']}/account")).json()
            assert account["job_id"] == run["job_id"]
        assert (await client.get("/runs/01HZZZZZZZZZZZZZZZZZZZZZZZ")).status_code == 404


async def test_counts_are_sums_over_the_shards(client: httpx.AsyncClient, context: Context) -> None:
    await put_all(client)
    async with running(context) as runner:
        await run_all(client, runner)
        totals = (await client.get("/metrics", headers={"Accept": "application/json"})).json()
        assert (totals["total_runs"], totals["runs_last_hour"], totals["success_rate"]) == (len(NAMES),) * 2 + (100.0,)
        assert totals["avg_latency_ms"] == 1.25
        text = (await client.get("/metrics", headers={"Accept": "text/plain"})).text
        assert f"\ncronpost_jobs {float(len(NAMES))}\n" in text
        assert "\ncronpost_nodes 1.0\n" in text
        assert f"\ncronpost_history_runs {float(len(NAMES))}\n" in text


async def test_an_open_run_is_found_and_completed_by_callback_on_its_shard(
    client: httpx.AsyncClient, context: Context
) -> None:
    await put_all(client, completion="callback", run_timeout_seconds=60)
    async with running(context) as runner:
        runner.answers = [(202, b"")] * len(NAMES)
        for name in NAMES:
            assert (await client.post(f"/jobs/{name}/run", json={"force": True})).status_code == 202
        await until(client, "/jobs?status=taken&limit=100", lambda page: len(page["jobs"]) == len(NAMES))
        run_id = ""
        for index in range(len(NAMES)):
            run_id, token = (runner.header(name, index) for name in ("Idempotency-Key", "Cronpost-Callback-Token"))
            assert (await client.get(f"/runs/{run_id}")).json()["state"] == "taken"
            headers = {"Cronpost-Callback-Token": token}
            beat = await client.post(f"/runs/{run_id}/heartbeat", json={}, headers=headers)
            assert beat.status_code == 200, beat.text
            for _ in range(2):
                answer = await client.post(f"/runs/{run_id}/complete", json={"state": "succeeded"}, headers=headers)
                assert answer.json() == {"run_id": run_id, "state": "succeeded"}
        wrong = {"Cronpost-Callback-Token": runner.header("Cronpost-Callback-Token", 0)}
        refused = await client.post(f"/runs/{run_id}/complete", json={"state": "succeeded"}, headers=wrong)
        assert refused.status_code in {401, 403}


async def test_a_batch_goes_to_all_shards_and_a_fault_of_one_affects_only_its_jobs(
    client: httpx.AsyncClient, context: Context, redis_url: str
) -> None:
    answer = await client.post("/jobs:batch", json=[job(id=name, cron="0 0 1 1 *") for name in NAMES])
    assert [(one["id"], one["status"]) for one in answer.json()] == [(name, 202) for name in NAMES]
    async with Redis.from_url(redis_url) as redis:
        broken = redis_of(context.shards.all[1]).keys.jobs
        await redis.delete(broken)
        await redis.set(broken, "not a hash")
        answer = await client.post("/jobs:batch", json=[job(id=name, cron="0 0 2 1 *") for name in NAMES])
    for one in answer.json():
        assert (one["status"] == 202) == (context.shards.number_of(one["id"]) != 1), one


async def test_tasks_and_targets_exist_once(client: httpx.AsyncClient, redis_url: str) -> None:
    task = {"webhookUrl": "http://hook.test/", "executeAt": "2099-01-01T00:00:00Z"}
    task_id = (await client.post("/api/v1/tasks", json=task)).json()["id"]
    assert (await client.get(f"/api/v1/tasks/{task_id}")).status_code == 200
    target = (await client.post("/targets", json={"name": "t", "url": "http://a.test/", "method": "GET"})).json()
    again = await client.post("/targets", json={"name": "t", "url": "http://a.test/", "method": "GET"})
    assert again.status_code == 400
    async with Redis.from_url(redis_url) as redis:
        keys: list[Any] = await redis.keys("*catalogue:copies")
        assert len(keys) == 3
        assert not any(key.startswith(Keys().root.encode()) for key in keys)
    body = {"name": "s", "target_id": target["id"], "schedule_type": "INTERVAL", "interval_seconds": 60}
    assert (await client.post("/schedules", json=body)).status_code == 201
    assert (await client.put(f"/targets/{target['id']}", json={"url": "http://b.test/"})).json()[
        "url"
    ] == "http://b.test/"


async def test_with_a_wrong_number_of_shards_nothing_is_read_or_written(
    redis_url: str, client: httpx.AsyncClient, api_settings: ApiSettings
) -> None:
    await put_all(client)
    others = open_shards(redis_url, number=2)
    wrong = Context(settings=api_settings, store=others, clock=RedisClock(), metrics=Metrics())
    async with client_of(wrong) as confused:
        for answer in (
            await confused.get("/jobs"),
            await confused.post("/", json=job()),
            await confused.get("/jobs/a"),
        ):
            assert answer.status_code == 422
            assert "CRONPOST_SHARDS=4" in answer.text
    await others.aclose()


async def test_ready_names_the_shard_that_does_not_answer(
    client: httpx.AsyncClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await client.get("/ready")).status_code == 200
    away = open_shards("unix:///nowhere/redis.sock", number=1)
    monkeypatch.setattr(context.shards.all[2], "time_ms", away.lead.time_ms)
    answer = await client.get("/ready")
    assert answer.status_code == 503
    (reason,) = answer.json()["reasons"]
    assert reason.startswith("store: shard 2: ")


async def test_requests_that_wait_for_one_shard_delay_no_other(
    client: httpx.AsyncClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_all(client)
    never = asyncio.Event()

    async def hang(*_: object, **__: object) -> Any:
        await never.wait()

    frozen = context.shards.number_of(NAMES[0])
    monkeypatch.setattr(context.shards.all[frozen], "read_many", hang)
    monkeypatch.setattr(context.shards.all[frozen], "page_ids", hang)
    paths = [f"/jobs/{NAMES[0]}", "/jobs"] * (2 * STORE_SLOTS)
    waiting = [asyncio.ensure_future(client.get(path)) for path in paths]
    for _ in range(50):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        for name in NAMES:
            if context.shards.number_of(name) != frozen:
                assert (await client.get(f"/jobs/{name}")).status_code == 200
                assert (await client.post("/", json=job(id=name))).status_code == 202
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_listener_receives_the_events_of_all_shards_and_continues_on_each(
    client: httpx.AsyncClient, context: Context
) -> None:
    async with serving(context) as (host, port):
        url = f"http://{host}:{port}"
        assert await listed(client, "/jobs") == []  # stores the number of shards
        async with running(context, Runner()):
            async with listening(url) as first:
                await put_all(client)
                await first.until(lambda: len(first.of_type("job.changed")) == len(NAMES))
                last_id = first.last_id
            assert last_id is not None
            assert last_id.count(".") == 3, "a position for each shard"
            for name in NAMES:
                assert (await client.post(f"/jobs/{name}/pause")).status_code == 200
            async with listening(url, {"type": "job.changed"}, last_id=last_id) as second:
                for name in NAMES:
                    assert (await client.delete(f"/jobs/{name}")).status_code == 200
                for name in NAMES[:3]:
                    await client.post("/", json=job(id=name, cron="0 0 1 1 *"))
                await second.until(lambda: len(second.events) == len(NAMES) + 3)
                assert {event["reason"] for event in second.events[: len(NAMES)]} == {"paused"}
                assert {event["job_id"] for event in second.events[: len(NAMES)]} == set(NAMES)
                assert len({event["id"] for event in second.events}) == len(NAMES) + 3
        context.events.shut_down()


async def test_the_loss_of_one_shard_is_told_and_the_others_continue(
    client: httpx.AsyncClient, context: Context, redis_url: str
) -> None:
    async with serving(context) as (host, port):
        url = f"http://{host}:{port}"
        async with listening(url) as first:
            last_id = first.last_id
        await put_all(client)
        async with Redis.from_url(redis_url) as redis:
            await redis.delete(Keys(shard=2).events)
        async with listening(url, last_id=last_id) as second:
            expected = [name for name in NAMES if context.shards.number_of(name) != 2]
            await second.until(lambda: len(second.events) == len(expected) + 1)
            assert second.of_type("events.lost") == [{"type": "events.lost", "count": None}]
            assert {event["job_id"] for event in second.of_type("job.changed")} == set(expected)
        context.events.shut_down()
