"""The trigger of a job over HTTP: what is accepted and refused, what repeating a request does, completed jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.instants import rfc3339
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of
from tests.support.factories import answered
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS

Contents = Callable[[], dict[bytes, Any]]

BASE: dict[str, Any] = {"id": "a", "endpoint": "http://runner.test/", "payload": 1}
SOON = "2999-01-01T00:00:00Z"


class Fired:
    """The API and a node, both on a clock that stands still."""

    def __init__(self, settings: ApiSettings, store: RedisStore) -> None:
        self.clock = ManualClock()
        self.start = self.settled_at = self.clock.now
        self.store = store
        self.client = client_of(Context(settings=settings, store=self.store, clock=self.clock, metrics=Metrics()))
        self.node = SteppedNode(self.store, self.clock)

    async def work(self, milliseconds: int = 0) -> int:
        """Let time pass, and run what is due; return the number of requests."""
        for _ in range(milliseconds // 1_000):
            self.clock.advance(1_000)
            await self.node.beat()
        self.clock.advance(milliseconds % 1_000)
        await self.node.beat()
        await self.node.claim()
        sent = len(self.node.deliverer.open)
        while self.node.deliverer.open:
            await self.node.answer(answered(200))
        await self.node.settle()
        if sent:
            self.settled_at = self.clock.now
        return sent


@pytest.fixture
async def setup(store: RedisStore, api_settings: ApiSettings) -> AsyncIterator[Fired]:
    setup = Fired(api_settings, store)
    await setup.node.start()
    async with setup.client:
        yield setup
    await setup.node.crash()


def body(**fields: Any) -> dict[str, Any]:
    return BASE | fields


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "none": ({}, "cron", "is missing"),
    "only null": ({"every_seconds": None, "at": None}, "cron", "is missing"),
    "cron and every_seconds": ({"cron": "@daily", "every_seconds": 5}, "every_seconds", "cron and every_seconds"),
    "cron and at": ({"cron": "@daily", "at": SOON}, "at", "cron and at"),
    "every_seconds and at": ({"every_seconds": 5, "at": "now"}, "at", "every_seconds and at"),
    "too often": ({"every_seconds": 0.099}, "every_seconds", "at most three decimals"),
    "too rarely": ({"every_seconds": 3_162_240_001}, "every_seconds", "from 0.1 to"),
    "four decimals": ({"every_seconds": 0.1001}, "every_seconds", "at most three decimals"),
    "many decimals": ({"every_seconds": 1.0000000000000002}, "every_seconds", "at most three decimals"),
    "a text": ({"every_seconds": "5"}, "every_seconds", "a number"),
    "true": ({"every_seconds": True}, "every_seconds", "a number"),
    "no instant": ({"at": "tomorrow"}, "at", "RFC 3339"),
    "after the calendar": ({"at": "9999-12-31T23:59:59Z"}, "at", "from 1970 to 8999"),
    "no offset": ({"at": "2999-01-01T00:00:00"}, "at", "RFC 3339"),
    "a number": ({"at": 5}, "at", "RFC 3339"),
    "the past": ({"at": "2026-01-01T00:00:00Z"}, "at", "has passed"),
    "before it starts": ({"at": SOON, "starts_at": "2999-01-02T00:00:00Z"}, "starts_at", "not be earlier"),
    "after it ends": ({"at": SOON, "ends_at": "2998-01-02T00:00:00Z"}, "ends_at", "no fire time"),
    "an interval that is longer than its time": (
        {"every_seconds": 1e9, "ends_at": "2030-01-02T00:00:00Z"},
        "ends_at",
        "no fire time",
    ),
    "a zone beside an interval": ({"every_seconds": 5, "timezone": "UTC"}, "timezone", "beside every_seconds"),
    "a zone beside at": ({"at": SOON, "timezone": "UTC"}, "timezone", "beside at"),
    "a zone beside @every": ({"cron": "@every 5s", "timezone": "UTC"}, "timezone", "@every"),
    "a zone without a trigger": ({"cron": None, "timezone": "UTC"}, "timezone", "without a cron expression"),
    "cron of another type": ({"cron": 5}, "cron", "a cron expression"),
    "at with recovery_check and recovery none": (
        {"at": SOON, "recovery_check": True, "recovery": "none"},
        "recovery",
        "contradicts",
    ),
}


@pytest.mark.parametrize(("fields", "field", "why"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_trigger_that_is_refused_names_its_field(
    client: httpx.AsyncClient, contents: Contents, fields: dict[str, Any], field: str, why: str
) -> None:
    assert (await client.post("/", json=body(cron="@yearly"))).status_code == 202
    before = contents()
    for answer in (await client.post("/", json=body(**fields)), await client.put("/jobs/a", json=body(**fields))):
        assert (answer.status_code, answer.json()["field"]) == (400, field)
        assert why in answer.json()["detail"]
    (result,) = (await client.post("/jobs:batch", json=[body(**fields)])).json()
    assert (result["status"], result["field"]) == (400, field)
    assert contents() == before


TAKEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cron": ({"cron": "@yearly"}, {"cron": "@yearly", "timezone": "UTC"}),
    "cron, the others null": ({"cron": "@yearly", "every_seconds": None, "at": None}, {"cron": "@yearly"}),
    "an interval": ({"every_seconds": 90}, {"every_seconds": 90}),
    "the shortest interval": ({"every_seconds": 0.1}, {"every_seconds": 0.1}),
    "three decimals": ({"every_seconds": 1234567.891}, {"every_seconds": 1234567.891}),
    "an interval in another notation": ({"cron": None, "every_seconds": 1.5e3}, {"every_seconds": 1500}),
    "@every": ({"cron": "@every 1m30s"}, {"cron": "@every 1m30s"}),
    "at": ({"at": "2999-01-01T02:00:00+02:00"}, {"at": SOON}),
    "on request": ({"cron": None}, {"cron": None}),
    "on request, all null": ({"cron": None, "every_seconds": None, "at": None}, {"cron": None}),
}


@pytest.mark.parametrize(("fields", "shown"), TAKEN.values(), ids=TAKEN.keys())
async def test_a_trigger_is_shown_as_it_was_given_and_can_be_sent_back(
    client: httpx.AsyncClient, contents: Contents, fields: dict[str, Any], shown: dict[str, Any]
) -> None:
    first = await client.post("/", json=body(**fields))
    assert (first.status_code, first.json()["changed"]) == (202, True), first.text
    answer = (await client.get("/jobs/a")).json()
    names = ("cron", "timezone", "every_seconds", "at", "interval_seconds")
    found = {name: answer[name] for name in names if name in answer}
    assert found == ({"timezone": "UTC"} | shown if fields.get("cron") == "@yearly" else shown)
    assert answer["status"] == "active"
    assert bool(answer["next_fire_times"]) == ("cron" not in shown or shown["cron"] is not None)
    before = contents()
    for again in (fields, found):
        for repeated in (await client.post("/", json=body(**again)), await client.put("/jobs/a", json=body(**again))):
            assert (repeated.status_code, repeated.json()["changed"]) == (202, False), repeated.text
    assert (await client.post("/jobs:batch", json=[body(**fields)])).json()[0]["changed"] is False
    assert contents() == before


async def test_an_interval_counts_from_starts_at_which_is_a_fire_time(client: httpx.AsyncClient) -> None:
    starts = "2999-01-01T00:00:00.250Z"
    await client.post("/", json=body(every_seconds=0.5, starts_at=starts))
    times = (await client.get("/jobs/a")).json()["next_fire_times"]
    assert times[:3] == [starts, "2999-01-01T00:00:00.750Z", "2999-01-01T00:00:01.250Z"]


@pytest.mark.parametrize("at", ["now", "instant"])
@pytest.mark.parametrize("after", ["keep", "delete"])
async def test_repeating_an_upsert_after_it_fired_fires_nothing(setup: Fired, at: str, after: str) -> None:
    """Also through the other faces; a restart, a changed trigger and a run start it again."""
    instant = rfc3339(setup.clock.now + 1_000) if at == "instant" else "now"
    sent = body(at=instant, after_completion=after)
    assert (await setup.client.post("/", json=sent)).json()["changed"] is True
    assert (await setup.client.post("/", json=sent)).json()["changed"] is False
    assert (await setup.work(1_000), await setup.work(1_000)) == (1, 0)
    shown = await setup.client.get("/jobs/a")
    if after == "keep":
        assert (shown.json()["status"], shown.json()["next_fire_times"]) == ("completed", [])
        assert shown.json()["completed_at"] == rfc3339(setup.settled_at)
        assert shown.json()["last_run"]["state"] == "succeeded"
        done = await setup.client.get("/jobs", params={"status": "completed"})
        assert [one["id"] for one in done.json()["jobs"]] == ["a"]
        assert (await setup.client.get("/jobs", params={"status": "active"})).json()["jobs"] == []
    else:
        assert shown.status_code == 404
        assert (await setup.client.get("/jobs")).json()["jobs"] == []
        assert (await setup.client.delete("/jobs/a")).status_code == 404
    setup.clock.advance(3_600_000)
    put = {name: value for name, value in sent.items() if name != "id"}
    for answer in (await setup.client.post("/", json=sent), await setup.client.put("/jobs/a", json=put)):
        assert (answer.status_code, answer.json()["changed"], answer.json()["next_fire_time"]) == (202, False, None)
    (result,) = (await setup.client.post("/jobs:batch", json=[sent])).json()
    assert (result["status"], result["changed"]) == (202, False)
    assert await setup.work() == 0

    again = await setup.client.post("/?restart=true", json=sent)
    if at == "now":
        assert (again.status_code, again.json()["changed"]) == (202, True)
        assert await setup.work() == 1
    else:
        assert (again.status_code, again.json()["field"]) == (400, "at")
    other = await setup.client.post("/", json=sent | {"at": rfc3339(setup.clock.now + 500)})
    assert (other.status_code, other.json()["changed"]) == (202, True)
    assert await setup.work(500) == 1


async def test_a_changed_definition_with_the_same_now_is_stored_and_does_not_fire(setup: Fired) -> None:
    await setup.client.post("/", json=body(at="now"))
    assert await setup.work() == 1
    changed = await setup.client.post("/", json=body(at="now", payload=2))
    assert (changed.json()["changed"], changed.json()["version"], changed.json()["next_fire_time"]) == (True, 2, None)
    assert await setup.work(1_000) == 0
    shown = (await setup.client.get("/jobs/a")).json()
    assert (shown["status"], shown["payload"]) == ("completed", 2)
    assert (await setup.client.post("/jobs/a/run")).status_code == 202
    assert await setup.work() == 1
    assert (await setup.client.get("/jobs/a")).json()["status"] == "completed"
    assert (await setup.client.delete("/?job_id=a")).status_code == 200
    assert (await setup.client.post("/", json=body(at="now", payload=2))).json()["changed"] is True
    assert await setup.work() == 1


@pytest.mark.parametrize("number", [b"0.1" + 30 * b"0" + b"1", b"1" + b"." + 30 * b"0" + b"1", b"1e-9999999"])
async def test_decimals_beyond_the_third_are_refused_however_many(client: httpx.AsyncClient, number: bytes) -> None:
    content = b'{"id": "a", "endpoint": "http://runner.test/", "payload": 1, "every_seconds": %s}' % number
    answer = await client.post("/", content=content)
    assert (answer.status_code, answer.json()["field"]) == (400, "every_seconds")
    assert (await client.post("/", content=content.replace(number, b"1." + 30 * b"0"))).status_code == 202


async def test_a_changed_body_with_an_instant_that_passed_before_it_fired_is_refused(setup: Fired) -> None:
    sent = body(at=rfc3339(setup.clock.now + 1_000))
    await setup.client.post("/", json=sent)
    await setup.client.post("/jobs/a/pause")
    assert (await setup.client.post("/", json=sent | {"payload": 2})).json()["changed"] is True
    assert await setup.work(2_000) == 0
    assert (await setup.client.post("/", json=sent | {"payload": 2})).json()["changed"] is False
    refused = await setup.client.post("/", json=sent | {"payload": 3})
    assert (refused.status_code, refused.json()["field"]) == (400, "at")
    assert (await setup.client.get("/jobs/a")).json()["payload"] == 2


async def test_a_job_without_a_trigger_runs_on_request_and_never_completes(setup: Fired) -> None:
    await setup.client.post("/", json=body(cron=None))
    assert await setup.work(60_000) == 0
    assert (await setup.client.post("/jobs/a/run")).status_code == 202
    assert await setup.work() == 1
    shown = (await setup.client.get("/jobs/a")).json()
    assert (shown["status"], shown["cron"], shown["last_run"]["state"]) == ("active", None, "succeeded")
    assert "completed_at" not in shown
    for action in ("pause", "resume"):
        assert (await setup.client.post(f"/jobs/a/{action}")).status_code == 200
    assert (await setup.client.get("/jobs/a")).json()["status"] == "active"
    assert (await setup.client.get("/jobs/a/account")).status_code == 200


async def test_max_runs_completes_a_job_and_a_restart_counts_from_the_beginning(setup: Fired) -> None:
    sent = body(every_seconds=1, max_runs=2)
    await setup.client.post("/", json=sent)
    assert [await setup.work(1_000) for _ in range(4)] == [1, 1, 0, 0]
    assert (await setup.client.get("/jobs/a")).json()["status"] == "completed"
    assert (await setup.client.post("/", json=sent)).json()["changed"] is False
    assert (await setup.client.post("/?restart=true", json=sent)).json()["version"] == 2
    assert (await setup.client.post("/?restart=true", json=sent)).json()["changed"] is False, "it is not completed"
    assert [await setup.work(1_000) for _ in range(4)] == [1, 1, 0, 0]
    more = await setup.client.post("/", json=sent | {"max_runs": 3})
    assert more.json()["next_fire_time"] is not None
    assert [await setup.work(1_000) for _ in range(3)] == [1, 0, 0]


async def test_an_upsert_that_changes_something_else_keeps_the_phase_of_an_interval(setup: Fired) -> None:
    async def next_time(**fields: Any) -> float:
        answer = (await setup.client.post("/", json=body(**fields))).json()
        at = datetime.fromisoformat(answer["next_fire_time"]) - datetime.fromtimestamp(setup.start / 1000, UTC)
        return at / timedelta(seconds=1)

    assert await next_time(every_seconds=10) == 10
    setup.clock.advance(4_000)
    assert await next_time(every_seconds=10, payload=2) == 10
    assert await next_time(every_seconds=10, payload=2, ends_at=SOON) == 10
    assert await next_time(cron="@every 10s") == 10
    assert await next_time(every_seconds=7) == 11
    setup.clock.advance(1_000)
    assert await next_time(every_seconds=10) == 15
    assert await next_time(every_seconds=10, starts_at=rfc3339(setup.start - 3_000)) == 7
    assert await next_time(every_seconds=10) == 7, "without starts_at, the phase stays"


@pytest.mark.parametrize("restart", ["yes", "", "True"])
async def test_restart_is_true_or_false(client: httpx.AsyncClient, restart: str) -> None:
    answer = await client.post("/", params={"restart": restart}, json=body(at="now"))
    assert (answer.status_code, answer.json()["field"]) == (400, "restart")


async def test_a_completed_job_waits_in_the_due_set_by_its_age(setup: Fired) -> None:
    await setup.client.post("/", json=body(at="now"))
    await setup.client.post("/", json=body(id="b", at="now", after_completion="delete"))
    assert await setup.work() == 2
    redis = setup.store.client
    assert await redis.zscore(KEYS.due, "a") == scores.COMPLETED + setup.settled_at
    assert await redis.zscore(KEYS.due, "b") == scores.REMEMBERED + setup.settled_at
    assert await redis.hkeys(KEYS.jobs) == [b"a"]
