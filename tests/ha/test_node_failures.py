"""Nodes are restarted, killed, frozen, cut off from Redis and told the wrong time, again and again, under load."""

from __future__ import annotations

import asyncio
import random

from scheduler_core.base.events import SETTLE_REFUSED
from tests.ha.scene import DEAD_SECONDS, Scene, assert_no_downtime, every
from tests.support.fault_proxy import FaultProxy
from tests.system.test_clock_faults import WRONG_WALL_CLOCK

LONG_SECONDS = DEAD_SECONDS + 2.0
"""Others take over what a node had that was silent for so long."""
SHORT_SECONDS = 1.2
"""Nobody may: no disturbance is told to the judge."""


async def test_rolling_restart(scene: Scene, seconds: float) -> None:
    """One of three, every three seconds. Nothing is sent twice: what is open is drained within the grace time."""
    await scene.begin()
    restarts = 0
    async for _ in every(2.9, 3 * seconds):
        leaving = scene.nodes[0]
        leaving.terminate()
        assert await leaving.ended() == 0
        await scene.replace(leaving)
        restarts += 1
    await scene.firing()
    assert_no_downtime(await scene.judged(f"{restarts} restarts"))


async def test_kill_9_of_some_node(scene: Scene, seconds: float) -> None:
    """A run that was open is sent again when the lease is over. Its last request ended with its node."""
    await scene.begin()
    kills = 0
    async for _ in every(3.7, seconds):
        # Not in step with the time after which others take over: three nodes in a row that die with the same runs in
        # hand are what quarantine is for.
        await asyncio.sleep(random.uniform(0, 3))
        victim = scene.some_node()
        at = scene.now_ms()
        await victim.kill()
        # What was answered to a node that could not settle it any more is sent again.
        scene.record_fault(at - 1000, scene.now_ms())
        await scene.replace(victim)
        kills += 1
    await scene.firing()
    assert_no_downtime(await scene.judged(f"{kills} kills"))


async def test_frozen_and_thawed(scene: Scene, seconds: float) -> None:
    """Frozen for longer than the lease, a node finds its runs taken over, and what it brings is refused. Frozen for
    less, it goes on as if nothing had been."""
    await scene.begin()
    async for number in every(LONG_SECONDS + SHORT_SECONDS, 1.5 * seconds):
        victim = await scene.busy(*scene.nodes)
        at = scene.now_ms()
        victim.freeze()
        await asyncio.sleep(SHORT_SECONDS if number % 2 else LONG_SECONDS)
        victim.thaw()
        if not number % 2:
            scene.record_fault(at, scene.now_ms())
        await scene.firing()
    refused = sum(len(node.events(SETTLE_REFUSED)) for node in scene.nodes)
    scene.note(f"{refused} late results refused")
    assert refused, "not one late result had to be refused: was a node frozen at all?"
    assert_no_downtime(await scene.judged())


async def test_cut_off_from_redis(scene: Scene, seconds: float) -> None:
    """By closed connections, by a black hole in both directions, and by one that takes what is sent and gives no
    answer. The two others take over; no job waits for more than the lease."""
    await scene.begin()
    proxy = scene.proxy
    outside = scene.nodes[0]
    outside.terminate()
    assert await outside.ended() == 0
    scene.nodes.remove(outside)
    scene.nodes.append(await scene.start("node", through_proxy=True))
    async for number in every(LONG_SECONDS + 2.0, 1.5 * seconds):
        await scene.busy(scene.nodes[-1])
        at = scene.now_ms()
        await cut(proxy, number % 3)
        scene.record_fault(at, scene.now_ms())
        await scene.firing()
    assert scene.nodes[-1].is_running
    assert_no_downtime(await scene.judged())


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


async def test_wall_clocks_that_are_five_minutes_wrong(scene: Scene, seconds: float) -> None:
    """One node ahead, one behind, one right, and each of them is restarted. Time is Redis's, so it makes nothing."""
    await scene.begin(load=False)
    for node, offset in zip(list(scene.nodes), (300, -300, 0), strict=True):
        node.terminate()
        assert await node.ended() == 0
        await scene.replace(node, prelude=WRONG_WALL_CLOCK.format(offset=offset))
    await scene.load()
    async for number in every(seconds / 6, seconds):
        leaving = scene.nodes[0]
        leaving.terminate()
        assert await leaving.ended() == 0
        await scene.replace(leaving, prelude=WRONG_WALL_CLOCK.format(offset=(-300, 300, 0)[number % 3]))
    await scene.firing()
    assert_no_downtime(await scene.judged())
