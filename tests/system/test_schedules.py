"""Targets and schedules with real processes: changes reach other nodes, and a restart keeps everything."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.processes import eventually
from tests.system.deployment import Deployment

pytestmark = pytest.mark.slow


async def created(client: httpx.AsyncClient, path: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post(path, json=fields)
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def schedule(client: httpx.AsyncClient, name: str, **fields: Any) -> dict[str, Any]:
    return await created(
        client,
        "/schedules",
        **{"name": name, "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 1} | fields,
    )


async def test_a_changed_target_is_used_by_the_next_run_of_all_its_schedules_on_other_nodes(
    deployment: Deployment,
) -> None:
    api = await deployment.start("api")
    for _ in range(2):
        await deployment.start("node")
    client = await api.api()
    await created(client, "/targets", name="t", url=deployment.recorder.url, method="POST", body_template="old")
    jobs = [(await schedule(client, name))["job_id"] for name in ("a", "b")]
    await deployment.recorder.until_requests(2, *jobs)
    changed = await client.put("/targets/1", json={"body_template": '{"new": 1}', "headers": {"X-Own": "yes"}})
    assert changed.status_code == 200
    changed_at_ms = deployment.now_ms()
    await deployment.recorder.until_requests(3, *jobs)
    later = [one for one in deployment.recorder.received if one.fire_time_ms > changed_at_ms]
    assert {one.job_id for one in later} == set(jobs)
    assert {one.body for one in later} == {b'{"new": 1}'}
    assert {(one.headers["content-type"], one.headers["x-own"]) for one in later} == {("application/json", "yes")}
    assert (await client.delete("/targets/1")).status_code == 200
    gone_at_ms = deployment.now_ms()
    await schedule_on_another(deployment, client)
    assert not [one for one in deployment.recorder.received if one.job_id in jobs and one.fire_time_ms > gone_at_ms]


async def schedule_on_another(deployment: Deployment, client: httpx.AsyncClient) -> None:
    """Wait until another schedule has run three times: in that time a deleted schedule would have run too."""
    target = await created(client, "/targets", name="u", url=deployment.recorder.url, method="POST")
    other = await schedule(client, "other", target_id=target["id"])
    await deployment.recorder.until_requests(3, other["job_id"])


async def test_a_kill_keeps_active_and_paused_schedules_and_a_window_stops_at_its_end(deployment: Deployment) -> None:
    server = await deployment.start()
    client = await server.api()
    await created(client, "/targets", name="t", url=deployment.recorder.url, method="POST", body_template="x")
    active = await schedule(client, "active")
    paused = await schedule(client, "paused")
    window = await schedule(client, "window", schedule_type="WINDOW", duration_seconds=3)
    await deployment.recorder.until_requests(1, active["job_id"], paused["job_id"], window["job_id"])
    assert (await client.post(f"/schedules/{paused['id']}/pause")).status_code == 200
    await server.kill()
    killed_at_ms = deployment.now_ms()
    ends_at_ms = max(one.fire_time_ms for one in deployment.recorder.of(window["job_id"])) + 3_000

    async def window_is_over() -> bool:
        return deployment.now_ms() > ends_at_ms

    await eventually(window_is_over)
    client = await (await deployment.start()).api()
    statuses = {one["name"]: one["status"] for one in (await client.get("/schedules")).json()}
    assert statuses == {"active": "ACTIVE", "paused": "PAUSED", "window": "STOPPED"}
    await deployment.recorder.until_requests(3, active["job_id"])
    fire_times = [one.fire_time_ms for one in deployment.recorder.of(active["job_id"])]
    assert {one % 1000 for one in fire_times} == {fire_times[0] % 1000}
    for held in (paused, window):
        assert not [one for one in deployment.recorder.of(held["job_id"]) if one.fire_time_ms > killed_at_ms]
