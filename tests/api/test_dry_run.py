"""``?dry_run=true``: what a change would do, with the refusals of the change itself, and nothing stored."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import JobState
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of, job
from tests.support.ahead import AheadNode
from tests.support.factories import at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.stores import put as put_stored

JOB = "/jobs/job-scheduler-unique-id"
DRY = {"dry_run": "true"}
KEYS = ["whsec_" + b64encode(letter * 24).decode() for letter in (b"a", b"b", b"c")]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def context(store: RedisStore, api_settings: ApiSettings, clock: ManualClock) -> Context:
    return Context(settings=api_settings, store=store, clock=clock, metrics=Metrics())


@pytest.fixture
async def client(context: Context) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(context) as client:
        yield client


def send(
    client: httpx.AsyncClient, method: str, body: dict[str, Any], params: dict[str, str]
) -> Any:  # an awaitable answer
    return client.request(method, "/" if method == "POST" else JOB, json=body, params=params)


def fields(answer: httpx.Response) -> dict[str, tuple[Any, Any]]:
    assert answer.status_code == 200, answer.text
    return {change["field"]: (change["before"], change["after"]) for change in answer.json()["changes"]}


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("POST", job(cron="0 0 6 * * *")),
    ("PUT", job(cron="0 0 6 * * *", timezone="Europe/Berlin", recovery_check=...)),
    ("PUT", job(cron=..., every_seconds=7)),
    ("PUT", job(cron=..., at="2999-01-01T00:00:00Z")),
    ("PUT", job(cron=None)),
    ("PUT", job(starts_at="2027-06-01T00:00:00Z")),
    ("PUT", job(max_runs=2)),
    ("PATCH", {"cron": "*/7 * * * * *"}),
    ("PATCH", {"every_seconds": 0.5}),
    ("PATCH", {"payload": [1]}),
    ("PATCH", {}),
    ("POST", job()),
]


@pytest.mark.parametrize("exists", [True, False], ids=["stored", "new"])
@pytest.mark.parametrize(("method", "body"), BODIES, ids=str)
async def test_a_dry_run_stores_nothing_and_says_what_the_change_does(
    client: httpx.AsyncClient,
    contents: Callable[[], dict[bytes, Any]],
    exists: bool,
    method: str,
    body: dict[str, Any],
) -> None:
    if exists:
        await client.post("/", json=job())
    elif method == "PATCH":
        return
    before, content = await client.get(JOB), contents()
    dry = await send(client, method, body, DRY)
    assert dry.status_code == 200, dry.text
    assert contents() == content
    assert dry.headers.get("etag") == before.headers.get("etag")
    done = (await send(client, method, body, {})).json()
    assert (dry.json()["changed"], dry.json()["version"]) == (done["changed"], done["version"])
    after = (await client.get(JOB)).json()
    assert dry.json()["next_fire_times"] == after["next_fire_times"]
    if exists:
        shown = before.json()
        names = {name for name in {**shown, **after} if shown.get(name) != after.get(name)}
        computed = {"version", "updated_at", "next_fire_times", "created_at"}
        assert {name: (shown.get(name), after.get(name)) for name in names - computed} == fields(dry)
    else:
        given = {name: (None, value) for name, value in body.items() if name != "id" and value is not False}
        assert fields(dry) == given


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("POST", job(cron="61 * * * *")),
        ("PUT", job(cron="0 0 0 1 1 * 2001")),
        ("PUT", job(endpoint="ftp://x/")),
        ("PUT", job(target="nobody", endpoint=...)),
        ("PUT", job(headers={"X-Api-Key": "***", "X-Other-Key": "***"})),
        ("PUT", job(endpoint="http://other.test/", headers={"X-Api-Key": "***"})),
        ("PUT", job(cron=..., at="2001-01-01T00:00:00Z")),
        ("PUT", job(id="other")),
        ("PUT", job(completion="callback")),
        ("PATCH", {"ends_at": "2001-01-01T00:00:00Z"}),
        ("PATCH", {"cron": None, "at": "2001-01-01T00:00:00Z"}),
    ],
    ids=str,
)
async def test_a_dry_run_is_refused_as_the_change_is(
    client: httpx.AsyncClient, context: Context, method: str, body: dict[str, Any]
) -> None:
    context.takes_callbacks = False
    await client.post("/", json=job(headers={"X-Api-Key": "s3cret"}))
    dry, real = [await send(client, method, body, params) for params in (DRY, {})]
    assert dry.status_code == 400
    assert dry.json() == real.json()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_dry_run_must_be_true_or_false(client: httpx.AsyncClient, method: str) -> None:
    for value, status in (("yes", 400), ("false", 202)):
        await client.post("/", json=job())
        answer = await send(client, method, job(), {"dry_run": value})
        assert answer.status_code == status
    assert (await client.post("/jobs:batch", params=DRY, json=[job()])).json()["field"] == "dry_run"


async def test_a_changed_secret_is_shown_as_changed_and_never_as_it_is(client: httpx.AsyncClient) -> None:
    secrets: dict[str, Any] = {
        "headers": {"X-Api-Key": "s3cret-1", "X-Token": "s3cret-2", "X-A": "1"},
        "query": {"token": "s3cret-3", "key": "s3cret-4"},
        "auth": {"type": "basic", "username": "user", "password": "s3cret-5"},
        "sign": {"keys": KEYS[:2]},
    }
    await client.post("/", json=job(**secrets))
    new = {
        "headers": {"x-api-key": "s3cret-6", "X-Token": "***", "X-A": "1", "X-Secret": "s3cret-7"},
        "query": {"token": "s3cret-8", "key": "s3cret-4"},
        "auth": {"type": "basic", "username": "user", "password": "s3cret-9"},
        "sign": {"keys": [KEYS[0], KEYS[2]]},
    }
    answer = await client.put(JOB, json=job(**new), params=DRY)
    assert fields(answer) == {
        "headers": (
            {"X-Api-Key": "***", "X-Token": "***", "X-A": "1"},
            {"x-api-key": "*** (changed)", "X-Token": "***", "X-A": "1", "X-Secret": "***"},
        ),
        "query": ({"token": "***", "key": "***"}, {"token": "*** (changed)", "key": "***"}),
        "auth": (
            {"type": "basic", "username": "***", "password": "***"},
            {"type": "basic", "username": "***", "password": "*** (changed)"},
        ),
        "sign": ({"keys": ["***", "***"]}, {"keys": ["***", "*** (changed)"]}),
    }
    assert "s3cret" not in answer.text
    assert not any(key in answer.text for key in KEYS)
    other_type = await client.patch(JOB, json={"auth": {"type": "bearer", "token": "s3cret"}}, params=DRY)
    assert fields(other_type)["auth"][1] == {"type": "bearer", "token": "***"}
    same = await client.put(JOB, json=job(**secrets), params=DRY)
    assert (same.json()["changed"], same.json()["changes"]) == (False, [])


async def test_a_changed_password_of_a_broker_is_shown_as_changed(client: httpx.AsyncClient) -> None:
    url = "redis+stream://user:{}@broker.test/0/jobs"
    await client.post("/", json=job(endpoint=url.format("s3cret")))
    answer = await client.patch(JOB, json={"endpoint": url.format("other")}, params=DRY)
    assert fields(answer) == {"endpoint": (url.format("***"), url.format("*** (changed)"))}


async def test_a_field_that_is_removed_is_shown_as_null(client: httpx.AsyncClient) -> None:
    await client.post("/", json=job(headers={"X-A": "1"}))
    answer = await client.patch(JOB, json={"headers": None, "every_seconds": 5}, params=DRY)
    assert fields(answer) == {
        "headers": ({"X-A": "1"}, None),
        "cron": ("*/10 * * * * * *", None),
        "timezone": ("UTC", None),
        "every_seconds": (None, 5),
    }


async def test_a_dry_run_shows_the_names_of_targets(client: httpx.AsyncClient) -> None:
    await client.post("/targets", json={"name": "t", "url": "http://t.test/", "method": "POST"})
    await client.post("/", json=job())
    answer = await client.patch(JOB, json={"target": "t"}, params=DRY)
    assert fields(answer) == {
        "endpoint": ("http://localhost:8080/enqueue", None),
        "method": ("POST", None),
        "target": (None, "t"),
    }
    assert (await client.delete("/targets/1")).status_code == 200


async def test_a_dry_run_of_a_paused_job_has_no_fire_times(client: httpx.AsyncClient) -> None:
    await client.post("/", json=job())
    await client.post(f"{JOB}/pause")
    assert (await client.patch(JOB, json={"payload": 1}, params=DRY)).json()["next_fire_times"] == []


async def test_a_dry_run_of_a_restart_says_that_the_trigger_starts(
    client: httpx.AsyncClient, store: RedisStore
) -> None:
    once = job(cron=..., at="2999-01-01T00:00:00Z", recovery_check=...)
    await client.post("/", json=once)
    stored = (await store.read("job-scheduler-unique-id")).snapshot
    assert stored.job is not None
    await put_stored(store.client, stored.job, JobState(completed_at_ms=at(0)))
    answer = await client.post("/", json=once, params=DRY | {"restart": "true"})
    shown = answer.json()
    assert (shown["changed"], shown["version"], shown["changes"]) == (True, 2, [])
    assert shown["next_fire_times"] == ["2999-01-01T00:00:00Z"]
    assert (await client.post("/", json=once, params=DRY)).json()["changed"] is False


async def test_a_dry_run_names_the_run_in_flight_and_leaves_its_lease(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock, contents: Callable[[], dict[bytes, Any]]
) -> None:
    await put_stored(store.client, make_job("job-scheduler-unique-id"), make_state(0))
    await AheadNode(store, store.client).claim("job-scheduler-unique-id", clock.now)
    clock.advance(1)
    content = contents()
    dry = await client.patch(JOB, json={"payload": 2}, params=DRY)
    assert contents() == content
    real = await client.patch(JOB, json={"payload": 2})
    assert dry.json()["in_flight"] == real.json()["in_flight"]
