"""One server with several nodes, each a process of its own: all fire, and none of them outlives the server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from scheduler_core.base.errors import DataDirectoryInUse
from scheduler_core.base.events import (
    METRICS_SERVED,
    NODE_DRAINING,
    NODE_PROCESS_ENDED,
    NODE_PROCESS_STARTED,
    NODE_STARTED,
    NODE_STOPPED,
    REDIS_STOPPED,
    RUN_REAPED,
    RUN_SETTLED,
)
from scheduler_core.embedded import EmbeddedRedis, directory
from scheduler_core.store.redis.keys import Keys
from tests.support.processes import Cronpost, eventually, freeze, is_alive, processes_under
from tests.system.deployment import Deployment

SETTINGS: dict[str, Any] = {"heartbeat_seconds": 0.5, "dead_after_seconds": 2.5, "downtime_after_seconds": 5}
"""Four interpreters that start on a busy machine can delay each other's heartbeats for a second."""
LEASE_MS = 1500.0


async def serve(deployment: Deployment, nodes: int, **settings: Any) -> Cronpost:
    """Return a server with its own Redis, when all of its nodes work."""
    data = deployment.processes.directory / "data"
    server = await deployment.start("serve", redis_url="", data_dir=data, nodes=nodes, **SETTINGS, **settings)
    await all_work(server, nodes)
    return server


async def all_work(server: Cronpost, nodes: int) -> None:
    async def they_do() -> bool:
        answer = await (await server.api()).get("/ready")
        return bool(answer.json().get("nodes") == {"wanted": nodes, "working": nodes})

    await eventually(they_do, what="not all nodes work")


def pids(server: Cronpost) -> dict[str, int]:
    """Node id to process id, for all that were ever started."""
    return {event["node"]: event["pid"] for event in server.events(NODE_PROCESS_STARTED)}


async def check(deployment: Deployment) -> None:
    """Check the promises while the server and its Redis run."""
    await deployment.check(embedded=EmbeddedRedis(deployment.processes.directory / "data"), lease_ms=LEASE_MS)


async def holder_of_an_open_run(deployment: Deployment, server: Cronpost) -> int:
    """Return the process whose request the runner keeps open."""
    hold = deployment.recorder.hold("held")
    await deployment.put(server, "held")
    await deployment.recorder.until(lambda: hold.has_arrived)
    redis = EmbeddedRedis(deployment.processes.directory / "data")
    async with Redis.from_url(redis.url) as client:
        lease = await client.hget(Keys().leases, "held")
    assert isinstance(lease, bytes)
    return pids(server)[lease.decode().split()[1]]


async def test_all_nodes_fire_and_their_metrics_add_up_also_when_one_was_killed(deployment: Deployment) -> None:
    server = await serve(deployment, 3, max_in_flight=10)
    jobs = [f"job{number}" for number in range(25)]
    deployment.recorder.otherwise = dict.fromkeys(
        jobs, deployment.recorder.slow(0.3)
    )  # more than two nodes can keep open
    await deployment.put_many(server, *jobs)

    def firing() -> set[str]:
        return {event["node"] for event in server.events(RUN_SETTLED)}

    await eventually(lambda: len(firing()) == 3, what="not all nodes fire")
    assert firing() == pids(server).keys()
    assert len(server.events(NODE_STARTED)) == 3

    before = await server.metric("cronpost_attempts_total")
    assert before > 0
    victim = await holder_of_an_open_run(deployment, server)
    killed_at = deployment.now_ms()
    os.kill(victim, signal.SIGKILL)
    deployment.record_fault(killed_at - 100)
    await server.logged(NODE_PROCESS_STARTED, count=4)
    assert victim not in {pid for pid in pids(server).values() if is_alive(pid)}
    await all_work(server, 3)
    assert await server.metric("cronpost_node_restarts_total") == 1
    await server.logged(RUN_REAPED)
    await deployment.recorder.until(lambda: len(deployment.recorder.of("held")) > 1)
    first, second = deployment.recorder.of("held")[:2]
    assert second.run_id == first.run_id
    assert second.fence > first.fence
    await check(deployment)
    assert await server.metric("cronpost_attempts_total") >= before, "what a dead node had counted stays counted"

    (ended,) = server.events(NODE_PROCESS_ENDED)
    assert ended["pid"] == victim
    await asyncio.gather(*(deployment.delete(server, job_id) for job_id in deployment.puts))
    # Each settled run is logged once. The counts of the dead node since the last scrape are lost.
    uncounted = len(server.events(RUN_SETTLED)) - await server.metric("cronpost_runs_total")
    assert uncounted <= sum(pids(server)[event["node"]] == victim for event in server.events(RUN_SETTLED))


