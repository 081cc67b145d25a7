"""Several nodes on one Redis, restarted while jobs fire; and changes that reach a sleeping node."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from scheduler_core.model.run import MissReason
from tests.support.fault_proxy import script
from tests.support.processes import eventually
from tests.system.deployment import Deployment

SLOWER: dict[str, Any] = {"heartbeat_seconds": 0.5, "dead_after_seconds": 4, "downtime_after_seconds": 5}
"""Three interpreters that start on a busy machine can delay each other's heartbeats for a second."""
LEASE_MS = 3000.0


async def test_three_nodes_share_two_hundred_jobs_and_each_fire_time_is_one_run(deployment: Deployment) -> None:
    server = await deployment.start(**SLOWER)
    await asyncio.gather(deployment.start("node", **SLOWER), deployment.start("node", **SLOWER))
    jobs = [f"job{number}" for number in range(200)]
    await deployment.put_many(server, *jobs)
    await deployment.recorder.until_requests(3, *jobs)
    accounts = await deployment.check(lease_ms=LEASE_MS)
    ids = [one.run_id for one in deployment.recorder.received]
    assert len(set(ids)) == len(ids), "nothing went wrong, so nothing was sent twice"
    for account in accounts:
        assert all(miss.reason in {MissReason.COALESCED, MissReason.OVERLAP} for miss in account.misses)
    fences = [attempt.fence for account in accounts for run in account.runs for attempt in run.attempts]
    assert len(set(fences)) == len(fences) >= 400, "every claim has its own fence"


async def test_a_rolling_restart_loses_nothing_and_causes_no_downtime(deployment: Deployment) -> None:
    api = await deployment.start("api")
    nodes = list(await asyncio.gather(deployment.start("node", **SLOWER), deployment.start("node", **SLOWER)))
    jobs = [f"job{number}" for number in range(20)]
    await deployment.put_many(api, *jobs, recovery_check=True)
    for job_id in jobs[:5]:
        deployment.recorder.otherwise[job_id] = deployment.recorder.slow(0.4)
    await deployment.recorder.until_requests(1, *jobs)
    for _ in range(2):
        leaving = nodes.pop(0)
        leaving.terminate()
        nodes.append(await deployment.start("node", **SLOWER))
        assert await leaving.ended() == 0
        await deployment.recorder.until_requests(1, *jobs)
    for account in await deployment.check(lease_ms=LEASE_MS):
        assert all(miss.reason is not MissReason.DOWNTIME for miss in account.misses)
        assert all(run.reason.value == "scheduled" for run in account.runs)
    ids = [one.run_id for one in deployment.recorder.received]
    assert len(set(ids)) == len(ids), "all were drained within the grace time"


async def test_killing_nodes_one_after_the_other_loses_nothing(deployment: Deployment) -> None:
    api = await deployment.start("api")
    nodes = list(await asyncio.gather(deployment.start("node"), deployment.start("node")))
    jobs = [f"job{number}" for number in range(20)]
    await deployment.put_many(api, *jobs)
    for job_id in jobs[:5]:
        deployment.recorder.otherwise[job_id] = deployment.recorder.slow(0.4)
    await deployment.recorder.until_requests(1, *jobs)
    for _ in range(2):
        victim = nodes.pop(0)
        nodes.append(await deployment.start("node"))
        killed_at = deployment.now_ms()
        await victim.kill()
        deployment.record_fault(killed_at - 100)
        await deployment.recorder.until_requests(1, *jobs)
    await deployment.check()


async def test_an_upsert_wakes_a_sleeping_node(deployment: Deployment) -> None:
    """Without a message the node looks once per second. It has to look earlier.

    A run on request in the middle of a second sets the instant of the next look: in the middle of a second too, so half
    a second after the fire time that the upsert brings.
    """
    node = await deployment.start("node", through_proxy=True)
    api = await deployment.start("api")
    client = await api.api()
    await deployment.put(api, "pace", "0 0 0 1 1 *")

    def claims() -> list[float]:
        return [when for when, command in deployment.proxy.seen if script("job/claim")(command)]

    gaps: list[float] = []
    for number in range(10):
        await asyncio.sleep((1.5 - deployment.now_ms() / 1000 % 1) % 1)
        assert (await client.post("/jobs/pace/run")).status_code == 202
        await deployment.recorder.until_requests(1, "pace")
        seen = len(claims())
        await eventually(lambda seen=seen: len(claims()) > seen)  # type: ignore[misc]
        looked = claims()[-1]
        await deployment.put(api, f"job{number}", "* * * * * *")
        await eventually(lambda looked=looked: claims()[-1] > looked)  # type: ignore[misc]
        gaps.append(next(when for when in claims() if when > looked) - looked)
        await deployment.recorder.until_requests(1, f"job{number}")
        await deployment.delete(api, f"job{number}")
        if gaps[-1] < 0.7:
            break
    assert min(gaps) < 0.7, f"it kept sleeping: {gaps}"
    assert node.is_running
    await deployment.check()


async def test_a_delete_is_final_while_nodes_come_and_go(deployment: Deployment) -> None:
    server = await deployment.start()
    jobs = [f"job{number}" for number in range(10)]
    await deployment.put_many(server, *jobs)
    hold = deployment.recorder.hold("job0")
    await deployment.recorder.until(lambda: hold.has_arrived)
    await asyncio.gather(*(deployment.delete(server, job_id) for job_id in jobs))
    hold.release(503)  # would be retried if the job existed
    restarted = await deployment.start("node")
    server.terminate()
    assert await server.ended() == 0
    deleted = time.monotonic()
    await eventually(lambda: time.monotonic() - deleted > 2)
    assert restarted.is_running
    await deployment.check()
