"""The history of a job, with a node that fires it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.base.config import EngineSettings
from scheduler_core.delivery.base import Call, CoroutineDeliverer, Outcome, OutcomeKind
from scheduler_core.model.run import Miss, MissReason
from scheduler_core.node.engine import Engine
from scheduler_core.store.redis.codec import record_args
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import job
from tests.support.factories import over_http


class ScriptedDeliverer(CoroutineDeliverer[None]):
    """Answers with ``status``; if that is None, not before ``release`` is set."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.release = asyncio.Event()
        self.calls: list[Call] = []

    async def send(self, call: Call, _: None, /) -> Outcome:
        self.calls.append(call)
        if self.status is None:
            await self.release.wait()
        return over_http(Outcome(OutcomeKind.RESPONSE, 1.25, status=self.status or 200, body=b"the answer"))

    async def aclose(self) -> None:
        pass


@pytest.fixture
async def deliverer(context: Context, store: RedisStore) -> AsyncIterator[ScriptedDeliverer]:
    deliverer = ScriptedDeliverer()
    engine = Engine(EngineSettings(drain_grace_seconds=0), store, deliverer, context.clock, context.metrics)
    engine.start()
    await engine.started()
    yield deliverer
    await engine.stop()


async def until(client: httpx.AsyncClient, path: str, condition: Any) -> Any:
    async with asyncio.timeout(20):
        while True:
            answer = (await client.get(path)).json()
            if condition(answer):
                return answer
            await asyncio.sleep(0.02)


async def test_a_run_is_in_the_history_with_all_its_fields(
    client: httpx.AsyncClient, deliverer: ScriptedDeliverer
) -> None:
    await client.post("/", json=job(id="a", cron="@daily", payload=[1]))
    run_id = (await client.post("/jobs/a/run", content=b'{"payload": [2]}')).json()["run_id"]
    answer = await until(client, "/jobs/a/runs", lambda answer: answer["runs"])
    (run,) = answer["runs"]
    assert answer["open_run"] is None
    assert run["id"] == run_id
    assert run["kind"] == "run"
    assert run["reason"] == "manual"
    assert run["state"] == "succeeded"
    assert run["status_code"] == 200
    assert run["attempt"] == 1
    assert run["lateness_ms"] >= 0
    assert run["fire_time"] <= run["started_at"] <= run["ended_at"]
    assert run["attempts"][0]["latency_ms"] == 1.25
    (call,) = deliverer.calls
    assert call.payload == b"[2]"
    shown = (await client.get("/jobs/a")).json()
    assert shown["last_run"]["id"] == run_id
    assert shown["last_run"]["state"] == "succeeded"
    assert shown["last_success"] == run["fire_time"]


async def test_a_run_in_flight_is_shown_as_open_and_another_is_a_conflict(
    client: httpx.AsyncClient, deliverer: ScriptedDeliverer
) -> None:
    deliverer.status = None
    await client.post("/", json=job(id="a", cron="@daily"))
    await client.post("/jobs/a/run")
    shown = await until(client, "/jobs/a", lambda shown: shown["status"] == "running")
    assert shown["open_run"]["state"] == "open"
    assert shown["open_run"]["node"]
    assert (await client.get("/jobs?status=running")).json()["jobs"][0]["id"] == "a"
    assert (await client.get("/jobs/a/runs")).json()["open_run"]["state"] == "open"
    assert (await client.post("/jobs/a/run")).status_code == 409
    deliverer.release.set()
    await until(client, "/jobs/a", lambda shown: shown["status"] == "active")


async def test_a_run_that_waits_for_its_retry_is_shown_with_its_attempts(
    client: httpx.AsyncClient, deliverer: ScriptedDeliverer
) -> None:
    deliverer.status = 503
    await client.post("/", json=job(id="a", cron="@yearly"))
    await client.post("/jobs/a/run")
    shown = await until(client, "/jobs/a", lambda shown: shown["status"] == "retrying")
    waiting = shown["open_run"]
    assert waiting["state"] == "retrying"
    assert waiting["retry_at"] is not None
    assert waiting["attempts"][0]["status_code"] == 503
    assert (await client.get("/jobs?status=retrying")).json()["jobs"][0]["id"] == "a"


