"""Checks that memory and stored data stay flat: ``python -m benchmarks.soak --minutes 12``.

Runs one node with its embedded Redis and tight history bounds: about 300 runs per second of every kind, and jobs,
schedules and one-off tasks that are created and deleted all the time. It samples all sizes every ten seconds. At the
end it computes a slope for each size and a verdict for each bound. The store must be empty after everything was deleted
and has aged. A soak in which no sample saw a job claimed ahead of its wake-up, or that was interrupted, fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks import machine
from benchmarks.bench import as_json
from benchmarks.report import as_text
from benchmarks.soak_load import Client, Runner, closed_port
from benchmarks.soak_watch import DAY_SECONDS, STAYS, Held, Sample, Slope, Watch, bounds_of, judge_bounds, slopes_of
from benchmarks.systems.cronpost import Cronpost, program_of
from scheduler_core.base.config_reader import load_settings
from scheduler_core.embedded import find_server

SAMPLE_SECONDS = 10.0
RESULTS = Path(__file__).parent / "results"
SETTINGS = {
    "CRONPOST_HISTORY_PER_JOB": "20",
    "CRONPOST_HISTORY_FAILURES_PER_JOB": "20",
    "CRONPOST_HISTORY_RETENTION_DAYS": "0.0007",  # 60 s
    "CRONPOST_HISTORY_FAILURE_RETENTION_DAYS": "0.0018",  # 156 s
    "CRONPOST_HISTORY_MAX_RUNS": "5000",
    "CRONPOST_HISTORY_MAX_MEGABYTES": "64",
    "CRONPOST_TASKS_KEEP_DELIVERED": "500",
    "CRONPOST_TASKS_KEEP_STALE": "200",
    "CRONPOST_BASE_INTERVAL_MS": "200",
    "CRONPOST_MAX_RETRIES": "1",
}
"""So small that every bound is reached in minutes, except the bytes: for them use ``--set
CRONPOST_HISTORY_MAX_MEGABYTES=4``."""
COLUMNS = ("settled/s", "node rss MB", "node fds", "redis used MB", "redis rss MB", "aof MB", "keys", "records", "jobs")


class Report(msgspec.Struct, kw_only=True):
    """All results of one soak."""

    began_at: str
    machine: dict[str, Any]
    settings: dict[str, str]
    minutes: float
    scale: float
    others_percent: list[float]
    """The share of the node's core and of the other one that other programs took."""
    samples: list[Sample] = []
    slopes: list[Slope] = []
    bounds: list[Held] = []
    faults: list[str] = []
    """Inconsistencies in the store."""
    asked: dict[str, int] = {}
    unexpected: dict[str, int] = {}
    served: dict[str, int] = {}
    remains: dict[str, int] = {}
    """Keys that are left after everything was deleted and has aged."""
    last: Sample | None = None
    """The sample after that."""


