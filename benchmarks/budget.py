"""Measures where the CPU time and the latency of a fire go: ``python -m benchmarks.budget``.

Runs Cronpost with jobs that fire every second, and again with fires at random instants, and measures the CPU per fire.
Then py-spy samples the stacks of the process (it must be allowed to trace). Each sample counts for the stage of its
innermost known frame; time inside C code counts for the frame that called it. Sampling slows the process, so only the
shares come from it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.bench import BEFORE_MS, Bench, next_second_ms, terminal_progress
from benchmarks.flame import flame_graph
from benchmarks.load import job_id
from benchmarks.measures import Arrival, judge, quantile
from benchmarks.records import settled_runs
from benchmarks.report import as_markdown, as_text, update
from benchmarks.systems.base import FireAt
from benchmarks.systems.cronpost import Cronpost
from scheduler_core.base.config import LogSettings
from scheduler_core.base.events import configure_logging

SAMPLES_PER_SECOND = 250
LOG_MODULES = ("events", "log_lines", "log_output", "line_writer")
STAGES = (
    # Stage, and the marks of its frames, which look like "function (file:line)". The first stage that matches is taken.
    ("log line", ("(structlog/", "(logging/", *(f"scheduler_core/base/{name}.py" for name in LOG_MODULES))),
    (
        "limits of targets, breakers",
        (
            "dispatch/limiter.py",
            "dispatch/limits.py",
            "dispatch/breaker.py",
            "dispatch/targets.py",
            "plan/held_back.py",
        ),
    ),
    ("metrics", ("(prometheus_client/", "scheduler_core/base/metrics.py", "scheduler_core/base/fast_metrics.py")),
    ("decode documents", ("decode_",)),
    ("encode documents", ("encode_",)),
    ("next fire time", ("scheduler_core/triggers/", "scheduler_core/plan/fire_times.py", "(croniter/")),
    ("plan the run (claim)", ("scheduler_core/plan/claim.py", "scheduler_core/plan/misses.py")),
    ("plan the settle", ("scheduler_core/plan/settle.py", "scheduler_core/plan/backoff.py")),
    ("build the request", ("dispatch/calls.py", "delivery/http/request.py", "rfc3339 (")),
    ("request and answer", ("scheduler_core/delivery/", "(httpx/", "scheduler_core/model/outcome.py")),
    ("Redis client", ("(redis/", "(hiredis/", "scheduler_core/store/")),
    ("loop: claim", ("loops/claim.py", "loops/suspects.py", "loops/lease_check.py")),
    ("loop: deliver", ("dispatch/dispatcher.py", "dispatch/in_flight.py", "node/slots.py")),
    ("loop: settle", ("loops/settle.py", "loops/settle_queue.py")),
    ("API", ("scheduler_api/", "(uvicorn/", "(starlette/")),
)
REST = "event loop and rest"
LATENESS_STAGES = (
    "timer, claim, plan: until the request is begun",
    "write, system, sink: until it has arrived",
    "until its answer is here",
    "settle: until it is recorded and logged",
    "all",
)


def stage_of(stack: list[str]) -> str:
    """Return the stage of a stack. The outermost frame comes first."""
    for frame in reversed(stack):
        if "server/process.py" in frame or "scheduler_api/cli/" in frame:
            break  # frames further out are in every stack
        for stage, marks in STAGES:
            if any(mark in frame for mark in marks):
                return stage
    return REST


def samples_of(raw: str) -> list[tuple[list[str], int]]:
    """Parse the ``raw`` output of py-spy into stacks (outermost frame first) and their counts.

    Only stacks of the event loop are returned: other threads wait.
    """
    found = []
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.strip() for frame in stack.split(";")]
        if frames and "_bootstrap (" not in frames[0]:
            found.append((frames, int(count)))
    return found


def shares(samples: Sequence[tuple[list[str], int]]) -> dict[str, float]:
    """Return the share of each stage."""
    counts: Counter[str] = Counter()
    for frames, count in samples:
        counts[stage_of(frames)] += count
    total = sum(counts.values())
    return {stage: count / total for stage, count in counts.most_common()}


class Budget(msgspec.Struct):
    """The CPU per fire in microseconds, and the share of each stage."""

    title: str
    own_us: float
    redis_us: float
    others_percent: float
    shares: dict[str, float]
    stages_ms: dict[str, list[float]]
    """How long each stage of a fire took, from its fire time on: p50 and p99."""
    flame: str
    """The flame graph of the samples, as SVG."""


def stages_ms(log: bytes, arrivals: Sequence[Arrival]) -> dict[str, list[float]]:
    """Return how long each stage of the runs took that are in the node's ``log`` and arrived at the sink; sorted."""
    arrived = {(one.job, one.fire_ms): one.lateness_ms for one in arrivals}
    found: dict[str, list[float]] = {stage: [] for stage in LATENESS_STAGES}
    for run in settled_runs(log):
        fire_ms = run.key[1]
        at = arrived.get(run.key)
        if at is not None:
            answered = run.lateness_ms + run.latency_ms
            recorded = run.time.timestamp() * 1000 - fire_ms
            steps = (run.lateness_ms, at - run.lateness_ms, answered - at, recorded - answered, recorded)
            for stage, took in zip(LATENESS_STAGES, steps, strict=True):
                found[stage].append(took)
    return {stage: sorted(values) for stage, values in found.items()}


