"""Scenarios without a firing load: starting, idling, storing jobs. Only Cronpost is measured."""

from __future__ import annotations

import statistics
import time

from benchmarks import machine
from benchmarks.bench import Bench, Result, next_second_ms, with_span
from benchmarks.load import YEARLY
from benchmarks.scenario import Scenario
from benchmarks.systems.base import System
from benchmarks.systems.cronpost import Cronpost

STARTS = 3
"""How often the process is started with all jobs stored."""

HALF_A_SECOND_MS = 500
"""A server is killed this long after a fire time: between a claim and its settlement, the jobs would wait until the
node counts as dead."""


def cold_start(jobs: int, how: str) -> Scenario:
    """Measure the time from the start of the process until it is ready, and until a first request arrives.

    ``how`` says how the server ended before. ``clean stop`` or ``kill -9``: together with its embedded Redis. ``running
    Redis``: kill -9 of the server alone, with a shared Redis that keeps running. Besides the stored jobs, ten fire
    every second with ``recovery_check``: their fire times pass while the server is down, so there is something to fire
    at once.
    """

    def run(bench: Bench, system: System) -> Result:
        assert isinstance(system, Cronpost)
        system.shares_redis = how == "running Redis"
        system.redis_core = system.redis_core if system.shares_redis else machine.SYSTEM_CORE
        with bench.running(system):
            bench.step("storing jobs")
            system.store_jobs(jobs)
            system.store_jobs(10, cron="* * * * * *", prefix="now", recovery_check=True)
            bench.sleep_until(next_second_ms(1.5) + HALF_A_SECOND_MS)
            if how == "clean stop":
                system.halt()
            else:
                system.kill()
            time.sleep(2.5)
            ready_ms, first_ms = _start_again(bench, system)
            own, redis = system.usage()
            return Result(
                values={"ready, ms": ready_ms, "first fire, ms": first_ms},
                own_mb=own.rss_bytes / 1e6,
                redis_mb=redis.rss_bytes / 1e6,
            )

    size = f"{jobs} jobs, {how}"
    return Scenario(
        group="cold-start",
        title="cold start",
        size=size,
        run=run,
        seconds=12 + jobs / 8000,
        peers=False,
    )


def idle(jobs: int, seconds: int) -> Scenario:
    """Measure a node with nothing due; ``jobs`` are stored that fire next year."""

    def run(bench: Bench, system: System) -> Result:
        assert isinstance(system, Cronpost)
        with bench.running(system):
            if jobs:
                bench.step("storing jobs")
                system.store_jobs(jobs)
            from_ms = next_second_ms(3)
            span = bench.span(system, from_ms, from_ms + 1000 * seconds)
            result = with_span(Result(), span, 0)
            result.values = {
                "CPU, %": 100 * span.own_seconds / span.seconds,
                "CPU of Redis, %": 100 * span.redis_seconds / span.seconds,
            }
            return result

    return Scenario(
        group="idle", title="idle", size=f"{jobs} jobs", run=run, seconds=seconds + 6 + jobs / 3000, peers=False
    )


def stored(jobs: int) -> Scenario:
    """Store ``jobs`` that never fire in a Redis that keeps running; measure their bytes there and the start of a node.

    The node is started three times; the median counts. The first fire is that of ten jobs with ``recovery_check`` whose
    fire times passed while no node was running.
    """

    def run(bench: Bench, system: System) -> Result:
        assert isinstance(system, Cronpost)
        system.shares_redis = True
        with bench.running(system):
            before = system.redis_bytes()
            bench.step("storing jobs")
            began = time.monotonic()
            system.store_jobs(jobs)
            storing = time.monotonic() - began
            each = (system.redis_bytes() - before) / jobs
            system.store_jobs(10, cron="* * * * * *", prefix="now", recovery_check=True)
            time.sleep(1.5)
            starts = []
            for _ in range(STARTS):
                bench.sleep_until(next_second_ms(1) + HALF_A_SECOND_MS)
                system.kill()
                time.sleep(2.5)
                starts.append(_start_again(bench, system))
            own, redis = system.usage()
            return Result(
                values={
                    "ready, ms": statistics.median(ready for ready, _ in starts),
                    "first fire, ms": statistics.median(first for _, first in starts),
                    "first fire at most, ms": max(first for _, first in starts),
                    "bytes a job": each,
                    "stored in, s": storing,
                },
                own_mb=own.rss_bytes / 1e6,
                redis_mb=redis.rss_bytes / 1e6,
            )

    return Scenario(
        group="stored",
        title="stored jobs",
        size=f"{jobs} jobs, running Redis",
        run=run,
        seconds=30 + jobs / 40_000,
        peers=False,
    )


def _start_again(bench: Bench, system: Cronpost) -> tuple[float, float]:
    """Milliseconds from the start of the process until it is ready, and until a first request arrives."""
    bench.ask_sink("reset")
    began_ns = time.time_ns()
    system.launch()
    system.wait_until_ready()
    ready_ms = (time.time_ns() - began_ns) / 1e6
    time.sleep(2)
    arrivals = bench.arrivals()
    first_ms = (min(arrival.arrived_ns for arrival in arrivals) - began_ns) / 1e6 if arrivals else float("nan")
    return ready_ms, first_ms


def bulk_upserts(connections: int, count: int, batch: int) -> Scenario:
    """Measure new jobs through ``POST /jobs:batch``."""

    def run(bench: Bench, system: System) -> Result:
        assert isinstance(system, Cronpost)
        with bench.running(system):
            system.upsert(count=batch, cron=YEARLY, batch=batch)
            own, redis = system.usage()
            loaded = system.upsert(first=batch, count=count, cron=YEARLY, batch=batch, batch_connections=connections)
            own_after, redis_after = system.usage()
            return Result(
                values={
                    "upserts/s": count / loaded.seconds,
                    "p50, ms": loaded.p50_ms,
                    "p99, ms": loaded.p99_ms,
                    "CPU us an upsert": 1e6 * (own_after.cpu_seconds - own.cpu_seconds) / count,
                    "Redis us": 1e6 * (redis_after.cpu_seconds - redis.cpu_seconds) / count,
                },
                own_mb=own_after.rss_bytes / 1e6,
                redis_mb=redis_after.rss_bytes / 1e6,
            )

    return Scenario(
        group="upserts",
        title="upserts over HTTP",
        size=f"{batch} in a request, {connections} connections",
        run=run,
        seconds=6 + count / 10_000,
        peers=False,
    )


def upserts(connections: int, count: int) -> Scenario:
    """Measure new jobs over HTTP, with one request open on each connection."""

    def run(bench: Bench, system: System) -> Result:
        assert isinstance(system, Cronpost)
        with bench.running(system):
            system.upsert(count=200, cron=YEARLY, connections=connections)
            own, redis = system.usage()
            loaded = system.upsert(first=200, count=count, cron=YEARLY, connections=connections)
            own_after, redis_after = system.usage()
            result = Result()
            result.values = {
                "upserts/s": loaded.per_second,
                "p50, ms": loaded.p50_ms,
                "p99, ms": loaded.p99_ms,
                "CPU us an upsert": 1e6 * (own_after.cpu_seconds - own.cpu_seconds) / count,
                "Redis us": 1e6 * (redis_after.cpu_seconds - redis.cpu_seconds) / count,
            }
            result.own_mb, result.redis_mb = own_after.rss_bytes / 1e6, redis_after.rss_bytes / 1e6
            return result

    return Scenario(
        group="upserts",
        title="upserts over HTTP",
        size=f"one by one, {connections} connections",
        run=run,
        seconds=5 + count / 1000,
        peers=False,
    )
