"""Compares the CPU per fire of two checkouts of Cronpost: ``python -m benchmarks.beside TREE_A TREE_B``.

Runs both servers at the same time on one core, each with its own Redis, against one sink. One fires at even seconds and
the other at odd ones; each round swaps them and the order of their start. So a neighbour that slows the machine slows
both: runs in turn differ by 50 % on such a machine, simultaneous ones by about 5 %. To see the noise of a machine,
compare a checkout with itself. Absolute numbers are higher than those of ``python -m benchmarks``, because the two
servers share the caches of the core.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.bench import BEFORE_MS, Bench, next_second_ms, terminal_progress
from benchmarks.measures import Fires, judge, spread
from benchmarks.report import as_text
from benchmarks.systems.cronpost import BATCH, Cronpost, program_of
from scheduler_core.base.config import LogSettings
from scheduler_core.base.events import configure_logging
from scheduler_core.embedded import find_server

EVEN, ODD = "*/2 * * * * *", "1-59/2 * * * * *"
START_SECONDS = 12.0
"""Estimated length of a round outside its window, for the progress line."""
WARM_UP_SECONDS = 3.0
"""Between the last upsert and the first fire that counts: connections are open by then."""


class Window(msgspec.Struct, frozen=True):
    """How much each server fires in a round: ``jobs`` every other second, for ``seconds``."""

    jobs: int
    seconds: int


class Cost(msgspec.Struct, frozen=True):
    """CPU time of one server and of its Redis, in microseconds per fire."""

    own_us: float
    redis_us: float


class Round(msgspec.Struct, frozen=True):
    """The costs of both servers in one round."""

    a: Cost
    b: Cost
    a_is_even: bool
    """Whether A fired at even seconds and B at odd ones."""

    @property
    def own_ratio(self) -> float:
        return self.b.own_us / self.a.own_us

    @property
    def redis_ratio(self) -> float:
        return self.b.redis_us / self.a.redis_us


def crons_of(number: int) -> tuple[str, str]:
    """Return the cron expressions of A and B in round ``number``: even numbers give A the even seconds."""
    return (EVEN, ODD) if number % 2 == 0 else (ODD, EVEN)


def cost_of(before: Sequence[machine.Usage], after: Sequence[machine.Usage], fires: Fires) -> Cost:
    """Return the cost per fire between two readings of (server, Redis).

    Raises ``RuntimeError`` if not every fire time was delivered: the server could not keep up, and its fires would seem
    cheaper or dearer than they are.
    """
    if fires.delivered < fires.expected:
        raise RuntimeError(f"only {fires.delivered} of {fires.expected} fires were delivered: use fewer --jobs")
    own, redis = (
        1e6 * (later.cpu_seconds - earlier.cpu_seconds) / fires.delivered
        for earlier, later in zip(before, after, strict=True)
    )
    return Cost(own, redis)


def measure_round(bench: Bench, trees: Sequence[Path], redis_server: str | None, window: Window, number: int) -> Round:
    """Start both servers, let them fire for a window, and stop them."""
    settings = {} if redis_server is None else {"CRONPOST_REDIS_SERVER": redis_server}
    servers = [Cronpost(settings, shares_redis=True, redis_core=machine.OTHER_CORE, checkout=tree) for tree in trees]
    crons = crons_of(number)
    # Even seconds first, so that the order of the start is swapped, too.
    added = sorted(zip(servers, crons, "ab", strict=True), key=lambda one: one[1] != EVEN)
    each = window.jobs * window.seconds // 2
    with bench.running(added[0][0]), bench.running(added[1][0]):
        bench.step("adding jobs")
        for server, cron, prefix in added:
            server.upsert(count=window.jobs, cron=cron, prefix=prefix, batch=BATCH)
        from_ms = next_even_second_ms(WARM_UP_SECONDS)
        until_ms = from_ms + 1000 * window.seconds
        bench.sleep_until(from_ms - BEFORE_MS)
        before = [server.usage() for server in servers]
        bench.sleep_until(until_ms - BEFORE_MS)
        after = [server.usage() for server in servers]
        bench.wait_for(from_ms, until_ms, 2 * each)
        arrivals = bench.arrivals()
    costs = []
    for prefix, earlier, later in zip("ab", before, after, strict=True):
        own = [arrival for arrival in arrivals if arrival.job.startswith(prefix)]
        fires = judge(own, from_ms=from_ms, until_ms=until_ms, expected=each)
        costs.append(cost_of(earlier, later, fires))
    return Round(a=costs[0], b=costs[1], a_is_even=crons[0] == EVEN)


def next_even_second_ms(after_seconds: float) -> int:
    """Return the first even second of the epoch that is at least ``after_seconds`` away."""
    at_ms = next_second_ms(after_seconds)
    return at_ms + at_ms % 2000


def table(rounds: Sequence[Round]) -> list[list[str]]:
    """Return a row for each round; the first row is the head."""
    rows = [["round", "A fires at", "A us/fire", "A Redis", "B us/fire", "B Redis", "B : A", "Redis, B : A"]]
    for number, one in enumerate(rounds, 1):
        costs = [f"{cost:.1f}" for cost in (one.a.own_us, one.a.redis_us, one.b.own_us, one.b.redis_us)]
        ratios = [f"{one.own_ratio:.3f}", f"{one.redis_ratio:.3f}"]
        rows.append([str(number), "even seconds" if one.a_is_even else "odd seconds", *costs, *ratios])
    return rows


def summary(rounds: Sequence[Round]) -> list[str]:
    """Return the median ratio with its range: of the servers, and of their Redis."""
    found = (
        ("server", [one.own_ratio for one in rounds]),
        ("Redis", [one.redis_ratio for one in rounds]),
    )
    lines = []
    for name, ratios in found:
        least, median, most = spread(ratios)
        lines.append(f"CPU per fire, {name}, B : A: median {median:.3f} ({least:.3f} to {most:.3f})")
    return lines


def main() -> None:
    """Measure the rounds and print the ratios."""
    arguments = _arguments()
    trees = [arguments.tree_a.resolve(), arguments.tree_b.resolve()]
    window = Window(arguments.jobs, arguments.seconds)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a SIGTERM stops the servers, too
    configure_logging(LogSettings(log_level="warning"))
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    server = arguments.redis_server
    print(find_server(program_of({} if server is None else {"CRONPOST_REDIS_SERVER": server})))
    digests = [machine.code_digest(tree) for tree in trees]
    for name, tree, digest in zip("AB", trees, digests, strict=True):
        print(f"{name}: {tree}, code {digest}")
    rounds: list[Round] = []
    progress = terminal_progress()
    try:
        with Bench(progress) as bench:
            for number in range(arguments.rounds):
                left = (arguments.rounds - number) * (START_SECONDS + WARM_UP_SECONDS + window.seconds)
                so_far = f" ratio so far {spread([one.own_ratio for one in rounds])[1]:.3f}" if rounds else ""
                bench.begin(f"[round {number + 1} of {arguments.rounds}, {left / 60:.1f} min left]{so_far}")
                rounds.append(measure_round(bench, trees, server, window, number))
    except KeyboardInterrupt:
        progress("interrupted")
    progress("done")
    if rounds:
        print("\n" + "\n".join([as_text(table(rounds)), "", *summary(rounds)]))
    if digests != [machine.code_digest(tree) for tree in trees]:
        print("THE CODE WAS CHANGED WHILE IT WAS MEASURED")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("tree_a", type=Path, metavar="TREE_A", help="a checkout of Cronpost: the base of the ratio")
    parser.add_argument("tree_b", type=Path, metavar="TREE_B", help="the checkout to compare with it")
    parser.add_argument("--seconds", type=int, default=16, help="window of a round, an even number (default 16)")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of each server, due every 2 s (default 1000)")
    parser.add_argument("--rounds", type=int, default=6, help="an even number fires alike in both orders (default 6)")
    parser.add_argument("--redis-server", metavar="PROGRAM", help="the redis-server or valkey-server of both")
    arguments = parser.parse_args()
    if arguments.seconds < 2 or arguments.seconds % 2:
        parser.error("--seconds must be an even number, at least 2")
    if arguments.jobs < 1 or arguments.rounds < 1:
        parser.error("--jobs and --rounds must be at least 1")
    for tree in (arguments.tree_a, arguments.tree_b):
        if not (tree / "scheduler_api" / "__main__.py").is_file():
            parser.error(f"{tree} is no checkout of Cronpost: it has no scheduler_api/__main__.py")
    return arguments


if __name__ == "__main__":
    main()
