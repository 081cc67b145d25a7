"""Completion by callback: what a runner that took a run can report, and how it proves its right to do so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_api.server.addresses import callback_base
from scheduler_api.wire.run_requests import MAX_MESSAGE_CHARACTERS
from scheduler_core.base.config import ApiSettings
from tests.api.runner import Runner, running, until
from tests.support.stores import redis_of

Contents = Callable[[], dict[bytes, Any]]

KEY = "key-one-0123456789abcdef"
SLOW = {
    "id": "a",
    "endpoint": "http://h/",
    "cron": "0 0 0 1 1 * 2098",
    "payload": 1,
    "completion": "callback",
    "run_timeout_seconds": 3600,
}


@pytest.fixture
async def runner(context: Context) -> AsyncIterator[Runner]:
    async with running(context) as runner:
        yield runner


class Taken:
    """A run that the runner has taken, with its callback addresses and token."""

    def __init__(self, client: httpx.AsyncClient, runner: Runner) -> None:
        self.client = client
        self.id = runner.header("Idempotency-Key")
        self.token = runner.header("Cronpost-Callback-Token")

    async def say(self, action: str, body: bytes = b"", **headers: str) -> httpx.Response:
        headers = headers or {"Cronpost-Callback-Token": self.token}
        return await self.client.post(f"/runs/{self.id}/{action}", content=body, headers=headers)


@pytest.fixture
async def taken(client: httpx.AsyncClient, runner: Runner) -> Taken:
    assert (await client.post("/", json=SLOW | {"continuations": True})).status_code == 202
    await client.post("/jobs/a/run")
    await until(client, "/jobs/a", lambda answer: answer["status"] == "taken")
    return Taken(client, runner)


async def test_a_runner_receives_the_callback_address_and_token(taken: Taken, runner: Runner) -> None:
    assert runner.header("Cronpost-Callback-Url") == f"http://localhost/runs/{taken.id}/complete"
    assert runner.header("Cronpost-Heartbeat-Url") == f"http://localhost/runs/{taken.id}/heartbeat"
    answer = await taken.client.post(
        runner.header("Cronpost-Callback-Url"),
        content=b'{"state":"succeeded"}',
        headers={"Authorization": f"Bearer {taken.token}"},
    )
    assert answer.status_code == 200


async def test_a_run_is_open_until_it_is_completed(client: httpx.AsyncClient, taken: Taken) -> None:
    shown = (await client.get("/jobs/a")).json()
    assert shown["open_run"]["state"] == "taken"
    assert shown["open_run"]["taken_at"] is not None
    assert shown["totals"] == {"runs": 0, "succeeded": 0}
    assert (await client.post("/jobs/a/run")).status_code == 409
    assert [one["id"] for one in (await client.get("/jobs?status=taken")).json()["jobs"]] == ["a"]
    answer = await taken.say("complete", b'{"state": "succeeded", "message": "12 rows"}')
    assert answer.status_code == 200
    assert answer.json() == {"run_id": taken.id, "state": "succeeded"}
    shown = await until(client, "/jobs/a/runs", lambda answer: answer["runs"])
    (run,) = shown["runs"]
    assert (run["id"], run["state"], run["message"]) == (taken.id, "succeeded", "12 rows")
    assert (await client.get("/jobs/a")).json()["totals"] == {"runs": 1, "succeeded": 1}


async def test_a_failure_is_recorded_with_its_message(client: httpx.AsyncClient, taken: Taken) -> None:
    message = "no\u00f6 " * 1000
    answer = await taken.client.post(
        f"/runs/{taken.id}/complete",
        json={"state": "failed", "message": message},
        headers={"Cronpost-Callback-Token": taken.token},
    )
    assert answer.json()["state"] == "failed"
    (run,) = (await until(client, "/jobs/a/runs", lambda answer: answer["runs"]))["runs"]
    assert run["state"] == "failed"
    assert run["message"] == message[:MAX_MESSAGE_CHARACTERS]


async def test_a_repeated_completion_gets_the_same_answer_and_changes_nothing(taken: Taken, contents: Contents) -> None:
    first = await taken.say("complete", b'{"state":"succeeded"}')
    before = contents()
    for body in (b'{"state":"succeeded"}', b'{"state":"failed","message":"no"}'):
        again = await taken.say("complete", body)
        assert again.status_code == 200
        assert again.json() == first.json()
    assert contents() == before


async def test_new_tokens_are_valid_after_the_store_has_another_secret(
    client: httpx.AsyncClient, taken: Taken, runner: Runner, context: Context
) -> None:
    assert (await taken.say("complete", b'{"state":"succeeded"}')).status_code == 200
    redis: Any = redis_of(context.store).client
    await redis.hset(redis_of(context.store).keys.meta, "secret", b"of a store that was restored, 32 b")
    await until(client, "/jobs/a", lambda answer: answer["status"] == "active")
    await client.post("/jobs/a/run")
    await until(client, "/jobs/a", lambda answer: answer["status"] == "taken")
    again = Taken(client, runner)
    assert again.token != taken.token
    assert (await again.say("heartbeat")).status_code == 200
    assert (await again.say("complete", b'{"state":"succeeded"}')).status_code == 200


async def test_an_api_without_an_address_for_runners_refuses_jobs_with_a_callback(
    client: httpx.AsyncClient, context: Context
) -> None:
    context.takes_callbacks = False
    plain = {name: value for name, value in SLOW.items() if name not in ("completion", "run_timeout_seconds")}
    for answer in (await client.post("/", json=SLOW), await client.put("/jobs/a", json=SLOW)):
        assert (answer.status_code, answer.json()["field"]) == (400, "completion")
        assert "CRONPOST_PUBLIC_URL" in answer.json()["detail"]
    first, second = (await client.post("/jobs:batch", json=[SLOW, plain | {"id": "b"}])).json()
    assert (first["status"], first["field"], second["status"]) == (400, "completion", 202)


async def test_a_completion_can_request_a_continuation(client: httpx.AsyncClient, taken: Taken) -> None:
    payload = b'{"page":2,  "n":1.0}'
    answer = await taken.say(
        "complete", b'{"state":"succeeded","continue":{"payload":' + payload + b',"after_seconds":3600}}'
    )
    assert answer.status_code == 200, answer.text
    shown = (await client.get("/jobs/a")).json()
    assert [(one["reason"], one["payload"]) for one in shown["pending"]] == [("continuation", {"page": 2, "n": 1.0})]
    assert payload in (await client.get("/jobs/a/pending")).content


async def test_heartbeats_report_the_progress(client: httpx.AsyncClient, taken: Taken) -> None:
    answer = await taken.say("heartbeat", b'{"progress": 0.25, "note": "page 3 of 12"}')
    assert answer.status_code == 200
    assert answer.json()["run_id"] == taken.id
    assert answer.json()["deadline"].endswith("Z")
    shown = (await client.get("/jobs/a")).json()["open_run"]
    assert (shown["progress"], shown["note"]) == (0.25, "page 3 of 12")
    assert shown["heard_at"] is not None
    assert shown["deadline"] == answer.json()["deadline"]
    assert shown["retry_at"] is None
    for body in (b"", b"{}", b'{"progress":null}', b'{"progress":1}', b'{"progress":0}'):
        assert (await taken.say("heartbeat", body)).status_code == 200, body


BAD_COMPLETIONS: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "no object": (b'"succeeded"', None),
    "no state": (b"{}", "state"),
    "a flag": (b'{"success":true}', "success"),
    "null": (b'{"state":null}', "state"),
    "another state": (b'{"state":"done"}', "state"),
    "a state that is ours to give": (b'{"state":"lost"}', "state"),
    "the state twice": (b'{"state":"failed","state":"succeeded"}', "state"),
    "a number as message": (b'{"state":"failed","message":1}', "message"),
    "a typo": (b'{"state":"failed","mesage":"x"}', "mesage"),
    "a continuation of what failed": (b'{"state":"failed","continue":{}}', "continue"),
    "a continuation that is a number": (b'{"state":"succeeded","continue":1}', "continue"),
    "a continuation with a typo": (b'{"state":"succeeded","continue":{"after":1}}', "continue"),
    "a continuation at both times": (
        b'{"state":"succeeded","continue":{"after_seconds":1,"not_before":"2090-01-01T00:00:00Z"}}',
        "continue",
    ),
}


@pytest.mark.parametrize(("body", "field"), BAD_COMPLETIONS.values(), ids=BAD_COMPLETIONS.keys())
async def test_a_bad_completion_is_refused_and_the_run_stays_open(
    client: httpx.AsyncClient, taken: Taken, body: bytes, field: str | None
) -> None:
    answer = await taken.say("complete", body)
    assert answer.status_code == 400, answer.text
    assert answer.json().get("field") == field
    assert (await client.get("/jobs/a")).json()["status"] == "taken"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"1", None),
        (b'{"progress":1.01}', "progress"),
        (b'{"progress":-0.1}', "progress"),
        (b'{"progress":"half"}', "progress"),
        (b'{"progress":true}', "progress"),
        (b'{"note":null}', "note"),
        (b'{"notes":"x"}', "notes"),
    ],
)
async def test_a_bad_heartbeat_is_refused(taken: Taken, body: bytes, field: str | None) -> None:
    answer = await taken.say("heartbeat", body)
    assert answer.status_code == 400
    assert answer.json().get("field") == field


@pytest.mark.parametrize("action", ["complete", "heartbeat"])
async def test_without_the_token_of_the_run_every_callback_is_refused(
    client: httpx.AsyncClient, taken: Taken, action: str
) -> None:
    body = b'{"state":"succeeded"}' if action == "complete" else b""
    half, _, signature = taken.token.partition(".")
    bad: list[dict[str, Any]] = [
        {"X-Nothing": ""},
        {"Cronpost-Callback-Token": ""},
        {"Cronpost-Callback-Token": "x"},
        {"Cronpost-Callback-Token": half},
        {"Cronpost-Callback-Token": f"{half}.{signature[:-2]}"},
        {"Cronpost-Callback-Token": f"{signature}.{half}"},
        {"Cronpost-Callback-Token": taken.token + "x"},
        {"Cronpost-Callback-Token": "\u00e9.\u00e9".encode("latin-1")},
        {"Authorization": f"Basic {taken.token}"},
        {"Authorization": taken.token},
    ]
    for headers in bad:
        answer = await client.post(f"/runs/{taken.id}/{action}", content=body, headers=headers)
        assert answer.status_code == 403, headers
        assert answer.json()["code"] == "token_refused"
    other = await client.post(
        f"/runs/{taken.id[:-1]}{'0' if taken.id[-1] != '0' else '1'}/{action}",
        content=body,
        headers={"Cronpost-Callback-Token": taken.token},
    )
    assert other.status_code == 403
    assert (await client.get("/jobs/a")).json()["status"] == "taken"


async def test_a_run_that_is_never_completed_is_lost_and_stays_lost(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=SLOW | {"run_timeout_seconds": 0.3})
    await client.post("/jobs/a/run")
    (run,) = (await until(client, "/jobs/a/runs", lambda answer: answer["runs"]))["runs"]
    assert run["state"] == "lost"
    late = Taken(client, runner)
    for action, body in (("complete", b'{"state":"succeeded"}'), ("heartbeat", b"")):
        answer = await late.say(action, body)
        assert answer.status_code == 409, action
        assert answer.json()["code"] == "run_lost"


async def test_a_completion_is_accepted_while_the_request_is_still_open(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    runner.hold = asyncio.Event()
    runner.answers = [(500, b"too late to say so")]
    await client.post("/", json=SLOW)
    await client.post("/jobs/a/run")
    await until(client, "/jobs/a", lambda answer: runner.requests)
    early = Taken(client, runner)
    assert (await early.say("complete", b'{"state":"succeeded"}')).json()["state"] == "succeeded"
    runner.hold.set()
    (run,) = (await until(client, "/jobs/a/runs", lambda answer: answer["runs"]))["runs"]
    assert run["state"] == "succeeded"


@pytest.mark.parametrize(
    ("listens", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::]:8000", "http://[::1]:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://cronpost.example:80", "http://cronpost.example:80"),
    ],
)
def test_without_a_public_url_runners_receive_the_address_of_the_process(listens: str, expected: str) -> None:
    assert callback_base(listens) == expected


class TestWithKeys:
    """A runner needs no API key to call back, and a token is no API key."""

    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(api_keys=(KEY,))

    @pytest.fixture
    async def client(self, client: httpx.AsyncClient) -> httpx.AsyncClient:
        client.headers["Authorization"] = f"Bearer {KEY}"
        return client

    async def test_the_token_authorises_the_callback(self, taken: Taken) -> None:
        del taken.client.headers["Authorization"]
        assert (await taken.say("heartbeat")).status_code == 200
        assert (await taken.say("heartbeat", Authorization=f"Bearer {taken.token}")).status_code == 200
        assert (await taken.say("heartbeat", Authorization=f"Bearer {KEY}")).status_code == 403
        assert (await taken.client.get("/jobs", headers={"Authorization": f"Bearer {taken.token}"})).status_code == 401
        assert (await taken.client.get("/jobs", headers={"Cronpost-Callback-Token": taken.token})).status_code == 401
        assert (await taken.say("complete", b'{"state":"succeeded"}')).status_code == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/runs/x",
            "/runs/x/",
            "/runs/x/complete/",
            "/runs/x/completed",
            "/runs//complete",
            "/runs/x/y/complete",
            "/jobs/x/complete",
            "/x/runs/x/complete",
            "//runs/x/complete",
            "/runs/x/complete%0A",
            "/runs/x/complete%2F..%2Fjobs",
        ],
    )
    async def test_other_paths_still_need_a_key(self, client: httpx.AsyncClient, path: str) -> None:
        del client.headers["Authorization"]
        for method in ("GET", "POST"):
            answer = await client.request(method, f"http://localhost{path}")
            assert answer.status_code == 401, (method, path)

    async def test_a_page_of_another_origin_may_not_call_back(self, taken: Taken) -> None:
        headers = {"Cronpost-Callback-Token": taken.token, "Origin": "http://evil.example"}
        answer = await taken.client.post(f"/runs/{taken.id}/heartbeat", headers=headers)
        assert answer.status_code == 403
        assert answer.json()["code"] == "foreign_origin"
