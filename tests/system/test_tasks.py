"""One-off tasks with real processes: an old client, several nodes, kills during calls."""

from __future__ import annotations

import itertools
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.processes import Cronpost, eventually
from tests.support.recorder import Received
from tests.system.deployment import Deployment

FAST_TASKS: dict[str, Any] = {"base_interval_ms": 200, "http_callback_timeout_ms": 15_000}


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def post(
    deployment: Deployment, server: Cronpost, count: int, *, path: str = "/api/v1/tasks/", **fields: Any
) -> list[str]:
    """Post tasks as an array, like old clients: with a slash at the end of the path and without a JSON content type."""
    tasks = [{"webhookUrl": deployment.recorder.url, "executeAt": in_seconds(-1), **fields} for _ in range(count)]
    answer = await (await server.api()).post(path, content=json.dumps(tasks), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 202, answer.text
    ids: list[str] = answer.json()["ids"]
    return ids


async def shown(server: Cronpost, task_id: str) -> dict[str, Any]:
    answer = await (await server.api()).get(f"/api/v1/tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def until_status(server: Cronpost, task_id: str, status: str) -> dict[str, Any]:
    async def has_it() -> bool:
        return bool((await shown(server, task_id))["status"] == status)

    await eventually(has_it, what=f"{task_id} is not {status}")
    return await shown(server, task_id)


async def test_a_client_that_posts_arrays_finds_its_token_in_each_callback(deployment: Deployment) -> None:
    server = await deployment.start(**FAST_TASKS)
    ids = await post(deployment, server, 3, webhookAuth="Bearer s3cret")
    later = await post(deployment, server, 1, webhookAuth="Bearer s3cret", executeAt=in_seconds(1.5))
    asked_ms = deployment.now_ms()
    for task_id in ids + later:
        await until_status(server, task_id, "delivered")
    for task_id in ids + later:
        (request,) = deployment.recorder.of(task_id)
        assert json.loads(request.body) == {"token": "Bearer s3cret"}
        assert request.headers["authorization"] == "Bearer s3cret"
        assert request.headers["content-type"] == "application/json"
    (last,) = deployment.recorder.of(later[0])
    assert last.arrived_ms >= last.fire_time_ms
    assert last.fire_time_ms > asked_ms
    runs = (await (await server.api()).get("/runs")).json()
    assert {run["job_id"] for run in runs} == {*ids, *later}
    assert {run["status"] for run in runs} == {"SUCCESS"}


async def test_a_failing_task_is_called_until_it_is_stale_and_again_when_revived(deployment: Deployment) -> None:
    server = await deployment.start(**FAST_TASKS, max_retries=2)
    deployment.recorder.script("task_1", 500, 404, 302, 200)
    await post(deployment, server, 1)
    stale = await until_status(server, "task_1", "stale")
    assert (stale["calls"], stale["retries"], stale["lastCall"]["statusCode"]) == (3, 2, 302)
    calls = deployment.recorder.of("task_1")
    assert [one.attempt for one in calls] == [1, 2, 3]
    assert len({one.run_id for one in calls}) == 1
    answer = await (await server.api()).post("/api/v1/tasks/task_1/retry/")
    assert answer.status_code == 202
    await until_status(server, "task_1", "delivered")
    last = deployment.recorder.of("task_1")[-1]
    assert (last.attempt, last.reason) == (1, "manual")
    assert last.run_id != calls[0].run_id


async def test_a_task_is_called_again_after_a_kill_during_its_call_without_counting_a_retry(
    deployment: Deployment,
) -> None:
    server = await deployment.start(**FAST_TASKS)
    hold = deployment.recorder.hold("task_1")
    await post(deployment, server, 3)
    await deployment.recorder.until(lambda: hold.has_arrived)
    await until_status(server, "task_2", "delivered")
    await server.kill()
    again = await deployment.start(**FAST_TASKS)
    assert (await until_status(again, "task_1", "delivered"))["retries"] == 0
    first, second = deployment.recorder.of("task_1")
    assert (first.run_id, first.attempt) == (second.run_id, second.attempt)
    assert second.fence > first.fence
    assert len(deployment.recorder.of("task_2")) == 1, "what was settled is not called again"


async def test_a_task_is_called_again_after_a_kill_and_restart_of_the_embedded_server(deployment: Deployment) -> None:
    directory = deployment.processes.directory / "embedded"
    server = deployment.processes.cronpost("serve", data_dir=directory, **FAST_TASKS)
    await server.started()
    hold = deployment.recorder.hold("task_1")
    await post(deployment, server, 1)
    await deployment.recorder.until(lambda: hold.has_arrived)
    await server.kill()
    again = deployment.processes.cronpost("serve", data_dir=directory, **FAST_TASKS)
    await again.started()
    await until_status(again, "task_1", "delivered")
    assert len({one.run_id for one in deployment.recorder.of("task_1")}) == 1


async def test_a_stopping_server_lets_its_calls_end(deployment: Deployment) -> None:
    server = await deployment.start(**FAST_TASKS, drain_grace_seconds=10)
    hold = deployment.recorder.hold("task_1")
    await post(deployment, server, 1)
    await deployment.recorder.until(lambda: hold.has_arrived)
    server.terminate()
    await server.logged("node draining")
    hold.release()
    assert await server.ended() == 0
    again = await deployment.start(**FAST_TASKS)
    await until_status(again, "task_1", "delivered")
    assert len(deployment.recorder.of("task_1")) == 1


async def test_several_nodes_share_one_order_and_one_pause(deployment: Deployment) -> None:
    settings = {**FAST_TASKS, "base_interval_ms": 300, "select_size": 2}
    server = await deployment.start(**settings)
    await deployment.start("node", **settings)
    await deployment.start("node", **settings)
    ids = await post(deployment, server, 10, executeAt=in_seconds(0.5))
    for task_id in ids:
        await until_status(server, task_id, "delivered")
    batches = [list(group) for _, group in itertools.groupby(deployment.recorder.received, key=fence_of)]
    assert [sorted(number_of(one) for one in batch) for batch in batches] == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    for earlier, later in itertools.pairwise(batches):
        ended_ms = max(one.ended_ms or time.time() * 1000 for one in earlier)
        # Arrivals are read from the machine's clock, which may differ a little from Redis's.
        assert min(one.arrived_ms for one in later) - ended_ms >= 290


def fence_of(request: Received) -> int:
    return request.fence


def number_of(request: Received) -> int:
    return int(request.job_id.removeprefix("task_"))


async def test_settings_changed_through_the_api_apply_to_a_node_in_another_process(deployment: Deployment) -> None:
    api = await deployment.start("api")
    await deployment.start("node", base_interval_ms=86_400_000)
    await post(deployment, api, 2)
    await (await api.api()).patch("/api/v1/config/", content='{"base_interval_ms": 100, "select_size": 1}')
    await until_status(api, "task_2", "delivered")
