"""Cronpost under load on a Cluster of three masters with a replica each and sixteen shards: a failover, a migration."""

from __future__ import annotations

import contextlib

import pytest
from redis.exceptions import RedisError

from scheduler_core.store.redis.keys import Keys
from tests.ha.deployment import DEAD_SECONDS, SHARDS, LoadedDeployment, assert_no_downtime
from tests.support.processes import eventually
from tests.support.topologies import Cluster, PortServer

ON_THE_WAY_MS = 500.0
"""How far a replica on loopback may be behind, on a busy machine."""


async def shards_of(topology: Cluster) -> dict[int, PortServer]:
    """Return the master of each shard."""
    return {shard: await topology.master_of_key(Keys(shard=shard).due) for shard in range(SHARDS)}


async def jobs_on(deployment: LoadedDeployment, topology: Cluster, master: PortServer) -> set[str]:
    """List the jobs that fire every second and that this server holds."""
    found: set[str] = set()
    for shard, at in (await shards_of(topology)).items():
        if at is master:
            found |= {one.decode() for one in await master.command("ZRANGE", Keys(shard=shard).ids, 0, -1)}
    return {one for one in found if one in deployment.puts and one.startswith(("plain", "slow"))}


async def test_the_jobs_are_spread_over_all_masters(deployment: LoadedDeployment) -> None:
    topology = Cluster()
    await deployment.use(topology)
    await deployment.begin()
    for master in await topology.masters():
        assert await jobs_on(deployment, topology, master), f"{master} has no jobs"
    assert_no_downtime(await deployment.judged())


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_when_a_master_fails_the_jobs_of_the_others_keep_firing(
    deployment: LoadedDeployment, seconds: float, fault: str
) -> None:
    topology = Cluster()
    await deployment.use(topology)
    await deployment.begin()
    async with deployment.upserting():
        for number in range(max(1, round(seconds / 20))):
            shards = await shards_of(topology)
            victim = shards[number % SHARDS]
            others = {one for one in deployment.jobs if one.startswith("plain")} - await jobs_on(
                deployment, topology, victim
            )
            slot = int(await victim.command("CLUSTER", "KEYSLOT", Keys(shard=number % SHARDS).due))
            at = deployment.now_ms()
            if fault == "killed":
                await victim.child.kill()
            else:
                victim.child.freeze()
            deployment.record_fault(at - ON_THE_WAY_MS, deployment.now_ms(), loses_writes=True)

            async def promoted(slot: int = slot, victim: PortServer = victim) -> bool:
                with contextlib.suppress(RedisError, OSError):
                    master = await topology.master_of(slot)
                    return master is not victim and (await master.replication()).get("role") == "master"
                return False

            await eventually(promoted, seconds=60, what="no replica is promoted")
            promoted_at = deployment.now_ms()
            # No heartbeats for nearly as long as a lease: the last node to send one again counts as dead.
            deployment.record_fault(at, promoted_at + 1000 * DEAD_SECONDS)
            deployment.note(f"{fault}: promoted after {promoted_at - at:.0f} ms")
            meanwhile = {one.job_id for one in deployment.recorder.received if at + 1000 < one.arrived_ms < promoted_at}
            assert meanwhile >= others, f"{len(others - meanwhile)} jobs of other masters did not fire meanwhile"
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
            silence = deployment.longest_silence_ms(job_ids=sorted(others), since_ms=at - 1000)
            deployment.note(f"longest time without a fire: {silence:.0f} ms on the other masters")
            if fault == "killed":
                await victim.start()
            else:
                victim.child.thaw()  # the writes that it had not replicated are lost

            async def follows(slot: int = slot, victim: PortServer = victim) -> bool:
                return victim in await topology.replicas_of(await topology.master_of(slot)) and await topology.healthy()

            await eventually(follows, seconds=60, what="the old master should follow the new one")
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
    lost = await deployment.lost_upserts()
    deployment.note(f"{fault}: {len(lost)} of {len(deployment.upserts)} upserts lost after a 202")
    for one in lost:
        assert any(
            fault.began_ms <= one.answered_at_ms <= (fault.ended_ms or 0) for fault in deployment.disturbances
        ), one
    assert_no_downtime(await deployment.judged(f"failover, {fault}"), outage=True)


async def test_a_slot_is_migrated_under_load(deployment: LoadedDeployment, seconds: float) -> None:
    """Its shard moves from master to master while its jobs fire. Nothing is lost and nothing is sent twice; the other
    shards are not affected."""
    topology = Cluster(password="secret")
    await deployment.use(topology)
    await deployment.begin()
    async with deployment.upserting():
        for number in range(max(2, round(seconds / 6))):
            key = Keys(shard=number % 3).due
            source = await topology.master_of_key(key)
            target = next(one for one in await topology.masters() if one is not source)
            slot = int(await source.command("CLUSTER", "KEYSLOT", key))
            at = deployment.now_ms()
            # Slowly: meanwhile the keys of the shard are on two servers, and its scripts can run on neither.
            moved = await topology.migrate(slot, target, keys_at_once=1, pause_seconds=0.06 * (number % 3))
            deployment.note(
                f"slot {slot}: {moved} keys in {deployment.now_ms() - at:.0f} ms, from {source.name} to {target.name}"
            )
            assert await topology.master_of_key(key) is target
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
    assert not await deployment.lost_upserts()
    assert_no_downtime(await deployment.judged("migration"), outage=True)