async def test_a_killed_server_leaves_no_process_and_its_runs_are_sent_again_at_once(deployment: Deployment) -> None:
    server = await serve(deployment, 2)
    holder = await holder_of_an_open_run(deployment, server)
    other = next(pid for pid in pids(server).values() if pid != holder)
    freeze(other)  # the worst case: a child that is frozen notices nothing
    redis = set(processes_under(deployment.processes.directory / "data"))
    killed_at = deployment.now_ms()
    await server.kill()
    deployment.record_fault(killed_at - 100)
    again = deployment.processes.cronpost(
        "serve", redis_url="", data_dir=deployment.processes.directory / "data", nodes=2, **SETTINGS
    )
    await again.started()
    assert not any(is_alive(pid) for pid in [holder, other, *redis])
    await deployment.recorder.until(lambda: len(deployment.recorder.of("held")) > 1)
    first, second = deployment.recorder.of("held")[:2]
    assert second.run_id == first.run_id
    assert second.fence > first.fence
    reaped = again.events(RUN_REAPED)
    assert reaped, "the first node voids all leases and does not wait for their end"
    assert next(one["event"] for one in again.events() if one["event"] in {RUN_REAPED, NODE_STARTED}) == RUN_REAPED
    await all_work(again, 2)
    await check(deployment)


def test_no_server_starts_while_a_node_of_an_earlier_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would void the leases of that node."""
    monkeypatch.setattr(directory, "LOCK_SECONDS", 0.2)
    server = EmbeddedRedis(tmp_path)
    server.start()
    lock = server.lock
    assert lock is not None
    node = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    try:
        server.stop()  # the process that started both is gone
        assert server.lock is None
        with pytest.raises(DataDirectoryInUse, match="or a node of it"):
            EmbeddedRedis(tmp_path).start()
    finally:
        node.kill()
        node.wait()
    with EmbeddedRedis(tmp_path) as again:
        assert again.pid is not None


async def test_all_nodes_drain_when_the_server_stops(deployment: Deployment) -> None:
    server = await serve(deployment, 2)
    hold = deployment.recorder.hold("held")
    await deployment.put(server, "held")
    await deployment.recorder.until(lambda: hold.has_arrived)
    open_request = deployment.recorder.of("held")[0]
    processes = {*pids(server).values(), *processes_under(deployment.processes.directory / "data")}
    server.terminate()
    await server.logged(NODE_DRAINING, count=2)
    assert not open_request.client_gone
    hold.release(200)
    assert await server.ended() == 0
    assert not any(is_alive(pid) for pid in processes)
    assert len(server.events(NODE_STOPPED)) == 2
    assert server.events()[-1]["event"] == REDIS_STOPPED
    assert not server.events(NODE_PROCESS_ENDED)


async def test_nodes_without_an_api_show_their_state_on_their_own_port(deployment: Deployment) -> None:
    api = await deployment.start("api")
    warning = (await (await api.api()).get("/ready")).json()
    assert warning["ready"]
    callbacks_refused, no_node = warning["warnings"]
    assert "CRONPOST_PUBLIC_URL is not set, so jobs with completion 'callback' are refused" in callbacks_refused
    assert "no node is alive" in no_node

    settings = {**SETTINGS, "public_url": "http://cronpost.test"}
    nodes = deployment.processes.cronpost("node", redis_url=deployment.redis.url, nodes=2, metrics_port=0, **settings)
    address = (await nodes.logged(METRICS_SERVED))[0]["address"]
    await nodes.logged(NODE_PROCESS_STARTED, count=2)
    ready = {"ready": True, "reasons": [], "warnings": [callbacks_refused]}
    assert (await (await api.api()).get("/ready")).json() == ready
    await deployment.put(api, "a")
    await deployment.recorder.until_requests(1, "a")
    async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
        assert (await client.get("/health")).json() == {"status": "healthy", "scheduler_running": True}
        assert (await client.get("/jobs")).status_code == 404
        ready = (await client.get("/ready")).json()
        assert ready == {"ready": True, "reasons": [], "nodes": {"wanted": 2, "working": 2}}

        async def text() -> str:
            return (await client.get("/metrics", headers={"Accept": "text/plain"})).text

        async def counted() -> bool:
            return 'cronpost_runs_total{reason="scheduled",state="succeeded"}' in await text()

        await eventually(counted)
        frozen = nodes.events(NODE_PROCESS_STARTED)[0]
        freeze(frozen["pid"])
        assert "cronpost_nodes_silent 1.0" in await text()
        ready = (await client.get("/ready")).json()
        assert ready["ready"], "the other one works"
        assert ready["warnings"] == [f"node {frozen['number']}: it does not answer"]
        assert ready["nodes"] == {"wanted": 2, "working": 1}
        os.kill(frozen["pid"], signal.SIGCONT)

        async def both_answer() -> bool:
            return "cronpost_nodes_silent 0.0" in await text()

        await eventually(both_answer)
    nodes.terminate()
    assert await nodes.ended() == 0
