"""A node is killed, frozen or stopped at the worst moment. Another node takes over, or the next start does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial

from scheduler_core.base.events import NODE_HELD_UP, NODE_STOPPED, SETTLEMENT_REFUSED
from scheduler_core.embedded import EmbeddedRedis, ask
from scheduler_core.model.run import RunState
from tests.support.fault_proxy import argument, script, took_jobs
from tests.support.processes import FAST, Cronpost, eventually, is_alive, processes_under
from tests.support.recorder import Answer, HeldRequest
from tests.system.deployment import Deployment

TAKEN_OVER_SECONDS = 7.0
"""The promised limit for nodes on a shared Redis. With the short lease of these tests it takes about three seconds."""


def all_arrived(holds: list[HeldRequest]) -> bool:
    return all(hold.has_arrived for hold in holds)


def has_ended(pid: int) -> bool:
    return not is_alive(pid)


async def two_nodes(deployment: Deployment) -> tuple[Cronpost, Cronpost]:
    """Return a healthy server, and a node behind the proxy that will fail."""
    await deployment.redis.start()
    survivor, victim = await asyncio.gather(deployment.start("serve"), deployment.start("node", through_proxy=True))
    return survivor, victim


def soon(seconds: float = 1.5) -> str:
    """Return a cron expression with one fire time within ``seconds``, at most a second earlier than that, and with none
    for a minute after it."""
    return f"{int(time.time() + seconds) % 60} * * * * *"


async def held(deployment: Deployment, job_id: str) -> HeldRequest:
    """Wait until a request of this job is open, and keep it open."""
    hold = deployment.recorder.hold(job_id)
    await deployment.recorder.until(lambda: hold.has_arrived)
    return hold


class TestKilledOnASharedRedis:
    """The surviving server is frozen until the victim has the claim with which it dies, so that always the victim
    claims. Once thawed, the survivor waits as long as a lease before it takes anything."""

    async def test_before_its_claim_reaches_redis(self, deployment: Deployment) -> None:
        survivor, victim = await two_nodes(deployment)
        deployment.proxy.on(script("job/claim"), lose="request", times=1_000_000)
        await deployment.put_many(survivor, "a", "b")
        await deployment.recorder.until_requests(1, "a", "b")
        await victim.kill()
        await deployment.recorder.until_requests(1, "a", "b")
        await deployment.check()

    async def test_with_its_claim_still_on_the_way(self, deployment: Deployment) -> None:
        """Redis carries out a command of the dead node: no node works on these jobs until the lease is over."""
        survivor, victim = await two_nodes(deployment)
        await deployment.put(survivor, "a", soon())
        survivor.freeze()
        claim = deployment.proxy.on(
            lambda command: script("job/claim")(command) and int(argument(command, 11)) >= self._due(deployment),
            hold="request",
        )
        await claim.triggered()
        await victim.kill()
        claim.release()
        await eventually(lambda: claim.forwarded)
        survivor.thaw()
        await deployment.recorder.until_requests(1, "a", seconds=TAKEN_OVER_SECONDS)
        (account,) = await deployment.check()
        (run,) = account.runs
        assert run.attempts[0].fence > 1, "the dead node's claim came first"

    async def test_after_its_claim_and_before_its_request(self, deployment: Deployment) -> None:
        survivor, victim = await two_nodes(deployment)
        await deployment.put(survivor, "a", soon())
        survivor.freeze()
        claim = deployment.proxy.on(script("job/claim"), hold="reply", if_reply=took_jobs)
        await claim.triggered()
        await victim.kill()
        survivor.thaw()
        await deployment.recorder.until_requests(1, "a", seconds=TAKEN_OVER_SECONDS)
        (account,) = await deployment.check()
        (run,) = account.runs
        assert run.state is RunState.SUCCEEDED
        assert run.attempts[0].fence > 1

    async def test_while_one_request_is_open_and_another_run_is_settled(self, deployment: Deployment) -> None:
        survivor, victim = await two_nodes(deployment)
        await deployment.put_many(survivor, "open", "settled", cron=soon())
        survivor.freeze()
        settle = deployment.proxy.on(script("job/settle"), hold="reply")
        hold = await held(deployment, "open")
        await settle.triggered()
        await victim.kill()
        survivor.thaw()
        await deployment.recorder.until_requests(1, "open", seconds=TAKEN_OVER_SECONDS)
        first, second = deployment.recorder.of("open")
        assert first is hold.received
        assert first.client_gone
        assert second.run_id == first.run_id
        assert second.fire_time_ms == first.fire_time_ms
        assert second.fence > first.fence
        accounts = {account.job_id: account for account in await deployment.check()}
        assert [run.id for run in accounts["open"].runs] == [first.run_id]
        assert len(deployment.recorder.of("settled")) == 1, "it was settled, and must not be sent again"

    async def test_after_the_answer_and_before_its_settle(self, deployment: Deployment) -> None:
        """The one case in which a run that succeeded is sent again, because its result was never recorded. It has the
        same id."""
        survivor, victim = await two_nodes(deployment)
        await deployment.put(survivor, "a", soon())
        survivor.freeze()
        settle = deployment.proxy.on(script("job/settle"), lose="request", times=1_000_000)
        await settle.triggered()
        killed_at = deployment.now_ms()
        await victim.kill()
        deployment.record_fault(killed_at - 1000)
        survivor.thaw()
        await deployment.recorder.until(lambda: len(deployment.recorder.of("a")) == 2, seconds=TAKEN_OVER_SECONDS)
        first, second = deployment.recorder.of("a")
        assert second.run_id == first.run_id
        assert second.fence > first.fence
        (account,) = await deployment.check()
        assert [run.id for run in account.runs] == [first.run_id]

    @staticmethod
    def _due(deployment: Deployment) -> int:
        """Return the fire time of the only job."""
        (put,) = deployment.puts.values()
        second = int(put.cron.split()[0])
        at = int(put.acked_at_ms // 1000)
        while at % 60 != second:
            at += 1
        return at * 1000


class TestKilledWithItsEmbeddedRedis:
    async def test_jobs_survive_and_open_runs_are_sent_again_at_once(self, deployment: Deployment) -> None:
        data = deployment.processes.directory / "data"
        server = await deployment.start("serve", redis_url="", data_dir=data)
        redis = next(pid for pid in processes_under(data) if pid != server.pid)
        await deployment.put(server, "open", soon())
        await deployment.put(server, "second")
        hold = deployment.recorder.hold("open")
        await deployment.recorder.until(lambda: hold.has_arrived)
        deployment.record_fault(deployment.now_ms() - 500)  # a run whose settle was under way is sent again
        await server.kill()
        await eventually(lambda: not is_alive(redis), what="the redis-server should end with its server")

        # It must not wait for the end of the lease. On a slow machine a second may not be enough for a request.
        again = deployment.processes.cronpost("serve", data_dir=data, dead_after_seconds=60, downtime_after_seconds=60)
        await again.started()
        await deployment.recorder.until(lambda: len(deployment.recorder.of("open")) == 2, seconds=20)
        first, second = deployment.recorder.of("open")
        assert second.run_id == first.run_id
        assert second.fence > first.fence
        await deployment.recorder.until_requests(1, "second")
        await deployment.check(embedded=EmbeddedRedis(data))

    async def test_all_open_runs_are_sent_again_at_once_after_two_kills_in_a_row(self, deployment: Deployment) -> None:
        data = deployment.processes.directory / "data"
        server = await deployment.start("serve", redis_url="", data_dir=data)
        jobs = [f"job{number:02}" for number in range(20)]
        holds = [[deployment.recorder.hold(job_id) for job_id in jobs] for _ in range(3)]
        await deployment.put_many(server, *jobs, cron=soon(8))
        for opened in holds:
            # None of them is answered: if all are open at once, they are not sent one after the other.
            await deployment.recorder.until(partial(all_arrived, opened))
            if opened is holds[-1]:
                break
            deployment.record_fault(deployment.now_ms() - 500)
            redis = next(pid for pid in processes_under(data) if pid != server.pid)
            await server.kill()
            await eventually(partial(has_ended, redis), what="the redis-server should end with its server")
            server = deployment.processes.cronpost("serve", data_dir=data)
            await server.started()
        for job_id in jobs:
            received = deployment.recorder.of(job_id)
            assert [one.attempt for one in received] == [1, 2, 3]
            assert len({one.run_id for one in received}) == 1
        for hold in holds[-1]:
            hold.release()
        accounts = await deployment.check(embedded=EmbeddedRedis(data))
        for account in accounts:
            (run,) = account.runs
            assert run.state is RunState.SUCCEEDED

    async def test_a_second_server_on_its_data_directory_stops_with_an_error(self, deployment: Deployment) -> None:
        data = deployment.processes.directory / "data"
        server = await deployment.start("serve", redis_url="", data_dir=data)
        await deployment.put(server, "a")
        second = deployment.processes.cronpost("serve", data_dir=data)
        assert await second.ended() == 1
        assert str(data) in second.output()
        assert str(server.pid) in second.output(), "it should name the process that holds the directory"
        assert "Traceback" not in second.output()
        await deployment.recorder.until_requests(2, "a")
        await deployment.check(embedded=EmbeddedRedis(data))

    async def test_jobs_survive_a_kill_of_its_redis_alone(self, deployment: Deployment) -> None:
        data = deployment.processes.directory / "data"
        server = await deployment.start("serve", redis_url="", data_dir=data)
        # With Cronpost's own settings, a kill of Redis alone may lose the last second of answered writes.
        assert ask(EmbeddedRedis(data).socket_path, "CONFIG", "SET", "appendfsync", "always") == "+OK"
        await deployment.put_many(server, "a", "b")
        await deployment.recorder.until_requests(1, "a", "b")
        redis = next(pid for pid in processes_under(data) if pid != server.pid)
        os.kill(redis, signal.SIGKILL)
        await eventually(lambda: not is_alive(redis))
        await server.ready()
        await deployment.recorder.until_requests(2, "a", "b")
        await deployment.check(embedded=EmbeddedRedis(data))


class TestFrozen:
    async def test_a_node_frozen_for_longer_than_its_lease_has_its_late_result_refused(
        self, deployment: Deployment
    ) -> None:
        await deployment.redis.start()
        victim, survivor = await asyncio.gather(deployment.start("serve"), deployment.start("node"))
        survivor.freeze()  # so that the node that will be frozen claims
        await deployment.put(victim, "a", soon())
        hold = await held(deployment, "a")
        victim.freeze()
        frozen_at = deployment.now_ms()
        taken_over = deployment.recorder.hold("a")
        survivor.thaw()
        await deployment.recorder.until(lambda: taken_over.has_arrived, seconds=TAKEN_OVER_SECONDS)
        hold.release(500)  # waits in the frozen node's socket
        await deployment.recorder.until(lambda: hold.received.ended_ms is not None)
        victim.thaw()
        deployment.record_fault(frozen_at, deployment.now_ms())
        await victim.logged(SETTLEMENT_REFUSED)  # only the fence shows it: the run is still open
        taken_over.release(200)
        await deployment.recorder.until(lambda: taken_over.received.ended_ms is not None)
        assert await victim.metric("cronpost_settles_refused_total") == 1
        assert victim.events(NODE_HELD_UP)
        first, second = deployment.recorder.of("a")
        assert (first.run_id, first.fire_time_ms) == (second.run_id, second.fire_time_ms)
        assert second.fence > first.fence
        (account,) = await deployment.check()
        (run,) = account.runs
        assert run.state is RunState.SUCCEEDED, "the late 500 must not count"
        assert [(one.fence, one.outcome.value) for one in run.attempts] == [
            (first.fence, "lost"),
            (second.fence, "response"),
        ]
        await victim.ready()

    async def test_a_node_frozen_for_less_than_its_lease_keeps_its_runs(self, deployment: Deployment) -> None:
        victim = await deployment.start("serve", heartbeat_seconds=1, dead_after_seconds=5, downtime_after_seconds=6)
        survivor = await deployment.start("node", heartbeat_seconds=1, dead_after_seconds=5, downtime_after_seconds=6)
        survivor.freeze()
        await deployment.put(victim, "a", soon())
        hold = await held(deployment, "a")
        victim.freeze()
        frozen = time.monotonic()
        survivor.thaw()
        await eventually(lambda: time.monotonic() - frozen > 1.5)
        victim.thaw()
        hold.release()
        await deployment.check(lease_ms=3000)
        assert len(deployment.recorder.of("a")) == 1
        assert await victim.metric("cronpost_settles_refused_total") == 0

    async def test_a_node_that_is_cut_off_from_redis_loses_its_runs_to_another(self, deployment: Deployment) -> None:
        survivor, victim = await two_nodes(deployment)
        await deployment.put(survivor, "a", soon())
        survivor.freeze()
        hold = await held(deployment, "a")
        deployment.proxy.black_hole()
        cut_off_at = deployment.now_ms()
        survivor.thaw()
        await deployment.recorder.until(lambda: len(deployment.recorder.of("a")) == 2, seconds=TAKEN_OVER_SECONDS)
        hold.release(500)
        await deployment.recorder.until(lambda: all(one.ended_ms is not None for one in deployment.recorder.of("a")))
        deployment.record_fault(cut_off_at, deployment.now_ms())
        deployment.proxy.heal()
        await victim.logged(SETTLEMENT_REFUSED)
        (account,) = await deployment.check()
        (run,) = account.runs
        assert run.state is RunState.SUCCEEDED


class TestStopped:
    async def test_sigterm_drains_and_releases_the_rest(self, deployment: Deployment) -> None:
        stopping = await deployment.start("serve", drain_grace_seconds=1)
        await deployment.put_many(stopping, "quick", "slow", cron=soon())
        deployment.recorder.script("quick", Answer(200, after_seconds=0.6))
        hold = deployment.recorder.hold("slow")
        await deployment.recorder.until(lambda: hold.has_arrived and bool(deployment.recorder.of("quick")))
        other = await deployment.start("node")
        stopping.terminate()
        assert await stopping.ended() == 0
        (stopped,) = stopping.events(NODE_STOPPED)
        assert stopped["released"] == 1
        assert stopped["settled"] is True
        await deployment.recorder.until(lambda: len(deployment.recorder.of("slow")) == 2)
        first, second = deployment.recorder.of("slow")
        assert first.client_gone
        assert second.run_id == first.run_id
        assert second.fence > first.fence
        assert not other.events("run reaped"), "the node released it; it was not reaped"
        await deployment.check()
        assert [one.status for one in deployment.recorder.of("quick")] == [200], "it ended within the grace time"

    async def test_sigterm_with_nothing_open_ends_at_once(self, deployment: Deployment) -> None:
        server = await deployment.start("serve", drain_grace_seconds=60)
        await deployment.put(server, "a")
        await deployment.recorder.until_requests(1, "a")
        server.terminate()
        assert await server.ended() == 0
        assert server.events(NODE_STOPPED)

    async def test_a_second_signal_ends_it_at_once(self, deployment: Deployment) -> None:
        server = await deployment.start("serve", drain_grace_seconds=600)
        await deployment.put(server, "a", soon())
        hold = deployment.recorder.hold("a")
        await deployment.recorder.until(lambda: hold.has_arrived)
        server.terminate()
        await server.logged("node draining")
        server.signal(signal.SIGINT)
        assert await server.ended() == 130
        await deployment.recorder.until(lambda: hold.received.client_gone)
        assert not server.events(NODE_STOPPED)

    async def test_open_runs_are_settled_if_redis_fails_during_the_drain_and_returns(
        self, deployment: Deployment
    ) -> None:
        server = await deployment.start("serve", drain_grace_seconds=20)
        await deployment.put(server, "a", soon())
        hold = deployment.recorder.hold("a")
        await deployment.recorder.until(lambda: hold.has_arrived)
        await deployment.redis.kill()
        server.terminate()
        await server.logged("node draining")
        hold.release()
        await deployment.redis.start()
        assert await server.ended() == 0
        await deployment.check()
        assert len(deployment.recorder.of("a")) == 1


def test_the_settings_of_these_tests_have_the_same_order_as_the_defaults() -> None:
    beat, dead, down = (float(str(FAST[f"{name}_seconds"])) for name in ("heartbeat", "dead_after", "downtime_after"))
    assert 3 * beat <= dead <= down
