"""``POST /``: the rules for each field, and the effects of an upsert."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from scheduler_api.wire.bodies import MAX_RETRY_SECONDS
from scheduler_api.wire.json_body import MAX_DEPTH
from tests.api.conftest import EXAMPLE, job

Contents = Callable[[], dict[bytes, Any]]


async def test_the_example_is_accepted_and_first_fires_at_the_next_ten_seconds(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", json=EXAMPLE)
    assert answer.status_code == 202
    body = answer.json()
    assert body["id"] == EXAMPLE["id"]
    assert body["changed"] is True
    assert body["version"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d0Z", body["next_fire_time"])
    shown = (await client.get(f"/jobs/{EXAMPLE['id']}")).json()
    assert {name: shown[name] for name in EXAMPLE} == EXAMPLE
    assert shown["timezone"] == "UTC"
    assert shown["status"] == "active"
    assert len(shown["next_fire_times"]) == 5
    assert shown["next_fire_times"][0] == body["next_fire_time"]


async def test_an_identical_upsert_changes_nothing(client: httpx.AsyncClient, contents: Contents) -> None:
    await client.post("/", json=EXAMPLE)
    before = contents()
    answer = await client.post("/", json=EXAMPLE)
    assert answer.status_code == 202
    assert answer.json()["changed"] is False
    assert answer.json()["version"] == 1
    assert contents() == before


async def test_another_order_of_payload_keys_is_another_payload(client: httpx.AsyncClient) -> None:
    head = '{"id":"a","endpoint":"http://h/","cron":"@daily","payload":'
    await client.post("/", content=head + '{"x":1,"y":2}}')
    answer = await client.post("/", content=head + '{"y":2,"x":1}}')
    assert answer.json()["changed"] is True
    assert answer.json()["version"] == 2


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"])
async def test_a_body_is_json_with_any_content_type(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await client.post("/", content=json.dumps(EXAMPLE), headers=headers)
    assert answer.status_code == 202


GOOD: dict[str, dict[str, Any]] = {
    "one character": {"id": "x"},
    "255 characters": {"id": "x" * 255},
    "255 characters of four bytes": {"id": "\U0001f980" * 255},
    "slashes, dots and percent signs": {"id": "../a//b/%2F?x=1#y"},
    "spaces at the ends": {"id": " a b "},
    "a combining mark": {"id": "e\u0301"},
    "right to left letters": {"id": "\u05e9\u05dc\u05d5\u05dd"},
    "quotes and a backslash": {"id": "'\"\\"},
    "nearly a reserved id": {"id": "schedule_1x"},
    "nearly another": {"id": "Task_1"},
    "and another": {"id": "task_"},
    "only dots": {"id": ".."},
    "https": {"endpoint": "https://example.com/path?query=1&x=%20"},
    "an IPv6 address": {"endpoint": "http://[::1]:8080/"},
    "an international name": {"endpoint": "http://b\u00fccher.example/"},
    "five fields": {"cron": "0 4 * * mon-fri"},
    "six fields": {"cron": "*/10 * * * * *"},
    "a year": {"cron": "0 0 0 1 1 * 2099"},
    "a macro": {"cron": "@hourly"},
    "zero seconds": {"retry_already_running": 0},
    "null seconds": {"retry_already_running": None},
    "no seconds": {"retry_already_running": ...},
    "the most seconds": {"retry_already_running": MAX_RETRY_SECONDS},
    "no recovery": {"recovery_check": False},
    "unsaid recovery": {"recovery_check": ...},
    "a zone": {"timezone": "Europe/London"},
    "null payload": {"payload": None},
    "false payload": {"payload": False},
    "text payload": {"payload": ""},
    "number payload": {"payload": 0},
    "empty array payload": {"payload": []},
    "an old client's last_run": {"last_run": {"anything": [1]}},
    "a null last_run": {"last_run": None},
    "a step after a value": {"cron": "0/15 * * * *"},
    "a question mark": {"cron": "0 0 12 ? * MON-FRI"},
    "the last day": {"cron": "0 0 L * *"},
    "the last Friday, with H": {"cron": "H H(0-5) * * friL"},
    "a zone in the cron": {"cron": "CRON_TZ=Europe/Berlin 0 3 * * *"},
    "the zone of the cron": {"cron": "TZ=Europe/Berlin @daily", "timezone": "Europe/Berlin"},
    "an interval": {"cron": "@every 1h30m"},
}


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD.keys())
async def test_a_good_value_is_accepted(client: httpx.AsyncClient, changes: dict[str, Any]) -> None:
    answer = await client.post("/", json=job(**changes))
    assert answer.status_code == 202, answer.text
    assert "last_run" not in changes or answer.json()["changed"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"id": ...}, "id"),
    "null id": ({"id": None}, "id"),
    "number id": ({"id": 1}, "id"),
    "empty id": ({"id": ""}, "id"),
    "256 characters": ({"id": "x" * 256}, "id"),
    "a line break in the id": ({"id": "a\nb"}, "id"),
    "a NUL in the id": ({"id": "a\x00"}, "id"),
    "an escape in the id": ({"id": "\x1b[31m"}, "id"),
    "a delete in the id": ({"id": "\x7f"}, "id"),
    "a C1 control in the id": ({"id": "\x85"}, "id"),
    "a direction override in the id": ({"id": "a\u202eb"}, "id"),
    "a zero-width joiner in the id": ({"id": "a\u200db"}, "id"),
    "a line separator in the id": ({"id": "a\u2028b"}, "id"),
    "a no-break space in the id": ({"id": "a\u00a0b"}, "id"),
    "an unassigned character in the id": ({"id": "\u0378"}, "id"),
    "a private character in the id": ({"id": "\ue000"}, "id"),
    "a byte order mark in the id": ({"id": "\ufeffa"}, "id"),
    "a schedule's id": ({"id": "schedule_12"}, "id"),
    "a task's id": ({"id": "task_0"}, "id"),
    "no endpoint": ({"endpoint": ...}, "endpoint"),
    "null endpoint": ({"endpoint": None}, "endpoint"),
    "empty endpoint": ({"endpoint": ""}, "endpoint"),
    "a relative endpoint": ({"endpoint": "/enqueue"}, "endpoint"),
    "no scheme": ({"endpoint": "localhost:8080/enqueue"}, "endpoint"),
    "another scheme": ({"endpoint": "ftp://localhost/"}, "endpoint"),
    "a file": ({"endpoint": "file:///etc/passwd"}, "endpoint"),
    "no host": ({"endpoint": "http:///x"}, "endpoint"),
    "a password": ({"endpoint": "http://user:secret@host/"}, "endpoint"),
    "a line break in the endpoint": ({"endpoint": "http://host/\r\nX: y"}, "endpoint"),
    "port 0": ({"endpoint": "http://host:0/"}, "endpoint"),
    "port 65536": ({"endpoint": "http://host:65536/"}, "endpoint"),
    "an array of endpoints": ({"endpoint": ["http://host/"]}, "endpoint"),
    "no cron": ({"cron": ...}, "cron"),
    "empty cron": ({"cron": ""}, "cron"),
    "four fields": ({"cron": "* * * *"}, "cron"),
    "eight fields": ({"cron": "* * * * * * * *"}, "cron"),
    "minute 60": ({"cron": "60 * * * *"}, "cron"),
    "step 0": ({"cron": "*/0 * * * *"}, "cron"),
    "a backward range of years": ({"cron": "0 0 0 1 1 * 2031-2030"}, "cron"),
    "L in the weekdays": ({"cron": "0 0 * * L"}, "cron"),
    "W alone": ({"cron": "0 0 W * *"}, "cron"),
    "a step of H beyond its range": ({"cron": "H/61 * * * *"}, "cron"),
    "H in the year": ({"cron": "0 0 0 1 1 * H"}, "cron"),
    "an unknown zone in the cron": ({"cron": "TZ=Mars/Olympus @daily"}, "cron"),
    "another zone than in the cron": ({"cron": "TZ=Europe/Paris @daily", "timezone": "UTC"}, "timezone"),
    "another zone than in a cron with H": ({"cron": "TZ=Europe/Paris H H * * *", "timezone": "UTC"}, "timezone"),
    "a zone beside @every": ({"cron": "@every 5m", "timezone": "UTC"}, "timezone"),
    "a short @every": ({"cron": "@every 99ms"}, "cron"),
    "a line break in the cron": ({"cron": "* * * *\n*"}, "cron"),
    "an unknown macro": ({"cron": "@reboot"}, "cron"),
    "a cron of 257 characters": ({"cron": "0 " * 126 + "0    "}, "cron"),
    "a number as cron": ({"cron": 5}, "cron"),
    "what never comes": ({"cron": "0 0 30 2 *"}, "cron"),
    "what has been": ({"cron": "0 0 0 1 1 * 2001"}, "cron"),
    "no payload": ({"payload": ...}, "payload"),
    "negative seconds": ({"retry_already_running": -1}, "retry_already_running"),
    "true seconds": ({"retry_already_running": True}, "retry_already_running"),
    "broken seconds": ({"retry_already_running": 1.5}, "retry_already_running"),
    "whole broken seconds": ({"retry_already_running": 3.0}, "retry_already_running"),
    "text seconds": ({"retry_already_running": "3"}, "retry_already_running"),
    "too many seconds": ({"retry_already_running": MAX_RETRY_SECONDS + 1}, "retry_already_running"),
    "very many seconds": ({"retry_already_running": 10**30}, "retry_already_running"),
    "a number as recovery": ({"recovery_check": 1}, "recovery_check"),
    "text as recovery": ({"recovery_check": "true"}, "recovery_check"),
    "null recovery": ({"recovery_check": None}, "recovery_check"),
    "an unknown zone": ({"timezone": "Mars/Olympus"}, "timezone"),
    "a zone's path": ({"timezone": "../../etc/passwd"}, "timezone"),
    "null zone": ({"timezone": None}, "timezone"),
    "empty zone": ({"timezone": ""}, "timezone"),
    "a typo": ({"retry_alredy_running": 3}, "retry_alredy_running"),
    "an unknown field": ({"wholly_unknown": 3}, "wholly_unknown"),
    "another case": ({"ID": "x"}, "ID"),
}


@pytest.mark.parametrize(("changes", "field"), BAD.values(), ids=BAD.keys())
async def test_a_bad_value_is_refused_with_its_field_and_the_stored_job_stays(
    client: httpx.AsyncClient, contents: Contents, changes: dict[str, Any], field: str
) -> None:
    await client.post("/", json=EXAMPLE)
    before = contents()
    answer = await client.post("/", json=job(**{"payload": "changed", **changes}))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 400
    assert problem["field"] == field
    assert problem["detail"]
    assert contents() == before


async def test_an_unknown_field_is_refused_with_the_nearest_known_name(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", json=job(retry_alredy_running=3))
    assert "'retry_already_running'" in answer.json()["detail"]


async def test_a_password_in_the_endpoint_is_not_repeated_in_the_answer(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", json=job(endpoint="http://user:hunter2@host/"))
    assert answer.status_code == 400
    assert "hunter2" not in answer.text


HEAD = b'{"id":"a","endpoint":"http://h/","cron":"@daily","payload":'
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \r\n ",
    "no JSON": b"id=a&payload=1",
    "an array": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "half an object": HEAD + b"1",
    "two objects": HEAD + b"1}{}",
    "text behind": HEAD + b"1} x",
    "a byte order mark": b"\xef\xbb\xbf" + HEAD + b"1}",
    "UTF-16": (HEAD + b"1}").decode().encode("utf-16"),
    "a byte that is no UTF-8 in the payload": HEAD + b'"\xff"}',
    "an encoded surrogate in the payload": HEAD + b'"\xed\xa0\x80"}',
    "an overlong slash in the payload": HEAD + b'"\xc0\xaf"}',
    "a byte that is no UTF-8 in a key of the payload": HEAD + b'{"\xff":1}}',
    "half a surrogate pair in the payload": HEAD + b'"\\ud800"}',
    "the other half": HEAD + b'"\\udc00"}',
    "NaN": HEAD + b"NaN}",
    "Infinity": HEAD + b"[-Infinity]}",
    "a leading zero": HEAD + b"01}",
    "a plus sign": HEAD + b"+1}",
    "a bare point": HEAD + b"1.}",
    "a trailing comma": HEAD + b"[1,]}",
    "a trailing comma in the object": HEAD + b"1,}",
    "a comment": HEAD + b"1/* one */}",
    "single quotes": HEAD + b"'x'}",
    "a control character in a string": HEAD + b'"a\x01b"}',
    "a line break in a string": HEAD + b'"a\nb"}',
    "an unknown escape": HEAD + b'"\\x41"}',
    "the payload twice": HEAD + b'1,"payload":2}',
    "the id twice, once escaped": HEAD + b'1,"\\u0069d":"b"}',
    "last_run twice": HEAD + b'1,"last_run":1,"last_run":2}',
    "too deep": HEAD + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    "much too deep": HEAD + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "much too deep and not closed": HEAD + b'{"a":' * 100_000,
    "a deep unknown field": b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_bad_body_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, contents: Contents, method: str, body: bytes
) -> None:
    answer = await client.request(method, "/" if method == "POST" else "/jobs/a", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_input"
    assert contents() == {}


async def test_the_field_that_is_given_twice_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", content=HEAD + b'{"payload": 1, "a": 1, "a": 2}, "endpoint": "http://h/"}')
    assert answer.json()["field"] == "endpoint"


async def test_a_payload_of_the_greatest_depth_is_accepted(client: httpx.AsyncClient) -> None:
    levels = MAX_DEPTH - 1
    answer = await client.post("/", content=HEAD + b"[" * levels + b"]" * levels + b"}")
    assert answer.status_code == 202


async def test_brackets_in_strings_are_not_levels(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", content=HEAD + b'"' + b'[{\\"' * 1000 + b'"}')
    assert answer.status_code == 202


async def test_a_compressed_body_is_not_read(client: httpx.AsyncClient, contents: Contents) -> None:
    answer = await client.post("/", json=EXAMPLE, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert contents() == {}


async def test_an_unknown_query_parameter_is_refused(client: httpx.AsyncClient, contents: Contents) -> None:
    assert (await client.post("/?dry_run=1", json=EXAMPLE)).status_code == 400
    assert contents() == {}


async def test_parallel_upserts_of_one_id_leave_one_complete_definition(client: httpx.AsyncClient) -> None:
    bodies = [job(payload=number, cron=f"{number} * * * *") for number in range(60)]
    answers = await asyncio.gather(*(client.post("/", json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {202}
    listed = (await client.get("/jobs?view=full")).json()["jobs"]
    assert len(listed) == 1
    assert listed[0]["version"] == 60
    assert listed[0]["cron"] == f"{listed[0]['payload']} * * * *"
    versions = sorted(answer.json()["version"] for answer in answers)
    assert versions == list(range(1, 61))


async def test_identical_parallel_upserts_change_the_job_once(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/", json=EXAMPLE) for _ in range(40)))
    assert sorted(answer.json()["changed"] for answer in answers) == [False] * 39 + [True]