def lateness_table(budgets: Sequence[Budget]) -> list[list[str]]:
    """Return a row for each stage between fire time and record: p50 and p99 of its duration."""
    rows = [["stage, ms, p50 and p99", *(one.title for one in budgets)]]
    return rows + [
        [stage, *(", ".join(f"{value:.1f}" for value in one.stages_ms[stage]) for one in budgets)]
        for stage in LATENESS_STAGES
    ]


def measure(bench: Bench, jobs: int, seconds: int, *, spread: bool) -> Budget:
    """Measure ``jobs`` fires per second, all on whole seconds or at random instants."""
    bench.begin(f"budget, {jobs} fires/s {'at random instants' if spread else 'every second'}")
    system = Cronpost(shares_redis=True, redis_core=machine.OTHER_CORE)
    with bench.running(system) as directory:
        raw = directory / "samples"
        if spread:
            count = jobs * (2 * seconds + 4)
            from_ms = next_second_ms(3 + count / 1500)
            instants = random.Random(1).choices(range(from_ms, from_ms + 1000 * (2 * seconds + 4)), k=count)
            system.add_once([FireAt(job_id("j", number), at_ms) for number, at_ms in enumerate(instants)])
        else:
            system.add_every_second(0, jobs)
            from_ms = next_second_ms(3)
        span = bench.span(system, from_ms - BEFORE_MS, from_ms - BEFORE_MS + 1000 * seconds)
        arrivals = [one for one in bench.arrivals() if from_ms <= one.fire_ms < from_ms + 1000 * seconds]
        fires = judge(arrivals, from_ms=from_ms, until_ms=from_ms + 1000 * seconds, expected=0)
        stages = stages_ms((directory / "cronpost.log").read_bytes(), arrivals)
        bench.step("sampling")
        assert system.process is not None
        subprocess.run(
            [
                *("py-spy", "record", "--pid", str(system.process.pid), "--rate", str(SAMPLES_PER_SECOND)),
                *("--duration", str(seconds), "--format", "raw", "--output", str(raw)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"},
        )
        samples = samples_of(raw.read_text())
    title = f"{jobs}/s at random instants" if spread else f"{jobs} jobs, every second"
    return Budget(
        title=title,
        own_us=1e6 * span.own_seconds / fires.delivered,
        redis_us=1e6 * span.redis_seconds / fires.delivered,
        others_percent=span.others_percent,
        shares=shares(samples),
        stages_ms={stage: [quantile(found, 0.5), quantile(found, 0.99)] for stage, found in stages.items()},
        flame=flame_graph(samples, f"A node of Cronpost, {title}: where its processor time goes"),
    )


def table(budgets: Sequence[Budget]) -> list[list[str]]:
    """Return a row for each stage, a column for each budget: CPU in microseconds per fire."""
    first = budgets[0].shares
    stages = sorted({stage for one in budgets for stage in one.shares}, key=lambda stage: -first.get(stage, 0.0))
    rows = [["stage, CPU us a fire", *(one.title for one in budgets)]]
    rows += [[stage, *(f"{one.shares.get(stage, 0.0) * one.own_us:.1f}" for one in budgets)] for stage in stages]
    rows.append(["**Cronpost**", *(f"**{one.own_us:.1f}**" for one in budgets)])
    rows.append(["**Redis**", *(f"**{one.redis_us:.1f}**" for one in budgets)])
    rows.append(["taken by other programs, % of a core", *(f"{one.others_percent:.0f}" for one in budgets)])
    return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs that fire every second (default 1000)")
    parser.add_argument(
        "--spread", type=int, default=100, help="fires per second at random instants (default 100; 0: none)"
    )
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument(
        "--flame", type=Path, metavar="FILE", help="where to write a flame graph of the first budget, as SVG"
    )
    parser.add_argument("--update", type=Path, metavar="FILE", help="a document whose block 'budget' is replaced")
    arguments = parser.parse_args()
    configure_logging(LogSettings(log_level="warning"))
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    with Bench(terminal_progress()) as bench:
        budgets = [measure(bench, arguments.jobs, arguments.seconds, spread=False)]
        if arguments.spread:
            budgets.append(measure(bench, arguments.spread, arguments.seconds, spread=True))
    print(f"\n{as_text(table(budgets))}\n\n{as_text(lateness_table(budgets))}")
    if arguments.flame is not None:
        arguments.flame.write_text(budgets[0].flame)
    if arguments.update is not None:
        text = update(
            arguments.update.read_text(),
            {"budget": as_markdown(table(budgets)), "lateness": as_markdown(lateness_table(budgets))},
        )
        arguments.update.write_text(text)


if __name__ == "__main__":
    main()
