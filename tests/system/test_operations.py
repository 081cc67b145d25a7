"""The node that carries an operation is killed in the middle; another one continues, and nothing is done twice."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from scheduler_core.base.events import OPERATION_TAKEN
from tests.support.processes import Cronpost, eventually
from tests.system.deployment import Deployment

JOBS = [f"job{number:02}" for number in range(40)]


async def put_jobs(client: httpx.AsyncClient, url: str) -> None:
    bodies = [{"id": one, "endpoint": url, "cron": None, "payload": {"job": one}} for one in JOBS]
    answer = await client.post("/jobs:batch", json=bodies)
    assert all(one["status"] == 202 for one in answer.json()), answer.text


@pytest.mark.slow
async def test_an_operation_survives_the_death_of_its_node_and_starts_no_run_twice(deployment: Deployment) -> None:
    await deployment.redis.start()
    api = await deployment.start("api")
    nodes = [await deployment.start("node") for _ in range(2)]
    client = await api.api()
    await put_jobs(client, deployment.recorder.url)
    answer = await client.post("/jobs:run", json={"select": {"prefix": "job"}, "per_second": 10})
    assert answer.status_code == 202, answer.text
    path = answer.headers["location"]

    async def shown() -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(path)).json()
        return found

    def carrier() -> list[Cronpost]:
        return [node for node in nodes if node.events(OPERATION_TAKEN)]

    async def is_in_the_middle() -> bool:
        return bool(carrier()) and (await shown())["changed"] >= 12

    await eventually(is_in_the_middle, what="no node carries the operation")
    (victim,) = carrier()
    await victim.kill()
    before = await shown()
    assert before["ended_at"] is None
    assert before["changed"] < len(JOBS)

    async def is_over() -> bool:
        return (await shown())["ended_at"] is not None

    await eventually(is_over, what="the other node does not continue")
    after = await shown()
    assert (after["state"], after["matched"], after["changed"]) == ("done", len(JOBS), len(JOBS))
    (taken,) = [node for node in nodes if node is not victim and node.events(OPERATION_TAKEN)]
    assert taken.events(OPERATION_TAKEN)[0]["fence"] > victim.events(OPERATION_TAKEN)[0]["fence"]
    await deployment.recorder.until(lambda: all(deployment.recorder.of(one) for one in JOBS))
    for one in JOBS:
        assert len({request.run_id for request in deployment.recorder.of(one)}) == 1, one
