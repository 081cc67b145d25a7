"""Which scenarios are measured, and how large."""

from __future__ import annotations

from benchmarks.firing import every_second, herd, highest_held, run_now, spread_out
from benchmarks.scenario import Scenario
from benchmarks.standing import cold_start, idle, upserts


def full_plan(seconds: int) -> list[Scenario]:
    """All of it: what a target depends on is repeated, the rest is measured once."""
    repeated = [
        every_second(1000, seconds),
        herd(1000),
        spread_out(100, seconds),
        cold_start(100_000, "clean stop"),
        cold_start(100_000, "kill -9"),
        cold_start(100_000, "running Redis"),
        idle(0, seconds),
    ]
    once = [
        every_second(200, seconds),
        every_second(5000, seconds),
        highest_held(1000, 500, 8000, 5),
        herd(10_000),
        spread_out(1000, seconds),
        run_now(100, seconds),
        idle(10_000, seconds),
        upserts(16, 10_000),
        upserts(64, 10_000),
    ]
    for scenario in once:
        scenario.once = True
    return [*repeated, *once]


def quick_plan() -> list[Scenario]:
    """Whether everything works, and roughly how fast, in under a minute with one repetition."""
    return [every_second(1000, 4), herd(1000), spread_out(100, 4), idle(0, 4), upserts(16, 1000)]
