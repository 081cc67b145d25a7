"""``GET /attention`` and ``POST /attention/{id}/dismiss``; ``cronpost attention``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from click.testing import Result

from scheduler_api.context import Context
from scheduler_api.endpoints.attention import write_cursor
from scheduler_core.store.attention import Source
from scheduler_core.usecases.attention import AttentionCursor
from tests.api.command_line import KEY, run
from tests.api.conftest import job
from tests.api.runner import Runner, running, until
from tests.support.factories import make_job, make_state
from tests.support.stores import put, redis_of

NEVER = "0 0 0 1 1 * 2098"
PLAIN = job(id="a", endpoint="http://h/", cron=NEVER, retry_already_running=..., recovery_check=...)


@pytest.fixture
async def runner(context: Context) -> AsyncIterator[Runner]:
    async with running(context) as runner:
        yield runner


async def fail(client: httpx.AsyncClient, runner: Runner, name: str, status: int = 500, **fields: Any) -> str:
    """Put a job and let a run of it fail; returns the run's id."""
    await client.post("/", json=PLAIN | {"id": name} | fields)
    runner.answers = [(status, b"no")]
    run_id: str = (await client.post(f"/jobs/{quote(name, safe='')}/run")).json()["run_id"]
    await until(client, f"/runs/{run_id}", lambda shown: shown["state"] != "open")
    return run_id


async def listed(client: httpx.AsyncClient) -> Any:
    answer = await client.get("/attention")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_failed_job_is_listed_with_the_calls_that_resolve_it(client: httpx.AsyncClient, runner: Runner) -> None:
    assert await listed(client) == {"entries": [], "total": 0, "dropped": 0, "next": None}
    run_id = await fail(client, runner, "billing/é 1")
    ended_at = (await client.get(f"/runs/{run_id}")).json()["completed_at"]
    path = "/jobs/billing%2F%C3%A9%201"
    assert await listed(client) == {
        "entries": [
            {
                "id": "job:billing/é 1",
                "kind": "job",
                "job_id": "billing/é 1",
                "reason": "failed",
                "since": ended_at,
                "run_id": run_id,
                "detail": "the answer was 500",
                "labels": {},
                "actions": [
                    {"name": "replay", "method": "POST", "path": f"/runs/{run_id}/retry"},
                    {"name": "run", "method": "POST", "path": f"{path}/run"},
                    {"name": "delete", "method": "DELETE", "path": path},
                    {"name": "dismiss", "method": "POST", "path": "/attention/job:billing%2F%C3%A9%201/dismiss"},
                ],
            }
        ],
        "total": 1,
        "dropped": 0,
        "next": None,
    }


async def test_each_call_of_an_entry_resolves_it(client: httpx.AsyncClient, runner: Runner) -> None:
    for name in ("replay", "run", "delete", "dismiss"):
        await fail(client, runner, "a")
        (entry,) = (await listed(client))["entries"]
        (action,) = [one for one in entry["actions"] if one["name"] == name]
        answer = await client.request(action["method"], action["path"])
        assert answer.is_success, (name, answer.text)
        await until(client, "/attention", lambda shown: shown["entries"] == [])


