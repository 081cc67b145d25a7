"""The processes of the peer Celery with RedBeat: one beat, one worker, and one that adds entries.

Each choice is the one that is faster for Celery: a worker on gevent with one session of requests, no results, no
events, no log, JSON, an interval instead of a crontab.

Arguments: ``worker``, ``beat`` or ``commands``, the socket of Redis, the URL of the sink.
"""

from __future__ import annotations

import sys

if sys.argv[1:2] == ["worker"]:
    from gevent import monkey  # type: ignore[import-not-found, import-untyped, unused-ignore]

    monkey.patch_all()

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import requests  # type: ignore[import-untyped, unused-ignore]
from celery import Celery  # type: ignore[import-not-found, import-untyped, unused-ignore]
from celery.schedules import schedule  # type: ignore[import-not-found, import-untyped, unused-ignore]
from redbeat import RedBeatScheduler, RedBeatSchedulerEntry  # type: ignore[import-not-found, unused-ignore]

from benchmarks.load import job_id, payload_of
from benchmarks.peers.command import Command
from benchmarks.sink import FIRE_MS_HEADER, JOB_HEADER

GREENLETS = 200
SECOND = timedelta(seconds=1)

role, socket, url = sys.argv[1:4]
app = Celery("bench", broker=f"redis+socket://{socket}")
app.conf.update(
    redbeat_redis_url=f"unix://{socket}",
    redbeat_lock_key=None,
    beat_max_loop_interval=1,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=4,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    timezone="UTC",
)
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=GREENLETS))


def send(job: str, payload: str, fire_ms: int = 0) -> None:
    """The task."""
    headers = {"Content-Type": "application/json", JOB_HEADER: job, FIRE_MS_HEADER: str(fire_ms)}
    session.post(url, data=payload, headers=headers, timeout=30)


task: Any = app.task(name="bench.send", ignore_result=True)(send)


class WholeSeconds(schedule):  # type: ignore[misc, unused-ignore]
    """An interval on whole seconds. Celery's own interval counts from the last run, so each lateness shifts it."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        remaining: timedelta = last_run_at.replace(microsecond=0) + self.run_every - self.now()
        return remaining

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        seconds = self.remaining_estimate(last_run_at).total_seconds()
        # After a run, the inherited method would let beat sleep for a whole interval from then.
        return (True, 1 - datetime.now(UTC).microsecond / 1e6) if seconds <= 0 else (False, seconds)


class Entry(RedBeatSchedulerEntry):  # type: ignore[misc, unused-ignore]
    """An entry on whole seconds."""

    @classmethod
    def from_key(cls, key: str, app: Any = None) -> Entry:
        entry: Entry = super().from_key(key, app=app)
        entry.schedule = WholeSeconds(entry.schedule.run_every, app=app)
        return entry


class Scheduler(RedBeatScheduler):  # type: ignore[misc, unused-ignore]
    """Passes the fire time to the task, which beat does not do."""

    Entry = Entry

    def apply_async(self, entry: Any, *arguments: Any, **options: Any) -> Any:
        due = entry.last_run_at.replace(microsecond=0) + entry.schedule.run_every
        entry.kwargs = {**entry.kwargs, "fire_ms": round(due.timestamp() * 1000)}
        return super().apply_async(entry, *arguments, **options)


def _add(command: Command) -> None:
    every, last = SECOND, datetime.now(UTC).replace(microsecond=0)
    if command.kind == "daily":
        every = timedelta(days=1)
        last = datetime.fromtimestamp(command.at_ms / 1000, UTC) - every
    for number in range(command.first, command.first + command.count):
        name = job_id("j", number)
        kwargs = {"job": name, "payload": payload_of(number).decode()}
        entry = Entry(name, "bench.send", WholeSeconds(every, app=app), kwargs=kwargs, app=app)
        entry.last_run_at = last
        entry.save()


def main() -> None:
    """Run the role that the first argument names."""
    if role == "worker":
        app.Worker(
            pool="gevent", concurrency=GREENLETS, loglevel="ERROR", without_gossip=True, without_mingle=True,
            without_heartbeat=True,
        ).start()  # fmt: skip
    elif role == "beat":
        app.Beat(scheduler=Scheduler, loglevel="ERROR", max_interval=1).run()
    else:
        print("ok", flush=True)
        for line in sys.stdin.buffer:
            _add(msgspec.json.decode(line, type=Command))
            print("ok", flush=True)


if __name__ == "__main__":
    main()
