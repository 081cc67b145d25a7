"""Scenarios in which jobs fire: all at once, every second, at random instants, on request."""

from __future__ import annotations

import random
import time
from pathlib import Path

from benchmarks.bench import BEFORE_MS, Bench, Result, next_second_ms, with_span
from benchmarks.load import Load, job_id
from benchmarks.measures import judge, quantile
from benchmarks.peers.install import NotRunError
from benchmarks.records import delays_ms
from benchmarks.scenario import Scenario
from benchmarks.systems.base import FireAt, System
from benchmarks.systems.cronpost import Cronpost, pound

WARM_UP_SECONDS = 3.0
"""Time between the last change and the first fire time that counts: connections are open by then."""
GRACE_SECONDS, PEER_GRACE_SECONDS, SMALL = 3.0, 15.0, 1000
"""How long after a window its fires may arrive. A peer with few jobs has longer; otherwise a peer that is behind would
have no lateness at all."""
HERD_GRACE_SECONDS = 40.0
EXPLAINED = 2000
"""For more jobs, the accounts are not read: one request for each job takes too long."""


def every_second(jobs: int, seconds: int) -> Scenario:
    """Measure ``jobs`` that all fire on every whole second."""

    def run(bench: Bench, system: System) -> Result:
        with bench.running(system) as directory:
            bench.step("adding jobs")
            system.add_every_second(0, jobs)
            from_ms = next_second_ms(WARM_UP_SECONDS)
            until_ms = from_ms + 1000 * seconds
            bench.sleep_until(from_ms - 2 * BEFORE_MS)
            bench.ask_sink("reset")
            span = bench.span(system, from_ms - BEFORE_MS, until_ms - BEFORE_MS)
            grace = GRACE_SECONDS if jobs > SMALL or isinstance(system, Cronpost) else PEER_GRACE_SECONDS
            fires = bench.wait_for(from_ms, until_ms, jobs * seconds, grace_seconds=grace)
            result = Result(fires=fires)
            if fires.delivered < fires.expected and jobs <= EXPLAINED:
                bench.step("reading the account")
                result.missed_on_record = system.explain_missing(from_ms, until_ms, jobs)
            if isinstance(system, Cronpost) and jobs <= SMALL:
                result.values = _record_delays(bench, directory / "cronpost.log", from_ms, until_ms)
            return with_span(result, span, fires.delivered)

    size = f"{jobs} jobs"
    return Scenario(
        group="every-second",
        title="every second",
        size=size,
        run=run,
        seconds=seconds + jobs / 1500 + 8,
    )


def _record_delays(bench: Bench, log: Path, from_ms: int, until_ms: int) -> dict[str, float]:
    """Return quantiles of the time from the answer of the sink to the record in Redis; see ``records``."""
    arrivals = [one for one in bench.arrivals() if from_ms <= one.fire_ms < until_ms]
    delays: list[float] = []
    deadline = time.monotonic() + GRACE_SECONDS
    while len(delays) < len(arrivals) and time.monotonic() < deadline:
        time.sleep(0.5)
        delays = delays_ms(log.read_bytes(), arrivals)
    if len(delays) < len(arrivals):
        raise RuntimeError(f"of {len(arrivals)} runs, {len(arrivals) - len(delays)} were not recorded in time")
    return {"answer to record, p50 ms": quantile(delays, 0.5), "answer to record, p99 ms": quantile(delays, 0.99)}


def herd(jobs: int) -> Scenario:
    """Measure ``jobs`` that are all due at one instant, and then not for a day."""

    def run(bench: Bench, system: System) -> Result:
        with bench.running(system):
            grain = system.daily_grain_ms
            at_ms = -(-next_second_ms(WARM_UP_SECONDS + jobs / system.loads_per_second) // grain) * grain
            bench.step("adding jobs")
            system.add_daily(jobs, at_ms)
            _must_be_before(at_ms)
            bench.sleep_until(at_ms - 2 * BEFORE_MS)
            before, _ = system.usage()
            done_ms = at_ms + 2000 + min(jobs, 10_000) * (0.4 if isinstance(system, Cronpost) else 1.0)
            span = bench.span(system, at_ms - BEFORE_MS, done_ms)
            fires = bench.wait_for(at_ms, at_ms + 1, jobs, grace_seconds=HERD_GRACE_SECONDS)
            result = Result(fires=fires, values={"MB before": before.rss_bytes / 1e6})
            return with_span(result, span, fires.delivered)

    return Scenario(
        group="herd",
        title="herd at one instant",
        size=f"{jobs} jobs",
        run=run,
        seconds=8 + jobs / 4000 + min(jobs, 10_000) / 2500,
        peer_seconds=12 + jobs / 400,
    )


def spread_out(rate: int, seconds: int) -> Scenario:
    """Measure ``rate`` fires per second at random milliseconds, each from its own job."""

    def run(bench: Bench, system: System) -> Result:
        count = rate * seconds
        if system.grain_ms > 1:
            raise NotRunError("knows whole seconds only")
        with bench.running(system):
            from_ms = next_second_ms(WARM_UP_SECONDS + count / (system.loads_per_second / 4))
            until_ms = from_ms + 1000 * seconds
            instants = random.Random(rate).sample(range(from_ms, until_ms), min(count, 1000 * seconds))
            bench.step("adding jobs")
            system.add_once([FireAt(job_id("j", number), at_ms) for number, at_ms in enumerate(instants)])
            _must_be_before(from_ms)
            span = bench.span(system, from_ms - BEFORE_MS, until_ms)
            fires = bench.wait_for(from_ms, until_ms, count)
            result = Result(fires=fires)
            return with_span(result, span, fires.delivered)

    load = rate * seconds / 1000
    return Scenario(
        group="spread",
        title="at random instants",
        size=f"{rate}/s",
        run=run,
        seconds=seconds + load + 7,
    )


def run_now(rate: int, seconds: int, jobs: int = 2000) -> Scenario:
    """Measure runs that are requested over HTTP at random instants. Lateness counts from the instant at which the
    server accepted the request."""

    def run(bench: Bench, system: System) -> Result:
        assert isinstance(system, Cronpost)
        with bench.running(system):
            bench.step("adding jobs")
            system.store_jobs(jobs)
            load = Load(kind="run", port=system.port, count=jobs, rate=rate, seconds=seconds, connections=16)
            loaded = pound(load)
            time.sleep(1)
            expected = loaded.answered - loaded.failed
            fires = judge(bench.arrivals(), from_ms=0, until_ms=1 << 60, expected=expected)
            values = {"answer p50, ms": loaded.p50_ms, "answer p99, ms": loaded.p99_ms}
            return Result(fires=fires, values=values)

    return Scenario(
        group="run-now",
        title="run now",
        size=f"{rate}/s",
        run=run,
        seconds=seconds + 8,
        peers=False,
    )


def _must_be_before(at_ms: int) -> None:
    if time.time() * 1000 > at_ms - BEFORE_MS:
        raise RuntimeError("adding the jobs took longer than was foreseen")
