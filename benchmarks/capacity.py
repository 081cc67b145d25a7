"""Scenarios that look for a limit: the highest rate that is held, two nodes beside one, a target that hangs."""

from __future__ import annotations

import contextlib
import socket
import statistics
from collections.abc import Iterator

from benchmarks import machine
from benchmarks.bench import BEFORE_MS, Bench, Result, next_second_ms, with_span
from benchmarks.measures import Fires
from benchmarks.scenario import Scenario
from benchmarks.systems.base import System
from benchmarks.systems.cronpost import Cronpost

LADDER = 1.2
"""Each step has this many times the jobs of the one before."""
LOWERED = (1.0, 0.93, 0.86, 0.78, 0.66, 0.5)
"""A rate that held for some seconds may not hold for the whole time; then the next try uses this share of it."""
PEER_SECONDS = 10
"""How long a peer has to hold its rate. Cronpost has to hold its own for a minute, because its goal is stated for a
minute."""
TRIAL_SECONDS = 8
"""A rate that has fallen behind after this long is not held for the rest of the time."""
LOWEST_RATE = 20
P99_MS, MAX_MS = 1000.0, 2000.0


def is_held(fires: Fires) -> bool:
    """Return whether all fire times were delivered, none early, and those of each second before the next second began.

    One fire in 100 may take longer, but none two seconds: a virtual machine stops for a moment now and then, whatever
    runs on it.
    """
    return fires.delivered == fires.expected and not fires.early and fires.p99_ms < P99_MS and fires.max_ms < MAX_MS


def highest_held(step_seconds: int, confirm_seconds: int, *, last: int = 40_000) -> Scenario:
    """Find the most jobs that can fire on every whole second.

    First the rate is raised in steps of ``step_seconds``, until a step is not held. Then a fresh process runs the
    highest step that was held for ``confirm_seconds``, with fewer jobs if that fails.
    """

    def run(bench: Bench, system: System) -> Result:
        climbed = _climb(bench, system, step_seconds, last)
        seconds = confirm_seconds if isinstance(system, Cronpost) else min(confirm_seconds, PEER_SECONDS)
        result = Result()
        for share in LOWERED if climbed else ():
            jobs = _rounded(climbed * share)
            result = _hold(bench, system, jobs, seconds)
            assert result.fires is not None
            if is_held(result.fires):
                result.values = {"held, fires/s": float(jobs)}
                return result
        result.values = {"held, fires/s": 0.0}
        return result

    return Scenario(
        group="highest-held",
        title="highest rate held",
        size="rate raised in steps",
        run=run,
        seconds=8 * (step_seconds + 4) + 1.3 * (confirm_seconds + 12),
        peer_seconds=5 * (step_seconds + 4) + 1.3 * (PEER_SECONDS + 12),
    )


def _climb(bench: Bench, system: System, seconds: int, last: int) -> int:
    """Raise the rate in steps. Returns the number of jobs of the last step that was held; 0 if none was."""
    first = system.first_rate
    while first >= LOWEST_RATE:
        jobs = held = 0
        wanted = first
        with bench.running(system):
            while wanted <= last:
                bench.step(f"{wanted} jobs")
                system.add_every_second(jobs, wanted - jobs)
                jobs = wanted
                if not is_held(_fires(bench, jobs, seconds)):
                    break
                held, wanted = jobs, _rounded(jobs * LADDER)
        if held:
            return held
        first //= 3
    return 0


def _fires(bench: Bench, jobs: int, seconds: int) -> Fires:
    from_ms = next_second_ms(2.0)
    until_ms = from_ms + 1000 * seconds
    bench.sleep_until(from_ms - BEFORE_MS)
    bench.ask_sink("reset")
    bench.sleep_until(until_ms)
    return bench.wait_for(from_ms, until_ms, jobs * seconds, grace_seconds=1)


