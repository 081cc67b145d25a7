"""One history with everything that clients can create: jobs, continuations, schedules and one-off tasks, on nodes that
are killed one by one.

The store has three shards; that of the other system tests has one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler_core.triggers.trigger import IntervalSpec
from tests.support.checker import EARLY_TOLERANCE_MS
from tests.support.processes import Cronpost, eventually
from tests.support.recorder import Answer, Received
from tests.system.deployment import Deployment, Put

pytestmark = pytest.mark.slow

Json = dict[str, Any]
TASK_SETTINGS: Json = {"base_interval_ms": 200, "http_callback_timeout_ms": 15_000}
TOKEN = "Bearer s3cret"
KILLING_SECONDS = 12.0


def instant(at_ms: float) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


async def get(server: Cronpost, path: str, **params: Any) -> Any:
    answer = await (await server.api()).get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def put_schedule(deployment: Deployment, server: Cronpost) -> str:
    """Create a target and a schedule that calls it every second; returns the id of its job, which is checked from now
    on."""
    client = await server.api()
    target = {"name": "t", "url": deployment.recorder.url, "method": "POST", "body_template": '{"shop": 7}'}
    answer = await client.post("/targets", json=target)
    assert answer.status_code == 201, answer.text
    sent_at = deployment.now_ms()
    body = {"name": "s", "target_id": answer.json()["id"], "schedule_type": "INTERVAL", "interval_seconds": 1}
    answer = await client.post("/schedules", json=body)
    assert answer.status_code == 201, answer.text
    shown = answer.json()
    view = await deployment.view(server, shown["job_id"])
    first_ms = round(datetime.fromisoformat(view["interval_from"]).timestamp() * 1000)
    deployment.puts[shown["job_id"]] = Put("", sent_at, deployment.now_ms(), trigger=IntervalSpec(1000, first_ms))
    return str(shown["job_id"])


async def post_tasks(deployment: Deployment, server: Cronpost, count: int) -> list[str]:
    """Post tasks like old clients: an array, to the path with a slash at its end. Some are due now, some later."""
    times = [deployment.now_ms() + number * 150 for number in range(count)]
    tasks = [{"webhookUrl": deployment.recorder.url, "webhookAuth": TOKEN, "executeAt": instant(at)} for at in times]
    answer = await (await server.api()).post("/api/v1/tasks/", content=json.dumps(tasks))
    assert answer.status_code == 202, answer.text
    ids: list[str] = answer.json()["ids"]
    return ids


async def all_runs(server: Cronpost) -> list[Json]:
    """List all entries of ``/runs``, page by page along its links."""
    client = await server.api()
    found: list[Json] = []
    path: str | None = "/runs?limit=50"
    while path is not None:
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        found += answer.json()
        path = answer.links["next"]["url"] if "next" in answer.links else None
    return found


def assert_called_like_tasks(deployment: Deployment, ids: list[str], kills: list[float]) -> None:
    """Assert that each task was called under one id, never early, and one call at a time; after a success only if a
    node was killed before it could record it."""
    calls: dict[str, list[Received]] = defaultdict(list)
    for one in deployment.recorder.received:
        calls[one.job_id].append(one)
    for task_id in ids:
        assert calls[task_id], f"{task_id} was never called"
        assert len({one.run_id for one in calls[task_id]}) == 1
        for one in calls[task_id]:
            assert json.loads(one.body) == {"token": TOKEN}
            assert one.headers["authorization"] == TOKEN
            assert one.arrived_ms >= one.fire_time_ms - EARLY_TOLERANCE_MS, f"early: {one}"
        for earlier, later in itertools.pairwise(calls[task_id]):
            assert earlier.ended_ms is not None
            assert earlier.ended_ms <= later.arrived_ms, f"two calls at once: {earlier} and {later}"
            assert later.fence > earlier.fence
            if earlier.status == 200:
                assert any(earlier.ended_ms <= at + 1 and at <= later.arrived_ms for at in kills), f"{earlier}, {later}"
        assert calls[task_id][-1].status == 200


async def until_one_is_open(deployment: Deployment, job_ids: list[str]) -> None:
    """Wait until the runner has an open request of one of these jobs."""
    await deployment.recorder.until(
        lambda: any(one.job_id in job_ids and one.ended_ms is None for one in deployment.recorder.received)
    )


async def test_no_fire_time_is_lost_early_or_doubled_and_every_run_is_listed_and_counted(
    deployment: Deployment,
) -> None:
    deployment.shards = 3
    await deployment.redis.start()
    servers = list(
        await asyncio.gather(deployment.start("serve", **TASK_SETTINGS), deployment.start("serve", **TASK_SETTINGS))
    )
    recorder = deployment.recorder
    page, last = Answer(body=b'{"continue": {"payload": {"page": 2}}}', after_seconds=0.1), Answer(after_seconds=0.1)
    recorder.script("pages", *[page, page, last] * 3, otherwise=last)
    recorder.script("failing", *[200, 500, 404, 503] * 5)
    recorder.otherwise["job"] = recorder.slow(0.3)
    schedule = await put_schedule(deployment, servers[0])
    recorder.otherwise[schedule] = recorder.slow(0.2)
    await deployment.put_many(servers[0], "job", "failing")
    await deployment.put(servers[1], "pages", continuations=True)
    regular = ("job", "failing", schedule)
    await recorder.until_requests(1, *regular, "pages")

    ids: list[str] = []
    kills: list[float] = []
    end = time.monotonic() + KILLING_SECONDS
    while len(kills) < 3 or time.monotonic() < end:
        posted = await post_tasks(deployment, servers[1], 12)
        recorder.otherwise |= dict.fromkeys(posted, recorder.slow(0.3))
        ids += posted
        await until_one_is_open(deployment, posted)
        victim = servers.pop(0)
        kills.append(deployment.now_ms())
        await victim.kill()
        deployment.record_fault(kills[-1] - 500, kills[-1])
        servers.append(await deployment.start("serve", **TASK_SETTINGS))
        # The second of two requests shows that the first one's run is settled. A job whose run takes three nodes in a
        # row with it is quarantined.
        await recorder.until_requests(2, *regular)

    server = servers[0]

    async def done() -> bool:
        tasks = [await get(server, "/api/v1/tasks", status=status) for status in ("pending", "running")]
        pages = await deployment.view(server, "pages")
        return not any(page["tasks"] for page in tasks) and pages["held_for"] is None

    await eventually(done, what="tasks or pages are left")
    await recorder.until_requests(2, *regular, "pages")
    for task_id in ids:
        assert (await get(server, f"/api/v1/tasks/{task_id}"))["status"] == "delivered"

    # Delete everything, so that no run follows and the list is complete.
    await asyncio.gather(*(deployment.delete(server, job_id) for job_id in ("job", "failing", "pages")))
    deployment.puts[schedule].delete_asked_at_ms = deployment.now_ms()
    per_schedule = await get(server, "/metrics/schedules")
    counted = [run for run in await all_runs(server) if run["schedule_id"] == 1 and run["status"] is not None]
    client = await server.api()
    assert (await client.delete("/schedules/1")).status_code == 200
    deployment.puts[schedule].deleted_at_ms = deployment.now_ms()
    assert per_schedule[0]["total_runs"] <= len(counted) <= per_schedule[0]["total_runs"] + 1

    async def all_settled() -> bool:
        runs = await all_runs(server)
        received = {one.run_id for one in recorder.received}
        return all(run["status"] is not None for run in runs) and received <= {run["id"] for run in runs}

    await eventually(all_settled, what="some received requests are not recorded")
    await deployment.check_jobs(*deployment.puts)
    assert_called_like_tasks(deployment, ids, kills)

    runs = await all_runs(server)
    assert len({run["id"] for run in runs}) == len(runs), "each run is listed once"
    started = [datetime.fromisoformat(run["started_at"]) for run in runs]
    assert started == sorted(started, reverse=True), "newest first"
    per_job = Counter(run["job_id"] for run in runs)
    assert set(per_job) == {*ids, *deployment.puts}
    assert all(per_job[task_id] == 1 for task_id in ids)
    assert {run["id"] for run in runs} == {one.run_id for one in recorder.received}

    # The counts agree with the lists, for all kinds and for each filter.
    totals = await get(server, "/metrics")
    statuses = Counter(run["status"] for run in runs)
    assert set(statuses) == {"SUCCESS", "FAILED"}
    assert totals["total_runs"] == totals["runs_last_hour"] == len(runs)
    assert totals["success_rate"] == round(100 * statuses["SUCCESS"] / len(runs), 2)
    average = sum(run["latency_ms"] for run in runs) / len(runs)
    assert totals["avg_latency_ms"] == pytest.approx(average, abs=0.01)
    for status, count in statuses.items():
        assert len(await get(server, "/runs", status_filter=status, limit=1000)) == count
    assert len(await get(server, "/runs", job_id="pages", limit=1000)) == per_job["pages"]
