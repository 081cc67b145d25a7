"""Clocks that are wrong or stepped: Redis's, by an hour forward and back, and a node's own, which has no effect."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_core.base.events import CLOCK_DIFFERS, CLOCK_JUMPED
from scheduler_core.model.run import MissReason
from tests.support.processes import Cronpost, eventually
from tests.system.deployment import Deployment

HOUR_SECONDS = 3600
JOBS = ("a", "b")

WRONG_WALL_CLOCK = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {offset}
time.time_ns = lambda: _time_ns() + {offset} * 1_000_000_000
"""


async def step(deployment: Deployment, seconds: int, server: Cronpost | None = None) -> None:
    """Step Redis's clock for all clients of the proxy, and wait until the server follows.

    A node follows a step when several answers agree. Until then it uses its old time, and is checked by it.
    """
    deployment.proxy.time_offset_seconds += seconds
    ahead_seconds = deployment.proxy.time_offset_seconds
    if seconds > 0:
        deployment.recorder.redis_ahead_ms = ahead_seconds * 1000

    async def believed() -> bool:
        # The metric is how far the machine's wall clock, which does not change, is ahead of Redis's.
        assert server is not None
        return abs(await server.metric("cronpost_clock_offset_seconds") + ahead_seconds) < 5

    if server is not None:
        await eventually(believed, what=f"its clock should follow to {ahead_seconds:+} s")
    deployment.recorder.redis_ahead_ms = ahead_seconds * 1000


async def warnings(server: Cronpost) -> str:
    answer = await (await server.api()).get("/ready")
    return " ".join(answer.json().get("warnings", ()))


async def test_redis_clock_steps_an_hour_forward(deployment: Deployment) -> None:
    server = await deployment.start(through_proxy=True)
    await deployment.put_many(server, *JOBS)
    await deployment.recorder.until_requests(1, *JOBS)
    until_step = len(deployment.recorder.received)
    await step(deployment, HOUR_SECONDS, server)
    await deployment.recorder.until_requests(2, *JOBS)
    after_step = deployment.recorder.received[until_step:]
    accounts = await deployment.check()
    for account in accounts:
        skipped = [miss for miss in account.misses if miss.last_ms - miss.first_ms > 3_000_000]
        assert len(skipped) == 1, "the hour is one range, in one record"
        assert len([one for one in after_step if one.job_id == account.job_id]) < 20, "no burst"
    assert await server.metric("cronpost_runs_reaped_total") == 0
    assert "Redis's clock was set ahead by 3600 s" in await warnings(server)
    (line,) = server.events(CLOCK_JUMPED)
    assert line["seconds"] == pytest.approx(HOUR_SECONDS, abs=1)


async def test_redis_clock_steps_an_hour_back(deployment: Deployment) -> None:
    """Fire times of the past hour do not fire again: the jobs wait until that hour has passed a second time."""
    await step(deployment, HOUR_SECONDS)
    server = await deployment.start(through_proxy=True)
    await deployment.put_many(server, *JOBS)
    await deployment.recorder.until_requests(1, *JOBS)
    await step(deployment, -HOUR_SECONDS, server)
    fired = len(deployment.recorder.received)
    await deployment.put(server, "new")  # a job that is created after the step fires
    await deployment.recorder.until_requests(3, "new")
    late = [one for one in deployment.recorder.received[fired:] if one.job_id != "new"]
    assert not late, "its fire times are in the future"
    assert (await server.readiness()) == (True, "")
    assert "Redis's clock was set back by 3600 s" in await warnings(server)
    assert await server.metric("cronpost_clock_jumps_total") == 1
    assert await server.metric("cronpost_clock_jump_seconds") == pytest.approx(-HOUR_SECONDS, abs=1)
    await step(deployment, HOUR_SECONDS, server)  # the old positions are reached again, each fire time once
    await deployment.recorder.until_requests(1, *JOBS)
    assert "set back" not in await warnings(server), "the time that was passed is reached again"
    ids = [one.run_id for one in deployment.recorder.received]
    assert len(set(ids)) == len(ids)
    await deployment.check()


async def test_a_single_wrong_answer_of_redis_clock_changes_nothing(deployment: Deployment) -> None:
    server = await deployment.start(through_proxy=True)
    await deployment.put_many(server, *JOBS)
    await deployment.recorder.until_requests(1, *JOBS)
    deployment.proxy.time_offset_seconds = HOUR_SECONDS
    asked = sum(1 for _, command in deployment.proxy.seen if command[0].upper() == b"TIME")
    await eventually(lambda: sum(1 for _, command in deployment.proxy.seen if command[0].upper() == b"TIME") > asked)
    deployment.proxy.time_offset_seconds = 0
    await deployment.recorder.until_requests(1, *JOBS)
    for account in await deployment.check():
        assert all(miss.reason is not MissReason.DOWNTIME for miss in account.misses)
        assert all(miss.last_ms - miss.first_ms < 60_000 for miss in account.misses)


async def test_the_wall_clocks_of_nodes_have_no_effect(deployment: Deployment) -> None:
    await deployment.redis.start()
    ahead, behind = await asyncio.gather(
        *(deployment.start(prelude=WRONG_WALL_CLOCK.format(offset=offset)) for offset in (HOUR_SECONDS, -HOUR_SECONDS))
    )
    await deployment.put(ahead, "a")
    await deployment.put(behind, "b")
    await deployment.recorder.until_requests(2, *JOBS)
    assert abs(await ahead.metric("cronpost_clock_offset_seconds") - HOUR_SECONDS) < 5
    assert abs(await behind.metric("cronpost_clock_offset_seconds") + HOUR_SECONDS) < 5
    assert "3600 s ahead of Redis's" in await warnings(ahead)
    assert "3600 s behind Redis's" in await warnings(behind)
    assert len(ahead.events(CLOCK_DIFFERS)) == 1
    ahead.terminate()
    await deployment.recorder.until_requests(1, *JOBS)
    await deployment.check()
