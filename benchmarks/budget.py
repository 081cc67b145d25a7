"""Where the time of a fire goes: ``python -m benchmarks.budget``.

Runs Cronpost with jobs that fire every second, takes what a fire costs, then samples the stacks of the process with
py-spy (which is not part of the locked dependencies: ``pip install py-spy``; it has to be allowed to trace) and gives
each sample to the stage that its innermost known frame belongs to. Time inside C code counts for the frame that called
it. Sampling slows the process, so only the shares come from it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import machine
from benchmarks.bench import BEFORE_MS, Bench, next_second_ms, terminal_progress
from benchmarks.load import job_id
from benchmarks.measures import judge
from benchmarks.report import as_text
from benchmarks.systems.base import FireAt
from benchmarks.systems.cronpost import Cronpost

SAMPLES_PER_SECOND = 250
STAGES = (
    # Stage, and what a frame of it looks like: "function (file:line)". The first that matches is taken.
    ("log line", ("(structlog/", "(logging/", "scheduler_core/events.py")),
    ("metrics", ("(prometheus_client/", "scheduler_core/metrics.py")),
    ("decode documents", ("decode_", "_claimed (", "_decode (")),
    ("encode documents", ("encode_", "_step (", "of (scheduler_core/store")),
    ("next fire time", ("scheduler_core/cron", "scheduler_core/trigger", "scheduler_core/zone", "(croniter/")),
    ("plan the run (claim)", ("scheduler_core/plan/claim", "scheduler_core/plan/misses")),
    ("plan the settle", ("scheduler_core/plan/settle", "scheduler_core/backoff")),
    ("build the request", ("build_request (", "rfc3339 (", "_quoted (", "_http_request (")),
    ("request and answer", ("scheduler_core/delivery/", "(httpx/", "scheduler_core/outcome")),
    ("Redis client", ("(redis/", "(hiredis/", "scheduler_core/store/")),
    ("loop: claim", ("services/claim.py",)),
    ("loop: deliver", ("services/deliver.py",)),
    ("loop: settle", ("services/settle.py",)),
    ("API", ("scheduler_api/", "(uvicorn/", "(starlette/")),
)
REST = "event loop and rest"


def stage_of(stack: list[str]) -> str:
    """The stage of a stack, whose outermost frame comes first."""
    for frame in reversed(stack):
        if "process.py" in frame or "cli.py" in frame:
            break  # what is further out is in every stack
        for stage, marks in STAGES:
            if any(mark in frame for mark in marks):
                return stage
    return REST


def shares(raw: str) -> dict[str, float]:
    """The share of each stage in py-spy's ``raw`` output: lines of ``frame;frame;frame count``."""
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.strip() for frame in stack.split(";")]
        if frames and "_bootstrap (" not in frames[0]:  # threads that wait are not the loop
            counts[stage_of(frames)] += int(count)
    total = sum(counts.values())
    return {stage: count / total for stage, count in counts.most_common()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs that fire every second")
    parser.add_argument("--spread", action="store_true", help="as many fires per second, but at random instants")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--raw", type=Path, help="keep what py-spy wrote, for a flame graph")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    with tempfile.TemporaryDirectory() as directory, Bench(terminal_progress()) as bench:
        raw = arguments.raw or Path(directory) / "samples"
        system = Cronpost()
        bench.begin("budget")
        seconds: int = arguments.seconds
        with bench.running(system):
            if arguments.spread:
                count = arguments.jobs * (2 * seconds + 4)
                from_ms = next_second_ms(3 + count / 700)
                instants = random.Random(1).choices(range(from_ms, from_ms + 1000 * (2 * seconds + 4)), k=count)
                system.add_once([FireAt(job_id("j", number), at_ms) for number, at_ms in enumerate(instants)])
            else:
                system.add_every_second(0, arguments.jobs)
                from_ms = next_second_ms(3)
            span = bench.span(system, from_ms - BEFORE_MS, from_ms - BEFORE_MS + 1000 * seconds)
            fires = judge(bench.arrivals(), from_ms=from_ms, until_ms=from_ms + 1000 * seconds, expected=0)
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
        own_us = 1e6 * span.own_seconds / fires.delivered
        redis_us = 1e6 * span.redis_seconds / fires.delivered
        rows = [["stage", "share", "CPU us a fire"]]
        for stage, share in shares(raw.read_text()).items():
            rows.append([stage, f"{100 * share:.1f} %", f"{share * own_us:.1f}"])
        rows += [["all of Cronpost", "", f"{own_us:.1f}"], ["Redis", "", f"{redis_us:.1f}"]]
        how = "at random instants" if arguments.spread else "every second"
        print(f"\n{arguments.jobs} fires/s, {how}; other programs took {span.others_percent:.0f} % of a core\n")
        print(as_text(rows))


if __name__ == "__main__":
    main()
