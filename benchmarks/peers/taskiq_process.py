"""The process of the peer taskiq: scheduler and worker on one event loop, schedules and queue in Redis.

Each choice is the one that is faster for taskiq: a Redis list as the queue (its stream broker, which acknowledges,
costs more), an interval instead of a cron expression (which has a resolution of a minute), orjson, uvloop, no results,
one aiohttp session.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import sys
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import uvloop
from taskiq import TaskiqScheduler  # type: ignore[import-not-found, unused-ignore]
from taskiq.api import run_receiver_task  # type: ignore[import-not-found, unused-ignore]
from taskiq.cli.scheduler.run import SchedulerLoop  # type: ignore[import-not-found, unused-ignore]
from taskiq.scheduler.scheduled_task import ScheduledTask  # type: ignore[import-not-found, unused-ignore]
from taskiq.serializers import ORJSONSerializer  # type: ignore[import-not-found, unused-ignore]
from taskiq_redis import ListQueueBroker, ListRedisScheduleSource  # type: ignore[import-not-found, unused-ignore]

from benchmarks.load import job_id, payload_of
from benchmarks.peers.command import Command
from benchmarks.sink import FIRE_MS_HEADER, JOB_HEADER

CONNECTIONS = 1000
AT_ONCE = 1000
LOADERS = 32
LONGEST_COMMAND = 1 << 26
TASK = "bench:send"


class Sender:
    """What a task needs to send its request."""

    session: aiohttp.ClientSession
    url: str


async def send(job: str, payload: str, fire_ms: int) -> None:
    """The task."""
    headers = {"Content-Type": "application/json", JOB_HEADER: job, FIRE_MS_HEADER: str(fire_ms)}
    async with Sender.session.post(Sender.url, data=payload, headers=headers) as answer:
        await answer.read()


class Scheduler(TaskiqScheduler):  # type: ignore[misc, unused-ignore]
    """Passes the fire time to the task, which taskiq does not do: the second (for a cron expression the minute) in
    which its loop found the task due."""

    loop: Any = None

    async def on_ready(self, source: Any, task: Any) -> None:
        if task.interval is not None:
            # uvloop may wake a timer a little early.
            fire_ms = int(self.loop.interval_tasks_last_run[task.schedule_id].timestamp() + 0.02) * 1000
        else:
            fire_ms = int(self.loop.cron_tasks_last_run[task.schedule_id].timestamp() + 0.02) // 60 * 60_000
        task.kwargs["fire_ms"] = fire_ms
        await super().on_ready(source, task)


class Source(ListRedisScheduleSource):  # type: ignore[misc, unused-ignore]
    """Signals when the schedules have been read."""

    read: asyncio.Event

    async def get_schedules(self) -> Any:
        schedules = await super().get_schedules()
        self.read.set()
        return schedules


def _schedules(command: Command) -> list[Any]:
    when: dict[str, Any] = {"interval": 1}
    if command.kind == "daily":
        at = datetime.fromtimestamp(command.at_ms / 1000, UTC)
        when = {"cron": f"{at.minute} {at.hour} * * *"}
    return [
        ScheduledTask(
            task_name=TASK,
            labels={},
            args=[],
            kwargs={"job": job_id("j", number), "payload": payload_of(number).decode()},
            schedule_id=job_id("j", number),
            **when,
        )
        for number in range(command.first, command.first + command.count)
    ]


async def _store(source: Any, schedules: list[Any]) -> None:
    waiting = iter(schedules)

    async def load() -> None:
        for schedule in waiting:
            await source.add_schedule(schedule)

    await asyncio.gather(*(load() for _ in range(LOADERS)))


async def _main(redis_url: str, url: str) -> None:
    Sender.url = url
    Sender.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))
    broker = ListQueueBroker(redis_url, max_connection_pool_size=256).with_serializer(ORJSONSerializer())
    broker.register_task(send, task_name=TASK)
    source = Source(redis_url, max_connection_pool_size=LOADERS)
    scheduler = Scheduler(broker, [source])
    await broker.startup()
    await source.startup()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    commands = asyncio.StreamReader(limit=LONGEST_COMMAND)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    working = asyncio.create_task(run_receiver_task(broker, max_async_tasks=AT_ONCE, max_prefetch=AT_ONCE))
    scheduling: asyncio.Task[None] | None = None
    print("ok", flush=True)

    async def obey() -> None:
        nonlocal scheduling
        try:
            while line := await commands.readline():
                command = msgspec.json.decode(line, type=Command)
                await _store(source, _schedules(command))
                # A loop reads the schedules when it starts, and then once a minute; a new loop reads them now.
                if scheduling is not None:
                    scheduling.cancel()
                scheduler.loop = SchedulerLoop(scheduler)
                source.read = asyncio.Event()
                # The fires that are already due in this minute are not measured.
                scheduling = asyncio.create_task(scheduler.loop.run(skip_first_run=command.kind == "daily"))
                await source.read.wait()
                print("ok", flush=True)
        finally:
            stopping.set()  # the measuring process notices the end of the process

    obeying = asyncio.create_task(obey())
    await stopping.wait()
    for task in (obeying, working, scheduling):
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
    await Sender.session.close()


def main() -> None:
    """Arguments: the URL of Redis, the URL of the sink."""
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(functools.partial(_main, sys.argv[1], sys.argv[2])())


if __name__ == "__main__":
    main()
