"""Lists the scenarios and their sizes."""

from __future__ import annotations

from benchmarks.capacity import hanging_target, highest_held, two_nodes
from benchmarks.clients import bare_clients
from benchmarks.firing import every_second, herd, run_now, spread_out
from benchmarks.scenario import Scenario
from benchmarks.startup_idle import bulk_upserts, cold_start, idle, stored, upserts

OWN_ONLY = (("every second", "8000 jobs"), ("every second", "10000 jobs"), ("herd at one instant", "50000 jobs"))
"""Cronpost measures these without the peers: none of them can do it, so it would only take time."""


def full_plan(seconds: int) -> list[Scenario]:
    """List all scenarios. Those for the table of the peers come first."""
    plan = [
        every_second(1000, seconds),
        herd(10_000),
        highest_held(3, 60),
        spread_out(100, seconds),
        spread_out(1000, min(seconds, 6)),
        every_second(5000, min(seconds, 6)),
        *bare_clients(3.0),
        every_second(8000, seconds),
        every_second(10_000, seconds),
        herd(50_000),
        upserts(16, 10_000),
        bulk_upserts(4, 100_000, 1000),
        two_nodes(20_000, 2),
        hanging_target(1000, 100, seconds),
        run_now(100, seconds),
        idle(0, seconds),
        cold_start(100_000, "kill -9"),
        stored(1_000_000),
    ]
    for scenario in plan:
        scenario.peers = scenario.peers and (scenario.title, scenario.size) not in OWN_ONLY
        scenario.one_core = scenario.group in {"every-second", "herd", "highest-held"} and scenario.peers
        scenario.once = scenario.group in {"highest-held", "nodes", "stored", "run-now", "idle"}
    return plan


def quick_plan() -> list[Scenario]:
    """List short scenarios: they check that everything works, and take under two minutes with one repetition."""
    return [
        every_second(1000, 4),
        herd(1000),
        spread_out(100, 4),
        *bare_clients(1.0),
        idle(0, 4),
        upserts(16, 1000),
        bulk_upserts(4, 10_000, 1000),
        hanging_target(200, 50, 3),
        stored(10_000),
    ]
