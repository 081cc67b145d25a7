"""``in_flight`` in answers to changes: the run whose request is open, or can no longer be stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from redis import Redis

from scheduler_api.context import Context
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.redis.keys import CLAIMED
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import IntervalSpec
from tests.api.command_line import jobs
from tests.api.conftest import job
from tests.support.ahead import AheadNode
from tests.support.factories import make_job, make_state, retrying
from tests.support.stores import KEYS, put

JOB = "/jobs/job-scheduler-unique-id"


async def put_job(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/", json=job(**changes))


class Scene:
    """A client, and a node that takes jobs without sending anything."""

    def __init__(self, client: httpx.AsyncClient, context: Context, store: RedisStore) -> None:
        self.client = client
        self.context = context
        self.store = store
        self.redis: Any = store.client
        self.node = AheadNode(store, store.client)

    async def open(self, job_id: str = "job-scheduler-unique-id") -> str:
        """Let the node hold the job as after a claim at its latest fire time; returns that fire time."""
        snapshot = (await self.store.read(job_id)).snapshot
        stored, state = snapshot.job, snapshot.state
        assert stored is not None
        assert state is not None
        now_ms = self.context.clock.now_ms()
        if isinstance(stored.trigger, IntervalSpec):
            stored = replace(stored, trigger=replace(stored.trigger, anchor_ms=now_ms - 1 - stored.trigger.every_ms))
        fire_ms = trigger_of(stored).last_in(now_ms - 60_000, now_ms)
        assert fire_ms is not None
        await put(self.redis, stored, replace(state, next_fire_ms=fire_ms))
        await self.node.claim(job_id, fire_ms)
        return rfc3339(fire_ms)


@pytest.fixture
def scene(client: httpx.AsyncClient, context: Context, store: RedisStore) -> Scene:
    return Scene(client, context, store)


Change = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
CHANGES: dict[str, Change] = {
    "POST /": lambda client: put_job(client, payload=2),
    "PUT /jobs": lambda client: client.put(JOB, json=job(payload=2)),
    "POST /jobs:batch": lambda client: client.post("/jobs:batch", json=[job(payload=2)]),
    "DELETE /": lambda client: client.delete("/", params={"job_id": "job-scheduler-unique-id"}),
    "DELETE /jobs": lambda client: client.delete(JOB),
    "pause": lambda client: client.post(f"{JOB}/pause"),
    "PUT pending": lambda client: client.put(f"{JOB}/pending", json=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_names_the_run_whose_request_is_open(scene: Scene, change: Change) -> None:
    await put_job(scene.client)
    fire_time = await scene.open()
    (open_run,) = (await scene.client.get("/runs")).json()
    answer = (await change(scene.client)).json()
    (answer,) = answer if isinstance(answer, list) else (answer,)
    assert answer["in_flight"] == {"run_id": open_run["id"], "fire_time": fire_time}


@pytest.mark.parametrize("command", ["pause", "delete", "put"])
def test_the_command_line_prints_the_run_in_flight(cli_server: str, redis_url: str, command: str) -> None:
    put_a = ["put", "a", "--endpoint", "http://localhost:1/", "--cron", "* * * * * *", "--payload"]
    fire_time = jobs(cli_server, *put_a, "1").stdout.split()[-1]
    fire_ms = round(datetime.fromisoformat(fire_time).timestamp() * 1000)
    with Redis.from_url(redis_url) as redis:
        redis.hset(KEYS.leases, "a", f"7 node 7 {fire_ms} 0 {fire_ms} 1:0")
    given = [*put_a, "2"] if command == "put" else [command, "a"]
    printed = jobs(cli_server, *given).stdout.splitlines()
    assert printed[-1].startswith("in flight: run ")
    assert printed[-1].endswith(f"fire time {fire_time}")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_that_meets_no_run_in_flight_names_none(scene: Scene, change: Change) -> None:
    await put_job(scene.client)
    answer = (await change(scene.client)).json()
    (answer,) = answer if isinstance(answer, list) else (answer,)
    assert "in_flight" not in answer


async def test_a_run_that_the_node_does_not_release_in_time_is_named_and_a_repeated_request_names_it_too(
    scene: Scene,
) -> None:
    await put_job(scene.client)
    stored = (await scene.store.read("job-scheduler-unique-id")).snapshot
    assert stored.job is not None
    assert stored.state is not None
    fire_ms = trigger_of(stored.job).next_after(scene.context.clock.now_ms() + 10_000)
    assert fire_ms is not None
    await put(scene.redis, stored.job, replace(stored.state, next_fire_ms=fire_ms))
    await scene.node.claim("job-scheduler-unique-id", fire_ms)
    assert (await scene.client.get(JOB)).json()["status"] == "active"
    first = (await put_job(scene.client, payload=2)).json()
    again = (await put_job(scene.client, payload=2)).json()
    assert (first["changed"], again["changed"]) == (True, False)
    assert first["in_flight"] == again["in_flight"]
    assert first["in_flight"]["fire_time"] == rfc3339(fire_ms)
    shown = (await scene.client.get(JOB)).json()
    assert shown["status"] == "running"
    assert shown["open_run"]["id"] == first["in_flight"]["run_id"]
    assert "in_flight" not in shown


@pytest.mark.parametrize("way", ["upsert", "pause", "delete"])
async def test_a_change_of_a_job_with_overlapping_runs_names_the_latest_one_in_flight(scene: Scene, way: str) -> None:
    await scene.context.ensure_clock()
    allowing = make_job("job-scheduler-unique-id", policies=Policies(overlap=Overlap.ALLOW, max_concurrent=5))
    fire_ms = scene.context.clock.now_ms() - 5_000
    await put(scene.redis, allowing, make_state(60))
    for number in range(2):
        claim_key = child_id(allowing.id, f"RUN{number}")
        now_ms = scene.context.clock.now_ms()
        run = replace(
            retrying(0, 0, id=f"RUN{number}"), fire_time_ms=fire_ms + number, started_at_ms=fire_ms, retry_at_ms=now_ms
        )
        await put(scene.redis, replace(allowing, id=claim_key), JobState(open=run, child=True))
        await scene.redis.zrem(KEYS.ids, claim_key)
        await scene.redis.zadd(KEYS.children, {claim_key: 0})
        await scene.redis.hset(KEYS.leases, claim_key, f"{7 + number} node 7 {now_ms} 0 {now_ms} 1:0")
        await scene.redis.zadd(KEYS.due, {claim_key: CLAIMED + now_ms})
    change = {"upsert": CHANGES["POST /"], "pause": CHANGES["pause"], "delete": CHANGES["DELETE /jobs"]}[way]
    answer = await change(scene.client)
    assert answer.json()["in_flight"] == {"run_id": "RUN1", "fire_time": rfc3339(fire_ms + 1)}


@pytest.mark.parametrize("way", ["PUT", "pause", "DELETE", "target"])
async def test_changes_of_a_schedule_name_its_run_in_flight(scene: Scene, way: str) -> None:
    client = scene.client
    await client.post("/targets", json={"name": "t", "url": "http://runner.test/"})
    await client.post(
        "/schedules", json={"name": "s", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 60}
    )
    fire_time = await scene.open("schedule_1")
    if way == "PUT":
        answer = await client.put("/schedules/1", json={"interval_seconds": 90})
    elif way == "pause":
        answer = await client.post("/schedules/1/pause")
    else:
        answer = await client.delete("/schedules/1" if way == "DELETE" else "/targets/1")
    assert answer.status_code == 200
    assert answer.json()["in_flight"]["fire_time"] == fire_time


async def test_a_resume_names_the_run_that_was_requested_during_the_pause(scene: Scene) -> None:
    await put_job(scene.client)
    await scene.client.post(f"{JOB}/pause")
    run_id = (await scene.client.post(f"{JOB}/run")).json()["run_id"]
    now_ms = scene.context.clock.now_ms()
    await scene.node.claim("job-scheduler-unique-id", now_ms)
    assert (await scene.client.post(f"{JOB}/resume")).json()["in_flight"]["run_id"] == run_id
