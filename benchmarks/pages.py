"""Measures pages of ``GET /jobs`` among many jobs: ``python -m benchmarks.pages``.

Stores jobs in an embedded Redis of its own, with labels, pauses, failures, runs and waiting retries, and requests pages
of each kind through the API in this process: reading, checking and encoding are included, sockets are not. The cursor
moves on from page to page. Besides the wall time it prints the CPU time of this process, which other programs on the
machine hardly change.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import httpx
import msgspec

from benchmarks.measures import quantile
from scheduler_api.app import create_app
from scheduler_api.context import Context
from scheduler_api.server.garbage import tune_garbage_collection
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import Failures, JobState, LastRun
from scheduler_core.model.run import Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import CronSpec

PAGES = {
    "all": "",
    "full": "view=full",
    "1000 jobs": "limit=1000",
    "prefix": "prefix=job-05",
    "one label (2 %)": "label=team:7",
    "label, rare second one": "label=team:7&label=rare",
    "status=active": "status=active",
    "status=paused (1 %)": "status=paused",
    "status=retrying (0.1 %)": "status=retrying",
    "status=completed (1 %)": "status=completed",
    "health=failing (0.1 %)": "health=failing",
    "health=late": "health=late",
    "text that no job has": "q=nothing",
    "text, one label": "q=nothing&label=team:7",
    "next fire in a minute": "next_fire_before={soon}",
    "by next fire": "sort=next_fire",
    "by next fire, one label": "sort=next_fire&label=team:7",
    "by next fire, rare label": "sort=next_fire&label=rare",
    "by last run": "sort=-last_run",
    "by last run, one label": "sort=-last_run&label=team:7",
    "by failures": "sort=-consecutive_failures",
}
"""The query of each kind of page."""
CHUNK = 1000
CHANGES = 250
PAYLOAD = b'{"text": "' + b"x" * 108 + b'"}'


class Measured(msgspec.Struct):
    """The pages of one kind."""

    kind: str
    requests: int
    p50_ms: float
    p99_ms: float
    cpu_p50_ms: float
    cpu_p99_ms: float
    jobs: int
    """The most jobs that one page returned."""
    examined: int
    """The most jobs that one page examined."""


async def fill(store: RedisStore, count: int, now_ms: int) -> None:
    """Store the jobs, and mark the index as complete."""
    for first in range(0, count, CHUNK):
        numbers = range(first, min(count, first + CHUNK))
        await store.create([_job(number, now_ms) for number in numbers])
        special = [number for number in numbers if number % 100 < 3 or number % 1000 in (17, 18)]
        for start in range(0, len(special), CHANGES):
            names = [_name(number) for number in special[start : start + CHANGES]]
            found = await store.read_many(names)
            changes = [
                (name, stored, _change(number, now_ms))
                for name, number, stored in zip(names, special[start:], found, strict=False)
            ]
            await store.change_many(changes)
        print(f"\r{first + len(numbers):,} of {count:,} jobs stored", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    await store.find_store().mark_indexed()


def _name(number: int) -> str:
    return f"job-{number:07}"


def _job(number: int, now_ms: int) -> tuple[Job, JobState]:
    labels = {"team": str(number % 50), "tier": str(number % 3)}
    if number % 10_000 == 7:
        labels["rare"] = "yes"
    job = Job(
        id=_name(number),
        url="http://127.0.0.1:8080/enqueue",
        trigger=CronSpec("0 * * * *"),
        payload=PAYLOAD,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        labels=labels,
    )
    return job, JobState(next_fire_ms=now_ms + 60_000 * (1 + number % 60))


def _change(number: int, now_ms: int) -> Transition:
    """Return what happened to a job: a pause, the completion, a run that succeeded, a failure or a retry."""
    run = Run(f"RUN{number:010}", now_ms - number % 100_000, started_at_ms=now_ms - number % 100_000, attempt=1)
    ended = msgspec.structs.replace(run, state=RunState.SUCCEEDED, ended_at_ms=now_ms)
    last = LastRun(run.id, run.fire_time_ms, RunState.SUCCEEDED, now_ms, 200)
    next_ms = now_ms + 600_000
    if number % 1000 == 17:
        failures = Failures(1 + number % 7, now_ms, run.id, now_ms, "the answer was 500")
        return Transition(JobState(next_fire_ms=next_ms, last=last, failures=failures), (ended,))
    if number % 1000 == 18:
        waiting = msgspec.structs.replace(run, state=RunState.RETRYING, retry_at_ms=next_ms)
        return Transition(JobState(next_fire_ms=next_ms, open=waiting))
    if number % 100 == 0:
        return Transition(JobState(next_fire_ms=next_ms, paused_at_ms=now_ms))
    if number % 100 == 1:
        return Transition(JobState(completed_at_ms=now_ms - number))
    return Transition(JobState(next_fire_ms=next_ms, last=last), (ended,))


async def measure(client: httpx.AsyncClient, kind: str, query: str, requests: int) -> Measured:
    """Request pages of one kind, each from the cursor of the one before."""
    walls: list[float] = []
    cpus: list[float] = []
    jobs = examined = 0
    cursor: str | None = None
    for number in range(requests + 3):
        began, cpu = time.perf_counter(), time.process_time()
        answer = await client.get(f"/jobs?{query}{'' if cursor is None else f'&cursor={cursor}'}")
        cpu, wall = time.process_time() - cpu, time.perf_counter() - began
        answer.raise_for_status()
        page = answer.json()
        cursor = page["next"]
        jobs, examined = max(jobs, len(page["jobs"])), max(examined, page["examined"])
        if number >= 3:  # the first ones fill caches
            walls.append(1000 * wall)
            cpus.append(1000 * cpu)
    walls.sort()
    cpus.sort()
    return Measured(
        kind,
        requests,
        quantile(walls, 0.5),
        quantile(walls, 0.99),
        quantile(cpus, 0.5),
        quantile(cpus, 0.99),
        jobs,
        examined,
    )


async def run(url: str, jobs: int, requests: int) -> list[Measured]:
    """Fill the store and measure each kind of page."""
    store = RedisStore(connect(url, timeout_seconds=60))
    context = Context(settings=ApiSettings(), store=store, clock=RedisClock(), metrics=Metrics())
    await context.ensure_clock()
    now_ms = context.clock.now_ms()
    await fill(store, jobs, now_ms)
    tune_garbage_collection()  # as a server does
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ms / 1000 + 90))
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        found = [await measure(client, kind, query.format(soon=soon), requests) for kind, query in PAGES.items()]
    await store.aclose()
    return found


def as_text(found: list[Measured]) -> str:
    """Return the table of results."""
    heads = f"{'page':<28}{'jobs':>6}{'examined':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU p50':>9}{'CPU p99':>9}"
    rows = [
        f"{one.kind:<28}{one.jobs:>6}{one.examined:>10}{one.p50_ms:>9.1f}{one.p99_ms:>9.1f}"
        f"{one.cpu_p50_ms:>9.1f}{one.cpu_p99_ms:>9.1f}"
        for one in found
    ]
    return "\n".join([heads, *rows])


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description="Measure pages of GET /jobs.")
    parser.add_argument("--jobs", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--requests", type=int, default=200, help="of each kind of page")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as server:
        found = asyncio.run(run(server.url, options.jobs, options.requests))
    print(msgspec.json.encode(found).decode() if options.json else as_text(found))


if __name__ == "__main__":
    main()
