"""``/jobs`` and the operations on one job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.api.conftest import EXAMPLE, job

IDS = [
    "a",
    "a/b",
    "../x",
    "..",
    ".",
    "a b",
    " ",
    "%2F",
    "a%2Fpause",
    "?job_id=b",
    "#",
    "\u00e9\U0001f980",
    "a+b",
    "//",
    "'\"<script>\\",
]


def path(job_id: str, action: str = "") -> str:
    return f"/jobs/{quote(job_id, safe='').replace('.', '%2E')}{action}"


@pytest.mark.parametrize("job_id", IDS)
async def test_every_id_has_its_own_path(client: httpx.AsyncClient, job_id: str) -> None:
    stored = await client.put(path(job_id), json=job(id=..., cron="@daily"))
    assert stored.status_code == 202, stored.text
    assert stored.json()["id"] == job_id
    assert (await client.get(path(job_id))).json()["id"] == job_id
    assert (await client.post(path(job_id, "/pause"))).json()["status"] == "paused"
    assert (await client.post(path(job_id, "/resume"))).json()["status"] == "active"
    assert (await client.post(path(job_id, "/run"))).status_code == 202
    assert [one["id"] for one in (await client.get("/jobs")).json()["jobs"]] == [job_id]
    assert (await client.get(path(job_id, "/runs"))).status_code == 200
    assert (await client.delete(path(job_id))).status_code == 200
    assert (await client.get(path(job_id))).status_code == 404


@pytest.mark.parametrize("job_id", IDS)
async def test_every_id_can_be_deleted_by_query(client: httpx.AsyncClient, job_id: str) -> None:
    await client.post("/", json=job(id=job_id))
    answer = await client.delete("/", params={"job_id": job_id})
    assert answer.status_code == 200
    assert answer.json() == {"id": job_id, "deleted": True}
    assert (await client.delete("/", params={"job_id": job_id})).status_code == 404


async def test_a_delete_without_an_id_is_refused(client: httpx.AsyncClient) -> None:
    for query in ("/", "/?job=a", "/?job_id=a&job_id=b", "/?job_id=%ff"):
        answer = await client.delete(query)
        assert answer.status_code == 400, query


async def test_a_path_that_is_not_utf8_is_refused(client: httpx.AsyncClient) -> None:
    for method, action in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/run"), ("POST", "/pause")):
        answer = await client.request(method, f"/jobs/%ff{action}", json=EXAMPLE)
        assert answer.status_code == 400, method
        assert answer.json()["field"] == "id"


@pytest.mark.parametrize(
    ("method", "action"),
    [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/run"), ("GET", "/runs")],
)
async def test_an_unknown_job_is_not_found(client: httpx.AsyncClient, method: str, action: str) -> None:
    answer = await client.request(method, f"/jobs/nobody{action}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "job_not_found"
    assert "nobody" in answer.json()["detail"]


async def test_the_id_in_the_body_of_a_put_is_the_one_in_the_path(
    client: httpx.AsyncClient, contents: Callable[[], dict[bytes, Any]]
) -> None:
    assert (await client.put("/jobs/a", json=job(id="a"))).status_code == 202
    before = contents()
    answer = await client.put("/jobs/a", json=job(id="b"))
    assert answer.status_code == 400
    assert answer.json()["field"] == "id"
    assert (await client.put("/jobs/schedule_1", json=job(id=...))).status_code == 400
    assert (await client.put("/jobs/a%0Ab", json=job(id=...))).status_code == 400
    assert contents() == before


async def test_pages_hold_all_jobs_once_in_the_order_of_their_ids(client: httpx.AsyncClient) -> None:
    ids = [f"{name}{number}" for name in ("a", "b", "\u00e9/") for number in range(7)]
    for job_id in reversed(ids):
        await client.post("/", json=job(id=job_id))
    found: list[str] = []
    url: str | None = "/jobs?limit=4"
    while url is not None:
        answer = await client.get(url)
        page = answer.json()
        found += [one["id"] for one in page["jobs"]]
        assert len(page["jobs"]) <= 4
        assert ("next" in answer.links) == (page["next"] is not None)
        url = answer.links["next"]["url"] if page["next"] else None
    assert found == ids


async def test_a_list_can_be_filtered_by_prefix_and_status(client: httpx.AsyncClient) -> None:
    for job_id in ("a", "a/1", "a/2", "b/1", "a\U0001f980"):
        await client.post("/", json=job(id=job_id))
    await client.post("/jobs/a%2F2/pause")
    await client.post("/jobs/b%2F1/pause")

    async def ids(query: str) -> list[str]:
        return [one["id"] for one in (await client.get(f"/jobs?{query}")).json()["jobs"]]

    assert await ids("prefix=a") == ["a", "a/1", "a/2", "a\U0001f980"]
    assert await ids("prefix=a/") == ["a/1", "a/2"]
    assert await ids("prefix=zzz") == []
    assert await ids("status=paused") == ["a/2", "b/1"]
    assert await ids("status=active&prefix=a/") == ["a/1"]
    assert await ids("status=quarantined") == []


@pytest.mark.parametrize(
    "query",
    [
        "status=unheard",
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "limit=1.5",
        "limit=%D9%A1",
        "cursor=!!",
        "cursor=_w",
        "unknown=1",
        "limit=1&limit=2",
        "prefix=%ff",
    ],
)
async def test_a_bad_list_query_is_refused(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert answer.json()["field"] in query


async def test_a_paused_job_has_no_next_fire_and_stays_paused_through_an_upsert(client: httpx.AsyncClient) -> None:
    await client.post("/", json=EXAMPLE)
    paused = (await client.post(path(EXAMPLE["id"], "/pause"))).json()
    assert paused["next_fire_times"] == []
    assert paused["paused_at"] is not None
    answer = await client.post("/", json=job(cron="@daily"))
    assert answer.json()["next_fire_time"] is None
    shown = (await client.get(path(EXAMPLE["id"]))).json()
    assert shown["status"] == "paused"
    assert shown["paused_at"] == paused["paused_at"]
    assert (await client.post(path(EXAMPLE["id"], "/pause"))).json()["paused_at"] == paused["paused_at"]
    assert len((await client.post(path(EXAMPLE["id"], "/resume"))).json()["next_fire_times"]) == 5


async def test_a_pause_is_one_miss_in_the_history(client: httpx.AsyncClient) -> None:
    await client.post("/", json=job(id="a", cron="* * * * * *"))
    await client.post("/jobs/a/pause")
    async with asyncio.timeout(10):
        while True:
            resumed = (await client.post("/jobs/a/resume")).json()
            answer = (await client.get("/jobs/a/runs?misses=true")).json()
            if answer["runs"]:
                break
            await client.post("/jobs/a/pause")
            await asyncio.sleep(0.3)
    assert resumed["status"] == "active"
    miss = answer["runs"][0]
    assert miss["kind"] == "miss"
    assert miss["reason"] == "paused"
    first, last, recorded = (
        datetime.fromisoformat(miss[name]) for name in ("first_fire_time", "last_fire_time", "recorded_at")
    )
    assert first <= last <= recorded
    assert (await client.get("/jobs/a/runs")).json() == {"open_run": None, "runs": [], "next": None}


async def test_a_second_run_is_a_conflict_unless_it_is_forced(client: httpx.AsyncClient) -> None:
    await client.post("/", json=job(id="a", cron="@daily"))
    first = await client.post("/jobs/a/run")
    assert first.status_code == 202
    second = await client.post("/jobs/a/run")
    assert second.status_code == 409
    assert second.json()["code"] == "run_not_settled"
    forced = await client.post("/jobs/a/run", json={"force": True})
    assert forced.status_code == 202
    assert forced.json()["run_id"] != first.json()["run_id"]
    pending = (await client.get("/jobs/a")).json()["pending"]
    assert [one["run_id"] for one in pending] == [first.json()["run_id"], forced.json()["run_id"]]


async def test_a_paused_job_can_be_run(client: httpx.AsyncClient) -> None:
    await client.post("/", json=job(id="a"))
    await client.post("/jobs/a/pause")
    assert (await client.post("/jobs/a/run")).status_code == 202


@pytest.mark.parametrize("body", [b"[]", b'{"force":1}', b'{"force":null}', b'{"forced":true}', b'{"payload":}', b"x"])
async def test_a_bad_run_request_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    await client.post("/", json=job(id="a"))
    assert (await client.post("/jobs/a/run", content=body)).status_code == 400
    assert (await client.get("/jobs/a")).json()["pending"] == []


@pytest.mark.parametrize("query", ["misses=1", "misses=yes", "skip=-1", "skip=x", "limit=0", "page=2"])
async def test_a_bad_history_query_is_refused(client: httpx.AsyncClient, query: str) -> None:
    await client.post("/", json=job(id="a"))
    assert (await client.get(f"/jobs/a/runs?{query}")).status_code == 400


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PATCH", "/", {"GET", "HEAD", "POST", "DELETE"}),
        ("PUT", "/", {"GET", "HEAD", "POST", "DELETE"}),
        ("POST", "/jobs/a", {"GET", "HEAD", "PUT", "PATCH", "DELETE"}),
        ("POST", "/jobs", {"GET", "HEAD"}),
        ("GET", "/jobs/a/run", {"POST"}),
        ("DELETE", "/health", {"GET", "HEAD"}),
    ],
)
async def test_an_unsupported_method_is_405_and_the_answer_lists_the_others(
    client: httpx.AsyncClient, method: str, target: str, allowed: set[str]
) -> None:
    answer = await client.request(method, target)
    assert answer.status_code == 405
    assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("target", ["/nothing", "/jobs/", "/jobs/a/b", "/jobs/a/run/", "//", "/jobs//run", "/api/v9"])
async def test_an_unknown_path_is_404_with_a_problem_document(client: httpx.AsyncClient, target: str) -> None:
    answer = await client.get(target if target != "//" else "http://localhost//")
    assert answer.status_code == 404
    assert answer.json()["code"] == "no_such_path"


async def test_no_answer_may_be_cached_or_sniffed(client: httpx.AsyncClient) -> None:
    for target in ("/health", "/jobs", "/nothing", "/metrics"):
        answer = await client.get(target)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_an_id_that_looks_like_markup_is_returned_as_json(client: httpx.AsyncClient) -> None:
    await client.put(path("<img src=x>"), json=job(id=...))
    answer = await client.get("/jobs")
    assert answer.headers["content-type"] == "application/json"