def _hold(bench: Bench, system: System, jobs: int, seconds: int) -> Result:
    with bench.running(system):
        bench.step(f"{jobs} jobs")
        system.add_every_second(0, jobs)
        from_ms = next_second_ms(4.0)
        until_ms = from_ms + 1000 * seconds
        bench.sleep_until(from_ms - 2 * BEFORE_MS)
        bench.ask_sink("reset")
        trial = min(seconds // 2, TRIAL_SECONDS)
        trial_ms = from_ms + 1000 * trial
        bench.sleep_until(trial_ms - BEFORE_MS)
        if int(bench.ask_sink("count")) < jobs * (trial - 2):
            # More than two seconds of fires are missing already.
            return Result(fires=bench.wait_for(from_ms, trial_ms, jobs * trial, grace_seconds=0))
        span = bench.span(system, trial_ms - BEFORE_MS, until_ms - BEFORE_MS)
        fires = bench.wait_for(from_ms, until_ms, jobs * seconds, grace_seconds=3)
        return with_span(Result(fires=fires), span, fires.delivered * (seconds - trial) // seconds)


def _rounded(jobs: float) -> int:
    """Rounded to two digits; the measurement is not more exact."""
    step = 10 if jobs < 1000 else 100
    return int(jobs // step) * step


def two_nodes(jobs: int, rounds: int) -> Scenario:
    """Compare the rate of a herd of ``jobs``: one node with its Redis and the sink on one core, and two nodes with
    their Redis and the sink on two. Each stack is complete, so each core does the same kinds of work."""

    def run(bench: Bench, system: System) -> Result:
        assert isinstance(system, Cronpost)
        one, two = machine.SYSTEM_CORE, machine.OTHER_CORE
        if one == two:
            raise RuntimeError("there is one core only")
        rates: dict[str, list[float]] = {"one": [], "two": []}
        for _ in range(rounds):
            for name, cores, nodes in (("one", (one,), 1), ("two", (one, two), 2)):
                bench.move_sink(*cores)
                stack = Cronpost(system.settings, shares_redis=True, redis_core=one, cores=cores, nodes=nodes)
                rates[name].append(_herd_rate(bench, stack, jobs, name))
        bench.move_sink(two)
        single, both = (statistics.median(rates[name]) for name in ("one", "two"))
        return Result(
            values={"one node, fires/s": single, "two nodes, fires/s": both, "times": both / single},
        )

    return Scenario(
        group="nodes",
        title="two nodes on two cores",
        size=f"herd of {jobs}",
        run=run,
        seconds=2 * rounds * (11 + jobs / 5000),
        peers=False,
    )


def _herd_rate(bench: Bench, system: Cronpost, jobs: int, name: str) -> float:
    """Return fires per second between the instant and the last fire of the herd."""
    with bench.running(system):
        bench.step(f"{name}: adding jobs")
        at_ms = next_second_ms(5 + jobs / system.loads_per_second)
        system.add_daily(jobs, at_ms)
        if next_second_ms(0) > at_ms:
            raise RuntimeError("adding the jobs took longer than was foreseen")
        bench.sleep_until(at_ms)
        fires = bench.wait_for(at_ms, at_ms + 1, jobs, grace_seconds=60)
        if fires.delivered < jobs or fires.duplicates or fires.early:
            raise RuntimeError(f"of {jobs}, {fires.delivered} arrived, {fires.duplicates} twice, {fires.early} early")
        return 1000 * jobs / fires.max_ms


def hanging_target(jobs: int, hanging: int, seconds: int) -> Scenario:
    """Measure ``jobs`` that fire every second, alone and then beside ``hanging`` more on one target that accepts
    connections and never answers."""

    def run(bench: Bench, system: System) -> Result:
        assert isinstance(system, Cronpost)
        alone = _healthy(bench, system, jobs, seconds, None, 0)
        with _never_answers() as endpoint:
            beside = _healthy(bench, system, jobs, seconds, endpoint, hanging)
        assert alone.fires is not None
        assert beside.fires is not None
        beside.values = {"p99 alone, ms": alone.fires.p99_ms, "times": beside.fires.p99_ms / alone.fires.p99_ms}
        return beside

    return Scenario(
        group="hanging",
        title="a target that hangs",
        size=f"{jobs} jobs, and {hanging} that hang",
        run=run,
        seconds=2 * (seconds + 10 + jobs / 1500),
        peers=False,
    )


def _healthy(bench: Bench, system: Cronpost, jobs: int, seconds: int, endpoint: str | None, hanging: int) -> Result:
    with bench.running(system):
        bench.step("adding jobs")
        if endpoint is not None:
            system.upsert(count=hanging, cron="* * * * * *", prefix="hang", endpoint=endpoint)
        system.add_every_second(0, jobs)
        from_ms = next_second_ms(3.0)
        until_ms = from_ms + 1000 * seconds
        bench.sleep_until(from_ms - 2 * BEFORE_MS)
        bench.ask_sink("reset")
        span = bench.span(system, from_ms - BEFORE_MS, until_ms - BEFORE_MS)
        fires = bench.wait_for(from_ms, until_ms, jobs * seconds, grace_seconds=3)
        return with_span(Result(fires=fires), span, fires.delivered)


@contextlib.contextmanager
def _never_answers() -> Iterator[str]:
    """Yield a port on which the system completes connections and buffers data, and which no program reads."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/job"
