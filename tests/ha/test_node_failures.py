"""Nodes are restarted, killed, frozen, cut off from Redis and given wrong clocks, repeatedly, under load."""

from __future__ import annotations

import asyncio
import random

from scheduler_core.base.events import SETTLEMENT_REFUSED
from tests.ha.deployment import DEAD_SECONDS, LoadedDeployment, assert_no_downtime, every
from tests.support.fault_proxy import FaultProxy
from tests.system.test_clock_faults import WRONG_WALL_CLOCK

LONG_SECONDS = DEAD_SECONDS + 2.0
"""Other nodes reclaim the runs of a node that was silent for this long."""
SHORT_SECONDS = 1.2
"""No node may reclaim: no fault is recorded for the checker."""


async def test_rolling_restart(deployment: LoadedDeployment, seconds: float) -> None:
    """One of three nodes every three seconds. Nothing is sent twice: open runs are drained within the grace time."""
    await deployment.begin()
    restarts = 0
    async for _ in every(2.9, 3 * seconds):
        leaving = deployment.nodes[0]
        leaving.terminate()
        assert await leaving.ended() == 0
        await deployment.replace(leaving)
        restarts += 1
    await deployment.firing()
    assert_no_downtime(await deployment.judged(f"{restarts} restarts"))


async def test_kill_9_of_random_nodes(deployment: LoadedDeployment, seconds: float) -> None:
    """An open run is sent again when the lease is over. Its last request ended with its node."""
    await deployment.begin()
    kills = 0
    async for _ in every(3.7, seconds):
        # Out of step with the time after which others reclaim: quarantine is for runs that are lost with
        # three nodes in a row.
        await asyncio.sleep(random.uniform(0, 3))
        victim = deployment.some_node()
        at = deployment.now_ms()
        await victim.kill()
        # A run is sent again if its node got the answer but could not settle it.
        deployment.record_fault(at - 1000, deployment.now_ms())
        await deployment.replace(victim)
        kills += 1
    await deployment.firing()
    assert_no_downtime(await deployment.judged(f"{kills} kills"))


async def test_frozen_and_thawed(deployment: LoadedDeployment, seconds: float) -> None:
    """After longer than the lease, a frozen node finds its runs reclaimed, and its results are refused. After less, it
    continues as before."""
    await deployment.begin()
    async for number in every(LONG_SECONDS + SHORT_SECONDS, 1.5 * seconds):
        victim = await deployment.busy(*deployment.nodes)
        at = deployment.now_ms()
        victim.freeze()
        await asyncio.sleep(SHORT_SECONDS if number % 2 else LONG_SECONDS)
        victim.thaw()
        if not number % 2:
            deployment.record_fault(at, deployment.now_ms())
        await deployment.firing()
    refused = sum(len(node.events(SETTLEMENT_REFUSED)) for node in deployment.nodes)
    deployment.note(f"{refused} late results refused")
    assert refused, "not one late result had to be refused: was a node frozen at all?"
    assert_no_downtime(await deployment.judged())


async def test_cut_off_from_redis(deployment: LoadedDeployment, seconds: float) -> None:
    """By closed connections, by a black hole in both directions, and by one that accepts data and never answers. The
    two other nodes take over; no job waits for longer than the lease."""
    await deployment.begin()
    proxy = deployment.proxy
    outside = deployment.nodes[0]
    outside.terminate()
    assert await outside.ended() == 0
    deployment.nodes.remove(outside)
    deployment.nodes.append(await deployment.start("node", through_proxy=True))
    async for number in every(LONG_SECONDS + 2.0, 1.5 * seconds):
        await deployment.busy(deployment.nodes[-1])
        at = deployment.now_ms()
        await cut(proxy, number % 3)
        deployment.record_fault(at, deployment.now_ms())
        await deployment.firing()
    assert deployment.nodes[-1].is_running
    assert_no_downtime(await deployment.judged())


async def cut(proxy: FaultProxy, way: int) -> None:
    if way == 0:
        await proxy.refuse()
        await asyncio.sleep(LONG_SECONDS)
        await proxy.accept()
    elif way == 1:
        proxy.black_hole()
        await asyncio.sleep(LONG_SECONDS)
        proxy.heal()
    else:
        silent = proxy.on(lambda command: True, hold="reply", times=1_000_000_000)
        await asyncio.sleep(LONG_SECONDS)
        silent.release()


async def test_wall_clocks_that_are_five_minutes_wrong(deployment: LoadedDeployment, seconds: float) -> None:
    """One node is ahead, one behind, one right, and each is restarted. Nodes use Redis's time, so this
    has no effect."""
    await deployment.begin(load=False)
    for node, offset in zip(list(deployment.nodes), (300, -300, 0), strict=True):
        node.terminate()
        assert await node.ended() == 0
        await deployment.replace(node, prelude=WRONG_WALL_CLOCK.format(offset=offset))
    await deployment.load()
    async for number in every(seconds / 6, seconds):
        leaving = deployment.nodes[0]
        leaving.terminate()
        assert await leaving.ended() == 0
        await deployment.replace(leaving, prelude=WRONG_WALL_CLOCK.format(offset=(-300, 300, 0)[number % 3]))
    await deployment.firing()
    assert_no_downtime(await deployment.judged())