def main() -> None:
    """Run the soak and print the verdict; the exit status is 1 if a size rises or a bound does not hold."""
    arguments = _arguments()
    settings = SETTINGS | dict(one.split("=", 1) for one in arguments.set)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a SIGTERM stops the started processes, too
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    report = Report(
        began_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.facts(str(find_server(program_of(settings)))),
        settings=settings,
        minutes=arguments.minutes,
        scale=arguments.scale,
        others_percent=[],
    )
    system = Cronpost(settings)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        try:
            system.start(Path(directory), listening.getsockname()[1])
            uvloop.run(_soak(system, listening, report))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        finally:
            system.stop()
            _keep_log(Path(directory) / "cronpost.log", arguments.log)
    path = Path(arguments.output or RESULTS / f"soak-{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_json(report))
    good = _verdict(report)
    print(f"All numbers: {path}")
    sys.exit(0 if good else 1)


async def _soak(system: Cronpost, listening: socket.socket, report: Report) -> None:
    port = listening.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(Runner, sock=listening)
    client = Client(f"http://127.0.0.1:{system.port}", f"http://127.0.0.1:{port}", closed_port(), scale=report.scale)
    watch = Watch(system)
    print(as_text([["minute", *COLUMNS]]).splitlines()[0], flush=True)
    began, busy, own = time.monotonic(), _busy(), _own(system)
    try:
        await client.begin()
        while time.monotonic() - began < 60 * report.minutes:
            due = began + SAMPLE_SECONDS * (len(report.samples) + 1)
            # Out of step with jobs that fire every ten seconds.
            await asyncio.sleep(max(0.0, due + random.uniform(-2.5, 2.5) - time.monotonic()))
            report.samples.append(await watch.sample())
            _show(report.samples[-1])
        seconds = time.monotonic() - began
        used = [after - before for after, before in zip(_own(system), own, strict=True)]
        report.others_percent = [
            round(100 * max(0.0, after - before - ours) / seconds, 1)
            for after, before, ours in zip(_busy(), busy, used, strict=True)
        ]
        report.faults = await watch.check()
        print("deleting everything", flush=True)
        await client.end()
        engine = load_settings(environ=report.settings, dotenv=None).engine
        wait = max(engine.history_retention_days, engine.history_failure_retention_days) * DAY_SECONDS + 15
        print(f"waiting {wait:.0f} s until the history has aged", flush=True)
        await asyncio.sleep(wait)
        report.remains = await watch.remains()
        report.last = await watch.sample()
        _show(report.last)
    finally:
        report.asked, report.unexpected = dict(client.answers), dict(client.unexpected.most_common(30))
        report.served = {how.decode(): count for how, count in Runner.served.items()}
        report.slopes = slopes_of(report.samples)
        report.bounds = _judged(report)
        await watch.aclose()
        server.close()


def _judged(report: Report) -> list[Held]:
    if not report.samples:
        return []
    settled = [one.sizes["settled/s"] for one in report.samples]
    last = report.samples[-1].sizes
    bytes_per_run = 1e6 * last["stored MB"] / max(1.0, last["records"])
    settings = load_settings(environ=report.settings, dotenv=None)
    return judge_bounds(report.samples, bounds_of(settings.engine, settings.tasks, max(settled), bytes_per_run))


def _busy() -> tuple[float, float]:
    return machine.busy_seconds(machine.SYSTEM_CORE), machine.busy_seconds(machine.OTHER_CORE)


def _own(system: Cronpost) -> tuple[float, float]:
    """Return CPU time of the node with its Redis, and of this program."""
    return sum(one.cpu_seconds for one in system.usage()), machine.usage_of([os.getpid()]).cpu_seconds


def _show(sample: Sample) -> None:
    cells = [f"{sample.sizes[name]:.1f}" if "MB" in name else f"{sample.sizes[name]:.0f}" for name in COLUMNS]
    widths = [len(name) for name in COLUMNS]
    row = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    print(f"{sample.seconds / 60:<6.1f}  {row}", flush=True)


def _verdict(report: Report) -> bool:
    if not report.samples:
        return False
    slopes = [["size", "mean", "least", "most", "% in 10 min", "+-", "verdict"]]
    slopes += [
        [
            one.size,
            *(f"{value:.4g}" for value in (one.mean, one.least, one.most)),
            f"{one.percent:+.1f}",
            f"{one.error:.1f}",
            one.verdict,
        ]
        for one in report.slopes
    ]
    bounds = [["bound", "most", "highest", "samples", "at it", "over, within the slack of a sweep", "broken"]]
    bounds += [
        [
            one.bound.size,
            *(f"{value:.4g}" for value in (one.bound.most, one.highest)),
            *(str(value) for value in (one.samples, one.at_bound, one.over, one.broken)),
        ]
        for one in report.bounds
    ]
    settled = report.samples[-1].sizes["settled"]
    print(f"\n{settled:.0f} runs settled in {report.samples[-1].seconds / 60:.1f} min; ", end="")
    print(f"other programs took {' and '.join(f'{one:.0f} %' for one in report.others_percent)} of the two cores")
    print(f"\nSlopes over the last two thirds\n{as_text(slopes)}\n\nBounds\n{as_text(bounds)}\n")
    print("The store is consistent" if not report.faults else "THE STORE IS INCONSISTENT: " + "; ".join(report.faults))
    for words, count in report.unexpected.items():
        print(f"UNEXPECTED, {count} times: {words}")
    left = {key: size for key, size in report.remains.items() if key not in STAYS}
    if report.last is not None:
        print(f"Keys left after everything was deleted and has aged, besides those of an empty store: {left or 'none'}")
    ahead = sum(one.sizes["claimed ahead"] > 0 for one in report.samples)
    print(f"Samples that saw jobs claimed ahead of their wake-up: {ahead} of {len(report.samples)}")
    rising = [one.size for one in report.slopes if one.verdict == "RISES"]
    unsure = [one.size for one in report.slopes if one.verdict == "cannot tell"]
    broken = [one.bound.size for one in report.bounds if not one.holds]
    print(f"\nRising: {', '.join(rising) or 'nothing'}")
    print(f"Too few samples for: {', '.join(unsure) or 'nothing'}")
    print(f"Bounds that did not hold: {', '.join(broken) or 'none'}")
    if not report.last:
        print("NOT FINISHED: what is left after everything was deleted is not known")
    return bool(ahead and report.last) and not (rising or broken or left or report.faults)


def _keep_log(log: Path, where: str | None) -> None:
    if where is not None and log.exists():
        Path(where).write_bytes(log.read_bytes())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=12.0, help="length of the load (default 12); the end takes 3 more"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of the load; 1 (default) is about 300 runs per second"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Cronpost")
    parser.add_argument("--output", metavar="FILE", help="where the JSON goes (default benchmarks/results/)")
    parser.add_argument("--log", metavar="FILE", help="where to keep the log of the node")
    return parser.parse_args()


if __name__ == "__main__":
    main()
