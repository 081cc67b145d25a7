"""``python -m benchmarks``: measure, print tables, write a JSON file."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.bench import Bench, Result, as_json, terminal_progress
from benchmarks.plan import full_plan, quick_plan
from benchmarks.report import Report, as_text, tables, targets
from benchmarks.scenario import Scenario
from benchmarks.systems.apscheduler3 import APScheduler3
from benchmarks.systems.base import System
from benchmarks.systems.cronpost import Cronpost
from scheduler_core.config import LogSettings
from scheduler_core.embedded import find_server
from scheduler_core.events import configure_logging

DISTURBED_TRIES = 3
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure what the arguments ask for."""
    arguments = _arguments()
    settings = dict(one.split("=", 1) for one in arguments.set)
    systems: dict[str, Callable[[], System]] = {
        "cronpost": lambda: Cronpost(settings),
        "apscheduler-redis": lambda: APScheduler3(store="redis"),
        "apscheduler-memory": lambda: APScheduler3(store="memory"),
    }
    chosen = arguments.systems.split(",") if arguments.systems else list(systems)
    if unknown := set(chosen) - set(systems):
        sys.exit(f"unknown system {', '.join(unknown)}; there are {', '.join(systems)}")
    plan = quick_plan() if arguments.quick else full_plan(arguments.seconds)
    if arguments.only:
        groups = arguments.only.split(",")
        if unknown := set(groups) - {scenario.group for scenario in plan}:
            there = ", ".join(dict.fromkeys(scenario.group for scenario in plan))
            sys.exit(f"unknown scenario {', '.join(unknown)}; there are {there}")
        plan = [scenario for scenario in plan if scenario.group in groups]
    if arguments.quick and not arguments.systems:
        chosen = chosen[:1]
    repetitions = arguments.repeat or (1 if arguments.quick else 3)

    # Repetitions are the outer loop: what disturbs the machine for a while does not hit one system only.
    todo = [
        (scenario, name, repetition)
        for repetition in range(1, repetitions + 1)
        for scenario in plan
        for name in chosen
        if (scenario.peers or name == "cronpost") and (repetition == 1 or not scenario.once or arguments.repeat_all)
    ]
    configure_logging(LogSettings(log_level="warning"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then, too
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    report = Report(
        began_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.facts(".".join(map(str, find_server()[1]))),
        sink={},
        repetitions=repetitions,
    )
    path = Path(arguments.output or RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = terminal_progress()
    try:
        with Bench(progress) as bench:
            bench.begin("capacity of the sink")
            report.sink = bench.sink_capacity(1.0 if arguments.quick else 3.0)
            for number, (scenario, name, repetition) in enumerate(todo):
                left = sum(one.seconds for one, _, _ in todo[number:])
                bench.begin(
                    f"[{number + 1}/{len(todo)}, {left / 60:.0f} min left] {scenario.group}, {scenario.size}, {name}"
                    + (f", {repetition} of {repetitions}" if repetitions > 1 else "")
                )
                report.results.append(_measure(bench, scenario, systems[name], arguments.undisturbed))
                path.write_bytes(as_json(report))  # an interrupted call leaves what it has
    except KeyboardInterrupt:
        progress("interrupted")
    progress("done")
    _print(report, path)


def _measure(bench: Bench, scenario: Scenario, make: Callable[[], System], undisturbed: float | None) -> Result:
    """Measure once. With ``undisturbed``, a time in which other programs took more than that is not used, unless
    there is no better one; which of the tries is used does not depend on what it measured."""
    tries = 1 if undisturbed is None else DISTURBED_TRIES
    best = _measure_once(bench, scenario, make())
    while (tries := tries - 1) > 0 and (best.others_percent or 0.0) > (undisturbed or 0.0):
        bench.step("disturbed by other programs, once more")
        again = _measure_once(bench, scenario, make())
        if (again.others_percent or 0.0) < (best.others_percent or 0.0):
            best = again
    return best


def _measure_once(bench: Bench, scenario: Scenario, system: System) -> Result:
    before_ms = machine.work_ms()
    try:
        result = scenario.run(bench, system)
    except Exception as error:  # noqa: BLE001 - what one system cannot do must not end the measuring of the others
        result = Result(fault=f"{type(error).__name__}: {error}")
    return msgspec.structs.replace(
        result,
        scenario=scenario.title,
        system=system.name,
        size=scenario.size,
        work_ms=(before_ms + machine.work_ms()) / 2,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute: Cronpost only, once, short")
    parser.add_argument("--only", metavar="NAMES", help="scenarios, separated by commas")
    parser.add_argument("--systems", metavar="NAMES", help="systems, separated by commas")
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions (default 3)")
    parser.add_argument("--repeat-all", action="store_true", help="repeat also what takes long and has no target")
    parser.add_argument("--seconds", type=int, default=10, metavar="N", help="length of a window (default 10)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of Cronpost, like CRONPOST_LOG_LEVEL=error",
    )
    parser.add_argument(
        "--undisturbed",
        type=float,
        metavar="PERCENT",
        help="measure again, at most twice, if other programs took more of a core than that meanwhile",
    )
    parser.add_argument("--output", metavar="FILE", help="where the JSON goes (default benchmarks/results/)")
    return parser.parse_args()


def _print(report: Report, path: Path) -> None:
    facts = report.machine
    print(
        f"\n{facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, ", end=""
    )
    print(f"Redis {facts['redis']}")
    print(f"Load average at the start {facts['load_average'][0]:.2f}, now {os.getloadavg()[0]:.2f}")
    if facts["code"] != machine.code_digest():
        print("THE CODE WAS CHANGED WHILE IT WAS MEASURED")
    print(f"{report.repetitions} repetition(s): median (least to most)\n\nThe sink:")
    for name, value in report.sink.items():
        print(f"  {name}: {value:,.1f}")
    for title, rows in tables(report.results):
        print(f"\n{title}\n{as_text(rows)}")
    if lines := targets(report.results):
        print("\nTo reach, by the worst repetition:\n  " + "\n  ".join(lines))
    print(f"\nAll numbers: {path}")


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"Took {(time.monotonic() - began) / 60:.1f} min")
