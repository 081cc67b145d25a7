"""The process of the peer APScheduler 3. Each choice is the one that is faster for APScheduler.

An interval trigger (cheaper than its cron trigger), no log, no history, uvloop, one aiohttp session with as many
connections as Cronpost may have open.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import uvloop
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.redis import RedisJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from benchmarks.load import job_id, payload_of
from benchmarks.peers.command import Command
from benchmarks.sink import FIRE_MS_HEADER, JOB_HEADER

CONNECTIONS = 1000
LONGEST_COMMAND = 1 << 26
GRACE_SECONDS = 3600
"""How late APScheduler may still start a job. With its default of one second it would drop late jobs."""


class Peer:
    """What a job needs to send its request. APScheduler calls a plain function, so the values are shared."""

    session: aiohttp.ClientSession
    url: str
    fire_time: contextvars.ContextVar[datetime] = contextvars.ContextVar("fire_time")


class Executor(AsyncIOExecutor):  # type: ignore[misc]
    """Passes the fire time to the job, which APScheduler does not do."""

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        Peer.fire_time.set(run_times[-1])  # the task that runs the job copies this context
        super()._do_submit_job(job, run_times)


async def send(job: str, payload: bytes) -> None:
    """The job."""
    headers = {
        "Content-Type": "application/json",
        JOB_HEADER: job,
        FIRE_MS_HEADER: str(round(Peer.fire_time.get().timestamp() * 1000)),
    }
    async with Peer.session.post(Peer.url, data=payload, headers=headers) as answer:
        await answer.read()


def _at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _add(scheduler: Any, command: Command) -> None:
    now_ms = datetime.now(UTC).timestamp() * 1000
    if command.kind == "once":
        for number, fire in enumerate(command.fires):
            arguments = (fire.job, payload_of(number))
            scheduler.add_job(send, "date", run_date=_at(fire.at_ms), args=arguments, id=fire.job)
        return
    daily = command.kind == "daily"
    start = _at(command.at_ms) if daily else _at(int(now_ms // 1000 + 1) * 1000)
    for number in range(command.first, command.first + command.count):
        name = job_id("j", number)
        scheduler.add_job(
            send,
            "interval",
            seconds=86_400 if daily else 1,
            start_date=start,
            args=(name, payload_of(number)),
            id=name,
        )


async def _main(socket: str, url: str) -> None:
    Peer.url = url
    Peer.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))
    jobs = RedisJobStore(unix_socket_path=socket) if socket else MemoryJobStore()
    scheduler = AsyncIOScheduler(
        jobstores={"default": jobs},
        executors={"default": Executor()},
        job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": GRACE_SECONDS},
        timezone=UTC,
    )
    scheduler.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    commands = asyncio.StreamReader(limit=LONGEST_COMMAND)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ok", flush=True)

    async def obey() -> None:
        try:
            while line := await commands.readline():
                scheduler.pause()  # otherwise each added job makes it search all of them
                _add(scheduler, msgspec.json.decode(line, type=Command))
                scheduler.resume()
                print("ok", flush=True)
        finally:
            stopping.set()  # the measuring process notices the end of the process

    obeying = asyncio.create_task(obey())
    await stopping.wait()
    obeying.cancel()
    scheduler.shutdown(wait=False)
    await Peer.session.close()


def main() -> None:
    """Arguments: the socket of Redis, or "" for jobs in memory, and the URL of the sink."""
    socket, url = sys.argv[1:]
    uvloop.run(_main(socket, url))


if __name__ == "__main__":
    main()
