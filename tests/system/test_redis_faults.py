"""Redis is away, full, read-only, locked, slow or loses replies while jobs fire. Afterwards all fire times are
accounted for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Literal

import pytest

from scheduler_core.base.events import STORE_LOST
from scheduler_core.model.run import MissReason, Reason
from tests.support.fault_proxy import Command, argument, script, took_jobs
from tests.support.processes import Cronpost, eventually
from tests.system.deployment import Deployment

JOBS = ("a", "b", "c")


async def not_ready(server: Cronpost, why: str) -> None:
    """Wait until /ready answers 503 with ``why`` among the reasons. The process keeps running."""

    async def says_why() -> bool:
        ready, reasons = await server.readiness()
        return not ready and why in reasons

    await eventually(says_why, what=f"/ready should report {why!r}")
    assert (await (await server.api()).get("/health")).status_code == 200


async def firing(deployment: Deployment, server: Cronpost) -> None:
    """Wait until the server is ready, and all jobs fire."""
    await server.ready()
    await deployment.recorder.until_requests(1, *JOBS)


@pytest.fixture
async def server(deployment: Deployment) -> AsyncIterator[Cronpost]:
    """A server with its own Redis, and three jobs that fire every second."""
    server = await deployment.start()
    await deployment.put_many(server, *JOBS)
    await firing(deployment, server)
    yield server
    await firing(deployment, server)
    await deployment.check()
    assert server.is_running


async def test_jobs_fire_again_after_redis_is_killed_and_returns(deployment: Deployment, server: Cronpost) -> None:
    await deployment.redis.kill()
    await not_ready(server, "did not answer")
    await deployment.redis.start()


async def test_a_run_survives_a_kill_of_redis_while_its_request_is_open(
    deployment: Deployment, server: Cronpost
) -> None:
    hold = deployment.recorder.hold("a")
    await deployment.recorder.until(lambda: hold.has_arrived)
    await deployment.redis.kill()
    await not_ready(server, "did not answer")
    hold.release()
    await deployment.recorder.until(lambda: hold.received.ended_ms is not None)
    began = time.time() * 1000
    await deployment.redis.start()
    await firing(deployment, server)
    assert [one.run_id for one in deployment.recorder.of("a")].count(hold.received.run_id) == 1, (
        f"the kept result should have been settled after {began:.0f}"
    )


async def test_a_fire_time_in_a_long_outage_is_downtime_and_recovery_follows(deployment: Deployment) -> None:
    server = await deployment.start(downtime_after_seconds=1.5)
    second = int(time.time() + 1.5) % 60
    cron = f"{second} * * * * *"
    await deployment.put(server, "recovered", cron, recovery_check=True)
    await deployment.put(server, "skipped", cron)
    await deployment.redis.kill()
    await eventually(lambda: int(time.time()) % 60 == (second + 1) % 60)
    assert not deployment.recorder.received
    await deployment.redis.start()
    await deployment.recorder.until_requests(1, "recovered")
    recovered, skipped = await deployment.check()
    assert [run.reason for run in recovered.all_runs] == [Reason.RECOVERY]
    assert not recovered.misses
    assert not skipped.all_runs
    assert [miss.reason for miss in skipped.misses] == [MissReason.DOWNTIME]


async def test_jobs_fire_again_after_redis_has_loaded_its_data(deployment: Deployment, server: Cronpost) -> None:
    # While Redis loads, it serves its clients once per two megabytes.
    for number in range(30):
        await deployment.redis.client.set(f"ballast:{number}", os.urandom(1 << 20))
    await deployment.redis.command("BGREWRITEAOF")  # a snapshot at the head of the file: its loading can be slowed down

    async def rewritten() -> bool:
        info = await deployment.redis.client.info("persistence")
        return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]

    await eventually(rewritten)
    await deployment.redis.kill()
    deployment.redis.spawn(key_load_delay=100_000)
    await not_ready(server, "loading")
    answer = await (await server.api()).post(
        "/", json={"id": "new", "endpoint": deployment.recorder.url, "cron": "@hourly", "payload": 1}
    )
    assert answer.status_code == 429
    assert answer.headers["Retry-After"]
    await eventually(deployment.redis.answers)


async def test_jobs_fire_again_after_redis_was_out_of_memory(deployment: Deployment, server: Cronpost) -> None:
    hold = deployment.recorder.hold("a")
    await deployment.recorder.until(lambda: hold.has_arrived)
    await deployment.redis.set_config("maxmemory", 1)
    await not_ready(server, "out of memory")
    hold.release()
    answer = await (await server.api()).post(
        "/", json={"id": "new", "endpoint": deployment.recorder.url, "cron": "@hourly", "payload": 1}
    )
    assert answer.status_code == 429
    assert answer.headers["Retry-After"]
    assert (await (await server.api()).get("/jobs/new")).status_code == 404
    await deployment.redis.set_config("maxmemory", 0)


async def test_jobs_fire_again_after_redis_was_a_replica(deployment: Deployment, server: Cronpost) -> None:
    await deployment.redis.command("REPLICAOF", "127.0.0.1", "1")
    await not_ready(server, "READONLY")
    await deployment.redis.command("REPLICAOF", "NO", "ONE")


async def test_the_server_survives_a_change_of_the_password_of_redis(deployment: Deployment, server: Cronpost) -> None:
    await deployment.redis.client.ping()  # this connection stays open and authenticated
    await deployment.redis.set_config("requirepass", "another")
    await deployment.redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await not_ready(server, "Authentication required")
    answer = await (await server.api()).delete("/", params={"job_id": "a"})
    assert answer.status_code == 422
    await deployment.redis.set_config("requirepass", "")


async def test_a_server_with_a_wrong_password_waits_until_the_password_is_right(deployment: Deployment) -> None:
    deployment.redis.password = "right"
    await deployment.redis.start()
    server = deployment.processes.cronpost("serve", redis_url=deployment.redis.url.replace("right", "wrong"))
    await not_ready(server, "refuses")
    assert "wrong" not in server.output().replace("wrong number", "").replace("WRONGPASS", "")
    answer = await (await server.api()).post(
        "/", json={"id": "a", "endpoint": deployment.recorder.url, "cron": "@hourly", "payload": 1}
    )
    assert answer.status_code == 422
    await deployment.redis.set_config("requirepass", "wrong")
    await server.started()
    await deployment.put_many(server, *JOBS)
    await deployment.recorder.until_requests(1, *JOBS)
    await deployment.redis.set_config("requirepass", "right")
    await deployment.check()


async def test_a_server_without_redis_waits_until_redis_runs(deployment: Deployment) -> None:
    server = deployment.processes.cronpost("serve", redis_url=deployment.redis.url)
    await not_ready(server, "did not answer")
    answer = await (await server.api()).post(
        "/", json={"id": "a", "endpoint": deployment.recorder.url, "cron": "@hourly", "payload": 1}
    )
    assert answer.status_code == 429
    await deployment.redis.start()
    await server.started()
    await deployment.put_many(server, *JOBS)
    await deployment.recorder.until_requests(1, *JOBS)
    await deployment.check()


async def test_jobs_fire_while_the_script_cache_is_flushed_repeatedly(deployment: Deployment, server: Cronpost) -> None:
    enough = asyncio.Event()

    async def flush() -> None:
        while not enough.is_set():  # not cancelled: redis-py swallows some cancellations
            await deployment.redis.command("SCRIPT", "FLUSH")
            await asyncio.sleep(0.005)

    flushing = asyncio.create_task(flush())
    await deployment.recorder.until_requests(2, *JOBS)
    enough.set()
    await flushing
    assert (await deployment.redis.client.info("stats"))["total_error_replies"] > 0, "no call met an empty cache"
    assert not server.events(STORE_LOST), "an empty cache is no fault"


async def test_jobs_fire_again_after_redis_was_frozen_for_longer_than_the_timeout(
    deployment: Deployment, server: Cronpost
) -> None:
    deployment.redis.child.freeze()
    await not_ready(server, "did not answer")
    deployment.redis.child.thaw()


async def behind_the_proxy(deployment: Deployment) -> Cronpost:
    server = await deployment.start(through_proxy=True)
    await deployment.put_many(server, *JOBS)
    await firing(deployment, server)
    return server


@pytest.mark.parametrize("lose", ["request", "reply"])
async def test_lost_calls_and_lost_replies_double_nothing(
    deployment: Deployment, lose: Literal["request", "reply"]
) -> None:
    """The node finds a claim that was carried out by its token, and a settle by its tag: sent again, neither fires nor
    records anything twice. No fault is recorded for the checker, so nothing excuses a second request."""
    server = await behind_the_proxy(deployment)
    for name in ("job/claim", "job/settle", "node/beat"):
        took = took_jobs if name == "job/claim" and lose == "reply" else None
        fault = deployment.proxy.on(script(name), lose=lose, if_reply=took, times=2)
        await eventually(lambda fault=fault: fault.used_up, what=f"two calls of {name}")  # type: ignore[misc]
    await firing(deployment, server)
    await deployment.check()
    assert await server.metric("cronpost_settles_refused_total") == 0


async def test_a_claim_that_arrives_after_its_timeout_strands_no_job(deployment: Deployment) -> None:
    """The network may deliver a command after its sender has timed out, here even after the node has looked in vain for
    the jobs that the claim took. Only this node could find these jobs later: it is alive, so no node reaps them."""
    server = await deployment.start(through_proxy=True)
    due = int(time.time() + 1.5)

    def claims_the_jobs(command: Command) -> bool:
        return script("job/claim")(command) and int(argument(command, 1)) >= due * 1000

    late = deployment.proxy.on(claims_the_jobs, hold="request")
    await deployment.put_many(server, *JOBS, cron=f"{due % 60},{(due + 3) % 60} * * * * *")
    await late.triggered()
    following = deployment.proxy.on(claims_the_jobs, hold="request")
    await following.triggered()
    assert any(script("job/recover_claims")(command) for _, command in deployment.proxy.seen)
    late.release()
    await eventually(lambda: late.forwarded)
    following.release()
    await firing(deployment, server)
    await deployment.check()


async def test_jobs_fire_again_after_a_silent_and_then_refused_connection_to_redis(deployment: Deployment) -> None:
    server = await behind_the_proxy(deployment)
    deployment.proxy.black_hole()
    await not_ready(server, "did not answer")
    deployment.proxy.heal()
    await firing(deployment, server)
    await deployment.proxy.refuse()
    await not_ready(server, "did not answer")
    await deployment.proxy.accept()
    await firing(deployment, server)
    await deployment.check()


async def test_jobs_fire_while_redis_answers_slowly(deployment: Deployment) -> None:
    server = await behind_the_proxy(deployment)
    deployment.proxy.delay_seconds = 0.2
    await deployment.recorder.until_requests(2, *JOBS)
    deployment.proxy.delay_seconds = 0.0
    await firing(deployment, server)
    await deployment.check()
