"""Runners that are slow, busy or failing: with any answer, each fire time is a run or a recorded miss."""

from __future__ import annotations

from scheduler_core.model.run import MissReason, RunState
from tests.support.recorder import Answer
from tests.system.deployment import Deployment


async def test_slow_busy_and_failing_runners_are_accounted_for(deployment: Deployment) -> None:
    server = await deployment.start()
    recorder = deployment.recorder
    recorder.otherwise["slow"] = recorder.slow(1.3)
    recorder.otherwise["slow and owed"] = recorder.slow(1.3)
    recorder.script("busy", 200, 409, 409, 200)
    recorder.script("not now", 503, 503, Answer(429, headers=(("Retry-After", "1"),)), 200)
    recorder.script("failing", 500, 200, 404, 200)
    await deployment.put_many(server, "slow", "failing", "not now")
    await deployment.put(server, "slow and owed", retry_already_running=1)
    await deployment.put(server, "busy", retry_already_running=1)
    await recorder.until_requests(5, "busy", "not now", "failing")
    accounts = {account.job_id: account for account in await deployment.check()}
    for job_id in ("slow", "slow and owed", "busy"):
        assert MissReason.OVERLAP in {miss.reason for miss in accounts[job_id].misses}
    states = [run.state for run in reversed(accounts["failing"].runs)]
    assert states[:4] == [RunState.FAILED, RunState.SUCCEEDED, RunState.FAILED, RunState.SUCCEEDED]
    second, third, fourth = recorder.of("busy")[1:4]
    assert second.run_id == third.run_id == fourth.run_id, "the run that got 409 is retried until it is accepted"
    assert [second.attempt, third.attempt, fourth.attempt] == [1, 2, 3]
    assert "next_fire_time" in {run.ended_by for run in accounts["not now"].runs}
