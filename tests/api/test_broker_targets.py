"""Jobs whose runs go to brokers: what is refused when they are stored, and how their passwords are shown."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.conftest import job

STREAM = "redis+stream://user:s3cret@redis.test/0/jobs?maxlen=10"
TASK = "celery+redis://user:s3cret@redis.test/0?task=app.report"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "PUT"),
        ("headers", {"X-A": "b"}),
        ("query", {"a": "b"}),
        ("auth", {"type": "bearer", "token": "t"}),
        ("sign", {"keys": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}),
        ("continuations", True),
    ],
)
async def test_a_field_that_brokers_do_not_have_is_refused(
    client: httpx.AsyncClient, field: str, value: object
) -> None:
    for endpoint in (STREAM, TASK):
        answer = await client.post("/", json=job(endpoint=endpoint, payload={}) | {field: value})
        assert (answer.status_code, answer.json()["field"]) == (400, field)
        assert "s3cret" not in answer.text


async def test_a_password_is_masked_and_can_be_put_back(client: httpx.AsyncClient) -> None:
    stored = job(endpoint=STREAM)
    assert (await client.post("/", json=stored)).status_code == 202
    shown = (await client.get(f"/jobs/{stored['id']}")).json()
    assert shown["endpoint"] == STREAM.replace("s3cret", "***")
    answer = await client.post("/", json=stored | {"endpoint": shown["endpoint"]})
    assert (answer.status_code, answer.json()["changed"]) == (202, False)


async def test_a_password_is_masked_whatever_its_user_is_called(client: httpx.AsyncClient) -> None:
    for user in ("me@corp:s3cret", "me:s3cret@s3cret", "me@corp:s3cret@s3cret"):
        stored = job(endpoint=f"amqp://{user}@broker.test/v/e/k")
        assert (await client.post("/", json=stored)).status_code == 202
        answer = await client.get(f"/jobs/{stored['id']}")
        assert "s3cret" not in answer.text
        again = await client.post("/", json=stored | {"endpoint": answer.json()["endpoint"]})
        assert (again.status_code, again.json()["changed"]) == (202, False)


async def test_a_text_for_a_broker_is_shown_as_it_can_be_put_back(client: httpx.AsyncClient) -> None:
    stored = job(endpoint=STREAM, body="a;b", content_type="text/csv")
    del stored["payload"]
    assert (await client.post("/", json=stored)).status_code == 202
    shown = (await client.get(f"/jobs/{stored['id']}")).json()
    assert "method" not in shown
    again = await client.post("/", json=stored | {name: shown[name] for name in ("endpoint", "body", "content_type")})
    assert (again.status_code, again.json()["changed"]) == (202, False)
    refused = await client.post("/", json=stored | {"endpoint": TASK})
    assert (refused.status_code, refused.json()["field"]) == (400, "body")


async def test_a_one_off_task_shows_no_password(client: httpx.AsyncClient) -> None:
    task = {"webhookUrl": STREAM, "executeAt": "2999-01-01T00:00:00Z"}
    number = (await client.post("/api/v1/tasks", json=task)).json()["id"]
    for path in ("/api/v1/tasks", f"/api/v1/tasks/{number}"):
        answer = await client.get(path)
        assert STREAM.replace("s3cret", "***") in answer.text
        assert "s3cret" not in answer.text


async def test_a_payload_that_a_task_cannot_have_is_refused_wherever_it_is_given(client: httpx.AsyncClient) -> None:
    stored = job(endpoint=TASK, payload={"n": 1})
    assert (await client.post("/", json=stored)).status_code == 202
    requests: dict[str, list[tuple[str, str, Any]]] = {
        "payload": [("POST", "/", stored | {"payload": 1}), ("POST", f"/jobs/{stored['id']}/run", {"payload": "text"})],
        "pending[1].payload": [("PUT", f"/jobs/{stored['id']}/pending", [{"payload": [1]}, {"payload": None}])],
        "body_template": [("POST", "/targets", {"name": "t", "url": TASK, "method": "POST", "body_template": "5"})],
    }
    for field, calls in requests.items():
        for method, path, body in calls:
            answer = await client.request(method, path, json=body)
            status = 422 if path == "/targets" else 400
            assert (answer.status_code, answer.json()["field"]) == (status, field), path
            assert "must be an object" in answer.json()["detail"]
    assert (await client.post(f"/jobs/{stored['id']}/run", json={"payload": [1]})).status_code == 202
