"""Measures nodes that claim from the same shards: ``python -m benchmarks.contention``.

Nodes do not communicate. All of them know when the next job of a shard is due. A node that claims when no job is left
has claimed in vain: this costs a round trip and a little time of Redis. ``simulate`` calculates it for numbers of nodes
that this machine cannot run.
"""

from __future__ import annotations

import argparse
import heapq
import http.client
import json
import random
import time
from collections.abc import Sequence

import msgspec

from benchmarks import machine
from benchmarks.bench import Bench, next_second_ms, terminal_progress
from benchmarks.measures import Fires
from benchmarks.report import as_text
from benchmarks.systems.cronpost import Cronpost
from benchmarks.wire import prepare, sharing

BATCH = 128
"""Jobs that a claim takes at most, as in ``node/loops/claim.py``."""
EMPTY_CLAIM_US = 18.0
"""Time of Redis for a claim that finds nothing."""
CLAIM_SHARE = 0.45
"""The share of a claim in Redis's time for a fire; the rest is the settlement."""
START_US = 45.0
"""Time of a node per fire before it claims again: it plans the fire and sends its request."""
WAY_US = 150.0
"""Time from a node to Redis, and back."""
WAKE_SPREAD_US = 1000.0
"""The clocks of nodes that wake up at the same instant differ by at most this."""


class Contention(msgspec.Struct, frozen=True, kw_only=True):
    """What happened at one shard in a second."""

    nodes: int
    fires: float
    claims: float
    empty: float
    last_claimed_ms: float
    """Time since the second began."""
    redis_us: float
    """Time of Redis per fire, with claims in vain."""


def simulate(*, nodes: int, fires_a_shard: int, redis_us: float, seconds: int = 20, seed: int = 1) -> Contention:
    """Simulate ``nodes`` that claim ``fires_a_shard`` jobs of one shard, due on each whole second."""
    chance = random.Random(seed)
    claims = empty = 0
    last_us = busy_us = 0.0
    for _ in range(seconds):
        left, free_at = fires_a_shard, 0.0
        arriving = [(WAY_US + chance.random() * WAKE_SPREAD_US, node) for node in range(nodes)]
        heapq.heapify(arriving)
        while arriving:
            at, node = heapq.heappop(arriving)
            taken = min(BATCH, left)
            left -= taken
            claims += 1
            empty += taken == 0
            takes = EMPTY_CLAIM_US + taken * redis_us * CLAIM_SHARE
            busy_us += takes + taken * redis_us * (1 - CLAIM_SHARE)
            # Settlements of earlier claims come in between, spread evenly.
            free_at = max(at, free_at) + takes + taken * redis_us * (1 - CLAIM_SHARE)
            if taken:
                last_us = max(last_us, free_at)
            if taken == BATCH:
                heapq.heappush(arriving, (free_at + 2 * WAY_US + taken * START_US, node))
    return Contention(
        nodes=nodes,
        fires=fires_a_shard,
        claims=claims / seconds,
        empty=empty / seconds,
        last_claimed_ms=last_us / 1000,
        redis_us=busy_us / seconds / fires_a_shard,
    )


def simulation_table(found: Sequence[Contention]) -> list[list[str]]:
    """Return a table with a row for each result of ``simulate``."""
    head = [
        "nodes",
        "fires/s of the shard",
        "claims a second",
        "in vain",
        "last one claimed after, ms",
        "Redis, us a fire",
    ]
    return [
        head,
        *(
            [
                str(one.nodes),
                f"{one.fires:,.0f}",
                f"{one.claims:,.0f}",
                f"{one.empty:,.0f}",
                f"{one.last_claimed_ms:,.0f}",
                f"{one.redis_us:.0f}",
            ]
            for one in found
        ),
    ]


# ---- measured -------------------------------------------------------------------------------------------------------

NODES, SHARDS, FIRES = (1, 2, 8, 32), (1, 2, 4), (1, 500)
SECONDS = 10


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What nodes did that share one Redis, with jobs that fire on every whole second."""

    nodes: int
    shards: int
    jobs: int
    fires: Fires
    claims: dict[str, float]
    """Claims by result, as in the metric ``cronpost_claims_total``."""
    redis_us: float
    """Time of Redis's process: commands, and reading and writing its sockets."""


