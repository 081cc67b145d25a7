"""``GET /jobs/{id}/account``: the run or the miss of each fire time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from msgspec.structs import replace

from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.policies import Policies
from scheduler_core.model.run import Attempt, Miss, MissReason, Reason, Record, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of, job
from tests.support.factories import at, make_job, make_run, make_state, retrying
from tests.support.manual_clock import ManualClock
from tests.support.stores import put

# The clock is at 23:50:00 on the last day of 2026.
MINUTE = "2026-12-31T23:50:"


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


async def record(store: RedisStore, job_id: str, *records: Record, **state: Any) -> None:
    """Store a job with this history, whose next fire time is a minute after the start."""
    from redis.asyncio import Redis

    client: Redis = store.client
    await put(client, make_job(job_id), make_state(60))
    stored = await store.read(job_id)
    assert await store.change(job_id, stored, Transition(make_state(60, **state), records))


def succeeded(fire_time: float, run_id: str, reason: Reason = Reason.SCHEDULED) -> Run:
    attempt = Attempt(1, 7, at(fire_time), 3.5, OutcomeKind.RESPONSE, 204)
    return make_run(
        fire_time,
        id=run_id,
        reason=reason,
        state=RunState.SUCCEEDED,
        started_at_ms=at(fire_time),
        ended_at_ms=at(fire_time + 1),
        attempt=1,
        attempts=(attempt,),
    )


HISTORY: Sequence[Record] = (
    succeeded(0, "A"),
    Miss(MissReason.OVERLAP, at(10), at(30), at(31), 3),
    succeeded(33, "ASKED", Reason.MANUAL),
    succeeded(40, "B"),
)


async def test_each_fire_time_has_its_run_or_the_range_that_it_lies_in(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await record(store, "a/b", *HISTORY, open=retrying(50, 90))
    clock.advance(75_000)
    answer = await client.get("/jobs/a%2Fb/account")
    assert answer.status_code == 200
    body = answer.json()
    assert body | {"entries": []} == {
        "job_id": "a/b",
        "from": f"{MINUTE}00Z",
        "to": "2026-12-31T23:51:15Z",
        "accounted_from": f"{MINUTE}00Z",
        "accounted_until": "2026-12-31T23:51:00Z",
        "entries": [],
        "next": None,
    }
    first, miss, _, retry, due = body["entries"]
    assert first == {
        "kind": "run",
        "fire_time": f"{MINUTE}00Z",
        "settled": True,
        "again": False,
        "run": {
            "id": "A",
            "reason": "scheduled",
            "state": "succeeded",
            "started_at": f"{MINUTE}00Z",
            "ended_at": f"{MINUTE}01Z",
            "attempts": 1,
            "status_code": 204,
            "message": "",
            "trimmed": False,
        },
    }
    assert miss == {
        "kind": "range",
        "first_fire_time": f"{MINUTE}10Z",
        "last_fire_time": f"{MINUTE}30Z",
        "settled": True,
        "again": False,
        "reason": "overlap",
        "count": 3,
    }
    assert (retry["run"]["state"], retry["settled"]) == ("retrying", False)
    assert (due["reason"], due["count"], due["settled"]) == ("due", 2, False)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"from": f"{MINUTE}40Z"}, ["B"]),
        ({"to": f"{MINUTE}00Z"}, ["A"]),
        ({"from": f"{MINUTE}20Z", "to": f"{MINUTE}20Z"}, ["overlap"]),
        ({"from": f"{MINUTE}00.001Z", "to": f"{MINUTE}39+00:00"}, ["overlap"]),
        ({"from": "2020-01-01T00:00:00Z"}, ["A", "overlap", "B"]),
        ({"to": "2020-01-01T00:00:00Z"}, []),
        ({"to": "2030-01-01T01:00:00+01:00"}, ["A", "overlap", "B"]),
    ],
)
async def test_both_bounds_are_inclusive(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock, bounds: dict[str, str], expected: list[str]
) -> None:
    await record(store, "a", *HISTORY)
    clock.advance(55_000)
    body = (await client.get("/jobs/a/account", params=bounds)).json()
    found = [entry["run"]["id"] if "run" in entry else entry["reason"] for entry in body["entries"]]
    assert found == expected


async def test_pages_follow_each_other_by_cursor_and_link(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await record(store, "ä", *HISTORY)
    clock.advance(55_000)
    whole = (await client.get(f"/jobs/{quote('ä')}/account")).json()["entries"]
    answer = await client.get(f"/jobs/{quote('ä')}/account", params={"limit": 2})
    assert answer.json()["entries"] == whole[:2]
    clock.advance(60_000)
    link = answer.headers["link"].partition(">")[0].removeprefix("<")
    second = await client.get(link)
    assert second.json()["entries"] == whole[2:], "the account has no fire times that came due between two pages"
    assert second.json()["next"] is None
    assert "link" not in second.headers


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-01-01T00:00:00"}, "to"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "1"}, "cursor"),
        ({"cursor": f"{'9' * 400}.a"}, "cursor"),
        ({"since": "2026-01-01T00:00:00Z"}, "since"),
    ],
)
async def test_an_invalid_parameter_is_refused_by_name(
    client: httpx.AsyncClient, params: dict[str, str], field: str
) -> None:
    await client.post("/", json=job(id="a"))
    answer = await client.get("/jobs/a/account", params=params)
    assert answer.status_code == 400
    assert answer.json()["field"] == field


async def test_an_unknown_job_has_no_account(client: httpx.AsyncClient) -> None:
    assert (await client.get("/jobs/nobody/account")).status_code == 404


async def test_a_deleted_job_has_its_account_until_it_is_trimmed(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await record(store, "a", *HISTORY)
    clock.advance(65_000)
    assert (await client.delete("/", params={"job_id": "a"})).status_code == 200
    body = (await client.get("/jobs/a/account")).json()
    assert [entry.get("reason") for entry in body["entries"]] == [None, "overlap", None, "replaced"]
    await store.client.delete(store.keys.history("a"))
    assert (await client.get("/jobs/a/account")).status_code == 404


async def test_the_account_of_a_new_job_begins_with_its_creation(client: httpx.AsyncClient, clock: ManualClock) -> None:
    await client.post("/", json=job(id="a", cron="@daily"))
    clock.advance(1_000)
    body = (await client.get("/jobs/a/account")).json()
    assert body["accounted_from"] == f"{MINUTE}00.001Z"
    assert body["accounted_until"] == "2027-01-01T00:00:00Z"
    assert body["entries"] == []


async def test_a_job_that_waited_for_ten_years_has_one_entry(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await put(store.client, make_job("a", policies=Policies()), make_state(10, paused_at_ms=at(5)))
    clock.advance(10 * 366 * 86_400_000)
    (entry,) = (await client.get("/jobs/a/account")).json()["entries"]
    assert (entry["reason"], entry["count"]) == ("paused", 10 * 366 * 8_640)


async def test_a_backfill_of_fire_times_before_the_job_existed_is_in_its_account(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await client.post("/", json=job(id="a", cron="0 0 * * *"))
    past = {"start": "2026-11-01T00:00:00Z", "end": "2026-11-02T00:00:00Z"}
    assert (await client.post("/jobs/a/backfill", json=past)).status_code == 202
    clock.advance(1_000)
    (waiting,) = (await client.get("/jobs/a/account")).json()["entries"]
    assert (waiting["first_fire_time"], waiting["again"]) == ("2026-11-01T00:00:00Z", True)
    stored = await store.read("a")
    assert stored.snapshot.state is not None
    ran = [
        replace(succeeded(1, f"AGAIN{day}", Reason.BACKFILL), fire_time_ms=1_793_491_200_000 + 86_400_000 * day)
        for day in range(2)
    ]
    after = replace(stored.snapshot.state, replays=())
    assert await store.change("a", stored, Transition(after, tuple(ran)))
    body = (await client.get("/jobs/a/account")).json()
    assert [entry["run"]["id"] for entry in body["entries"]] == ["AGAIN0", "AGAIN1"]
    assert (body["from"], body["accounted_from"]) == ("2026-11-01T00:00:00Z", f"{MINUTE}00.001Z")
    bounded = (await client.get("/jobs/a/account", params={"from": "2026-11-01T12:00:00Z"})).json()
    assert [entry["run"]["id"] for entry in bounded["entries"]] == ["AGAIN1"]


async def test_the_account_of_a_job_that_never_fired_does_not_begin_after_it_ends(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await client.post("/", json=job(id="a", cron="@daily"))
    await client.post("/", json=job(id="a", cron="@daily", payload=2))
    await put(store.client, make_job("lost history"), make_state(60))
    clock.advance(1_000)
    for name in ("a", "lost%20history"):
        for params in ({}, {"to": f"{MINUTE}00Z"}):
            body = (await client.get(f"/jobs/{name}/account", params=params)).json()
            assert body["from"] <= body["to"], (name, params, body)
            assert body["entries"] == []
