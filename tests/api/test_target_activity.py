"""``POST /targets/{id}/try`` and ``GET /targets/{id}/statistics``."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, Reason
from scheduler_core.model.transition import Transition
from scheduler_core.node.dispatch.breaker import BreakerState
from scheduler_core.node.dispatch.targets import OpenBreaker
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of, job
from tests.api.runner import running, until
from tests.support.factories import at, settled_run

TARGET = {
    "name": "stock",
    "url": "http://runner.test:81/stock",
    "method": "POST",
    "headers": {"Authorization": "Bearer s3cret"},
    "body_template": '{"shop": 7}',
}
BREAKER = OpenBreaker("http://runner.test:81", BreakerState.OPEN, at(0), 7, at(5), "connection: refused")


@pytest.fixture
async def target(client: httpx.AsyncClient) -> None:
    assert (await client.post("/targets", json=TARGET)).status_code == 201


@pytest.mark.usefixtures("target")
async def test_a_try_that_ends_within_the_wait_answers_with_all_that_was_sent_and_answered(
    client: httpx.AsyncClient, context: Context
) -> None:
    async with running(context) as runner:
        runner.answers = [(201, b'{"stored": 3}')]
        answer = await client.post("/targets/1/try?wait=20")
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        run = shown["run"]
        assert answer.headers["location"] == f"/runs/{run['id']}" == f"/runs/{shown['run_id']}"
        assert (run["state"], run["reason"], run["status_code"], run["job_id"]) == (
            "succeeded",
            "manual",
            201,
            shown["job_id"],
        )
        assert (run["request_method"], run["request_url"]) == ("POST", TARGET["url"])
        assert run["request_headers"]["Authorization"] == "***"
        assert (run["request_body"], run["response_body"]) == ('{"shop": 7}', '{"stored": 3}')
        assert (shown["held_back"], shown["breakers"], shown["target_id"]) == (None, [], 1)
        assert (await client.get(f"/runs/{run['id']}")).json() == run
        assert [one["id"] for one in (await client.get("/runs?reason=manual")).json()] == [run["id"]]
        assert (await client.get("/jobs")).json()["jobs"] == []
        assert (await client.get(f"/jobs/{shown['job_id']}")).status_code == 404
        refused = await client.post(f"/runs/{run['id']}/retry")
        assert (refused.status_code, refused.json()["code"]) == (404, "run_not_found")
        assert "use POST /targets/1/try" in refused.json()["detail"]
    assert len(runner.requests) == 1


@pytest.mark.usefixtures("target")
async def test_a_try_without_wait_is_accepted_and_its_run_can_be_watched_and_cancelled(
    client: httpx.AsyncClient, context: Context
) -> None:
    async with running(context) as runner:
        runner.hold = asyncio.Event()
        headers = {"Idempotency-Key": "k"}
        answer = await client.post("/targets/1/try/", json={"payload": 1}, headers=headers)
        assert answer.status_code == 202
        assert answer.headers["cronpost-ignored"] == "payload"
        shown = answer.json()
        assert shown["run"] is None
        assert (await client.post("/targets/1/try", headers=headers)).json()["run_id"] == shown["run_id"]
        run = await until(client, f"/runs/{shown['run_id']}", lambda run: run["node"] is not None)
        assert (run["state"], run["attempts"]) == ("open", [])
        # While it runs, its job can be read, but not changed or made again.
        assert (await client.get(f"/jobs/{shown['job_id']}")).json()["status"] == "running"
        refused = await client.post("/", json=job(id=shown["job_id"]))
        assert (refused.status_code, refused.json()["field"]) == (400, "id")
        assert (await client.post(f"/runs/{shown['run_id']}/cancel")).status_code == 200
        assert (await client.post("/targets/1/try?wait=20", headers=headers)).json()["run"]["state"] == "cancelled"
    assert len(runner.requests) == 1


@pytest.mark.usefixtures("target")
async def test_a_try_that_cannot_be_made_says_why(client: httpx.AsyncClient) -> None:
    answer = await client.post("/targets/1/try")
    assert (answer.status_code, answer.json()["code"]) == (503, "no_node")
    assert "cronpost serve" in answer.json()["detail"]
    assert answer.headers["retry-after"] == "1"
    assert (await client.post("/targets/2/try")).json()["code"] == "target_not_found"
    for wait in ("21", "-1", "x"):
        answer = await client.post(f"/targets/1/try?wait={wait}")
        assert (answer.status_code, answer.json()["field"]) == (422, "wait")


@pytest.mark.usefixtures("target")
async def test_statistics_of_a_target_that_nothing_uses_are_empty(client: httpx.AsyncClient) -> None:
    assert (await client.get("/targets/1/statistics")).json() == {
        "target_id": 1,
        "jobs": 0,
        "schedules": 0,
        "users_examined": 0,
        "runs": 0,
        "begins_at": None,
        "succeeded": 0,
        "failed": 0,
        "success_rate": None,
        "latency_ms": None,
        "errors": {},
        "last_failures": [],
        "breakers": [],
    }
    assert (await client.get("/targets/9/statistics")).status_code == 404


@pytest.mark.usefixtures("target")
async def test_statistics_cover_the_runs_of_all_jobs_and_schedules_that_use_the_target(
    context: Context, store: RedisStore
) -> None:
    context.breakers = lambda: [
        ("n1", [BREAKER]),
        ("n2", [OpenBreaker("http://other.test", BreakerState.OPEN, at(0), 1, at(5), "")]),
    ]
    async with client_of(context) as client:
        await client.post("/", json=job(id="a", target="stock", endpoint=..., cron=..., every_seconds=3_600))
        schedule = {"name": "s", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 3_600}
        assert (await client.post("/schedules", json=schedule)).status_code == 201
        for name in ("b", "c"):
            await client.post("/", json=job(id=name))
        attempt = Attempt(1, 7, at(1), 100.0, OutcomeKind.RESPONSE, 200)
        ok = settled_run(1, attempts=(attempt,), reason=Reason.MANUAL)
        failed = settled_run(2, 503)
        dead = settled_run(3, None)
        for name, records in (("a", (ok, failed)), ("schedule_1", (dead,)), ("b", (settled_run(4, 500),))):
            await record(store, name, *records)
        shown = (await client.get("/targets/1/statistics")).json()
    assert (shown["jobs"], shown["schedules"], shown["users_examined"]) == (1, 1, 2)
    assert (shown["runs"], shown["succeeded"], shown["failed"], shown["success_rate"]) == (3, 1, 2, 0.3333)
    assert shown["latency_ms"] == {"p50": 12.5, "p95": 100.0, "longest": 100.0}, "of the requests with an answer"
    assert shown["errors"] == {"timeout": 1, "http_5xx": 1}
    assert [(one["job_id"], one["run_id"], one["error_type"]) for one in shown["last_failures"]] == [
        ("schedule_1", dead.id, "timeout"),
        ("a", failed.id, "http_5xx"),
    ]
    assert [(one["node"], one["target"], one["state"]) for one in shown["breakers"]] == [
        ("n1", "http://runner.test:81", "open")
    ]


async def record(store: RedisStore, name: str, *records: object) -> None:
    """Record settled runs in the history of a job."""
    stored = await store.read(name)
    state = stored.snapshot.state
    assert state is not None
    assert await store.change(name, stored, Transition(state, records))  # type: ignore[arg-type]
