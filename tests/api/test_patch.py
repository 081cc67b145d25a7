"""``PATCH /jobs/{id}``: a JSON merge patch of the stored definition."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of

KEY = "whsec_" + b64encode(b"k" * 24).decode()
OTHER_KEY = "whsec_" + b64encode(b"o" * 24).decode()
CRON = {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}
BASE: dict[str, Any] = {"endpoint": "http://runner.test/a", "payload": {"a": 1}, **CRON}
BROKER = "redis+stream://user:s3cret@broker.test/0/jobs"


async def put(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await client.put("/jobs/j", json=body)
    assert answer.status_code == 202, answer.text


async def definition(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/jobs/j", params={"view": "definition"})).json()
    del found["id"]
    return found


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


PATCHES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}, {}),
    "a plain field": ({}, {"timeout_seconds": 5}, {"timeout_seconds": 5}),
    "null resets a field": ({"timeout_seconds": 5}, {"timeout_seconds": None}, {"timeout_seconds": ...}),
    "null of a field that has its default": ({}, {"max_runs": None, "jitter_seconds": None}, {}),
    "null of a choice": ({"overlap": "queue_one"}, {"overlap": None, "recovery_check": None}, {"overlap": ...}),
    "null resets the zone": ({}, {"timezone": None}, {"timezone": ...}),
    "members of headers": (
        {"headers": {"X-A": "1", "X-B": "2"}},
        {"headers": {"X-B": None, "X-C": "3"}},
        {"headers": {"X-A": "1", "X-C": "3"}},
    ),
    "a header in another case": ({"headers": {"X-A": "1"}}, {"headers": {"x-a": "2"}}, {"headers": {"x-a": "2"}}),
    "a header removed in another case": (
        {"headers": {"X-A": "1", "X-B": "2"}},
        {"headers": {"x-a": None}},
        {"headers": {"X-B": "2"}},
    ),
    "a member that is stored already": (
        {"headers": {"X-A": "1", "X-B": "2"}, "query": {"a": "1", "b": "2"}, "retry": {"attempts": 3, "factor": 2}},
        {"headers": {"X-A": "1"}, "query": {"a": "1"}, "retry": {"attempts": 3}},
        {},
    ),
    "the last header": ({"headers": {"X-A": "1"}}, {"headers": {"X-A": None}}, {"headers": ...}),
    "all headers": ({"headers": {"X-A": "1"}}, {"headers": None}, {"headers": ...}),
    "headers that are new": ({}, {"headers": {"X-A": "1", "X-B": None}}, {"headers": {"X-A": "1"}}),
    "no header": ({"headers": {"X-A": "1"}}, {"headers": {}}, {}),
    "a secret header is kept": (
        {"headers": {"X-Api-Key": "s3cret", "X-A": "1"}},
        {"headers": {"X-A": "2"}},
        {"headers": {"X-Api-Key": "***", "X-A": "2"}},
    ),
    "members of query": (
        {"query": {"a": "1", "A": "2"}},
        {"query": {"a": None, "b": "3"}},
        {"query": {"A": "2", "b": "3"}},
    ),
    "members of retry": (
        {"retry": {"attempts": 3, "statuses": [500]}},
        {"retry": {"attempts": None, "factor": 3}},
        {"retry": {"statuses": [500], "factor": 3}},
    ),
    "a list in retry is replaced": (
        {"retry": {"statuses": [500, 501]}},
        {"retry": {"statuses": [502]}},
        {"retry": {"statuses": [502]}},
    ),
    "retry": ({"retry": {"attempts": 3}}, {"retry": None}, {"retry": ...}),
    "members of limits": (
        {"limits": {"rate": 2}},
        {"limits": {"max_in_flight": 3}},
        {"limits": {"max_in_flight": 3, "rate": 2}},
    ),
    "labels": (
        {"labels": {"team": "billing", "env": "prod"}},
        {"labels": {"env": None, "tier": "1"}},
        {"labels": {"team": "billing", "tier": "1"}},
    ),
    "a description": ({"description": "old"}, {"description": "new"}, {"description": "new"}),
    "no description": ({"description": "old"}, {"description": None}, {"description": ...}),
    "the payload is replaced whole": ({}, {"payload": {"b": 2}}, {"payload": {"b": 2}}),
    "the payload null": ({}, {"payload": None}, {"payload": None}),
    "a body for a payload": ({}, {"body": "a,b"}, {"payload": ..., "body": "a,b"}),
    "a payload for a body": (
        {"payload": ..., "body": "a,b", "content_type": "text/csv"},
        {"payload": None},
        {"payload": None, "body": ..., "content_type": ...},
    ),
    "a payload for a body that is named": (
        {"payload": ..., "body": "a,b", "content_type": "text/csv"},
        {"payload": 1, "body": None, "content_type": "application/vnd.api+json"},
        {"payload": 1, "body": ..., "content_type": "application/vnd.api+json"},
    ),
    "no body": (
        {"payload": ..., "body": "a,b", "content_type": "text/csv"},
        {"body": None, "method": "GET"},
        {"body": ..., "content_type": ..., "method": "GET"},
    ),
    "null of a body that is not there": ({}, {"body": None}, {}),
    "auth is replaced whole": (
        {"auth": {"type": "basic", "username": "u", "password": "p"}},
        {"auth": {"type": "bearer", "token": "t"}},
        {"auth": {"type": "bearer", "token": "***"}},
    ),
    "no auth": ({"auth": {"type": "bearer", "token": "t"}}, {"auth": None}, {"auth": ...}),
    "auth is kept": (
        {"auth": {"type": "bearer", "token": "t"}},
        {"method": "PUT"},
        {"method": "PUT", "auth": {"type": "bearer", "token": "***"}},
    ),
    "sign is replaced whole": (
        {"sign": {"keys": [KEY, OTHER_KEY]}},
        {"sign": {"keys": ["***"]}},
        {"sign": {"keys": ["***"]}},
    ),
    "no sign": ({"sign": {"keys": [KEY]}}, {"sign": None}, {"sign": ...}),
    "another expression keeps the zone": ({}, {"cron": "@daily"}, {"cron": "@daily"}),
    "an expression with a zone": (
        {},
        {"cron": "TZ=Asia/Tokyo @daily"},
        {"cron": "TZ=Asia/Tokyo @daily", "timezone": "Asia/Tokyo"},
    ),
    "an expression of an interval": ({}, {"cron": "@every 90s"}, {"cron": "@every 90s", "timezone": ...}),
    "an interval for cron": ({}, {"every_seconds": 2.5}, {"cron": ..., "timezone": ..., "every_seconds": 2.5}),
    "an instant for cron": (
        {},
        {"at": "2999-01-01T00:00:00Z"},
        {"cron": ..., "timezone": ..., "at": "2999-01-01T00:00:00Z"},
    ),
    "on request for cron": ({}, {"cron": None}, {"cron": None, "timezone": ...}),
    "on request for an interval": (
        {"cron": ..., "timezone": ..., "every_seconds": 5},
        {"cron": None},
        {"cron": None, "every_seconds": ..., "timezone": ...},
    ),
    "cron for an interval": (
        {"cron": ..., "timezone": ..., "every_seconds": 5},
        {"cron": "@daily", "every_seconds": None},
        {"cron": "@daily", "every_seconds": ..., "timezone": ...},
    ),
    "cron for on request": (
        {"cron": None, "timezone": ...},
        {"cron": "@daily", "timezone": "Asia/Tokyo"},
        {"cron": "@daily", "timezone": "Asia/Tokyo"},
    ),
    "null of other triggers": ({}, {"every_seconds": None, "at": None}, {}),
    "an interval beside cron null": (
        {},
        {"cron": None, "every_seconds": 5},
        {"cron": ..., "timezone": ..., "every_seconds": 5},
    ),
    "a field loses its ground": (
        {"overlap": "allow", "max_concurrent": 3},
        {"overlap": "skip"},
        {"overlap": ..., "max_concurrent": ...},
    ),
    "fields lose their ground by null": (
        {"recovery": "all", "catch_up_limit": 3, "completion": "callback", "run_timeout_seconds": 9},
        {"recovery": None, "completion": None},
        {"recovery": ..., "catch_up_limit": ..., "completion": ..., "run_timeout_seconds": ...},
    ),
    "a field keeps its ground": (
        {"overlap": "allow", "max_concurrent": 3},
        {"overlap": "allow", "timeout_seconds": 4},
        {"timeout_seconds": 4},
    ),
    "an implied value follows": (
        {"recovery_check": True, "retry_already_running": 3},
        {"recovery_check": False},
        {"recovery_check": ...},
    ),
    "the id of the path": ({}, {"id": "j", "last_run": "x"}, {}),
    "the password of a broker is kept": (
        {"endpoint": BROKER},
        {"payload": 2},
        {"endpoint": "redis+stream://user:***@broker.test/0/jobs", "payload": 2},
    ),
}


async def test_a_patch_changes_what_it_names(client: httpx.AsyncClient) -> None:
    for name, (stored, patch, expected) in PATCHES.items():
        body = without(BASE | stored, *(field for field, value in stored.items() if value is ...))
        await client.delete("/jobs/j")
        await put(client, body)
        before = await definition(client)
        answer = await client.patch("/jobs/j", json=patch)
        assert answer.status_code == 202, (name, answer.text)
        after = without(before | expected, *(field for field, value in expected.items() if value is ...))
        assert await definition(client) == after, name
        assert answer.json()["changed"] == (after != before), name
        again = await client.patch("/jobs/j", json=patch)
        assert (again.json()["changed"], again.json()["version"]) == (False, answer.json()["version"])


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"cron": "@dayly"}, "cron"),
    ({}, {"cron": "@daily", "at": "now"}, "at"),
    ({}, {"timeout": 5}, "timeout"),
    ({}, {"id": "other"}, "id"),
    ({}, {"id": None}, "id"),
    ({}, {"endpoint": None}, "endpoint"),
    ({}, {"recovery_check": 1}, "recovery_check"),
    ({}, {"max_concurrent": 3}, "max_concurrent"),
    ({}, {"headers": {"X": 1}}, "headers"),
    ({}, {"headers": []}, "headers"),
    ({}, {"headers": "x"}, "headers"),
    ({}, {"labels": {"team": 1}}, "labels"),
    ({}, {"labels": 7}, "labels"),
    ({}, {"retry": {"atempts": None}}, "retry.atempts"),
    ({}, {"retry": [3]}, "retry"),
    ({}, {"limits": {"rate": "fast"}}, "limits.rate"),
    ({}, {"target": "nobody"}, "target"),
    ({}, {"payload": 1, "body": "x"}, "body"),
    ({}, {"timezone": "Mars/Base"}, "timezone"),
    ({"cron": ..., "timezone": ..., "every_seconds": 5}, {"every_seconds": None}, "cron"),
    ({"cron": ..., "timezone": ..., "every_seconds": 5}, {"timezone": "UTC"}, "timezone"),
    ({"payload": ..., "body": "x"}, {"body": None}, "payload"),
    ({"content_type": "text/csv"}, {"headers": {"Content-Type": "text/csv"}}, "content_type"),
    ({"auth": {"type": "bearer", "token": "t"}}, {"headers": {"authorization": "x"}}, "auth"),
    ({"auth": {"type": "bearer", "token": "t"}}, {"auth": {"token": "u"}}, "auth.type"),
    ({"auth": {"type": "bearer", "token": "t"}}, {"endpoint": "http://other.test/"}, "endpoint"),
    ({"sign": {"keys": [KEY]}}, {"sign": {"keys": ["***", "***"]}}, "sign.keys"),
    ({"headers": {"X-A": "1"}}, {"endpoint": BROKER}, "headers"),
    ({"recovery_check": True}, {"recovery": "none"}, "recovery"),
]


async def test_a_patch_is_refused_as_the_body_that_it_makes_would_be(client: httpx.AsyncClient) -> None:
    for stored, patch, field in REFUSED:
        await client.delete("/jobs/j")
        await put(client, without(BASE | stored, *(name for name, value in stored.items() if value is ...)))
        before = await client.get("/jobs/j")
        for dry_run in ({"dry_run": "true"}, {}):
            answer = await client.patch("/jobs/j", json=patch, params=dry_run)
            assert (answer.status_code, answer.json().get("field")) == (400, field), answer.text
        after = await client.get("/jobs/j")
        assert (after.text, after.headers["etag"]) == (before.text, before.headers["etag"])


@pytest.mark.parametrize(
    "body",
    [
        b'{"headers": {"X-A": "1", "X-A": "2"}}',
        b'{"max_runs": 1, "max_runs": 2}',
        b'{"retry": {"attempts": 1, "attempts": 2}}',
        b"[]",
        b"",
        b'"x"',
    ],
)
async def test_a_patch_that_is_ambiguous_or_no_object_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    await put(client, BASE)
    answer = await client.patch("/jobs/j", content=body)
    assert answer.status_code == 400
    assert (await client.get("/jobs/j")).json()["version"] == 1


async def test_a_payload_that_a_patch_does_not_name_keeps_its_bytes(client: httpx.AsyncClient) -> None:
    text = '{"n": 1.10,\n "big": 12345678901234567890, "x": "\\u0041"}'
    await client.put("/jobs/j", content=json.dumps(without(BASE, "payload"))[:-1] + f', "payload": {text}}}')
    await client.patch("/jobs/j", json={"timeout_seconds": 5, "headers": {"X-A": "1"}})
    assert text in (await client.get("/jobs/j")).text
    await client.patch("/jobs/j", content=b'{"payload":  [1,  2.0] }')
    assert "[1,  2.0]" in (await client.get("/jobs/j")).text


async def test_a_patch_needs_a_job_and_schedules_have_their_own(client: httpx.AsyncClient) -> None:
    missing = await client.patch("/jobs/nobody", json={"payload": 1})
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")
    for answer in (
        await client.patch("/jobs/schedule_1", json={"payload": 1}),
        await client.get("/jobs/schedule_1", params={"view": "definition"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "is_a_schedule")
        assert "/schedules/1" in answer.json()["detail"]


async def test_a_patch_changes_between_an_endpoint_and_a_target(client: httpx.AsyncClient) -> None:
    for name in ("a", "b"):
        await client.post("/targets", json={"name": name, "url": f"http://{name}.test/", "method": "POST"})
    await put(client, BASE)
    assert (await client.patch("/jobs/j", json={"target": "a"})).status_code == 202
    found = await definition(client)
    assert ("endpoint" in found, found["target"]) == (False, "a")
    assert (await client.delete("/targets/1")).status_code == 409
    assert (await client.patch("/jobs/j", json={"timeout_seconds": 3})).json()["changed"]
    assert (await client.patch("/jobs/j", json={"target": "b"})).status_code == 202
    assert (await client.delete("/targets/1")).status_code == 200
    assert (await client.patch("/jobs/j", json={"endpoint": "http://e.test/"})).status_code == 202
    found = await definition(client)
    assert ("target" in found, found["endpoint"], found["timeout_seconds"]) == (False, "http://e.test/", 3)
    assert (await client.delete("/targets/2")).status_code == 200


async def test_a_patch_of_the_trigger_starts_it_anew_and_one_of_other_fields_keeps_its_position(
    client: httpx.AsyncClient,
) -> None:
    await put(client, without(BASE, "cron", "timezone") | {"every_seconds": 3600})
    first = (await client.get("/jobs/j")).json()["next_fire_times"]
    patched = await client.patch("/jobs/j", json={"payload": 2})
    assert patched.json()["next_fire_time"] == first[0]
    assert (await client.get("/jobs/j")).json()["next_fire_times"] == first
    changed = await client.patch("/jobs/j", json={"every_seconds": 7200})
    assert changed.json()["next_fire_time"] > first[0]


async def test_restart_starts_the_trigger_of_a_completed_job_again(client: httpx.AsyncClient) -> None:
    await put(client, without(BASE, "cron", "timezone") | {"at": "now"})
    assert (await client.patch("/jobs/j", json={}, params={"restart": "maybe"})).json()["field"] == "restart"
    assert (await client.patch("/jobs/j", json={}, params={"restart": "true"})).json()["changed"] is False


async def test_no_change_of_another_client_is_lost(
    client: httpx.AsyncClient, store: RedisStore, context: Context, api_settings: ApiSettings
) -> None:
    await put(client, BASE)
    other_process = Context(settings=api_settings, store=store, clock=context.clock, metrics=Metrics())
    async with client_of(other_process) as other:
        answers = await asyncio.gather(
            *(
                one.patch("/jobs/j", json={"headers": {f"X-{number}": str(number)}})
                for number, one in enumerate((client, other) * 6)
            )
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len((await definition(client))["headers"]) == 12
    assert (await client.get("/jobs/j")).json()["version"] == 13


async def test_a_job_with_callbacks_needs_an_address_for_them(client: httpx.AsyncClient, context: Context) -> None:
    await put(client, BASE)
    context.takes_callbacks = False
    answer = await client.patch("/jobs/j", json={"completion": "callback"})
    assert (answer.status_code, answer.json()["field"]) == (400, "completion")
