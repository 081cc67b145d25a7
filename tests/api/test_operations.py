"""Verbs on many jobs and runs over HTTP: counts at once, or an operation that a node continues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.node.loops import operations as loop
from tests.api.conftest import job
from tests.api.runner import running, until

NEVER = "0 0 0 1 1 * 2098"
PLAIN = {"endpoint": "http://h/", "cron": None, "retry_already_running": ..., "recovery_check": ...}


async def put(client: httpx.AsyncClient, *ids: str, **fields: Any) -> None:
    for one in ids:
        answer = await client.post("/", json=job(id=one, **(PLAIN | fields)))
        assert answer.status_code == 202, answer.text


async def done(client: httpx.AsyncClient, path: str, body: Any, status: int = 200) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def result(matched: int, changed: int, **skipped: int) -> dict[str, Any]:
    return {"dry_run": False, "matched": matched, "changed": changed, "skipped": skipped, "failed": 0, "errors": []}


async def test_pause_resume_and_delete_answer_the_counts(client: httpx.AsyncClient) -> None:
    await put(client, "a1", "a2", "b1", labels={"team": "billing"})
    await put(client, "c1")
    for path, select, expected in (
        ("pause", {"label": "team:billing"}, result(3, 3)),
        ("pause", {"label": ["team"], "prefix": "a"}, result(2, 0, unchanged=2)),
        ("resume", {"status": "paused", "q": "A1"}, result(1, 1)),
        ("delete", {"label": ["team:billing"], "status": "paused"}, result(2, 2)),
        ("delete", {"label": ["team:other"]}, result(0, 0)),
    ):
        found = await done(client, f"/jobs:{path}", {"select": select})
        assert found.pop("operation")
        assert (path, found) == (path, expected)
    assert [one["id"] for one in (await client.get("/jobs")).json()["jobs"]] == ["a1", "c1"]


async def test_the_jobs_that_a_body_names_are_changed_and_no_others(client: httpx.AsyncClient) -> None:
    await put(client, "a", "b/c", "d")
    body = {"select": {"id": ["d", "gone", "b/c", "d"]}}
    found = await done(client, "/jobs:pause", body | {"dry_run": True})
    assert (found["matched"], found["changed"]) == (2, 2)
    found = await done(client, "/jobs:pause", body)
    shown = (await client.get(f"/operations/{found['operation']}")).json()
    assert (shown["select"], shown["changed"], shown["position"]) == (body["select"], 2, "d")
    paused = (await client.get("/jobs?status=paused")).json()["jobs"]
    assert [one["id"] for one in paused] == ["b/c", "d"]


async def test_a_dry_run_changes_no_job(client: httpx.AsyncClient) -> None:
    await put(client, "a", "b")
    found = await done(client, "/jobs:delete", {"select": {"all": True}, "dry_run": True})
    assert (found["dry_run"], found["matched"], found["changed"]) == (True, 2, 2)
    assert len((await client.get("/jobs")).json()["jobs"]) == 2


async def test_pause_takes_a_note_and_an_end(client: httpx.AsyncClient) -> None:
    await put(client, "a", "b", cron=NEVER)
    body = {"all": True, "note": "migration", "until": "2097-01-01T00:00:00Z"}
    assert (await done(client, "/jobs:pause", body))["changed"] == 2
    shown = (await client.get("/jobs/a")).json()
    assert (shown["pause_note"], shown["paused_until"]) == ("migration", "2097-01-01T00:00:00Z")
    assert (await done(client, "/jobs:pause", body))["skipped"] == {"unchanged": 2}
    assert (await done(client, "/jobs:pause", {"all": True}))["changed"] == 2, "without note and end"


async def test_label_sets_and_removes_labels(client: httpx.AsyncClient) -> None:
    await put(client, "a", "b", labels={"old": "1"})
    body = {"select": {"label": "old"}, "labels": {"team": "billing", "old": None}}
    assert (await done(client, "/jobs:label", body))["changed"] == 2
    assert (await client.get("/jobs/b")).json()["labels"] == {"team": "billing"}
    assert (await done(client, "/jobs:label", body))["matched"] == 0


async def test_schedules_are_counted_as_skipped_except_for_labels(client: httpx.AsyncClient) -> None:
    await client.post("/targets", json={"name": "t", "url": "http://h/"})
    schedule = {"name": "s", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 3600}
    assert (await client.post("/schedules", json=schedule)).status_code == 201
    await put(client, "a")
    for verb in ("pause", "resume", "run", "delete"):
        found = await done(client, f"/jobs:{verb}", {"all": True})
        assert (verb, found["matched"], found["skipped"]["schedule"]) == (verb, 2, 1)
    labelled = await done(client, "/jobs:label", {"all": True, "labels": {"k": "v"}})
    assert (labelled["matched"], labelled["changed"]) == (1, 1), "only the schedule is left"
    assert (await client.get("/schedules/1")).json()["status"] == "ACTIVE"
    changed = await client.put("/schedules/1", json={"interval_seconds": 60})
    assert changed.status_code == 200


async def test_a_long_operation_is_continued_by_a_node_and_shows_its_progress(
    client: httpx.AsyncClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PERIOD_SECONDS", 0.02)
    await put(client, "a", "b")
    answer = await client.post("/jobs:run", json={"select": {"all": True}, "per_second": 1})
    assert answer.status_code == 202, answer.text
    path = f"/operations/{answer.json()['operation']}"
    assert answer.headers["location"] == path
    shown = (await client.get(path)).json()
    assert (shown["state"], shown["changed"], shown["position"]) == ("waiting", 1, "a")
    assert (shown["verb"], shown["select"], shown["carried_by"]) == ("run", {"all": True}, None)
    async with running(context) as runner:
        over = await until(client, path, lambda one: one["ended_at"] is not None)
        await until(client, "/jobs/b", lambda one: one["totals"]["succeeded"] == 1)
    assert (over["state"], over["matched"], over["changed"], over["seconds_left"]) == ("done", 2, 2, None)
    assert len(runner.requests) == 2


async def test_a_node_that_stops_releases_its_operations(
    client: httpx.AsyncClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PERIOD_SECONDS", 0.02)
    await put(client, *(f"job{number}" for number in range(9)))
    body = {"select": {"all": True}, "per_second": 1}
    path = f"/operations/{(await done(client, '/jobs:run', body, 202))['operation']}"
    async with running(context):
        carried = await until(client, path, lambda one: one["carried_by"] is not None)
        assert carried["state"] == "running"
    left = (await client.get(path)).json()
    assert (left["state"], left["carried_by"]) == ("waiting", None)
    assert left["changed"] == left["matched"] < 9


async def test_cancel_is_repeatable_and_refused_for_an_operation_that_ended(client: httpx.AsyncClient) -> None:
    await put(client, "a", "b")
    path = f"/operations/{(await done(client, '/jobs:run', {'all': True, 'per_second': 1}, 202))['operation']}"
    for _ in range(2):
        assert (await done(client, f"{path}/cancel", None))["state"] == "cancelled"
    ended = (await done(client, "/jobs:pause", {"all": True}))["operation"]
    refused = await client.post(f"/operations/{ended}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "operation_ended")
    for unknown in ("none", "%00", "%F0%9F%98%80"):
        for answer in (await client.get(f"/operations/{unknown}"), await client.post(f"/operations/{unknown}/cancel")):
            assert (answer.status_code, answer.json()["code"]) == (404, "operation_not_found")


async def test_operations_are_listed_page_by_page(client: httpx.AsyncClient) -> None:
    await put(client, "a")
    made = [(await done(client, "/jobs:pause", {"all": True}))["operation"] for _ in range(3)]
    seen: list[str] = []
    path: str | None = "/operations?limit=2"
    while path is not None:
        answer = await client.get(path)
        seen += [one["id"] for one in answer.json()["operations"]]
        path = answer.links["next"]["url"] if "next" in answer.links else None
    assert sorted(seen) == sorted(made)
    assert seen == sorted(seen, reverse=True)
    for wrong in ("limit=0", "cursor=zzz", f"cursor={seen[0].lower()}"):
        assert (await client.get(f"/operations?{wrong}")).json()["field"] == wrong.partition("=")[0]


async def test_a_label_that_is_given_twice_is_refused(client: httpx.AsyncClient) -> None:
    await put(client, "a")
    answer = await client.post("/jobs:label", content=b'{"all": true, "labels": {"k": "1", "k": null}}')
    assert (answer.status_code, answer.json().get("field")) == (400, "labels.k")
    assert (await client.get("/jobs/a")).json()["labels"] == {}


JOBS = ("pause", "resume", "run", "delete", "label")


WRONG_FOR_ALL: list[tuple[Any, str]] = [
    ({}, "select"),
    (None, "select"),
    ({"select": {}}, "select"),
    ({"select": {"all": False}}, "select"),
    ({"select": {"all": True, "label": "a"}}, "select"),
    ({"all": True, "select": {"label": "a"}}, "all"),
    ({"all": "yes"}, "all"),
    ({"select": []}, "select"),
    ({"select": {"label": ""}}, "select.label"),
    ({"select": {"colour": "red"}}, "select.colour"),
    ({"all": True, "dry_run": 1}, "dry_run"),
    ({"all": True, "colour": "red"}, "colour"),
]


@pytest.mark.parametrize("verb", [*JOBS, "replay"])
async def test_a_body_that_is_wrong_for_every_verb(
    client: httpx.AsyncClient, contents: Callable[[], Any], verb: str
) -> None:
    await put(client, "a")
    before = contents()
    path = "/runs:replay" if verb == "replay" else f"/jobs:{verb}"
    for body, field in WRONG_FOR_ALL:
        labels = {"labels": {"k": "v"}} if verb == "label" and body is not None else {}
        content = b"" if body is None else None
        answer = await client.post(path, content=content, json=None if body is None else labels | body)
        assert (answer.status_code, answer.json().get("field")) == (400, field), answer.text
    assert contents() == before


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/jobs:run", {"per_second": 0}, "per_second"),
        ("/jobs:run", {"per_second": 1001}, "per_second"),
        ("/jobs:run", {"per_second": 1.5}, "per_second"),
        ("/jobs:run", {"force": None}, "force"),
        ("/jobs:pause", {"per_second": 1}, "per_second"),
        ("/jobs:pause", {"until": "2020-01-01T00:00:00Z"}, "until"),
        ("/jobs:pause", {"until": "noon"}, "until"),
        ("/jobs:pause", {"note": "x" * 1001}, "note"),
        ("/jobs:label", {}, "labels"),
        ("/jobs:label", {"labels": {}}, "labels"),
        ("/jobs:label", {"labels": {"a:b": "c"}}, "labels"),
        ("/jobs:label", {"labels": {"a": 1}}, "labels"),
        ("/jobs:label", {"labels": {"a": "x" * 256}}, "labels.a"),
        ("/jobs:pause", {"select": {"target": "unknown"}, "all": ...}, "select.target"),
        ("/jobs:pause", {"select": {"status": "tired"}, "all": ...}, "select.status"),
        ("/runs:replay", {"definition": "old"}, "definition"),
        ("/runs:replay", {"select": {"state": "open"}, "all": ...}, "select.state"),
        ("/runs:replay", {"select": {"state": []}, "all": ...}, "select.state"),
        ("/runs:replay", {"select": {"from": "noon"}, "all": ...}, "select.from"),
        ("/runs:replay", {"select": {"job": "a", "label": "b"}, "all": ...}, "select.label"),
        (
            "/runs:replay",
            {"select": {"from": "2030-01-02T00:00:00Z", "to": "2030-01-01T00:00:00Z"}, "all": ...},
            "select.to",
        ),
    ],
)
async def test_a_field_of_one_verb_that_is_wrong(
    client: httpx.AsyncClient, contents: Callable[[], Any], path: str, body: dict[str, Any], field: str
) -> None:
    await put(client, "a")
    before = contents()
    sent = {name: value for name, value in ({"all": True} | body).items() if value is not ...}
    answer = await client.post(path, json=sent)
    assert (answer.status_code, answer.json().get("field")) == (400, field), answer.text
    assert contents() == before


async def test_many_requests_at_once_are_each_answered(client: httpx.AsyncClient) -> None:
    await put(client, *(f"job{number}" for number in range(5)))
    bodies = [("/jobs:pause", {"all": True}), ("/jobs:resume", {"all": True})] * 4
    found = await asyncio.gather(*(done(client, path, body) for path, body in bodies))
    assert all(one["matched"] == 5 and one["failed"] == 0 for one in found)
