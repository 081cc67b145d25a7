"""Targets that a rule of the server refuses are refused at upsert, as far as their URL shows it."""

from __future__ import annotations

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.delivery.http.guard import AddressGuard
from tests.api.conftest import job

METADATA = "http://169.254.169.254/latest/meta-data"
REFUSED = (
    METADATA,
    "http://[fe80::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://10.1.2.3/",
    "http://a.INTERNAL.test./",
)


@pytest.fixture(autouse=True)
def rules(context: Context) -> None:
    context.guard = AddressGuard(deny=["10.0.0.0/8", "*.internal.test"])


@pytest.mark.parametrize("url", REFUSED)
async def test_a_job_with_a_refused_target_is_refused(client: httpx.AsyncClient, url: str) -> None:
    for answer in (
        await client.post("/", json=job(id="a", endpoint=url)),
        await client.put("/jobs/a", json=job(id="a", endpoint=url)),
    ):
        assert (answer.status_code, answer.json()["field"]) == (400, "endpoint")
    assert (await client.get("/jobs/a")).status_code == 404
    good = job(id="good", endpoint="http://10.internal.test.example/")
    answer = await client.post("/jobs:batch", json=[job(id="a", endpoint=url), good])
    assert [one["status"] for one in answer.json()] == [400, 202]
    assert answer.json()[0]["field"] == "endpoint"


@pytest.mark.parametrize("url", REFUSED)
async def test_a_refused_target_cannot_be_stored(client: httpx.AsyncClient, url: str) -> None:
    answer = await client.post("/targets", json={"name": "t", "url": url})
    assert (answer.status_code, answer.json()["field"]) == (422, "url")
    created = (await client.post("/targets", json={"name": "t", "url": "http://h.test/"})).json()
    changed = await client.put(f"/targets/{created['id']}", json={"url": url})
    assert (changed.status_code, changed.json()["field"]) == (422, "url")


@pytest.mark.parametrize("url", REFUSED)
async def test_a_task_with_a_refused_target_is_refused(client: httpx.AsyncClient, url: str) -> None:
    task = {"webhookUrl": url, "executeAt": "2030-01-01T00:00:00Z"}
    answer = await client.post("/api/v1/tasks", json=[task])
    assert (answer.status_code, answer.json()["field"]) == (400, "[0].webhookUrl")
