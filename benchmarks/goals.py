"""Compares the results of Cronpost with the goals for punctuality and cost. Pure functions.

Each row is the median of its repetitions. A row whose goal was not reached has a reason, which a person writes into
``reasons.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.bench import Result
from benchmarks.compare import OWN, OWN_WITH_REDIS, Pick, fastest_library
from benchmarks.measures import spread

OWN_DEFAULTS = "Cronpost, default bounds"
REASONS = Path(__file__).parent / "reasons.toml"
UNEXPLAINED = "no reason is known yet"
HEAD = ["", "before", "measured", "goal", "result", "in flight, to one target, connections"]


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    key: str
    """Its name in ``reasons.toml``."""
    name: str
    scenario: str
    size: str = ""
    """How the size begins."""
    system: str = OWN
    pick: Pick
    unit: str
    digits: int = 0
    limit: float | None = None
    """None: a row without a goal, to compare others with."""
    at_least: bool = False
    before: str = ""
    """The value before claims ahead of the wake-up."""


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """A goal and what was measured."""

    goal: Goal
    values: list[float]
    limit: float | None
    connections: list[int]
    bounds: dict[str, str]
    once: bool
    delivered: float
    """The delivered share of the fire times."""

    @property
    def median(self) -> float:
        return spread(self.values)[1]

    @property
    def is_met(self) -> bool | None:
        """Whether the goal was reached; None without a goal."""
        if self.limit is None:
            return None
        return self.median >= self.limit if self.goal.at_least else self.median <= self.limit


def _p50(one: Result) -> float | None:
    return one.fires.p50_ms if one.fires is not None and one.fires.delivered else None


def _p99(one: Result) -> float | None:
    return one.fires.p99_ms if one.fires is not None and one.fires.delivered else None


def _last(one: Result) -> float | None:
    return one.fires.max_ms / 1000 if one.fires is not None and one.fires.delivered == one.fires.expected else None


def _value(name: str) -> Pick:
    return lambda one: one.values.get(name)


def _own_us(one: Result) -> float | None:
    return one.own_us_per_fire


def _redis_us(one: Result) -> float | None:
    return one.redis_us_per_fire


_SECOND, _HERD, _HELD, _BURST = "every second", "herd at one instant", "highest rate held", "bare burst"
_held = _value("held, fires/s")
HALF_OF_CLIENT = "held-client"
GOALS = (
    Goal(key="floor-50", name="floor: 1,000 prepared requests written at the second, p50 lateness", scenario=_BURST,
         size="1000 ", system="", pick=_p50, unit="ms", digits=1),
    Goal(key="floor-99", name="the same, p99", scenario=_BURST, size="1000 ", system="", pick=_p99, unit="ms",
         digits=1),
    Goal(key="floor-5000", name="floor: 5,000 prepared requests, p99", scenario=_BURST, size="5000 ", system="",
         pick=_p99, unit="ms", digits=1),
    Goal(key="second-50", name="1,000 jobs every second, p50 lateness", scenario=_SECOND, size="1000 ", pick=_p50,
         unit="ms", digits=1, limit=10, before="73 ms"),
    Goal(key="second-99", name="1,000 jobs every second, p99 lateness", scenario=_SECOND, size="1000 ", pick=_p99,
         unit="ms", digits=1, limit=20, before="160 ms"),
    Goal(key="second-5000", name="5,000 jobs every second, p99 lateness", scenario=_SECOND, size="5000 ", pick=_p99,
         unit="ms", limit=100, before="438 to 663 ms"),
    Goal(key="record", name="from answer to record at 1,000/s, p99", scenario=_SECOND, size="1000 ",
         pick=_value("answer to record, p99 ms"), unit="ms", limit=250),
    Goal(key="herd", name="herd of 10,000, last one after", scenario=_HERD, size="10000 ", pick=_last, unit="s",
         digits=2, limit=0.4, before="1.1 to 1.4 s"),
    Goal(key="herd-defaults", name="the same with default bounds", scenario=_HERD, size="10000 ", system=OWN_DEFAULTS,
         pick=_last, unit="s", digits=2),
    Goal(key="herd-50000", name="herd of 50,000, last one after", scenario=_HERD, size="50000 ", pick=_last, unit="s",
         digits=2, limit=2.0, before="4.0 s"),
    Goal(key="random", name="100/s at random instants, p99 lateness", scenario="at random instants", size="100/s",
         pick=_p99, unit="ms", digits=1, limit=1.5, before="3.1 ms"),
    Goal(key="held", name="held for 60 s", scenario=_HELD, pick=_held, unit="/s", limit=14_000, at_least=True,
         before="9,600 /s"),
    Goal(key=HALF_OF_CLIENT, name="the same, compared with half of the fastest bare client", scenario=_HELD, pick=_held,
         unit="/s", at_least=True),
    Goal(key="held-one-core", name="held for 60 s, Redis on the node's core", scenario=_HELD, system=OWN_WITH_REDIS,
         pick=_held, unit="/s", limit=7_000, at_least=True, before="4,000 /s"),
    Goal(key="cpu", name="CPU per fire at 1,000/s, own", scenario=_SECOND, size="1000 ", pick=_own_us, unit="µs",
         limit=60, before="85 µs"),
    Goal(key="cpu-redis", name="CPU per fire at 1,000/s, Redis", scenario=_SECOND, size="1000 ", pick=_redis_us,
         unit="µs", limit=22, before="29 µs"),
    Goal(key="cpu-held", name="CPU per fire at the held rate, own", scenario=_HELD, pick=_own_us, unit="µs"),
    Goal(key="cpu-held-redis", name="CPU per fire at the held rate, Redis", scenario=_HELD, pick=_redis_us, unit="µs"),
    Goal(key="nodes", name="two nodes on two cores : one on one", scenario="two nodes on two cores",
         pick=_value("times"), unit="", digits=2, limit=1.9, at_least=True, before="1.84"),
    Goal(key="start", name="process start to first fire, a million jobs stored", scenario="stored jobs",
         size="1000000 ", pick=_value("first fire, ms"), unit="ms", limit=300, before="437 ms"),
)  # fmt: skip


def reached(results: Sequence[Result]) -> list[Reached]:
    """List the goals that were measured."""
    found = []
    library = fastest_library(results)
    for goal in GOALS:
        there = [
            one
            for one in results
            if (one.scenario, one.system) == (goal.scenario, goal.system)
            and one.size.startswith(goal.size)
            and one.fault is None
        ]
        values = [value for one in there if (value := goal.pick(one)) is not None]
        limit = goal.limit
        if goal.key == HALF_OF_CLIENT:
            limit = None if library is None else library[0] / 2
        if not values or (goal.key == HALF_OF_CLIENT and limit is None):
            continue
        fires = [one.fires for one in there if one.fires is not None]
        expected = sum(one.expected for one in fires)
        found.append(
            Reached(
                goal=goal,
                values=values,
                limit=limit,
                connections=[one.connections for one in there if one.connections is not None],
                bounds=there[0].bounds,
                once=len(values) == 1,
                delivered=sum(one.delivered for one in fires) / expected if expected else 1.0,
            )
        )
    return found


def goal_table(results: Sequence[Result]) -> list[list[str]]:
    """Return a row for each goal that was measured, with the head; empty if there is none."""
    rows = [[one.goal.name, one.goal.before, _measured(one), _limit(one), _verdict(one), _bounds(one)]
            for one in reached(results)]  # fmt: skip
    return [HEAD, *rows] if rows else []


def missed(results: Sequence[Result], reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the goals that were not reached, with their reasons."""
    return [(one.goal.name, reasons.get(one.goal.key, UNEXPLAINED)) for one in reached(results) if one.is_met is False]