async def test_a_job_changed_while_its_run_is_in_flight_ends_that_run_and_keeps_the_change(
    client: httpx.AsyncClient, deliverer: ScriptedDeliverer
) -> None:
    deliverer.status = None
    await client.post("/", json=job(id="a", cron="@daily"))
    await client.post("/jobs/a/run")
    await until(client, "/jobs/a", lambda shown: shown["status"] == "running")
    assert (await client.post("/", json=job(id="a", cron="@hourly"))).json()["version"] == 2
    deliverer.release.set()
    answer = await until(client, "/jobs/a/runs", lambda answer: answer["runs"])
    assert answer["runs"][0]["job_version"] == 1
    assert answer["runs"][0]["state"] == "succeeded"
    assert (await client.get("/jobs/a")).json()["cron"] == "@hourly"


async def test_the_history_of_a_deleted_job_can_be_read(
    client: httpx.AsyncClient, deliverer: ScriptedDeliverer
) -> None:
    await client.post("/", json=job(id="a", cron="@daily"))
    await client.post("/jobs/a/run")
    await until(client, "/jobs/a/runs", lambda answer: answer["runs"])
    await client.delete("/jobs/a")
    answer = await client.get("/jobs/a/runs")
    assert answer.status_code == 200
    assert len(answer.json()["runs"]) == 1


async def test_a_page_of_runs_among_misses_is_not_empty(client: httpx.AsyncClient, store: RedisStore) -> None:
    """Misses are skipped before the page is cut, not after."""
    await client.post("/", json=job(id="a", cron="@daily"))
    entries = (
        [encode_miss(number) for number in range(5)]
        + [b"S5s RUN5 10"]
        + [encode_miss(number) for number in range(6, 9)]
    )
    await store.client.rpush(store.keys.history("a"), *entries)
    page = (await client.get("/jobs/a/runs?limit=1")).json()
    assert [one["id"] for one in page["runs"]] == ["RUN5"]
    assert page["next"] is None
    page = (await client.get("/jobs/a/runs?limit=2&misses=true")).json()
    assert ([one["kind"] for one in page["runs"]], page["next"]) == (["miss", "miss"], "2")
    await store.client.rpush(store.keys.history("a"), b"nonsense", b"S6s RUN6 10", b"nonsense")
    page = (await client.get("/jobs/a/runs?limit=1")).json()
    assert [one["id"] for one in page["runs"]] == ["RUN6"]
    following = (await client.get(f"/jobs/a/runs?limit=1&skip={page['next']}")).json()
    assert ([one["id"] for one in following["runs"]], following["next"]) == (["RUN5"], None)


def encode_miss(number: int) -> bytes:
    miss = Miss(MissReason.OVERLAP, number, number, number, 1)
    letter, _, _, _, record, _ = record_args("a", miss)
    return letter.encode() + b" " + record


async def test_the_history_has_pages_newest_first(client: httpx.AsyncClient, deliverer: ScriptedDeliverer) -> None:
    await client.post("/", json=job(id="a", cron="@daily"))
    for _ in range(5):
        await client.post("/jobs/a/run", json={"force": True})
    whole = (await until(client, "/jobs/a/runs", lambda answer: len(answer["runs"]) == 5))["runs"]
    times = [run["fire_time"] for run in whole]
    assert times == sorted(times, reverse=True)
    found: list[Any] = []
    url: str | None = "/jobs/a/runs?limit=2"
    while url is not None:
        answer = await client.get(url)
        found += answer.json()["runs"]
        url = answer.links["next"]["url"] if answer.json()["next"] else None
    assert found == whole
