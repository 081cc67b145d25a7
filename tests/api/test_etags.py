"""``ETag`` and ``If-Match``: a change is made only in the version that its client has seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of, job
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS

JOB = "/jobs/job-scheduler-unique-id"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def context(store: RedisStore, api_settings: ApiSettings, clock: ManualClock) -> Context:
    return Context(settings=api_settings, store=store, clock=clock, metrics=Metrics())


@pytest.fixture
async def other(store: RedisStore, api_settings: ApiSettings, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of another process, which has no lock in common with the first."""
    async with client_of(Context(settings=api_settings, store=store, clock=clock, metrics=Metrics())) as client:
        yield client


Change = Callable[[httpx.AsyncClient, dict[str, str]], Awaitable[httpx.Response]]
CHANGES: dict[str, Change] = {
    "POST /": lambda client, headers: client.post("/", json=job(payload=2), headers=headers),
    "PUT": lambda client, headers: client.put(JOB, json=job(payload=3), headers=headers),
    "PATCH": lambda client, headers: client.patch(JOB, json={"payload": 4}, headers=headers),
    "dry run of PUT": lambda client, headers: client.put(f"{JOB}?dry_run=true", json=job(payload=3), headers=headers),
    "dry run of PATCH": lambda client, headers: client.patch(
        f"{JOB}?dry_run=true", json={"payload": 4}, headers=headers
    ),
    "pause": lambda client, headers: client.post(f"{JOB}/pause", headers=headers),
    "resume": lambda client, headers: client.post(f"{JOB}/resume", headers=headers),
    "run": lambda client, headers: client.post(f"{JOB}/run", headers=headers),
    "DELETE": lambda client, headers: client.delete(JOB, headers=headers),
    "DELETE /": lambda client, headers: client.delete(
        "/", params={"job_id": "job-scheduler-unique-id"}, headers=headers
    ),
}
each_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


async def etag(client: httpx.AsyncClient) -> str:
    return str((await client.get(JOB)).headers["etag"])


async def stored(client: httpx.AsyncClient) -> str:
    answer = await client.get(JOB)
    return f"{answer.text}{answer.headers.get('etag')}"


async def test_the_etag_names_creation_and_version(client: httpx.AsyncClient, clock: ManualClock) -> None:
    created = await client.post("/", json=job())
    first = created.headers["etag"]
    assert await etag(client) == first
    assert (await client.put(JOB, json=job())).headers["etag"] == first
    assert (await client.post(f"{JOB}/pause")).headers["etag"] == first
    assert (await client.post(f"{JOB}/resume")).headers["etag"] == first
    changed = await client.put(JOB, json=job(payload=2))
    assert changed.headers["etag"] == await etag(client) != first
    clock.advance(1)
    assert "etag" not in (await client.delete(JOB)).headers
    again = await client.post("/", json=job())
    assert again.json()["version"] == created.json()["version"]
    assert again.headers["etag"] not in {first, changed.headers["etag"]}


@each_change
async def test_a_change_with_the_current_etag_is_made(client: httpx.AsyncClient, change: Change) -> None:
    await client.post("/", json=job())
    current = await etag(client)
    for accepted in (current, "*", f'"other", {current}', f'W/"other" ,{current},'):
        assert (await change(client, {"If-Match": accepted})).is_success, accepted
        await client.delete(JOB)
        await client.post("/", json=job())


@each_change
async def test_a_change_with_another_etag_changes_nothing_and_gets_the_current_one(
    client: httpx.AsyncClient, change: Change, contents: Callable[[], dict[bytes, Any]]
) -> None:
    old = (await client.post("/", json=job())).headers["etag"]
    current = (await client.put(JOB, json=job(payload="new"))).headers["etag"]
    before = contents()
    for refused in (old, '"other"', f"W/{current}", f'{old}, "x,y"', '"*"'):
        answer = await change(client, {"If-Match": refused})
        assert (answer.status_code, answer.headers["etag"]) == (412, current), refused
        assert answer.json()["code"] == "version_mismatch"
    assert contents() == before


@each_change
async def test_a_header_that_has_no_etag_is_refused(client: httpx.AsyncClient, change: Change) -> None:
    await client.post("/", json=job())
    before = await stored(client)
    for given in ("3", "", '"a" "b"', '"a', "*, *", "W/*"):
        answer = await change(client, {"If-Match": given})
        assert (answer.status_code, answer.json()["field"]) == (400, "If-Match"), given
    assert await stored(client) == before


