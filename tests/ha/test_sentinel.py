"""Cronpost under load on a master with two replicas and three Sentinels: the master is killed, frozen, cut off.

Replication is asynchronous: writes that the promoted replica had not received are lost. Only this window is recorded
for the checker. Within it a fire time may be sent a second time, under another id; none is lost, because the remaining
data was true a moment earlier.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise

from redis.exceptions import RedisError

from tests.ha.deployment import LoadedDeployment, assert_no_downtime
from tests.support.processes import eventually
from tests.support.topologies import PortServer, Sentinels

ON_THE_WAY_MS = 500.0
"""How far a replica on loopback may be behind, on a busy machine."""
MAX_LAG_SECONDS = 2
BOUND_MS = 1000.0 * (MAX_LAG_SECONDS + 2)
"""How long a master without confirming replicas still acknowledges writes: ``min-replicas-max-lag``, a second until it
checks, and a second because it counts whole seconds."""


async def promoted(deployment: LoadedDeployment, topology: Sentinels, old: PortServer) -> PortServer:
    """Wait until another server is the master and accepts writes."""

    async def takes_writes() -> bool:
        with contextlib.suppress(RedisError, OSError):
            master = await topology.master()
            return master is not old and bool(await master.client.set("ha:probe", "1", ex=1))
        return False

    await eventually(takes_writes, seconds=60, what="no replica is promoted")
    master = await topology.master()
    deployment.say(f"{master.name} is promoted")
    return master


async def all_follow(topology: Sentinels) -> None:
    await eventually(topology.replicated, seconds=90, what="the old master should follow the new one")


def assert_lost_within_windows(deployment: LoadedDeployment, lost: list[tuple[str, float]]) -> None:
    for job_id, at in lost:
        within = any(fault.began_ms <= at <= (fault.ended_ms or 0.0) for fault in deployment.disturbances)
        assert within, f"{job_id} was acknowledged at {at:.0f} and is gone; it was written in no window"


async def report(deployment: LoadedDeployment, what: str) -> None:
    lost = await deployment.lost_upserts()
    deployment.note(
        f"{what}: {len(lost)} of {len(deployment.upserts)} upserts lost after a 202; longest time without a 202 "
        f"{deployment.longest_refusal_ms():.0f} ms, without a fire {deployment.longest_silence_ms():.0f} ms"
    )
    assert_lost_within_windows(deployment, [(one.job_id, one.answered_at_ms) for one in lost])


async def test_jobs_fire_again_after_the_master_is_killed(deployment: LoadedDeployment, seconds: float) -> None:
    topology = Sentinels()
    await deployment.use(topology)
    await deployment.begin()
    async with deployment.upserting():
        for _ in range(max(1, round(seconds / 30))):
            master = await topology.master()
            at = deployment.now_ms()
            await master.child.kill()
            deployment.record_fault(at - ON_THE_WAY_MS, deployment.now_ms(), loses_writes=True)
            await promoted(deployment, topology, master)
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
            await master.start()  # returns as a master, and is then made a replica
            await all_follow(topology)
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
    await report(deployment, "master killed")
    assert_no_downtime(
        await deployment.judged("master killed"), outage=True, silence_ms=deployment.longest_silence_ms()
    )


async def test_a_master_that_was_frozen_during_a_failover_does_no_harm(
    deployment: LoadedDeployment, seconds: float
) -> None:
    """When the old master returns, the writes that it had not replicated are lost, and so are those that it receives
    meanwhile."""
    topology = Sentinels(password="secret")
    await deployment.use(topology)
    await deployment.begin()
    async with deployment.upserting():
        for _ in range(max(1, round(seconds / 30))):
            master = await topology.master()
            at = deployment.now_ms()
            master.child.freeze()
            deployment.record_fault(at - ON_THE_WAY_MS, deployment.now_ms(), loses_writes=True)
            await promoted(deployment, topology, master)
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
            master.child.thaw()
            await all_follow(topology)
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
    await report(deployment, "master frozen")
    assert_no_downtime(
        await deployment.judged("master frozen"), outage=True, silence_ms=deployment.longest_silence_ms()
    )


async def test_a_master_without_replicas_stops_and_loses_the_writes_that_it_accepted(
    deployment: LoadedDeployment,
) -> None:
    """The worst case: nothing reaches the replicas, the master continues alone, and then its machine dies. With
    ``min-replicas-to-write 1`` and ``min-replicas-max-lag 2`` it stops by itself, so the window is bounded."""
    topology = Sentinels(down_after_ms=20_000, config={"min-replicas-max-lag": MAX_LAG_SECONDS})
    await deployment.use(topology)
    await deployment.begin()
    master = await topology.master()
    replicas = [one for one in topology.servers if one is not master]
    async with deployment.upserting():
        await deployment.recorder.until(lambda: len(deployment.upserts) > 10)
        # Runs that have begun by then: the replicas have their claims and will never receive their ends.
        await deployment.open_requests(10)
        cut_at = deployment.now_ms()
        for one in replicas:
            one.child.freeze()
        await asyncio.sleep(BOUND_MS / 1000 + 2)
        refused_from = next(
            later.asked_at_ms
            for one, later in pairwise(deployment.upserts)
            if one.status == 202 and later.status == 429
        )
        # Killed before they thaw: data that has arrived at their machines and was not read is lost.
        await asyncio.gather(*(one.child.kill() for one in replicas))
        await master.child.kill()
        deployment.record_fault(cut_at - ON_THE_WAY_MS, cut_at + BOUND_MS, loses_writes=True)
        await asyncio.gather(*(one.start() for one in replicas))
        for sentinel in topology.sentinels:
            await sentinel.command("SENTINEL", "SET", "cronpost", "down-after-milliseconds", 1000)
        await promoted(deployment, topology, master)
        await deployment.firing()
        await deployment.taken()
    taken = [one.answered_at_ms for one in deployment.upserts if one.status == 202 and one.asked_at_ms > cut_at]
    deployment.note(f"a master without replicas acknowledged for {refused_from - cut_at:.0f} ms more")
    assert taken, "it continued for a moment"
    lost = await deployment.lost_upserts()
    assert lost, "nothing was lost: were the replicas cut off at all?"
    await report(deployment, "master without replicas")
    await deployment.judged("master without replicas")
