"""Compares the results of Cronpost with those of its peers and with its targets. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from benchmarks.bench import Result
from benchmarks.measures import spread

OWN, OWN_WITH_REDIS = "Cronpost", "Cronpost, Redis on its core"
PEERS = ("BullMQ", "APScheduler 3, memory", "APScheduler 3, Redis", "taskiq", "Celery, RedBeat")
Pick = Callable[[Result], float | None]


class Measure(msgspec.Struct, frozen=True):
    """One row of the comparison."""

    name: str
    scenario: str
    size: str
    pick: Pick
    unit: str
    more_is_better: bool = False
    digits: int = 0
    second: Pick | None = None
    """A second part of the value, which is shown apart and added: the part of Redis."""
    whole: bool = False
    """Whether the value is valid only if every fire time was delivered."""


def _p99(one: Result) -> float | None:
    return one.fires.p99_ms if one.fires is not None and one.fires.delivered else None


def _last(one: Result) -> float | None:
    return one.fires.max_ms / 1000 if one.fires is not None and one.fires.delivered else None


MEASURES = (
    Measure(
        "highest rate held", "highest rate held", "", lambda one: one.values.get("held, fires/s") or None, "/s", True
    ),
    Measure("1000 jobs every second, p99 lateness", "every second", "1000 jobs", _p99, "ms"),
    Measure(
        "CPU per fire at 1000 jobs every second, own + Redis",
        "every second",
        "1000 jobs",
        lambda one: one.own_us_per_fire,
        "µs",
        second=lambda one: one.redis_us_per_fire or None,
    ),
    Measure("herd of 10,000, last one after", "herd at one instant", "10000 jobs", _last, "s", digits=1, whole=True),
    Measure("5000 jobs every second, p99 lateness", "every second", "5000 jobs", _p99, "ms"),
    Measure(
        "memory at 5000 jobs every second, own + Redis",
        "every second",
        "5000 jobs",
        lambda one: one.own_mb,
        "MB",
        second=lambda one: one.redis_mb or None,
    ),
    Measure("100/s at random instants, p99 lateness", "at random instants", "100/s", _p99, "ms", digits=1),
    Measure("1000/s at random instants, p99 lateness", "at random instants", "1000/s", _p99, "ms", digits=1),
)


class Compared(msgspec.Struct, frozen=True):
    """The result of a system in one measure: the median of its repetitions."""

    value: float
    second: float | None
    share: float
    """The delivered share of the fire times."""

    @property
    def whole(self) -> float:
        return self.value + (self.second or 0.0)


def compared(results: Iterable[Result], measure: Measure, system: str) -> Compared | str | None:
    """Return the value; the reason why there is none; None if it was not measured."""
    found = [
        one
        for one in results
        if one.scenario == measure.scenario and one.system == system and (one.size == measure.size or not measure.size)
    ]
    good = [one for one in found if one.fault is None]
    values = [value for one in good if (value := measure.pick(one)) is not None]
    if not values:
        return found[0].fault or "none arrived" if found else None
    seconds = [value for one in good if measure.second is not None and (value := measure.second(one)) is not None]
    fires = [one.fires for one in good if one.fires is not None]
    expected = sum(one.expected for one in fires)
    share = sum(one.delivered for one in fires) / expected if expected else 1.0
    return Compared(spread(values)[1], spread(seconds)[1] if seconds else None, share)


def times(measure: Measure, own: Compared, other: Compared) -> float:
    """Return how many times better ``own`` is; below 1: how many times worse."""
    return own.whole / other.whole if measure.more_is_better else other.whole / own.whole


def systems_of(results: Iterable[Result]) -> list[str]:
    """List the systems with results, Cronpost first."""
    names = {one.system for one in results}
    return [name for name in (OWN, OWN_WITH_REDIS, *PEERS) if name in names]


def comparison(results: Sequence[Result], *, sign: str = "x") -> list[list[str]]:
    """Return a table with a head, a row for each measure and a column for each system; empty without a peer to compare.

    ``sign`` follows the number that says how many times better Cronpost is. ``[87 %]`` is the share that was delivered;
    the number beside it is then too good.
    """
    systems = systems_of(results)
    if OWN not in systems or len(systems) < 2:
        return []
    rows = []
    for measure in MEASURES:
        own = compared(results, measure, OWN)
        if not isinstance(own, Compared):
            continue
        row = [measure.name]
        for system in systems:
            there = own if system == OWN else compared(results, measure, system)
            row.append(_cell(measure, own, there, is_own=system.startswith(OWN), sign=sign))
        rows.append(row)
    return [["", *systems], *rows] if rows else []


def _cell(measure: Measure, own: Compared, there: Compared | str | None, *, is_own: bool, sign: str) -> str:
    if there is None:
        return ""
    if isinstance(there, str):
        return there.partition(": ")[2] if there.startswith("not run") else there.partition(":")[0]
    text = f"{there.value:,.{measure.digits}f}"
    if there.second is not None:
        text += f" + {there.second:,.{measure.digits}f}"
    text += f" {measure.unit}"
    if there.share < 1:
        text += f" [{100 * there.share:.0f} %]"
    if not is_own:
        ratio = times(measure, own, there)
        text += f" ({ratio:,.{0 if ratio >= 10 else 1}f} {sign})"
    return text


class Target(msgspec.Struct, frozen=True):
    """A value that Cronpost should reach."""

    name: str
    reached: float
    limit: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool:
        return self.reached >= self.limit if self.at_least else self.reached <= self.limit


def reached(results: Sequence[Result]) -> list[Target]:
    """List the targets with their values of the worst repetition; only those that were measured."""
    own = [one for one in results if one.system in {OWN, ""} and one.fault is None]
    found: list[Target] = []

    def values(scenario: str, size: str, pick: Pick) -> list[float]:
        picked = [pick(one) for one in own if one.scenario == scenario and one.size.startswith(size)]
        return [value for value in picked if value is not None and not math.isnan(value)]

    def at_most(name: str, scenario: str, size: str, pick: Pick, limit: float, unit: str) -> None:
        if there := values(scenario, size, pick):
            found.append(Target(name, max(there), limit, False, unit))

    def at_least(name: str, scenario: str, size: str, pick: Pick, limit: float, unit: str) -> None:
        if there := values(scenario, size, pick):
            found.append(Target(name, min(there), limit, True, unit))

    def value(name: str) -> Pick:
        return lambda one: one.values.get(name)

    held = value("held, fires/s")
    at_least("highest rate held for 60 s", "highest rate held", "", held, 10_000, "/s")
    if library := fastest_library(own):
        fastest, name = library
        at_least(
            f"the same, compared with half of the fastest client library alone ({name})",
            "highest rate held",
            "",
            held,
            fastest / 2,
            "/s",
        )
    at_least("10,000 jobs every second: delivered", "every second", "10000", _share, 100, "%")
    at_least("8000 jobs every second: delivered", "every second", "8000", _share, 100, "%")
    at_least("1000 jobs every second: delivered", "every second", "1000 ", _share, 100, "%")
    at_most("1000 jobs every second: p99 lateness", "every second", "1000 ", _p99, 120, "ms")
    at_most("1000 jobs every second: CPU per fire", "every second", "1000 ", lambda one: one.own_us_per_fire, 120, "µs")
    at_most(
        "1000 jobs every second: CPU of Redis per fire",
        "every second",
        "1000 ",
        lambda one: one.redis_us_per_fire,
        30,
        "µs",
    )
    at_most("herd of 10,000, last one after", "herd at one instant", "10000", _last, 1.5, "s")
    at_most("herd of 50,000, last one after", "herd at one instant", "50000", _last, 8, "s")
    at_most("herd of 50,000, memory after, relative to before", "herd at one instant", "50000", _growth, 1.1, "x")
    at_most("100/s at random instants: p99 lateness", "at random instants", "100/s", _p99, 5, "ms")
    at_most("1000/s at random instants: p99 lateness", "at random instants", "1000/s", _p99, 20, "ms")
    first = value("first fire, ms")
    at_most("1,000,000 jobs stored: first fire after process start", "stored jobs", "1000000", first, 1000, "ms")
    at_most(
        "1,000,000 jobs stored: memory of Redis per job", "stored jobs", "1000000", value("bytes a job"), 600, "bytes"
    )
    at_most("1,000,000 jobs stored: memory of the node", "stored jobs", "1000000", lambda one: one.own_mb, 80, "MB")
    at_least("upserts one by one", "upserts over HTTP", "one by one", value("upserts/s"), 3000, "/s")
    at_least("upserts in batches", "upserts over HTTP", "1000 in", value("upserts/s"), 20_000, "/s")
    at_least(
        "two nodes on two cores, relative to one node on one core",
        "two nodes on two cores",
        "",
        value("times"),
        1.8,
        "x",
    )
    at_most(
        "p99 lateness beside a target that hangs, relative to alone", "a target that hangs", "", value("times"), 2, "x"
    )
    at_most("idle: CPU", "idle", "", lambda one: sum(one.values.values()), 1, "%")
    fires = [one.fires for one in own if one.fires is not None]
    if fires:
        found.append(
            Target(
                "fires before their fire time, in any scenario", float(sum(one.early for one in fires)), 0, False, ""
            )
        )
    return found


def fastest_library(results: Iterable[Result]) -> tuple[float, str] | None:
    """Return the requests per second and the name of the fastest bare client that is not Cronpost's own."""
    bare = [
        (one.values["requests/s"], one.size.partition(",")[0])
        for one in results
        if "requests/s" in one.values and not one.size.startswith(OWN)
    ]
    return max(bare, default=None)


def _share(one: Result) -> float | None:
    return 100 * one.fires.delivered / one.fires.expected if one.fires is not None else None


def _growth(one: Result) -> float | None:
    before = one.values.get("MB before")
    return one.own_mb / before if before and one.own_mb is not None else None


def targets(results: Sequence[Result]) -> list[list[str]]:
    """Return a table of the targets, with its head; empty if none was measured."""
    rows = [
        [
            one.name,
            f"{_short(one.reached)} {one.unit}".rstrip(),
            f"{'at least' if one.at_least else 'at most'} {_short(one.limit)} {one.unit}".rstrip(),
            "met" if one.met else "NOT MET",
        ]
        for one in reached(results)
    ]
    return [["", "measured", "goal", "result"], *rows] if rows else []


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
