"""Unknown fields and parameters: refused with the nearest known name, or ignored and named in a header."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import Reason, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import job
from tests.support.factories import make_job, make_state, settled_run
from tests.support.manual_clock import START_MS
from tests.support.stores import beat, claim, put

REFUSED = [
    ("GET", "/jobs?stauts=active", None, "stauts", "'status'"),
    ("GET", "/jobs/a?viwe=definition", None, "viwe", "'view'"),
    ("GET", "/jobs/a/runs?mises=true", None, "mises", "'misses'"),
    ("GET", "/cron/next?exp=@daily", None, "exp", "'expr'"),
    ("GET", "/breakers?x=1", None, "x", "known: none"),
    ("POST", "/?restrat=true", job(id="a"), "restrat", "known"),
    ("POST", "/jobs/a/pause", {"nota": "x"}, "nota", "'note'"),
    ("POST", "/pause", {"nota": "x"}, "nota", "'note'"),
    ("POST", "/jobs/a/resume", {"at": "now"}, "at", "known: none"),
    ("POST", "/jobs/a/pending/x/revive", {"now": True}, "now", "known: none"),
    ("POST", "/jobs/a/run", {"paylod": 1}, "paylod", "'payload'"),
    ("DELETE", "/jobs/a", {"force": True}, "force", "known: none"),
    ("DELETE", "/?job_id=a", {"force": True}, "force", "known: none"),
]


@pytest.mark.parametrize(("method", "path", "body", "field", "words"), REFUSED, ids=[one[1] for one in REFUSED])
async def test_an_unknown_name_is_refused_with_the_nearest_known_one(
    client: httpx.AsyncClient, method: str, path: str, body: Any, field: str, words: str
) -> None:
    await client.post("/", json=job(id="a"))
    answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    assert words in answer.json()["detail"]
    assert (await client.get("/jobs/a")).json()["status"] == "active"


@pytest.mark.parametrize("body", [b"", b"{}", b" { } "])
async def test_a_request_that_takes_no_fields_may_have_an_empty_body(client: httpx.AsyncClient, body: bytes) -> None:
    await client.post("/", json=job(id="a"))
    for action in ("pause", "resume"):
        assert (await client.post(f"/jobs/a/{action}", content=body)).status_code == 200


async def test_fields_that_tasks_and_targets_ignore_are_named_in_a_header(client: httpx.AsyncClient) -> None:
    target = {"name": "t", "url": "http://t.test/", "timeout": 3, "x y": 1}
    answer = await client.post("/targets?verbose=1", json=target)
    assert (answer.status_code, answer.headers["Cronpost-Ignored"]) == (201, "timeout, x%20y, verbose")
    schedule = {"name": "s", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 5, "enabled": True}
    answer = await client.post("/schedules", json=schedule)
    assert (answer.status_code, answer.headers["Cronpost-Ignored"]) == (201, "enabled")
    answer = await client.post("/schedules/1/pause", json={"note": "x"})
    assert (answer.status_code, answer.headers["Cronpost-Ignored"]) == (200, "note")
    for path in (
        "/targets",
        "/schedules",
        "/metrics/schedules",
        "/runs",
        "/api/v1/tasks",
        "/api/v1/config",
        "/targets/1",
    ):
        answer = await client.get(f"{path}?nobody=1")
        assert (answer.status_code, answer.headers["Cronpost-Ignored"]) == (200, "nobody"), path
        assert "Cronpost-Ignored" not in (await client.get(path)).headers, path
    task = {"webhookUrl": "http://t.test/", "executeAt": "2030-01-01T00:00:00Z", "b": 1, "a": 2}
    answer = await client.post("/api/v1/tasks", json=[task, {**task, "c": 1}])
    assert (answer.status_code, answer.headers["Cronpost-Ignored"]) == (202, "a, b, c")
    answer = await client.patch("/api/v1/config", json={"select_size": 10, "other": 1})
    assert (answer.status_code, answer.headers["Cronpost-Ignored"]) == (200, "other")


async def test_the_header_is_bounded(client: httpx.AsyncClient) -> None:
    answer = await client.get("/runs", params={f"{number}\r\nX: {'y' * 500}": "1" for number in range(100)})
    assert answer.status_code == 200
    assert len(answer.headers["Cronpost-Ignored"]) < 20 * 310


async def test_runs_are_found_by_state_and_reason(
    client: httpx.AsyncClient, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store.client, make_job("job"), make_state(0))
    await beat(store)
    (claimed,) = (await claim(store, now_ms=START_MS)).jobs
    runs = [
        settled_run(
            number,
            200 if number % 2 else 500,
            reason=Reason.MANUAL if number % 3 == 0 else Reason.SCHEDULED,
            state=RunState.SUCCEEDED if number % 2 else RunState.CONFLICT,
        )
        for number in range(30)
    ]
    await store.settle([encode_settlement(claimed, Transition(JobState(), tuple(runs)))])

    async def found(query: str) -> list[str]:
        ids: list[str] = []
        url: str | None = f"/runs?{query}"
        while url is not None:
            answer = await client.get(url)
            assert answer.status_code == 200, answer.text
            ids += [one["id"] for one in answer.json()]
            url = answer.links["next"]["url"] if "next" in answer.links else None
        return ids

    conflicts = [run.id for run in reversed(runs) if run.state is RunState.CONFLICT]
    manual = [run.id for run in reversed(runs) if run.reason is Reason.MANUAL]
    for job_id in ("", "&job_id=job"):
        assert await found(f"state=conflict{job_id}") == conflicts
        assert await found(f"state=conflict&limit=4{job_id}") == conflicts
        assert await found(f"reason=manual&limit=1{job_id}") == manual
        assert await found(f"state=conflict&reason=manual{job_id}") == [one for one in conflicts if one in manual]
        assert await found(f"state=retrying{job_id}") == []
        assert await found(f"state=conflict&skip=3{job_id}") == conflicts[3:]
    monkeypatch.setattr("scheduler_core.usecases.history.LOOKED_AT", 4)
    monkeypatch.setattr("scheduler_core.usecases.history.LOOK_AT", 2)
    for job_id in ("", "&job_id=job"):
        assert await found(f"state=conflict&skip=3&limit=5{job_id}") == conflicts[3:]
        assert await found(f"reason=manual&limit=2{job_id}") == manual
    for query in ("state=done", "reason=x"):
        answer = await client.get(f"/runs?{query}")
        assert (answer.status_code, answer.json()["field"]) == (422, query.partition("=")[0])
