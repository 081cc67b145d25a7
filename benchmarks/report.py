"""Tables of results, for the terminal and for Markdown: ``python -m benchmarks.report results.json``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bench import Result
from benchmarks.measures import spread

FIRE_COLUMNS = (
    "", "system", "delivered", "early", "twice", "p50 ms", "p99 ms", "max ms",
    "CPU us/fire", "Redis us/fire", "MB", "Redis MB", "others %", "work ms",
)  # fmt: skip


class Report(msgspec.Struct, kw_only=True):
    """Everything that one call measured."""

    began_at: str
    machine: dict[str, Any]
    sink: dict[str, float]
    repetitions: int
    results: list[Result] = []


def tables(results: Iterable[Result]) -> list[tuple[str, list[list[str]]]]:
    """A table for each scenario: its title and its rows, the first of which is the head."""
    by_scenario: dict[str, list[Result]] = {}
    for result in results:
        by_scenario.setdefault(result.scenario, []).append(result)
    return [(title, _table(found)) for title, found in by_scenario.items()]


def _table(results: list[Result]) -> list[list[str]]:
    results = sorted(results, key=lambda one: (_number(one.size), one.size, one.system != "Cronpost", one.system))
    groups = [list(found) for _, found in groupby(results, key=lambda one: (one.size, one.system))]
    extra = list(dict.fromkeys(name for one in results for name in one.values))
    if not any(one.fires for one in results):
        head = ["", "system", *extra, "MB", "Redis MB", "others %", "work ms"]
    else:
        head = [*FIRE_COLUMNS, *extra]
    rows = [head, *(_row(found, head, extra) for found in groups)]
    # A column in which nothing was measured says nothing.
    used = [column for column in range(len(head)) if column < 2 or any(row[column] for row in rows[1:])]
    return [[row[column] for column in used] for row in rows]


def _row(found: list[Result], head: list[str], extra: list[str]) -> list[str]:
    cells = {"": found[0].size, "system": found[0].system}
    good = [one for one in found if one.fault is None]
    if not good:
        cells["delivered" if "delivered" in head else "MB"] = f"failed: {found[0].fault}"
        return [cells.get(name, "") for name in head]

    def middle(pick: Callable[[Result], float | None], digits: int = 0) -> str:
        return _range([value for one in good if (value := pick(one)) is not None], digits)

    fires = [one.fires for one in good if one.fires is not None]
    if fires:
        delivered, expected = sum(one.delivered for one in fires), sum(one.expected for one in fires)
        cells["delivered"] = "100 %" if delivered == expected else f"{100 * delivered / expected:.2f} %"
        on_record = [one.missed_on_record for one in good if one.missed_on_record is not None]
        if delivered < expected and on_record:
            cells["delivered"] += f" ({sum(on_record)} of {expected - delivered} missing on record)"
        cells["early"] = str(sum(one.early for one in fires))
        cells["twice"] = str(sum(one.duplicates for one in fires))
        cells["p50 ms"] = _range([one.p50_ms for one in fires], 1)
        cells["p99 ms"] = _range([one.p99_ms for one in fires], 1)
        cells["max ms"] = _range([one.max_ms for one in fires], 1)
    cells["CPU us/fire"] = middle(lambda one: one.own_us_per_fire)
    cells["Redis us/fire"] = middle(lambda one: one.redis_us_per_fire or None)
    cells["MB"] = middle(lambda one: one.own_mb)
    cells["Redis MB"] = middle(lambda one: one.redis_mb or None)
    cells["others %"] = middle(lambda one: one.others_percent)
    cells["work ms"] = middle(lambda one: one.work_ms, 1)
    for name in extra:
        values = [one.values[name] for one in good if name in one.values]
        cells[name] = _range(values, 2 if "%" in name else 1 if max(values, default=0) < 100 else 0)
    return [cells.get(name, "") for name in head]


def _range(values: Sequence[float], digits: int) -> str:
    """The median, and least and most if there were several."""
    if not values:
        return ""
    least, median, most = (f"{value:.{digits}f}" for value in spread(values))
    return median if len(values) == 1 or least == most else f"{median} ({least} to {most})"


def _number(size: str) -> int:
    digits = "".join(character for character in size.split(" ", maxsplit=1)[0] if character.isdigit())
    return int(digits or 0)


def as_text(rows: list[list[str]]) -> str:
    """Aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def as_markdown(rows: list[list[str]]) -> str:
    """A table as Markdown has it."""
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def targets(results: Sequence[Result]) -> list[str]:
    """What was to be reached, judged by the worst repetition, and by what was measured only."""
    own = [one for one in results if one.system == "Cronpost" and one.fault is None]

    def worst(scenario: str, size: str, pick: Callable[[Result], float]) -> float | None:
        values = [pick(one) for one in own if one.scenario == scenario and one.size.startswith(size)]
        return max(values) if values else None

    def p99(one: Result) -> float:
        return one.fires.p99_ms if one.fires is not None else float("inf")

    def share_missing(one: Result) -> float:
        return 100 - 100 * one.fires.delivered / one.fires.expected if one.fires is not None else 100.0

    fires = [one.fires for one in own if one.fires is not None]
    below_capacity = [one.fires for one in own if one.fires is not None and "5000" not in one.size]
    lost = float(sum(one.expected - one.delivered for one in below_capacity)) if fires else None
    early = float(sum(one.early for one in fires)) if fires else None
    rows = [
        ("1000 jobs every second: not delivered, %", worst("every second", "1000 jobs", share_missing), 0.0),
        ("1000 jobs every second: p99 lateness, ms", worst("every second", "1000 jobs", p99), 250.0),
        ("100 fires/s that do not coincide: p99 lateness, ms", worst("not coinciding", "100/s", p99), 10.0),
        (
            "100,000 jobs stored: first fire after process start, ms",
            worst("cold start", "100000", lambda one: one.values["first fire, ms"]),
            1000.0,
        ),
        ("idle: CPU, %", worst("idle", "", lambda one: sum(one.values.values())), 1.0),
        ("lost (5000 jobs every second left out)", lost, 0.0),
        ("early, in any scenario", early, 0.0),
    ]
    return [
        f"{'met    ' if value <= limit else 'NOT MET'}  {name}: {value:.4g} (at most {limit:g})"
        for name, value, limit in rows
        if value is not None
    ]


def main() -> None:
    """Print the tables of a stored report as Markdown."""
    report = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Report)
    for title, rows in tables(report.results):
        print(f"### {title.capitalize()}\n\n{as_markdown(rows)}\n")
    print("\n".join(targets(report.results)))


if __name__ == "__main__":
    main()
