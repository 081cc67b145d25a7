"""A pause of everything, with real nodes: under load, while a node is killed in it, and after the resume."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler_core.model.run import MissReason, Reason
from tests.support.processes import LEASE_MS, Cronpost, eventually
from tests.system.deployment import Deployment

NAMES = [f"job-{number}" for number in range(12)]


async def ask(server: Cronpost, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
    answer = await (await server.api()).request(method, path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def epoch_ms(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp() * 1000


@pytest.mark.slow
async def test_a_pause_of_everything_holds_although_a_node_dies_in_it(deployment: Deployment) -> None:
    recorder = deployment.recorder
    await deployment.redis.start()
    victim, survivor = await asyncio.gather(deployment.start("serve"), deployment.start("serve"))
    hold = recorder.hold("slow")
    await deployment.put_many(victim, *NAMES, "slow")
    await recorder.until_requests(2, *NAMES)
    await recorder.until(lambda: hold.has_arrived)

    paused = await ask(victim, "POST", "/pause", {"note": "a node will die"})
    answered_ms = deployment.now_ms()
    assert paused["in_flight"] >= 1, "the slow request is open"
    assert (await ask(survivor, "GET", "/ready"))["paused"]["at"] == paused["pause"]["at"]
    assert (await ask(survivor, "GET", "/jobs/slow"))["paused_by"] == "all"
    execute_at = datetime.now(UTC).isoformat()
    task = {"webhookUrl": recorder.url, "executeAt": execute_at}
    await ask(survivor, "POST", "/api/v1/tasks", task, status=202)
    hold.release()
    await recorder.until(lambda: recorder.of("slow")[0].status == 200)

    await victim.kill()
    deployment.record_fault(deployment.now_ms())
    # A requested run of each job starts only when no job is held by the dead node any more.
    for name in NAMES:
        await ask(survivor, "POST", f"/jobs/{name}/run", {"force": True}, status=202)
    await recorder.until(lambda: all(any(one.reason == "manual" for one in recorder.of(name)) for name in NAMES))

    async def has_held_longer_than_a_lease() -> bool:
        """Return whether fire times of the pause have passed, and the dead node's jobs are reclaimed."""
        range_ = (await ask(survivor, "GET", "/jobs/slow/account"))["entries"][-1]
        lasts = range_.get("reason") == "paused" and range_["count"] * 1000 > LEASE_MS
        return bool(lasts and (await ask(survivor, "GET", "/jobs/slow"))["status"] == "active")

    await eventually(has_held_longer_than_a_lease, what="the job of the slow request is still held by a dead node")
    assert all(one.job_id.startswith(("job-", "slow")) for one in recorder.deliveries()), "a task was called"
    resumed = await ask(survivor, "POST", "/resume")
    ended_ms = epoch_ms(resumed["ranges"][0]["ended_at"])
    await recorder.until(
        lambda: all(any(one.fire_time_ms >= ended_ms for one in recorder.of(name)) for name in [*NAMES, "slow"])
    )
    await recorder.until(lambda: any(one.job_id.startswith("task_") for one in recorder.deliveries()))

    jobs = [one for one in recorder.deliveries() if not one.job_id.startswith("task_")]
    of_trigger = [one for one in jobs if one.reason in (Reason.SCHEDULED, Reason.RECOVERY)]
    assert not [one for one in of_trigger if answered_ms < one.fire_time_ms < ended_ms]
    for account in await deployment.check_jobs(*NAMES, "slow"):
        (miss,) = [one for one in account.misses if one.reason is MissReason.PAUSED]
        assert miss.first_ms <= -(-answered_ms // 1000) * 1000
        assert miss.last_ms == (ended_ms - 1) // 1000 * 1000
