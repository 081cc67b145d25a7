"""Lists the scenarios and their sizes."""

from __future__ import annotations

from benchmarks.capacity import hanging_target, highest_held, two_nodes
from benchmarks.clients import bare_burst, bare_clients
from benchmarks.firing import every_second, herd, run_now, spread_out
from benchmarks.scenario import Scenario
from benchmarks.startup_idle import bulk_upserts, cold_start, idle, stored, upserts


def full_plan(seconds: int) -> list[Scenario]:
    """List all scenarios: those of the goals, also for the peers, then those that are left out if time runs short."""
    short = min(seconds, 6)
    thousand, herd_10k, held = every_second(1000, seconds), herd(10_000), highest_held(2, 60)
    herd_50k, nodes, million = herd(50_000), two_nodes(20_000, 3), stored(1_000_000)
    herd_10k.defaults = held.one_core = True
    herd_50k.peers = False
    held.once = nodes.once = million.once = True
    clients = bare_clients(2.0)
    spare = [
        spread_out(1000, short),
        hanging_target(1000, 100, min(seconds, 5)),
        run_now(100, short),
        idle(0, short),
        upserts(16, 10_000),
        bulk_upserts(4, 100_000, 1000),
        cold_start(100_000, "kill -9"),
    ]
    for one in (*clients, *spare):
        one.once = True
    for one in spare:
        one.spare, one.peers = True, False
    goals = [bare_burst(1000, 5), bare_burst(5000, 3), thousand, every_second(5000, short), herd_10k, herd_50k]
    return [*goals, spread_out(100, seconds), *clients, held, nodes, million, *spare]


def quick_plan() -> list[Scenario]:
    """List short scenarios: they check that everything works, and take under two minutes with one repetition."""
    return [
        bare_burst(500, 2),
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
