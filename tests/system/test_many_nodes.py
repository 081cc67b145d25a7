"""Several nodes on one Redis, restarted while jobs fire; and changes that reach a sleeping node."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from scheduler_core.model.run import MissReason
from tests.support.fault_proxy import script
from tests.support.processes import eventually
from tests.system.world import World

SLOWER: dict[str, Any] = {"heartbeat_seconds": 0.5, "dead_after_seconds": 4, "downtime_after_seconds": 5}
"""Three interpreters that start on a busy machine can delay each other's heartbeats for a second."""
LEASE_MS = 3000.0


async def test_three_nodes_share_two_hundred_jobs_and_each_fire_time_is_one_run(world: World) -> None:
    server = await world.start(**SLOWER)
    await asyncio.gather(world.start("node", **SLOWER), world.start("node", **SLOWER))
    jobs = [f"job{number}" for number in range(200)]
    await world.put_many(server, *jobs)
    await world.recorder.until_requests(3, *jobs)
    accounts = await world.check(lease_ms=LEASE_MS)
    ids = [one.run_id for one in world.recorder.received]
    assert len(set(ids)) == len(ids), "nothing went wrong, so nothing was sent twice"
    for account in accounts:
        assert all(miss.reason in {MissReason.COALESCED, MissReason.OVERLAP} for miss in account.misses)
    fences = [attempt.fence for account in accounts for run in account.runs for attempt in run.attempts]
    assert len(set(fences)) == len(fences) >= 400, "every claim has its own fence"


async def test_a_rolling_restart_loses_nothing_and_causes_no_downtime(world: World) -> None:
    api = await world.start("api")
    nodes = list(await asyncio.gather(world.start("node", **SLOWER), world.start("node", **SLOWER)))
    jobs = [f"job{number}" for number in range(20)]
    await world.put_many(api, *jobs, recovery_check=True)
    for job_id in jobs[:5]:
        world.recorder.otherwise[job_id] = world.recorder.slow(0.4)
    await world.recorder.until_requests(1, *jobs)
    for _ in range(2):
        leaving = nodes.pop(0)
        leaving.terminate()
        nodes.append(await world.start("node", **SLOWER))
        assert await leaving.ended() == 0
        await world.recorder.until_requests(1, *jobs)
    for account in await world.check(lease_ms=LEASE_MS):
        assert all(miss.reason is not MissReason.DOWNTIME for miss in account.misses)
        assert all(run.reason.value == "scheduled" for run in account.runs)
    ids = [one.run_id for one in world.recorder.received]
    assert len(set(ids)) == len(ids), "all were drained within the grace time"


async def test_killing_nodes_one_after_the_other_loses_nothing(world: World) -> None:
    api = await world.start("api")
    nodes = list(await asyncio.gather(world.start("node"), world.start("node")))
    jobs = [f"job{number}" for number in range(20)]
    await world.put_many(api, *jobs)
    for job_id in jobs[:5]:
        world.recorder.otherwise[job_id] = world.recorder.slow(0.4)
    await world.recorder.until_requests(1, *jobs)
    for _ in range(2):
        victim = nodes.pop(0)
        nodes.append(await world.start("node"))
        killed_at = world.now_ms()
        await victim.kill()
        world.record_fault(killed_at - 100)
        await world.recorder.until_requests(1, *jobs)
    await world.check()


async def test_an_upsert_wakes_a_sleeping_node(world: World) -> None:
    """Without a message the node looks once per second. It has to look earlier.

    A run on request in the middle of a second sets the instant of the next look: in the middle of a second too, so half
    a second after the fire time that the upsert brings.
    """
    node = await world.start("node", through_proxy=True)
    api = await world.start("api")
    client = await api.api()
    await world.put(api, "pace", "0 0 0 1 1 *")

    def claims() -> list[float]:
        return [when for when, command in world.proxy.seen if script("job/claim")(command)]

    gaps: list[float] = []
    for number in range(10):
        await asyncio.sleep((1.5 - world.now_ms() / 1000 % 1) % 1)
        assert (await client.post("/jobs/pace/run")).status_code == 202
        await world.recorder.until_requests(1, "pace")
        seen = len(claims())
        await eventually(lambda seen=seen: len(claims()) > seen)  # type: ignore[misc]
        looked = claims()[-1]
        await world.put(api, f"job{number}", "* * * * * *")
        await eventually(lambda looked=looked: claims()[-1] > looked)  # type: ignore[misc]
        gaps.append(next(when for when in claims() if when > looked) - looked)
        await world.recorder.until_requests(1, f"job{number}")
        await world.delete(api, f"job{number}")
        if gaps[-1] < 0.7:
            break
    assert min(gaps) < 0.7, f"it kept sleeping: {gaps}"
    assert node.is_running
    await world.check()


async def test_a_delete_is_final_while_nodes_come_and_go(world: World) -> None:
    server = await world.start()
    jobs = [f"job{number}" for number in range(10)]
    await world.put_many(server, *jobs)
    hold = world.recorder.hold("job0")
    await world.recorder.until(lambda: hold.has_arrived)
    await asyncio.gather(*(world.delete(server, job_id) for job_id in jobs))
    hold.release(503)  # would be retried if the job existed
    restarted = await world.start("node")
    server.terminate()
    assert await server.ended() == 0
    deleted = time.monotonic()
    await eventually(lambda: time.monotonic() - deleted > 2)
    assert restarted.is_running
    await world.check()
