"""Requested runs: run now, backfill and the pending list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_api.wire.bodies import MAX_BACKFILL
from scheduler_api.wire.json_body import MAX_DEPTH
from scheduler_core.plan.continuation import PAYLOAD_BYTES, PENDING_LIMIT
from tests.api.runner import Runner, running, until

Contents = Callable[[], dict[bytes, Any]]

GETTER = {"id": "a", "endpoint": "http://h/", "cron": "0 0 0 1 1 * 2098", "payload": {"page": "default"}}
FAR = "2090-01-01T00:00:00Z"


@pytest.fixture
async def runner(context: Context) -> AsyncIterator[Runner]:
    async with running(context) as runner:
        yield runner


async def pending(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    return list((await client.get("/jobs/a/pending")).json()["pending"])


# ---- the pending list ----------------------------------------------------------------------------------------------


async def test_the_list_is_replaced_and_shown_with_payloads_byte_for_byte(client: httpx.AsyncClient) -> None:
    await client.post("/", json=GETTER)
    assert await pending(client) == []
    payload = b'{"n":1.0,  "big":12345678901234567890123}'
    body = b'{"pending": [{"payload":' + payload + b',"not_before":"' + FAR.encode() + b'"}, {"after_seconds": 3600}]}'
    answer = await client.put("/jobs/a/pending", content=body)
    assert answer.status_code == 200, answer.text
    assert payload in answer.content
    second, first = answer.json()["pending"]  # by their not-before times
    assert first["not_before"] == FAR
    assert (first["reason"], first["attempts"], first["failed"]) == ("continuation", 0, None)
    assert "payload" not in second
    assert payload in (await client.get("/jobs/a")).content
    assert await pending(client) == [second, first]
    shown = (await client.get("/jobs/a")).json()
    assert shown["held_for"] == "held"
    assert shown["next_fire_times"] == []
    assert (await client.put("/jobs/a/pending", content=b" [] ")).json() == {"pending": []}
    assert (await client.get("/jobs/a")).json()["held_for"] is None


async def test_an_array_is_accepted_as_well_as_an_object(client: httpx.AsyncClient) -> None:
    await client.post("/", json=GETTER)
    for body in (b'[{"payload":[1]}]', b' \n[{"payload":[1]} ]\n', b'{"pending":[{"payload":[1]}]}'):
        answer = await client.put("/jobs/a/pending", content=body)
        assert [one["payload"] for one in answer.json()["pending"]] == [[1]]


async def test_a_payload_of_null_is_a_payload(client: httpx.AsyncClient) -> None:
    await client.post("/", json=GETTER)
    answer = await client.put("/jobs/a/pending", content=b'[{"payload":null,"after_seconds":60},{"after_seconds":60}]')
    with_null, without = answer.json()["pending"]
    assert with_null["payload"] is None
    assert "payload" not in without


ENTRY = b'{"payload":1,"not_before":"2090-01-01T00:00:00Z"}'
BAD_LISTS: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "null": (b"null", None),
    "no array": (b"{}", "pending"),
    "an entry alone": (ENTRY, "payload"),
    "a null list": (b'{"pending":null}', "pending"),
    "an object as list": (b'{"pending":{}}', "pending"),
    "the list twice": (b'{"pending":[],"pending":[]}', "pending"),
    "something besides": (b'{"pending":[],"more":1}', "more"),
    "half an array": (b"[" + ENTRY, None),
    "text behind the array": (b"[] x", None),
    "a second array behind it": (b"[],[]", None),
    "a member behind the array": (b'[],"more":1', "more"),
    "the list again behind it": (b'[],"pending":[]', "pending"),
    "a bracket behind the array": (b"[]}", None),
    "an object behind it": (b'[]},{"pending":[]', None),
    "a byte order mark": (b"\xef\xbb\xbf[]", None),
    "no UTF-8": (b'[{"payload":"\xff"}]', None),
    "too deep": (b'[{"payload":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}]", None),
    "a number as entry": (b"[1]", "pending[0]"),
    "null as entry": (b"[" + ENTRY + b",null]", "pending[1]"),
    "an array as entry": (b"[[]]", "pending[0]"),
    "a typo": (b'[{"pay_load":1}]', "pending[0].pay_load"),
    "a payload twice": (b'[{"payload":1,"payload":2}]', "pending[0].payload"),
    "both times": (b'[{"not_before":"2090-01-01T00:00:00Z","after_seconds":1}]', "pending[0].after_seconds"),
    "a day": (b"[" + ENTRY + b',{"not_before":"2090-01-01"}]', "pending[1].not_before"),
    "no zone": (b'[{"not_before":"2090-01-01T00:00:00"}]', "pending[0].not_before"),
    "null as time": (b'[{"not_before":null}]', "pending[0].not_before"),
    "negative seconds": (b'[{"after_seconds":-1}]', "pending[0].after_seconds"),
    "endless seconds": (b'[{"after_seconds":1e300}]', "pending[0].after_seconds"),
    "text as seconds": (b'[{"after_seconds":"1"}]', "pending[0].after_seconds"),
    "too many": (b"[" + b",".join([ENTRY] * (PENDING_LIMIT + 1)) + b"]", "pending"),
    "a long payload": (
        b'[{"payload":"' + b"x" * (PAYLOAD_BYTES - 1) + b'"}]',
        "pending[0].payload",
    ),
}


@pytest.mark.parametrize(("body", "field"), BAD_LISTS.values(), ids=BAD_LISTS.keys())
async def test_a_bad_list_is_refused_and_the_stored_one_stays(
    client: httpx.AsyncClient, contents: Contents, body: bytes, field: str | None
) -> None:
    await client.post("/", json=GETTER)
    await client.put("/jobs/a/pending", content=b"[" + ENTRY + b"]")
    before = contents()
    answer = await client.put("/jobs/a/pending", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json().get("field") == field
    assert contents() == before


async def test_the_largest_allowed_list_is_accepted(client: httpx.AsyncClient) -> None:
    await client.post("/", json=GETTER)
    many = b"[" + b",".join([ENTRY] * PENDING_LIMIT) + b"]"
    assert len((await client.put("/jobs/a/pending", content=many)).json()["pending"]) == PENDING_LIMIT
    long = b'[{"payload":"' + b"x" * (PAYLOAD_BYTES - 2) + b'"}]'
    assert (await client.put("/jobs/a/pending", content=long)).status_code == 200


@pytest.mark.parametrize(
    ("method", "action", "body"),
    [
        ("GET", "/pending", b""),
        ("PUT", "/pending", b"[]"),
        ("POST", "/pending/RUN/revive", b""),
        ("POST", "/backfill", b'{"start":"2020-01-01T00:00:00Z","end":"2020-01-02T00:00:00Z"}'),
    ],
)
async def test_an_unknown_job_is_not_found(client: httpx.AsyncClient, method: str, action: str, body: bytes) -> None:
    answer = await client.request(method, f"/jobs/nobody{action}", content=body)
    assert answer.status_code == 404
    assert answer.json()["code"] == "job_not_found"


async def test_an_entry_that_failed_is_set_aside_and_can_be_revived(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=GETTER | {"continuations": True})
    runner.answers = [(500, b"no")]
    (entry,) = (await client.put("/jobs/a/pending", content=b'[{"payload":{"page":7}}]')).json()["pending"]
    answer = await until(client, "/jobs/a/pending", lambda answer: answer["pending"][0]["failed"])
    (failed,) = answer["pending"]
    assert failed["run_id"] == entry["run_id"]
    assert failed["payload"] == {"page": 7}
    assert (await client.get("/jobs/a")).json()["held_for"] is None
    assert (await client.post("/jobs/a/pending/nobody/revive")).status_code == 404
    answer = await client.post(f"/jobs/a/pending/{entry['run_id']}/revive")
    assert answer.status_code == 200
    assert [one["failed"] for one in answer.json()["pending"]] in ([None], [])
    await until(client, "/jobs/a/pending", lambda answer: answer["pending"] == [])
    assert runner.bodies == [b'{"page":7}', b'{"page":7}']
    again = await client.post(f"/jobs/a/pending/{entry['run_id']}/revive")
    assert again.status_code == 404
    assert again.json()["code"] == "run_not_found"


async def test_a_retried_entry_shows_its_attempts(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post(
        "/", json=GETTER | {"retry": {"statuses": [500], "first_delay_seconds": 3600, "max_delay_seconds": 3600}}
    )
    runner.answers = [(500, b"later")]
    await client.put("/jobs/a/pending", content=b'[{"payload":1}]')
    answer = await until(client, "/jobs/a/pending", lambda answer: answer["pending"][0]["attempts"] == 1)
    assert answer["pending"][0]["failed"] is None
    shown = (await client.get("/jobs/a")).json()
    assert shown["held_for"] == "held"
    assert (shown["open_run"]["id"], shown["open_run"]["state"]) == (answer["pending"][0]["run_id"], "retrying")
    assert shown["open_run"]["retry_at"] == answer["pending"][0]["not_before"]


async def test_continuations_of_answers_run_one_after_the_other(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=GETTER | {"continuations": True})
    runner.answers = [
        (200, b'{"continue": {"payload": {"page": 2}}}'),
        (200, b'{"continue": {"payload": {"page": 3}}}'),
    ]
    await client.post("/jobs/a/run")
    await until(client, "/jobs/a", lambda answer: answer["totals"]["succeeded"] == 3)
    assert runner.bodies == [b'{"page":"default"}', b'{"page": 2}', b'{"page": 3}']
    assert [dict(request.headers)["Cronpost-Reason"] for request in runner.requests] == [
        "manual",
        "continuation",
        "continuation",
    ]


# ---- run now -------------------------------------------------------------------------------------------------------


async def test_a_poke_beside_a_future_manual_entry_starts_nothing(client: httpx.AsyncClient) -> None:
    await client.post("/", json=GETTER)
    accepted = await client.post("/jobs/a/run", json={"payload": [1], "not_before": FAR})
    assert accepted.status_code == 202
    answer = await client.post("/jobs/a/run")
    assert (answer.status_code, answer.json()) == (200, {"skipped": "not_due", "next_at": FAR})
    forced = await client.post("/jobs/a/run", json={"force": True})
    assert (forced.status_code, forced.json()) == (202, accepted.json())
    assert len(await pending(client)) == 1


async def test_a_poke_before_its_time_starts_nothing_and_reports_when(client: httpx.AsyncClient) -> None:
    await client.post("/", json=GETTER)
    await client.put("/jobs/a/pending", content=b"[" + ENTRY + b"]")
    answer = await client.post("/jobs/a/run")
    assert answer.status_code == 200
    assert answer.json() == {"skipped": "not_due", "next_at": FAR}
    assert len(await pending(client)) == 1
    forced = await client.post("/jobs/a/run", content=b'{"force": true}')
    assert forced.status_code == 202
    assert forced.json()["run_id"] == (await pending(client))[0]["run_id"]


async def test_pokes_within_the_minimal_interval_start_nothing(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=GETTER | {"min_interval_seconds": 79_200})
    assert (await client.post("/jobs/a/run")).status_code == 202
    await until(client, "/jobs/a", lambda answer: answer["totals"]["succeeded"] == 1)
    for _ in range(3):
        answer = await client.post("/jobs/a/run")
        assert answer.status_code == 200
        assert answer.json()["skipped"] == "too_soon"
        assert answer.json()["next_at"].endswith("Z")
    assert len(runner.requests) == 1
    assert (await client.post("/jobs/a/run", content=b'{"force":true}')).status_code == 202
    await until(client, "/jobs/a", lambda answer: answer["totals"]["succeeded"] == 2)


async def test_a_run_with_its_own_time_waits_for_it_without_blocking_the_trigger(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/", json=GETTER)
    answer = await client.post("/jobs/a/run", json={"payload": [1], "not_before": FAR})
    assert answer.status_code == 202
    (entry,) = await pending(client)
    assert entry == {
        "run_id": answer.json()["run_id"],
        "reason": "manual",
        "not_before": FAR,
        "attempts": 0,
        "failed": None,
        "payload": [1],
    }
    assert (await client.get("/jobs/a")).json()["held_for"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"not_before":"soon"}', "not_before"),
        (b'{"not_before":null}', "not_before"),
        (b'{"not_before":1}', "not_before"),
        (b'{"not_befor":"2090-01-01T00:00:00Z"}', "not_befor"),
        (b'{"force":"yes"}', "force"),
        (b'{"force":true,"force":true}', "force"),
    ],
)
async def test_a_bad_poke_is_refused(client: httpx.AsyncClient, contents: Contents, body: bytes, field: str) -> None:
    await client.post("/", json=GETTER)
    before = contents()
    answer = await client.post("/jobs/a/run", content=body)
    assert answer.status_code == 400
    assert answer.json()["field"] == field
    assert contents() == before


# ---- backfill ------------------------------------------------------------------------------------------------------


async def test_a_backfill_runs_past_fire_times_again(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=GETTER | {"cron": "0 0 * * *"})
    body = {"start": "2020-01-01T00:00:00Z", "end": "2020-01-03T12:00:00+02:00", "limit": 50}
    answer = await client.post("/jobs/a/backfill", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"first": "2020-01-01T00:00:00Z", "last": "2020-01-03T00:00:00Z", "runs": 3}
    await until(client, "/jobs/a", lambda answer: answer["totals"]["succeeded"] == 3 and answer["replays"] == [])
    assert [runner.header("Cronpost-Fire-Time", index) for index in range(3)] == [
        f"2020-01-0{day}T00:00:00Z" for day in (1, 2, 3)
    ]
    assert {runner.header("Cronpost-Reason", index) for index in range(3)} == {"backfill"}


async def test_a_backfill_in_progress_is_shown(client: httpx.AsyncClient) -> None:
    await client.post("/", json=GETTER | {"cron": "0 0 * * *"})
    body = {"start": "2020-01-01T00:00:00Z", "end": "2020-12-31T00:00:00Z", "limit": 5}
    assert (await client.post("/jobs/a/backfill", json=body)).json()["runs"] == 5
    assert (await client.get("/jobs/a")).json()["replays"] == [
        {"reason": "backfill", "next": "2020-01-01T00:00:00Z", "last": "2020-12-31T00:00:00Z", "left": 5}
    ]


YEAR = {"start": "2020-01-01T00:00:00Z", "end": "2020-12-31T00:00:00Z"}
BAD_BACKFILLS: dict[str, tuple[dict[str, Any], str]] = {
    "no start": ({"end": YEAR["end"]}, "start"),
    "no end": ({"start": YEAR["start"]}, "end"),
    "a null start": (YEAR | {"start": None}, "start"),
    "a day": (YEAR | {"end": "2020-01-01"}, "end"),
    "the end first": ({"start": YEAR["end"], "end": YEAR["start"]}, "end"),
    "no run": (YEAR | {"limit": 0}, "limit"),
    "too many runs": (YEAR | {"limit": MAX_BACKFILL + 1}, "limit"),
    "a broken limit": (YEAR | {"limit": 1.5}, "limit"),
    "a null limit": (YEAR | {"limit": None}, "limit"),
    "a typo": (YEAR | {"stop": 1}, "stop"),
    "no fire time in it": ({"start": "2020-01-01T00:00:01Z", "end": "2020-01-01T23:59:59Z"}, "start"),
    "the future": ({"start": "2090-01-01T00:00:00Z", "end": "2091-01-01T00:00:00Z"}, "start"),
}


@pytest.mark.parametrize(("body", "field"), BAD_BACKFILLS.values(), ids=BAD_BACKFILLS.keys())
async def test_a_bad_backfill_is_refused(
    client: httpx.AsyncClient, contents: Contents, body: dict[str, Any], field: str
) -> None:
    await client.post("/", json=GETTER | {"cron": "0 0 * * *"})
    before = contents()
    answer = await client.post("/jobs/a/backfill", content=json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field
    assert contents() == before


# ---- runs side by side ---------------------------------------------------------------------------------------------


async def test_open_runs_of_a_job_that_allows_overlap_are_shown(client: httpx.AsyncClient, runner: Runner) -> None:
    runner.hold = asyncio.Event()
    await client.post("/", json=GETTER | {"cron": "* * * * * *", "overlap": "allow", "max_concurrent": 2})
    shown = await until(client, "/jobs/a", lambda answer: len(answer["open_runs"]) == 2)
    fire_times = [run["fire_time"] for run in shown["open_runs"]]
    assert len(set(fire_times)) == 2
    assert [run["held_back"] for run in shown["open_runs"]] == [None, None]
    runner.hold.set()
    done = await until(client, "/jobs/a/runs", lambda answer: len(answer["runs"]) >= 2)
    assert {run["fire_time"] for run in done["runs"]} >= set(fire_times)