async def test_a_dismissal_may_be_repeated_and_ends_with_the_next_failure(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    await fail(client, runner, "a")
    for dismissed in (True, False):
        answer = await client.post("/attention/job:a/dismiss")
        assert (answer.status_code, answer.json()) == (200, {"id": "job:a", "dismissed": dismissed})
    assert (await listed(client))["entries"] == []
    await fail(client, runner, "a", 404)
    assert [one["detail"] for one in (await listed(client))["entries"]] == ["the answer was 404"]


async def test_a_pending_entry_that_was_set_aside_is_listed_and_revived(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    await client.post("/", json=PLAIN | {"continuations": True})
    runner.answers = [(500, b"no")]
    (pending,) = (await client.put("/jobs/a/pending", content=b'[{"payload":7}]')).json()["pending"]
    shown = await until(client, "/attention", lambda shown: shown["entries"])
    (entry,) = shown["entries"]
    assert (entry["kind"], entry["reason"], entry["run_id"]) == ("pending", "set_aside", pending["run_id"])
    assert entry["id"] == f"pending:{pending['run_id']}:a"
    assert [one["name"] for one in entry["actions"]] == ["revive", "dismiss"]
    revive = entry["actions"][0]
    assert (await client.request(revive["method"], revive["path"])).status_code == 200
    await until(client, "/attention", lambda shown: shown["total"] == 0)


async def test_quarantined_jobs_schedules_and_stale_tasks_have_calls_of_their_own(
    client: httpx.AsyncClient, context: Context
) -> None:
    redis = redis_of(context.store)._client
    target = await client.post("/targets", json={"name": "t", "url": "http://h/"})
    schedule = {"name": "s", "target_id": target.json()["id"], "schedule_type": "INTERVAL", "interval_seconds": 60}
    await client.post("/schedules", json=schedule)
    stored = await context.jobs.get("schedule_1")
    assert stored.job is not None
    await put(redis, stored.job, make_state(0, quarantine="why"))
    await put(redis, make_job("q"), make_state(0, quarantine="why"))
    by_id = {one["id"]: one for one in (await listed(client))["entries"]}
    assert [(one["name"], one["path"]) for one in by_id["job:schedule_1"]["actions"]] == [
        ("resume", "/schedules/1/resume"),
        ("delete", "/schedules/1"),
        ("dismiss", "/attention/job:schedule_1/dismiss"),
    ]
    assert [one["path"] for one in by_id["job:q"]["actions"]][:1] == ["/jobs/q/resume"]
    for one in by_id.values():
        assert one["since"] is None, "an earlier version quarantined it"
        action = one["actions"][0]
        assert (await client.request(action["method"], action["path"])).status_code == 200
    assert await listed(client) == {"entries": [], "total": 0, "dropped": 0, "next": None}


async def test_the_list_is_read_page_by_page(client: httpx.AsyncClient, runner: Runner) -> None:
    for name in ("a", "b", "c"):
        await fail(client, runner, name)
    found: list[str] = []
    path = "/attention?limit=2"
    while path:
        answer = await client.get(path)
        page = answer.json()
        found += [one["id"] for one in page["entries"]]
        assert ("Link" in answer.headers) == (page["next"] is not None)
        path = "" if page["next"] is None else f"/attention?limit=2&cursor={page['next']}"
    assert sorted(found) == ["job:a", "job:b", "job:c"]


@pytest.mark.parametrize(
    "cursor",
    [
        "nonsense",
        "____",
        write_cursor(AttentionCursor(0, 9)),
        write_cursor(AttentionCursor(-1, 0)),
        write_cursor(AttentionCursor(0, 0, Source.JOBS)),
        write_cursor(AttentionCursor(0, 2, Source.JOBS, 1, b"a", -5)),
    ],
)
async def test_a_cursor_of_something_else_is_refused(client: httpx.AsyncClient, cursor: str) -> None:
    answer = await client.get("/attention", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["field"]) == (400, "cursor")


@pytest.mark.parametrize(("query", "field"), [("limit=0", "limit"), ("limit=1001", "limit"), ("label=a", "label")])
async def test_a_query_that_is_not_known_is_refused(client: httpx.AsyncClient, query: str, field: str) -> None:
    answer = await client.get(f"/attention?{query}")
    assert (answer.status_code, answer.json()["field"]) == (400, field)


@pytest.mark.parametrize(
    ("entry_id", "code"),
    [
        ("job:nobody", "job_not_found"),
        ("task:task_9", "task_not_found"),
        ("settlement:RUN:a", "entry_not_found"),
        ("else", "entry_not_found"),
    ],
)
async def test_an_unknown_entry_is_not_found(client: httpx.AsyncClient, entry_id: str, code: str) -> None:
    answer = await client.post(f"/attention/{entry_id}/dismiss")
    assert (answer.status_code, answer.json()["code"]) == (404, code)


async def test_a_job_that_cannot_be_read_is_listed_with_the_call_that_removes_it(
    client: httpx.AsyncClient, context: Context
) -> None:
    store = redis_of(context.store)
    await put(store._client, make_job("q"), make_state(0, quarantine="why"))
    await store._client.hset(store.keys.jobs, "q", b"no document")
    (entry,) = (await listed(client))["entries"]
    assert [(one["name"], one["path"]) for one in entry["actions"]] == [("delete", "/jobs/q")]
    answer = await client.post("/attention/job:q/dismiss")
    assert answer.status_code == 409


# ---- command line -------------------------------------------------------------------------------------------------


def attention(server: str, *args: str) -> Result:
    return run("attention", *args, "--server", server, "--api-key", KEY)


def failing_job(server: str, runner: Runner) -> str:
    """Let a run of a job fail; returns the run's id."""
    with httpx.Client(base_url=server, headers={"Authorization": f"Bearer {KEY}"}) as client:
        client.post("/", json=PLAIN)
        runner.answers = [(500, b"no")]
        run_id: str = client.post("/jobs/a/run").json()["run_id"]
        for _ in range(2000):
            if client.get("/attention").json()["total"]:
                return run_id
    pytest.fail("the run did not end")


@pytest.mark.usefixtures("empty_directory")
def test_the_command_lists_and_dismisses(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    assert attention(server).stdout == "none\n"
    run_id = failing_job(server, runner)
    heads, row = attention(server).stdout.splitlines()
    assert heads.split() == ["SINCE", "ENTRY", "REASON", "WHY", "NEXT"]
    assert row.split(maxsplit=3)[1:3] == ["job:a", "failed"]
    assert row.endswith(f"the answer was 500  cronpost runs retry {run_id}")
    shown = json.loads(attention(server, "--json").stdout)
    assert [one["id"] for one in shown["entries"]] == ["job:a"]
    assert (shown["total"], shown["dropped"], shown["next"]) == (1, 0, None)
    assert attention(server, "--dismiss", "job:a").stdout == "job:a dismissed\n"
    assert attention(server, "--dismiss", "job:a").stdout == "job:a was not listed any more\n"
    assert attention(server).stdout == "none\n"
    assert attention(server, "--dismiss", "job:nobody").exit_code != 0
