"""Bodies that two JSON parsers can read differently, and names that look like other names."""

from __future__ import annotations

import httpx
import pytest

TASK = b'{"webhookUrl": "http://h/a", "executeAt": "2030-01-01T00:00:00Z"'
TARGET = b'{"name": "a", "url": "http://h/"'

REPEATED: dict[str, tuple[str, str, bytes, int, str]] = {
    "a job": ("POST", "/", b'{"id":"a","id":"b"}', 400, "id"),
    "a task": ("POST", "/api/v1/tasks", TASK + b', "webhookUrl": "http://h/b"}', 400, "webhookUrl"),
    "a task by an escaped name": (
        "POST",
        "/api/v1/tasks",
        TASK + rb', "webhook\u0055rl": "http://h/b"}',
        400,
        "webhookUrl",
    ),
    "an unknown field of a task": ("POST", "/api/v1/tasks", TASK + b', "x": 1, "x": 2}', 400, "x"),
    "a task in an array": ("POST", "/api/v1/tasks", b"[" + TASK + b"}," + TASK + b', "x": 1, "x": 2}]', 400, "[1].x"),
    "task settings": ("PATCH", "/api/v1/config", b'{"select_size": 1, "select_size": 2}', 400, "select_size"),
    "a target": ("POST", "/targets", TARGET + b', "name": "b"}', 422, "name"),
    "headers of a target": ("POST", "/targets", TARGET + b', "headers": {"A": "1", "A": "2"}}', 422, "headers.A"),
}


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), REPEATED.values(), ids=REPEATED.keys())
async def test_a_repeated_key_is_refused(
    client: httpx.AsyncClient, method: str, path: str, body: bytes, status: int, field: str
) -> None:
    answer = await client.request(method, path, content=body)
    assert answer.status_code == status
    assert answer.json()["field"] == field
    assert "twice" in answer.json()["detail"]


async def test_repeated_keys_in_values_that_are_not_read_are_allowed(client: httpx.AsyncClient) -> None:
    body = TASK + b', "x": {"executeAt": 1, "webhookUrl": [{"executeAt": "{:"}]}}'
    assert (await client.post("/api/v1/tasks", content=body)).status_code == 202


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "\u202eb", "a\u0000", "a\u2028b"])
async def test_a_name_with_unprintable_characters_is_refused(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.post("/targets", json={"name": name, "url": "http://h/"})
    assert answer.status_code == 422
    assert answer.json()["field"] == "name"
    target = (await client.post("/targets", json={"name": "täglich ✓", "url": "http://h/"})).json()
    schedule = {"name": name, "target_id": target["id"], "schedule_type": "INTERVAL", "interval_seconds": 60}
    answer = await client.post("/schedules", json=schedule)
    assert answer.status_code == 422
    assert answer.json()["field"] == "name"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (rb'{"id":"\ud800","endpoint":"http://h/","cron":"@daily","payload":1}', "id"),
        (rb'{"id":"a","endpoint":"http://h/","cron":"@daily","payload":["\udc00"]}', "payload"),
    ],
)
async def test_half_a_surrogate_pair_is_refused_with_its_field(
    client: httpx.AsyncClient, body: bytes, field: str
) -> None:
    answer = await client.post("/", content=body)
    assert answer.status_code == 400
    assert answer.json()["field"] == field


@pytest.mark.parametrize("version", ["1e9", "x", "-1", "1.0.0.0.0", "99999999999999999999"])
async def test_an_unknown_version_of_the_metrics_format_gets_the_default_one(
    client: httpx.AsyncClient, version: str
) -> None:
    accept = f"application/openmetrics-text;version={version}"
    answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert "cronpost_" in answer.text
