"""``POST /runs/{id}/retry``: a person runs a settled run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.base.errors import OutcomeUnknown
from scheduler_core.store.redis.store import RedisStore
from tests.api.runner import Runner, running, until
from tests.support.stores import until as until_here

Contents = Callable[[], dict[bytes, Any]]

JOB: dict[str, Any] = {"id": "a", "endpoint": "http://h/", "cron": "0 0 0 1 1 * 2098", "payload": {"page": "default"}}
UNKNOWN = "01M7Y1325RZKATKCS8J93T7HX0"


@pytest.fixture
async def runner(context: Context) -> AsyncIterator[Runner]:
    async with running(context) as runner:
        yield runner


async def failed_run(client: httpx.AsyncClient, runner: Runner, **request: Any) -> str:
    """Let a requested run of the job ``a`` fail; return its id."""
    runner.answers = [(500, b"no")]
    accepted = await client.post("/jobs/a/run", json=request)
    assert accepted.status_code == 202, accepted.text
    run_id: str = accepted.json()["run_id"]
    await settled(client, run_id)
    return run_id


async def settled(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            answer = await client.get(f"/runs/{run_id}")
            if answer.status_code == 200 and answer.json()["state"] not in {"open", "retrying", "taken"}:
                shown: dict[str, Any] = answer.json()
                return shown
            await asyncio.sleep(0.01)


async def retry(client: httpx.AsyncClient, run_id: str, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(f"/runs/{run_id}/retry", json=body, headers=headers)


async def refused(client: httpx.AsyncClient, run_id: str, **body: Any) -> tuple[int, str]:
    answer = await retry(client, run_id, **body)
    return answer.status_code, answer.json()["code"]


async def test_a_failed_run_runs_again_with_its_payload_and_its_fire_time(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    await client.post("/", json=JOB)
    run_id = await failed_run(client, runner, payload={"page": 7})
    answer = await retry(client, run_id)
    assert answer.status_code == 202, answer.text
    original = (await client.get(f"/runs/{run_id}")).json()
    new_id = answer.json()["run_id"]
    assert answer.json() == {
        "run_id": new_id,
        "job_id": "a",
        "replay_of": run_id,
        "fire_time": original["fire_time"],
    }
    again = await settled(client, new_id)
    shown = {name: again[name] for name in ("state", "reason", "fire_time", "lateness_ms", "replay_of", "replayed_by")}
    assert shown == {
        "state": "succeeded",
        "reason": "replay",
        "fire_time": original["fire_time"],
        "lateness_ms": None,
        "replay_of": run_id,
        "replayed_by": None,
    }
    assert (original["replay_of"], original["replayed_by"]) == (None, new_id)
    assert runner.bodies == [b'{"page":7}', b'{"page":7}']
    assert [dict(one.headers)["Cronpost-Reason"] for one in runner.requests] == ["manual", "replay"]
    assert [dict(one.headers)["Idempotency-Key"] for one in runner.requests] == [run_id, new_id]
    first, second = (await client.get("/jobs/a/runs")).json()["runs"]
    assert (first["id"], first["replay_of"], second["replayed_by"]) == (new_id, run_id, new_id)
    assert [one["replay_of"] for one in (await client.get("/runs?reason=replay")).json()] == [run_id]


async def test_a_run_without_a_payload_of_its_own_gets_that_of_the_job(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    await client.post("/", json=JOB)
    run_id = await failed_run(client, runner)
    changed = JOB | {"payload": {"page": "new"}}
    await client.post("/", json=changed)
    assert await refused(client, run_id) == (409, "definition_changed")
    assert await refused(client, run_id, force=True) == (409, "definition_changed")
    answer = await retry(client, run_id, definition="current")
    assert (await settled(client, answer.json()["run_id"]))["state"] == "succeeded"
    assert runner.bodies == [b'{"page":"default"}', b'{"page":"new"}']


async def test_a_run_is_replayed_once_unless_forced(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=JOB)
    run_id = await failed_run(client, runner)
    first = (await retry(client, run_id)).json()["run_id"]
    again = await retry(client, run_id)
    assert (again.status_code, again.json()["code"]) == (409, "already_replayed")
    assert first in again.json()["detail"]
    await settled(client, first)
    assert await refused(client, first) == (409, "already_succeeded")
    second = (await retry(client, run_id, force=True)).json()["run_id"]
    assert second != first
    await settled(client, second)
    assert (await client.get(f"/runs/{run_id}")).json()["replayed_by"] == second
    third = (await retry(client, first, force=True)).json()
    assert third["replay_of"] == first
    assert (await settled(client, third["run_id"]))["state"] == "succeeded"
    assert len(runner.requests) == 4


async def test_what_cannot_be_replayed(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=JOB)
    for unknown in (UNKNOWN, "nonsense", "%00"):
        assert await refused(client, unknown) == (404, "run_not_found")
    runner.hold = asyncio.Event()
    open_id = (await client.post("/jobs/a/run")).json()["run_id"]
    await until_here(lambda: bool(runner.requests))
    answer = await retry(client, open_id)
    assert (answer.status_code, answer.json()["code"]) == (409, "run_not_settled")
    assert "(open)" in answer.json()["detail"]
    runner.hold.set()
    await settled(client, open_id)
    await client.delete("/jobs/a")
    assert await refused(client, open_id) == (404, "job_not_found")
    await client.post("/", json=JOB)
    assert await refused(client, open_id, force=True) == (409, "definition_changed")


async def test_a_run_of_a_task_is_called_again_under_its_task(client: httpx.AsyncClient, runner: Runner) -> None:
    runner.answers = [(500, b"no")] * 9
    task = {"webhookUrl": "http://h/", "executeAt": "2020-01-01T00:00:00Z"}
    await client.patch("/api/v1/config", json={"base_interval_ms": 10, "max_retries": 0})
    await client.post("/api/v1/tasks", json=task)
    answer = await until(client, "/runs", lambda runs: bool(runs) and runs[0]["status"] is not None)
    refusal = await retry(client, answer[0]["id"])
    assert (refusal.status_code, refusal.json()["code"]) == (404, "run_not_found")
    assert f"/api/v1/tasks/{answer[0]['job_id']}/retry" in refusal.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"definition": "old"}', "definition"),
        (b'{"definition": null}', "definition"),
        (b'{"force": 1}', "force"),
        (b'{"forced": true}', "forced"),
        (b"[]", None),
        (b'{"force": true, "force": true}', "force"),
    ],
)
async def test_a_bad_body_is_refused_with_its_field(client: httpx.AsyncClient, body: bytes, field: str | None) -> None:
    answer = await client.post(f"/runs/{UNKNOWN}/retry", content=body)
    assert (answer.status_code, answer.json().get("field")) == (400, field)


async def test_unknown_parameters_are_refused(client: httpx.AsyncClient) -> None:
    assert (await client.post(f"/runs/{UNKNOWN}/retry?force=true")).status_code == 400


# ---- repeated requests -----------------------------------------------------------------------------------------------


async def test_a_key_returns_the_first_answer_and_refuses_another_body(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    await client.post("/", json=JOB)
    run_id, other = await failed_run(client, runner), await failed_run(client, runner)
    first = await retry(client, run_id, key="k", force=True)
    for _ in range(2):
        again = await retry(client, run_id, key="k", force=True)
        assert (again.status_code, again.json()) == (202, first.json())
    changed = await retry(client, run_id, key="k")
    assert (changed.status_code, changed.json()["code"]) == (422, "idempotency_key_reused")
    await settled(client, first.json()["run_id"])
    assert (await retry(client, run_id, key="k", force=True)).json() == first.json()
    assert (await retry(client, other, key="k", force=True)).json()["replay_of"] == other
    assert (await retry(client, run_id, key="another", force=True)).json()["run_id"] != first.json()["run_id"]


async def test_requests_at_the_same_time_start_one_replay(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=JOB)
    run_id = await failed_run(client, runner)
    answers = await asyncio.gather(*(retry(client, run_id) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409]
    with_key = await asyncio.gather(*(retry(client, run_id, key="k", force=True) for _ in range(5)))
    assert {answer.status_code for answer in with_key} == {202}
    (started,) = {answer.json()["run_id"] for answer in with_key}
    await settled(client, started)
    assert len(runner.requests) == 3


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_lost_answer_never_starts_two_replays(
    client: httpx.AsyncClient,
    runner: Runner,
    store: RedisStore,
    monkeypatch: pytest.MonkeyPatch,
    stored: bool,
    key: str | None,
) -> None:
    await client.post("/", json=JOB)
    run_id = await failed_run(client, runner)
    change = store.change
    answers_lost = 0

    async def lost(*args: Any, **options: Any) -> bool:
        nonlocal answers_lost
        answers_lost += 1
        if answers_lost > 1:
            return await change(*args, **options)
        if stored:
            await change(*args, **options)
        raise OutcomeUnknown("the connection was lost")

    monkeypatch.setattr(store, "change", lost)
    first = await retry(client, run_id, key=key)
    assert (first.status_code, first.json()["code"]) == (429, "outcome_unknown")
    again = await retry(client, run_id, key=key)
    replayed_by = (await client.get(f"/runs/{run_id}")).json()["replayed_by"]
    if stored and key is None:
        assert (again.status_code, again.json()["code"]) == (409, "already_replayed")
    else:
        assert (again.status_code, again.json()["run_id"]) == (202, replayed_by)
    await settled(client, replayed_by)
    assert len(runner.requests) == 2
    assert len((await client.get("/jobs/a/runs")).json()["runs"]) == 2


async def test_a_token_returns_the_replay_that_was_requested_with_it(
    context: Context, client: httpx.AsyncClient, runner: Runner
) -> None:
    await client.post("/", json=JOB)
    run_id, other = await failed_run(client, runner), await failed_run(client, runner)
    first = await context.replays.replay_run(run_id, token="operation")
    assert await context.replays.replay_run(run_id, token="operation") == first
    await settled(client, first.run_id)
    assert await context.replays.replay_run(run_id, job_id="a", token="operation") == first
    assert (await context.replays.replay_run(run_id, token="second", force=True)).run_id != first.run_id
    assert (await context.replays.replay_run(other, token="operation")).replay_of == other


# ---- jobs of all kinds -----------------------------------------------------------------------------------------------


async def test_a_replay_of_a_paused_job_waits_until_it_is_resumed(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=JOB)
    run_id = await failed_run(client, runner)
    await client.post("/jobs/a/pause")
    answer = await retry(client, run_id)
    assert answer.status_code == 202
    (entry,) = (await client.get("/jobs/a/pending")).json()["pending"]
    assert (entry["run_id"], entry["reason"], entry["replay_of"]) == (answer.json()["run_id"], "replay", run_id)
    assert entry["fire_time"] == answer.json()["fire_time"]
    waiting = (await client.get(f"/runs/{answer.json()['run_id']}")).json()
    assert (waiting["state"], waiting["status"], waiting["started_at"]) == ("open", None, None)
    assert waiting["replay_of"] == run_id
    await client.post("/jobs/a/resume")
    assert (await settled(client, entry["run_id"]))["state"] == "succeeded"


async def test_a_replay_of_a_completed_job_completes_it_again(client: httpx.AsyncClient, runner: Runner) -> None:
    runner.answers = [(500, b"no")]
    await client.post("/", json={"id": "a", "endpoint": "http://h/", "at": "now", "payload": 1})
    await until(client, "/jobs/a", lambda shown: shown["status"] == "completed")
    (run,) = (await client.get("/jobs/a/runs")).json()["runs"]
    answer = await retry(client, run["id"])
    again = await settled(client, answer.json()["run_id"])
    assert (again["state"], again["fire_time"]) == ("succeeded", run["fire_time"])
    await until(client, "/jobs/a", lambda shown: shown["status"] == "completed")


async def test_a_replay_of_a_job_that_allows_overlap_runs_beside_the_others(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    await client.post("/", json=JOB | {"overlap": "allow", "max_concurrent": 3})
    run_ids = [await failed_run(client, runner, payload=number) for number in range(3)]
    started = [(await retry(client, run_id)).json()["run_id"] for run_id in run_ids]
    for new_id in started:
        assert (await settled(client, new_id))["state"] == "succeeded"
    assert sorted(runner.bodies) == [b"0", b"0", b"1", b"1", b"2", b"2"]
    assert (await client.get("/jobs/a/pending")).json() == {"pending": []}


async def test_a_replay_of_a_job_on_a_named_target_uses_the_target_as_it_is(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    target = {"name": "t", "url": "http://h/one", "method": "POST", "body_template": "hello"}
    created = (await client.post("/targets", json=target)).json()
    await client.post("/", json={"id": "a", "target": "t", "cron": JOB["cron"]})
    run_id = await failed_run(client, runner)
    await client.put(f"/targets/{created['id']}", json={"url": "http://h/two"})
    again = await settled(client, (await retry(client, run_id)).json()["run_id"])
    assert (again["state"], again["request_url"], again["request_body"]) == ("succeeded", "http://h/two", None)
    assert runner.bodies == [b"hello", b"hello"]


async def test_a_run_of_a_schedule_is_replayed(client: httpx.AsyncClient, runner: Runner) -> None:
    target = (await client.post("/targets", json={"name": "t", "url": "http://h/"})).json()
    schedule = {"name": "s", "target_id": target["id"], "schedule_type": "INTERVAL", "interval_seconds": 86400}
    job_id = (await client.post("/schedules", json=schedule)).json()["job_id"]
    runner.answers = [(500, b"no")]
    run_id = (await client.post(f"/jobs/{job_id}/run")).json()["run_id"]
    assert (await settled(client, run_id))["status"] == "FAILED"
    answer = (await retry(client, run_id)).json()
    assert answer["job_id"] == job_id
    assert (await settled(client, answer["run_id"]))["status"] == "SUCCESS"


async def test_a_replay_of_a_page_takes_the_place_of_its_entry(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=JOB | {"continuations": True})
    runner.answers = [(500, b"no"), (500, b"no")]
    (entry,) = (await client.put("/jobs/a/pending", content=b'[{"payload":{"page":7}}]')).json()["pending"]
    await until(client, "/jobs/a/pending", lambda answer: answer["pending"][0]["failed"])
    new_id = (await retry(client, entry["run_id"])).json()["run_id"]
    answer = await until(client, "/jobs/a/pending", lambda answer: answer["pending"][0]["failed"])
    (aside,) = answer["pending"]
    assert (aside["run_id"], aside["reason"], aside["payload"]) == (new_id, "replay", {"page": 7})
    assert (await client.post(f"/jobs/a/pending/{new_id}/revive")).status_code == 200
    await until(client, "/jobs/a/pending", lambda answer: answer["pending"] == [])
    assert runner.bodies == [b'{"page":7}'] * 3
    assert await refused(client, new_id) == (409, "already_replayed")


async def test_a_revived_page_counts_as_replayed(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=JOB | {"continuations": True})
    runner.answers = [(500, b"no")]
    (entry,) = (await client.put("/jobs/a/pending", content=b'[{"payload":1}]')).json()["pending"]
    await until(client, "/jobs/a/pending", lambda answer: answer["pending"][0]["failed"])
    await client.post(f"/jobs/a/pending/{entry['run_id']}/revive")
    assert await refused(client, entry["run_id"]) == (409, "already_replayed")


async def test_a_replay_appears_in_the_account_beside_its_original(client: httpx.AsyncClient, runner: Runner) -> None:
    runner.answers = [(500, b"no")]
    await client.post("/", json={"id": "a", "endpoint": "http://h/", "at": "now", "payload": 1})
    await until(client, "/jobs/a", lambda shown: shown["status"] == "completed")
    (run,) = (await client.get("/jobs/a/runs")).json()["runs"]
    await client.post("/jobs/a/pause")
    new_id = (await retry(client, run["id"])).json()["run_id"]
    before, waiting = (await client.get("/jobs/a/account")).json()["entries"]
    assert (before["run"]["id"], before["again"]) == (run["id"], False)
    assert (waiting["reason"], waiting["again"], waiting["settled"]) == ("replay", True, False)
    await client.post("/jobs/a/resume")
    await settled(client, new_id)
    _, after = (await client.get("/jobs/a/account")).json()["entries"]
    assert (after["run"]["id"], after["run"]["reason"], after["again"]) == (new_id, "replay", True)
    assert after["fire_time"] == before["fire_time"]


# ---- cancelling what has not started ---------------------------------------------------------------------------------


async def test_a_requested_run_that_has_not_started_is_cancelled(client: httpx.AsyncClient, contents: Contents) -> None:
    await client.post("/", json=JOB)
    later = {"payload": 1, "not_before": "2090-01-01T00:00:00Z"}
    manual = (await client.post("/jobs/a/run", json=later)).json()["run_id"]
    page, other = (await client.put("/jobs/a/pending", json=[later, later | {"payload": 2}])).json()["pending"]
    assert (await client.post(f"/runs/{manual}/cancel")).json()["state"] == "cancelled"  # the list was replaced
    assert (await client.get("/jobs/a")).json()["held_for"] == "held"
    for _ in range(2):
        answer = await client.post(f"/runs/{page['run_id']}/cancel")
        assert (answer.status_code, answer.json()["request_cut"]) == (200, None)
    assert [one["run_id"] for one in (await client.get("/jobs/a/pending")).json()["pending"]] == [other["run_id"]]
    await client.post(f"/runs/{other['run_id']}/cancel")
    assert (await client.get("/jobs/a")).json()["held_for"] is None
    runs = (await client.get("/jobs/a/runs")).json()["runs"]
    assert [(run["id"], run["state"], run["attempt"]) for run in runs] == [
        (run_id, "cancelled", 0) for run_id in (other["run_id"], page["run_id"], manual)
    ]
    assert b"cronpost:{0}:index:pending" not in contents()


async def test_a_replay_that_waits_is_cancelled_and_can_be_replayed(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=JOB)
    run_id = await failed_run(client, runner, payload=7)
    await client.post("/jobs/a/pause")
    first = (await retry(client, run_id)).json()["run_id"]
    assert (await client.post(f"/runs/{first}/cancel")).status_code == 200
    assert (await client.get(f"/runs/{first}")).json()["state"] == "cancelled"
    assert await refused(client, run_id) == (409, "already_replayed")
    second = (await retry(client, first)).json()["run_id"]
    await client.post("/jobs/a/resume")
    assert (await settled(client, second))["state"] == "succeeded"
    assert runner.bodies == [b"7", b"7"]