def reasons(path: Path = REASONS) -> dict[str, str]:
    """Read the reasons that a person wrote: why a goal was not reached, by the key of its row."""
    found: dict[str, str] = tomllib.loads(path.read_text())
    if unknown := found.keys() - {goal.key for goal in GOALS}:
        raise ValueError(f"{path.name} has reasons for unknown goals: {', '.join(sorted(unknown))}")
    return found


def _measured(one: Reached) -> str:
    least, median, most = (f"{value:,.{one.goal.digits}f}" for value in spread(one.values))
    text = f"{median} {one.goal.unit}".rstrip()
    if one.once:
        text += ", once"
    elif least != most:
        text += f" ({least} to {most})"
    return text + (f" [{100 * one.delivered:.1f} %]" if one.delivered < 1 else "")


def _limit(one: Reached) -> str:
    if one.limit is None:
        return ""
    digits = one.goal.digits if one.limit != int(one.limit) else 0
    return f"{'at least' if one.goal.at_least else 'at most'} {one.limit:,.{digits}f} {one.goal.unit}".rstrip()


def _verdict(one: Reached) -> str:
    return "" if one.is_met is None else "reached" if one.is_met else "NOT REACHED"


def _bounds(one: Reached) -> str:
    connections = str(round(spread(one.connections)[1])) if one.connections else ""
    return ", ".join([*one.bounds.values(), connections] if connections else one.bounds.values())