def measure(nodes: Sequence[int], shards: Sequence[int], jobs: Sequence[int], seconds: int = SECONDS) -> list[Claims]:
    """Measure each combination on two cores that nodes, Redis and sink share."""
    prepare()
    found = []
    with Bench(terminal_progress()) as bench:
        for number in nodes:
            for parts in shards:
                for each in jobs:
                    bench.begin(f"{number} nodes, {parts} shards, {each} fires/s")
                    bench.move_sink(machine.SYSTEM_CORE, machine.OTHER_CORE)
                    found.append(_measured(bench, number, parts, each, seconds))
    return found


def _measured(bench: Bench, nodes: int, shards: int, jobs: int, seconds: int) -> Claims:
    system = sharing(nodes, shards)
    with bench.running(system):
        _until_all_work(system, nodes)
        system.add_every_second(0, jobs)
        from_ms = next_second_ms(5)
        bench.sleep_until(from_ms - HALF_A_SECOND_MS)
        bench.ask_sink("reset")
        claims, info = _claims(system), system.redis_info()
        bench.sleep_until(from_ms + 1000 * seconds - HALF_A_SECOND_MS)
        claims_after, info_after = _claims(system), system.redis_info()
        fires = bench.wait_for(from_ms, from_ms + 1000 * seconds, jobs * seconds)
    return Claims(
        nodes=nodes,
        shards=shards,
        jobs=jobs,
        fires=fires,
        claims={result: count - claims.get(result, 0.0) for result, count in claims_after.items()},
        redis_us=_process_us(info_after) - _process_us(info),
    )


HALF_A_SECOND_MS = 500
"""Counters are read between two bursts."""
START_SECONDS = 120.0


def _until_all_work(system: Cronpost, nodes: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while nodes > 1 and json.loads(_get(system, "/ready"))["nodes"]["working"] < nodes:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all of {nodes} nodes worked after {START_SECONDS:.0f} s")
        time.sleep(0.5)


def _claims(system: Cronpost) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in _get(system, "/metrics", Accept="text/plain").decode().splitlines():
        if line.startswith("cronpost_claims_total{"):
            name, _, count = line.rpartition(" ")
            found[name.partition('"')[2].partition('"')[0]] = float(count)
    return found


def _get(system: Cronpost, path: str, **headers: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().read()
    finally:
        connection.close()


def _process_us(info: dict[str, str]) -> float:
    return 1e6 * (float(info["used_cpu_user"]) + float(info["used_cpu_sys"]))


def contention_table(found: Sequence[Claims]) -> list[list[str]]:
    """Return a table with a row for each result of ``measure``."""
    head = ["nodes", "shards", "fires/s", "claims a fire", "empty", "short", "Redis, us a fire", "p50, ms", "p99, ms"]
    rows = [head]
    for one in found:
        claims, fires = sum(one.claims.get(result, 0.0) for result in RESULTS), one.fires
        rows.append(
            [
                str(one.nodes),
                str(one.shards),
                f"{one.jobs:,}",
                f"{claims / fires.expected:.3g}",
                *(f"{one.claims.get(result, 0.0) / max(1.0, claims):.0%}" for result in RESULTS[:2]),
                f"{one.redis_us / fires.expected:.0f}",
                f"{fires.p50_ms:.1f}",
                f"{fires.p99_ms:.1f}",
            ]
        )
    return rows


RESULTS = ("empty", "short", "full")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contention", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--shards", type=int, nargs="+", default=SHARDS)
    parser.add_argument("--fires", type=int, nargs="+", default=FIRES, help="jobs, each of which fires every second")
    parser.add_argument("--seconds", type=int, default=SECONDS)
    arguments = parser.parse_args()
    found = measure(arguments.nodes, arguments.shards, arguments.fires, arguments.seconds)
    print(as_text(contention_table(found)))


if __name__ == "__main__":
    main()
