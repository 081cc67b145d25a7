"""Redis with its append-only file is restarted under load: stopped in order, and killed.

A kill -9 keeps the writes that Redis has passed to the system. A power loss loses some of these too, and cannot be
tested here.
"""

from __future__ import annotations

import pytest

from tests.ha.deployment import LoadedDeployment, assert_no_downtime, every

HELD_BACK_MS = 3000.0
"""With "everysec", Redis may answer a write before it has passed it to the system, for up to two seconds while a sync
is under way (``docs/operations.md``). After a kill -9 that much may be lost; mostly nothing is."""


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
async def test_a_stop_in_order_loses_nothing(deployment: LoadedDeployment, seconds: float, appendfsync: str) -> None:
    await deployment.begin(appendfsync=appendfsync)
    async with deployment.upserting():
        async for _ in every(5.7, seconds * 0.7):
            at = deployment.now_ms()
            deployment.redis.child.terminate()
            assert await deployment.redis.child.ended() == 0
            await deployment.redis.start(appendfsync=appendfsync)
            deployment.note(f"away for {deployment.now_ms() - at:.0f} ms")
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
    assert not await deployment.lost_upserts()
    # No fault is recorded: the node settles its open runs when Redis is back.
    assert_no_downtime(await deployment.judged(f"SIGTERM, {appendfsync}"))


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
async def test_a_kill_loses_two_seconds_at_most(deployment: LoadedDeployment, seconds: float, appendfsync: str) -> None:
    await deployment.begin(appendfsync=appendfsync)
    async with deployment.upserting():
        async for _ in every(5.7, seconds * 0.7):
            at = deployment.now_ms()
            await deployment.redis.kill()
            if appendfsync == "everysec":
                deployment.record_fault(at - HELD_BACK_MS, at, loses_writes=True)
            await deployment.redis.start(appendfsync=appendfsync)
            await deployment.firing()
            await deployment.taken()
            await deployment.tasks_are_called()
    lost = await deployment.lost_upserts()
    deployment.note(f"kill -9, {appendfsync}: {len(lost)} of {len(deployment.upserts)} upserts lost after a 202")
    windows = [(fault.began_ms, fault.ended_ms or 0.0) for fault in deployment.disturbances]
    assert all(any(began <= one.answered_at_ms <= ended + 100 for began, ended in windows) for one in lost), lost
    assert_no_downtime(await deployment.judged(f"kill -9, {appendfsync}"))