@each_change
async def test_a_job_that_does_not_exist_has_no_etag(client: httpx.AsyncClient, change: Change) -> None:
    for given in ('"1-1"', "*"):
        answer = await change(client, {"If-Match": given})
        creates = answer.request.method in {"PUT", "POST"} and not answer.request.url.path.endswith(
            ("pause", "resume", "run")
        )
        assert answer.status_code == (412 if creates else 404)
        assert "etag" not in answer.headers
    assert (await client.get(JOB)).status_code == 404


@pytest.mark.parametrize("rounds", [0, 1, 2])
async def test_of_writers_with_the_same_etag_one_wins(
    client: httpx.AsyncClient, other: httpx.AsyncClient, rounds: int
) -> None:
    await client.post("/", json=job())
    for _ in range(rounds):
        await client.patch(JOB, json={"payload": [_]})
    before = (await client.get(JOB)).json()["version"]
    current = {"If-Match": await etag(client)}
    puts = [one.put(JOB, json=job(payload=number), headers=current) for number, one in enumerate((client, other) * 3)]
    patches = [
        one.patch(JOB, json={"timeout_seconds": 1 + number}, headers=current)
        for number, one in enumerate((client, other) * 3)
    ]
    answers = await asyncio.gather(*puts, *patches)
    assert sorted(answer.status_code for answer in answers) == [202] + [412] * 11
    after = await client.get(JOB)
    assert after.json()["version"] == before + 1
    assert {answer.headers["etag"] for answer in answers} == {after.headers["etag"]}


async def test_a_delete_and_a_change_with_the_same_etag_do_not_both_win(
    client: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    await client.post("/", json=job())
    current = {"If-Match": await etag(client)}
    deleted, changed = await asyncio.gather(
        client.delete(JOB, headers=current), other.patch(JOB, json={"payload": 2}, headers=current)
    )
    assert (deleted.status_code, changed.status_code) in {(200, 404), (412, 202)}


async def test_a_job_that_cannot_be_read_has_no_etag_and_can_be_deleted_with_any(
    client: httpx.AsyncClient, store: RedisStore
) -> None:
    await client.post("/", json=job())
    current = await etag(client)
    redis: Any = store.client
    await redis.hset(KEYS.jobs, "job-scheduler-unique-id", b"not a document")
    assert "etag" not in (await client.get(JOB)).headers
    refused = await client.delete(JOB, headers={"If-Match": current})
    assert (refused.status_code, "etag" in refused.headers) == (412, False)
    assert (await client.get(JOB, params={"view": "definition"})).json()["code"] == "corrupt_document"
    patch = await client.patch(JOB, json={"payload": 2}, headers={"If-Match": "*"})
    assert (patch.status_code, patch.json()["code"]) == (409, "run_not_settled")
    assert (await client.delete(JOB, headers={"If-Match": "*"})).status_code == 200


async def test_a_repeated_run_gets_its_first_answer_though_the_job_has_changed_since(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/", json=job())
    headers = {"If-Match": await etag(client), "Idempotency-Key": "k"}
    first = await client.post(f"{JOB}/run", headers=headers)
    await client.patch(JOB, json={"payload": 2})
    again = await client.post(f"{JOB}/run", headers=headers)
    assert (first.status_code, again.text) == (202, first.text)
    other_key = await client.post(f"{JOB}/run", headers=headers | {"Idempotency-Key": "l"})
    assert other_key.status_code == 412


# ---- If-None-Match ----------------------------------------------------------------------------------------------

NEW = {"If-None-Match": "*"}


@pytest.mark.parametrize("change", [CHANGES["POST /"], CHANGES["PUT"], CHANGES["dry run of PUT"]])
async def test_if_none_match_refuses_a_job_that_exists(client: httpx.AsyncClient, change: Change) -> None:
    created = await client.post("/", json=job(), headers=NEW)
    assert created.status_code == 202
    before = await stored(client)
    answer = await change(client, NEW)
    assert (answer.status_code, answer.json()["code"]) == (412, "job_exists")
    assert answer.headers["etag"] == created.headers["etag"]
    assert await stored(client) == before
    await client.delete(JOB)
    assert (await change(client, NEW)).status_code in {200, 202}


async def test_one_of_several_processes_creates_a_job(client: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(one.post("/", json=job(payload=number), headers=NEW) for number in range(5) for one in (client, other))
    )
    assert sorted(answer.status_code for answer in answers) == [202] + [412] * 9


async def test_only_a_star_is_accepted_in_if_none_match_and_not_beside_if_match(client: httpx.AsyncClient) -> None:
    for headers in ({"If-None-Match": '"19ab-3"'}, NEW | {"If-Match": "*"}):
        answer = await client.post("/", json=job(), headers=headers)
        assert (answer.status_code, answer.json()["field"]) == (400, "If-None-Match")
