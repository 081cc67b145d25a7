"""Runs the scenarios, prints tables and writes a JSON file: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import math
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
from benchmarks.budget import Budget, measure
from benchmarks.compare import comparison, targets
from benchmarks.firing import every_second
from benchmarks.goals import goal_table, missed, reasons
from benchmarks.peers.install import NotRunError, versions
from benchmarks.plan import full_plan, quick_plan
from benchmarks.report import Report, as_text, server_name, tables
from benchmarks.scenario import Scenario
from benchmarks.systems.apscheduler3 import APScheduler3
from benchmarks.systems.base import System
from benchmarks.systems.bullmq import TUNINGS, BullMQ
from benchmarks.systems.celery_redbeat import CeleryRedBeat
from benchmarks.systems.cronpost import Cronpost, program_of
from benchmarks.systems.taskiq import Taskiq
from scheduler_core.base.config import LogSettings
from scheduler_core.base.events import configure_logging
from scheduler_core.embedded import find_server

DISTURBED_TRIES = 3
BUDGET_SECONDS = 8
TUNING_SECONDS = 4
SAMPLING_SECONDS = 70.0
"""The estimated duration of ``_budgets``."""
SLOWEST = "1000 jobs"
LEFT_OUT, TOO_FAST = "the time of the call was over", "it did not keep up with 1,000"
OWN, OWN_WITH_REDIS, OWN_DEFAULTS = "cronpost", "cronpost-with-redis", "cronpost-defaults"
TUNED = {"CRONPOST_MAX_IN_FLIGHT": "2000", "CRONPOST_TARGET_MAX_IN_FLIGHT": "1000"}
"""All jobs call one host. With the defaults, it gets at most half of the node's 1000 slots."""
BOUNDS = {"CRONPOST_MAX_IN_FLIGHT": "1000", "CRONPOST_TARGET_MAX_IN_FLIGHT": "half"}
"""The settings that each row states, with their defaults."""
MINUTES = 25.0
"""A call leaves out spare scenarios, and measurements of peers, that would make it longer."""
SLOW_PEERS = ("taskiq", "celery")
"""Measured last: they deliver a tenth of what the others deliver."""
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure what the arguments select."""
    arguments = _arguments()
    settings = dict(one.split("=", 1) for one in arguments.set)
    tuned = {**TUNED, **settings}
    systems: dict[str, Callable[[], System]] = {
        OWN: lambda: Cronpost(tuned, shares_redis=True, redis_core=machine.OTHER_CORE),
        OWN_WITH_REDIS: lambda: Cronpost(tuned, name="Cronpost, Redis on its core"),
        OWN_DEFAULTS: lambda: Cronpost(
            settings, name="Cronpost, default bounds", shares_redis=True, redis_core=machine.OTHER_CORE
        ),
        "bullmq": BullMQ,
        "apscheduler-redis": lambda: APScheduler3(store="redis"),
        "apscheduler-memory": lambda: APScheduler3(store="memory"),
        "taskiq": Taskiq,
        "celery": CeleryRedBeat,
    }
    chosen = arguments.systems.split(",") if arguments.systems else list(systems)
    if unknown := set(chosen) - set(systems):
        sys.exit(f"unknown system {', '.join(unknown)}; known: {', '.join(systems)}")
    plan = quick_plan() if arguments.quick else full_plan(arguments.seconds)
    if arguments.only:
        groups = arguments.only.split(",")
        if unknown := set(groups) - {scenario.group for scenario in plan}:
            there = ", ".join(dict.fromkeys(scenario.group for scenario in plan))
            sys.exit(f"unknown scenario {', '.join(unknown)}; known: {there}")
        plan = [scenario for scenario in plan if scenario.group in groups]
    if arguments.quick and not arguments.systems:
        chosen = chosen[:1]
    repetitions = arguments.repeat or (1 if arguments.quick else 3)

    def is_asked(scenario: Scenario, name: str, repetition: int) -> bool:
        repeated = repetition == 1 or not scenario.once or arguments.repeat_all
        if name == OWN_WITH_REDIS:
            return scenario.one_core and repeated
        if name == OWN_DEFAULTS:
            return scenario.defaults and repeated
        if name != OWN:
            return scenario.peers and (repetition == 1 or arguments.repeat_all)
        return repeated

    # Repetitions are the outer loop, so that a disturbance of the machine does not hit one system only.
    todo = [
        (scenario, name, repetition)
        for repetition in range(1, repetitions + 1)
        for scenario in plan
        for name in chosen
        if is_asked(scenario, name, repetition)
    ]
    todo.sort(key=lambda one: place_of(one[0], one[1]))
    configure_logging(LogSettings(log_level="warning"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a SIGTERM stops the started processes, too
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    report = Report(
        began_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.facts(str(find_server(program_of(settings)))),
        sink={},
        repetitions=repetitions,
        peers=versions(),
    )
    path = Path(arguments.output or RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = terminal_progress()
    began = time.monotonic()
    try:
        with Bench(progress) as bench:
            bench.begin("speed of the machine, capacity of the sink")
            report.calibration = [machine.calibrate()]
            report.sink = bench.sink_capacity(1.0 if arguments.quick else 2.0)
            if "bullmq" in chosen and any(name == "bullmq" for _, name, _ in todo):
                report.results += _tune_bullmq(bench)
            done: list[float] = []
            for number, (scenario, name, repetition) in enumerate(todo):
                took = time.monotonic() - began
                pace = _pace(done, took)
                left = pace * sum(_seconds(one, system) for one, system, _ in todo[number:])
                later = [_seconds(one, system) for one, system, _ in todo[number + 1 :] if not is_optional(one, system)]
                needed = pace * (_seconds(scenario, name) + sum(later) + SAMPLING_SECONDS)
                if is_optional(scenario, name) and took + needed > 60 * arguments.minutes:
                    report.results.append(_left_out(scenario, systems[name](), f"not run: {LEFT_OUT}"))
                    continue
                if not _is_own(name) and falls_behind(report.results, scenario, systems[name]().name):
                    report.results.append(_left_out(scenario, systems[name](), f"not run: {TOO_FAST}"))
                    continue
                bench.begin(
                    f"[{number + 1}/{len(todo)}, {left / 60:.0f} min left] {scenario.group}, {scenario.size}, {name}"
                    + (f", {repetition} of {repetitions}" if repetitions > 1 else "")
                )
                report.results.append(_measure(bench, scenario, systems[name], arguments.undisturbed))
                done.append(_seconds(scenario, name))
                report.took_seconds = time.monotonic() - began
                path.write_bytes(as_json(report))  # an interrupted call keeps the results so far
            if not arguments.quick and not arguments.only and OWN in chosen:
                bench.begin("where the time goes")
                report.budgets = _budgets(bench)
            report.calibration.append(machine.calibrate())
            report.took_seconds = time.monotonic() - began
            path.write_bytes(as_json(report))
    except KeyboardInterrupt:
        progress("interrupted")
    progress("done")
    _print(report, path)


def _tune_bullmq(bench: Bench) -> list[Result]:
    """Try numbers of workers and of jobs at once with 1,000 jobs every second, and keep the one with the least p99."""
    found: dict[tuple[int, int], Result] = {}
    for tuning in TUNINGS:
        BullMQ.tuning = tuning
        workers, at_once = tuning
        bench.begin(f"tuning BullMQ: {workers} workers, {at_once} jobs at once")
        result = _measure_once(bench, every_second(1000, TUNING_SECONDS), BullMQ())
        size = f"{workers} workers, {at_once} jobs at once each"
        found[tuning] = msgspec.structs.replace(result, scenario="tuning of BullMQ, 1000 jobs every second", size=size)

    def lateness(tuning: tuple[int, int]) -> float:
        fires = found[tuning].fires
        return fires.p99_ms if fires is not None and fires.delivered == fires.expected else math.inf

    BullMQ.tuning = min(TUNINGS, key=lateness)
    return list(found.values())


def _budgets(bench: Bench) -> list[Budget]:
    """Sample the stacks of a node; an empty list if this machine does not allow it."""
    try:
        return [measure(bench, 1000, BUDGET_SECONDS, spread=False), measure(bench, 100, BUDGET_SECONDS, spread=True)]
    except Exception as error:  # noqa: BLE001 - the results that were measured before must be printed
        print(f"\nnot sampled: {type(error).__name__}: {error}", file=sys.stderr)
        return []


def _is_own(name: str) -> bool:
    return name.startswith(OWN)


def falls_behind(results: list[Result], scenario: Scenario, name: str) -> bool:
    """Return whether a peer that did not deliver 1,000 fires per second is asked for more."""
    if scenario.group != "every-second" or scenario.size == SLOWEST:
        return False
    slowest = [one for one in results if (one.scenario, one.size, one.system) == (scenario.title, SLOWEST, name)]
    return any(one.fires is not None and one.fires.p99_ms > 1000 for one in slowest)


def _left_out(scenario: Scenario, system: System, fault: str) -> Result:
    return Result(scenario=scenario.title, system=system.name, size=scenario.size, fault=fault)


def _seconds(scenario: Scenario, name: str) -> float:
    """Return the estimated duration."""
    return scenario.seconds if _is_own(name) else scenario.peer_seconds or scenario.seconds


def place_of(scenario: Scenario, name: str) -> int:
    """Return the place of a measurement: what is left out if the time is short comes last."""
    if name in SLOW_PEERS:
        return 1 if scenario.size == SLOWEST else 3
    return 2 if scenario.spare else 0


def is_optional(scenario: Scenario, name: str) -> bool:
    return scenario.spare or not _is_own(name)


def _pace(done: list[float], seconds: float) -> float:
    """Return how much longer than estimated it took so far, as a factor."""
    foreseen = sum(done)
    return max(0.5, seconds / foreseen) if foreseen > 60 else 1.0


def _measure(bench: Bench, scenario: Scenario, make: Callable[[], System], undisturbed: float | None) -> Result:
    """Measure once. With ``undisturbed``, repeat while other programs took more than that share of a core, and keep the
    try with the least disturbance; the choice does not depend on the measured result."""
    tries = 1 if undisturbed is None else DISTURBED_TRIES
    best = _measure_once(bench, scenario, make())
    while (tries := tries - 1) > 0 and (best.others_percent or 0.0) > (undisturbed or 0.0):
        bench.step("disturbed by other programs, measuring again")
        again = _measure_once(bench, scenario, make())
        if (again.others_percent or 0.0) < (best.others_percent or 0.0):
            best = again
    return best


def _measure_once(bench: Bench, scenario: Scenario, system: System) -> Result:
    before_ms = machine.work_ms()
    try:
        result = scenario.run(bench, system)
    except NotRunError as error:
        result = Result(fault=f"not run: {error}")
    except Exception as error:  # noqa: BLE001 - what one system cannot do must not end the measuring of the others
        result = Result(fault=f"failed: {type(error).__name__}: {error}")
    return msgspec.structs.replace(
        result,
        scenario=scenario.title,
        system="" if scenario.group == "clients" else system.name,
        size=scenario.size,
        bounds={name: system.settings.get(name, value) for name, value in BOUNDS.items()}
        if isinstance(system, Cronpost) and scenario.group != "clients"
        else {},
        connections=result.connections or int(bench.ask_sink("connections")),
        work_ms=(before_ms + machine.work_ms()) / 2,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes: Cronpost only, short")
    parser.add_argument("--only", metavar="NAMES", help="scenarios, separated by commas")
    parser.add_argument("--systems", metavar="NAMES", help="systems, separated by commas")
    parser.add_argument(
        "--repeat",
        type=int,
        metavar="N",
        help="repetitions of Cronpost's scenarios (default 3; with --quick, 1)",
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"leave out what would make it longer (default {MINUTES:g})"
    )
    parser.add_argument("--repeat-all", action="store_true", help="repeat also the peers, and the long scenarios")
    parser.add_argument("--seconds", type=int, default=8, metavar="N", help="length of a window (default 8)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of Cronpost, such as CRONPOST_LOG_LEVEL=error",
    )
    parser.add_argument(
        "--undisturbed",
        type=float,
        metavar="PERCENT",
        help="repeat, at most twice, a measurement in which other programs took more than this share of a core",
    )
    parser.add_argument("--output", metavar="FILE", help="where the JSON goes (default benchmarks/results/)")
    return parser.parse_args()


def _print(report: Report, path: Path) -> None:
    facts = report.machine
    print(
        f"\n{facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, ", end=""
    )
    print(server_name(facts))
    print(f"Load average at the start {facts['load_average'][0]:.2f}, now {os.getloadavg()[0]:.2f}")
    if facts["code"] != machine.code_digest():
        print("THE CODE WAS CHANGED WHILE IT WAS MEASURED")
    print(f"{report.repetitions} repetition(s): median (least to greatest)\n\nThe sink:")
    for name, value in report.sink.items():
        print(f"  {name}: {value:,.1f}")
    for title, rows in tables(report.results):
        print(f"\n{title}\n{as_text(rows)}")
    if rows := comparison(report.results):
        print(f"\nBeside the peers (x: how many times Cronpost is better)\n{as_text(rows)}")
    if rows := targets(report.results):
        print(f"\nLimits, judged by the worst repetition\n{as_text(rows)}")
    if rows := goal_table(report.results):
        print(f"\nGoals, judged by the median\n{as_text(rows)}")
        for name, reason in missed(report.results, reasons()):
            print(f"* {name}: {reason}")
    for one in report.calibration:
        print("speed of the machine: " + ", ".join(f"{name} {value:.1f}" for name, value in one.items()))
    print(f"\nAll numbers: {path}\nTook {report.took_seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
