"""A log that nobody reads: the server and its node keep working, and the missing lines are counted."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

from scheduler_core.base.events import API_STOPPED, LOG_LINES_DROPPED, PROCESS_FAILED
from scheduler_core.store.redis.keys import Keys
from tests.support.processes import Cronpost, LogPipe, eventually
from tests.system.deployment import EVERY_SECOND, Deployment

JOBS = 200
SMALL_BACKLOG = "import scheduler_core.base.line_writer as lines; lines.BACKLOG_CHARACTERS = 20_000"
"""The queue fills soon after the pipe."""
DEAD_AFTER = 1.5


async def serve(deployment: Deployment, pipe: LogPipe, **settings: object) -> Cronpost:
    await deployment.redis.start()
    server = deployment.processes.cronpost(
        "serve",
        pipe=pipe,
        prelude=SMALL_BACKLOG,
        redis_url=deployment.redis.url,
        breaker_failures=1_000_000,
        **settings,
    )
    await server.started()
    return server


async def put_jobs_that_fail_each_second(server: Cronpost) -> None:
    """Put jobs whose runs log a few lines each: their port refuses connections."""
    with socket.socket() as refused:
        refused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{refused.getsockname()[1]}/"
    jobs = [{"id": f"job{n}", "endpoint": endpoint, "cron": EVERY_SECOND, "payload": n} for n in range(JOBS)]
    answer = await (await server.api()).post("/jobs:batch", json=jobs)
    assert answer.status_code == 200, answer.text


async def lines_are_dropped(server: Cronpost) -> None:
    """Wait until the pipe and the queue are full."""

    async def drops() -> bool:
        return await server.metric("cronpost_log_lines_dropped_total") > 0

    await eventually(drops, what="no line was dropped")


async def warnings(server: Cronpost) -> str:
    answer = await (await server.api()).get("/ready")
    assert answer.status_code == 200, answer.text
    return " ".join(answer.json().get("warnings", ()))


async def beats_of(deployment: Deployment) -> dict[bytes, float]:
    rows: Any = await deployment.redis.client.zrange(Keys().nodes, 0, -1, withscores=True)
    return dict(rows)


async def go_on(deployment: Deployment, server: Cronpost) -> None:
    """Wait until all nodes have sent heartbeats and fired for longer than a lease."""
    beats = await beats_of(deployment)
    attempts = await server.metric("cronpost_attempts_total")

    async def do() -> bool:
        later = await beats_of(deployment)
        assert later.keys() == beats.keys()
        fired = await server.metric("cronpost_attempts_total")
        return all(later[node] > beats[node] + 2000 * DEAD_AFTER for node in beats) and fired > attempts + JOBS

    await eventually(do, what="no heartbeat, or nothing fires")
    health = await (await server.api()).get("/health")
    assert health.status_code == 200


async def test_a_server_whose_log_is_not_read_keeps_working_and_reports_the_missing_lines(
    deployment: Deployment,
) -> None:
    pipe = LogPipe()
    server = await serve(deployment, pipe, heartbeat_seconds=0.3, dead_after_seconds=DEAD_AFTER)
    pipe.stall()
    await put_jobs_that_fail_each_second(server)
    await lines_are_dropped(server)
    await go_on(deployment, server)
    assert "lines were dropped" in await warnings(server)

    pipe.read()
    reported = await server.logged(LOG_LINES_DROPPED)

    async def all_is_said() -> bool:
        return "lines were dropped" not in await warnings(server)

    await eventually(all_is_said, what="the warning stays")

    async def all_are_counted() -> bool:
        dropped = await server.metric("cronpost_log_lines_dropped_total")
        reported: int = sum(event["count"] for event in server.events(LOG_LINES_DROPPED))
        return reported == dropped

    await eventually(all_are_counted, what="the number of reported lines differs from the counter")
    assert reported[0]["level"] == "warning"
    seen = len(server.events())
    await eventually(lambda: len(server.events()) > seen + JOBS, what="no lines again")
    server.terminate()
    assert await server.ended() == 0
    await eventually(lambda: server.events(API_STOPPED), what="the last line was not written")


async def test_the_nodes_of_a_server_whose_log_is_not_read_keep_working(deployment: Deployment) -> None:
    pipe = LogPipe()
    server = await serve(deployment, pipe, nodes=2, heartbeat_seconds=0.3, dead_after_seconds=DEAD_AFTER)
    pipe.stall()
    await put_jobs_that_fail_each_second(server)

    async def enough_is_logged() -> bool:
        return await server.metric("cronpost_attempts_total") > 65_536 / 100

    await eventually(enough_is_logged, what="nothing fires")
    await go_on(deployment, server)


async def test_a_server_whose_log_is_not_read_can_be_stopped(deployment: Deployment) -> None:
    pipe = LogPipe()
    server = await serve(deployment, pipe)
    pipe.stall()
    await put_jobs_that_fail_each_second(server)

    await lines_are_dropped(server)
    server.terminate()
    assert await server.ended() == 0


async def test_a_crash_is_logged_as_the_last_line(deployment: Deployment) -> None:
    crash = "import scheduler_api.server.process as p\nasync def main(*_): raise RuntimeError('that was that')\n"
    crash += "p.Process._main = main"
    server = deployment.processes.cronpost(
        "serve", pipe=LogPipe(), prelude=crash, data_dir=deployment.processes.directory / "d"
    )
    assert await server.ended() == 1
    await eventually(lambda: server.events(PROCESS_FAILED), what="the crash was not logged")
    assert "that was that" in server.events(PROCESS_FAILED)[0]["exception"]


async def test_a_second_signal_ends_a_server_whose_log_is_not_read_at_once(deployment: Deployment) -> None:
    pipe = LogPipe()
    hold = deployment.recorder.hold("held")
    server = await serve(deployment, pipe, drain_grace_seconds=600, attempt_timeout_seconds=600)
    await deployment.put(server, "held")
    await deployment.recorder.until(lambda: hold.has_arrived)
    pipe.stall()
    await put_jobs_that_fail_each_second(server)
    await lines_are_dropped(server)
    server.signal(signal.SIGTERM)

    async def drains() -> bool:
        ready = (await (await server.api()).get("/ready")).json()
        return "shutting down" in ready["reasons"]

    await eventually(drains, what="it does not drain")
    os.kill(server.pid, signal.SIGTERM)
    assert await server.ended() == 130
