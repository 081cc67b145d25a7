"""Scenarios in which jobs fire: all at once, every second, at random instants, when somebody asks."""

from __future__ import annotations

import random
import time

from benchmarks.bench import BEFORE_MS, Bench, Result, next_second_ms, with_span
from benchmarks.load import Load, job_id
from benchmarks.measures import judge
from benchmarks.scenario import Scenario
from benchmarks.systems.base import FireAt, System
from benchmarks.systems.cronpost import Cronpost, pound

WARM_UP_SECONDS = 3.0
"""Between the last change and the first fire time that counts: connections are open by then."""
LOADS_PER_SECOND = 900
"""How fast jobs can be added at least, to choose an instant that lies after it."""


def every_second(jobs: int, seconds: int) -> Scenario:
    """``jobs`` that all fire on every whole second."""

    def run(bench: Bench, system: System) -> Result:
        with bench.running(system):
            bench.step("adding jobs")
            system.add_every_second(0, jobs)
            from_ms = next_second_ms(WARM_UP_SECONDS)
            until_ms = from_ms + 1000 * seconds
            bench.sleep_until(from_ms - 2 * BEFORE_MS)
            bench.ask_sink("reset")
            span = bench.span(system, from_ms - BEFORE_MS, until_ms - BEFORE_MS)
            fires = bench.wait_for(from_ms, until_ms, jobs * seconds, grace_seconds=3)
            result = Result(fires=fires)
            if fires.delivered < fires.expected:
                bench.step("reading the account")
                result.missed_on_record = system.explain_missing(from_ms, until_ms, jobs)
            return with_span(result, span, fires.delivered)

    size = f"{jobs} jobs"
    return Scenario(
        group="every-second",
        title="every second",
        size=size,
        run=run,
        seconds=seconds + jobs / 1500 + 9,
    )


def highest_held(first: int, step: int, last: int, seconds: int) -> Scenario:
    """More and more jobs that fire on every whole second, until a step is not held.

    Held: every fire time of ``seconds`` seconds in a row was delivered, and less than one second late.
    """

    def run(bench: Bench, system: System) -> Result:
        with bench.running(system):
            jobs, held, p99_ms = 0, 0, float("nan")
            for wanted in range(first, last + 1, step):
                bench.step(f"{wanted} jobs")
                system.add_every_second(jobs, wanted - jobs)
                jobs = wanted
                from_ms = next_second_ms(2.0)
                until_ms = from_ms + 1000 * seconds
                bench.sleep_until(from_ms - BEFORE_MS)
                bench.ask_sink("reset")
                bench.sleep_until(until_ms)
                fires = bench.wait_for(from_ms, until_ms, jobs * seconds, grace_seconds=1)
                if fires.delivered < fires.expected or fires.max_ms >= 1000:
                    break
                held, p99_ms = jobs, fires.p99_ms
            values = {"held, fires/s": float(held), "p99 there, ms": p99_ms}
            return Result(values=values)

    steps = (last - first) // step + 1
    return Scenario(
        group="highest-held",
        title="highest held",
        size=f"steps of {step}",
        run=run,
        seconds=5 + steps * (seconds + 4) / 2,
    )


def herd(jobs: int) -> Scenario:
    """``jobs`` that are all due at one instant, and then not for a day."""

    def run(bench: Bench, system: System) -> Result:
        with bench.running(system):
            at_ms = next_second_ms(WARM_UP_SECONDS + jobs / LOADS_PER_SECOND)
            bench.step("adding jobs")
            system.add_daily(jobs, at_ms)
            _must_be_before(at_ms)
            done_ms = at_ms + 2000 + jobs
            span = bench.span(system, at_ms - BEFORE_MS, done_ms)
            fires = bench.wait_for(at_ms, at_ms + 1, jobs)
            result = Result(fires=fires)
            return with_span(result, span, fires.delivered)

    return Scenario(
        group="herd",
        title="herd at one instant",
        size=f"{jobs} jobs",
        run=run,
        seconds=9 + jobs / LOADS_PER_SECOND + jobs / 1000,
    )


def spread_out(rate: int, seconds: int) -> Scenario:
    """``rate`` fires per second at random milliseconds, each of a job of its own."""

    def run(bench: Bench, system: System) -> Result:
        count = rate * seconds
        with bench.running(system):
            from_ms = next_second_ms(WARM_UP_SECONDS + count / LOADS_PER_SECOND)
            until_ms = from_ms + 1000 * seconds
            instants = random.Random(rate).sample(range(from_ms, until_ms), min(count, 1000 * seconds))
            bench.step("adding jobs")
            system.add_once([FireAt(job_id("j", number), at_ms) for number, at_ms in enumerate(instants)])
            _must_be_before(from_ms)
            span = bench.span(system, from_ms - BEFORE_MS, until_ms)
            fires = bench.wait_for(from_ms, until_ms, count)
            result = Result(fires=fires)
            return with_span(result, span, fires.delivered)

    load = rate * seconds / LOADS_PER_SECOND
    return Scenario(
        group="spread",
        title="not coinciding",
        size=f"{rate}/s",
        run=run,
        seconds=seconds + load + 7,
    )


def run_now(rate: int, seconds: int, jobs: int = 2000) -> Scenario:
    """Runs asked for over HTTP at random instants; lateness counts from the instant at which the server took it in."""

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
