"""Prints tables of results on the terminal and as Markdown.

``python -m benchmarks.report FILE`` prints them; ``--update docs/performance.md`` replaces the marked blocks there;
``--chart docs/performance.svg`` draws the comparison.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bench import Result
from benchmarks.chart import chart
from benchmarks.compare import OWN, comparison, targets
from benchmarks.measures import spread

FIRE_COLUMNS = (
    "", "system", "delivered", "early", "sent twice", "p50 ms", "p99 ms", "max ms",
    "CPU us/fire", "Redis us/fire", "MB", "Redis MB", "other programs %", "reference work ms",
)  # fmt: skip


NAMED = (
    "uvloop",
    "aiohttp",
    "httpx",
    "pyreqwest",
    "apscheduler",
    "bullmq",
    "undici",
    "taskiq",
    "celery",
    "celery-redbeat",
)
"""Packages whose versions are shown."""
RENAMED = {
    "highest held": "highest rate held",
    "a ladder": "rate raised in steps",
    "not coinciding": "at random instants",
}
"""Earlier names of scenarios and sizes in stored reports."""
_BLOCK = re.compile(r"<!-- bench: (?P<name>[a-z]+) -->\n.*?<!-- end -->", re.DOTALL)


class Report(msgspec.Struct, kw_only=True):
    """All results of one call."""

    began_at: str
    machine: dict[str, Any]
    sink: dict[str, float]
    repetitions: int
    peers: dict[str, str] = {}
    """The versions of the peers' packages."""
    took_seconds: float = 0.0
    results: list[Result] = []
    calibration: list[dict[str, float]] = []
    """The speed of the machine at the begin and at the end."""
    budgets: list[Any] = []
    """Where the time goes: values of ``budget.Budget``."""


def tables(results: Iterable[Result]) -> list[tuple[str, list[list[str]]]]:
    """Return a table for each scenario: its title and its rows; the first row is the head."""
    by_scenario: dict[str, list[Result]] = {}
    for result in results:
        by_scenario.setdefault(result.scenario, []).append(result)
    return [(title, _table(found)) for title, found in by_scenario.items()]


def _table(results: list[Result]) -> list[list[str]]:
    results = sorted(results, key=lambda one: (_number(one.size), one.size, not one.system.startswith(OWN), one.system))
    groups = [list(found) for _, found in groupby(results, key=lambda one: (one.size, one.system))]
    extra = list(dict.fromkeys(name for one in results for name in one.values))
    if not any(one.fires for one in results):
        head = ["", "system", *extra, "MB", "Redis MB", "other programs %", "reference work ms"]
    else:
        head = [*FIRE_COLUMNS, *extra]
    rows = [head, *(_row(found, head, extra) for found in groups)]
    # A column without any value is left out.
    used = [column for column in range(len(head)) if column < 2 or any(row[column] for row in rows[1:])]
    return [[row[column] for column in used] for row in rows]


def _row(found: list[Result], head: list[str], extra: list[str]) -> list[str]:
    cells = {"": found[0].size, "system": found[0].system}
    good = [one for one in found if one.fault is None]
    if not good:
        cells["delivered" if "delivered" in head else "MB"] = found[0].fault or ""
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
        cells["sent twice"] = str(sum(one.duplicates for one in fires))
        cells["p50 ms"] = _range([one.p50_ms for one in fires], 1)
        cells["p99 ms"] = _range([one.p99_ms for one in fires], 1)
        cells["max ms"] = _range([one.max_ms for one in fires], 1)
    cells["CPU us/fire"] = middle(lambda one: one.own_us_per_fire)
    cells["Redis us/fire"] = middle(lambda one: one.redis_us_per_fire or None)
    cells["MB"] = middle(lambda one: one.own_mb)
    cells["Redis MB"] = middle(lambda one: one.redis_mb or None)
    cells["other programs %"] = middle(lambda one: one.others_percent)
    cells["reference work ms"] = middle(lambda one: one.work_ms, 1)
    for name in extra:
        values = [one.values[name] for one in good if name in one.values]
        cells[name] = _range(values, 2 if "%" in name else 1 if max(values, default=0) < 100 else 0)
    return [cells.get(name, "") for name in head]


def _range(values: Sequence[float], digits: int) -> str:
    """Return the median; with several values also the least and the greatest."""
    if not values:
        return ""
    least, median, most = (f"{value:.{digits}f}" for value in spread(values))
    return median if len(values) == 1 or least == most else f"{median} ({least} to {most})"


def _number(size: str) -> int:
    digits = "".join(character for character in size.split(" ", maxsplit=1)[0] if character.isdigit())
    return int(digits or 0)


def as_text(rows: list[list[str]]) -> str:
    """Format rows with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def as_markdown(rows: list[list[str]]) -> str:
    """Format rows as a Markdown table; empty without rows."""
    if not rows:
        return ""
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def load_report(text: bytes) -> Report:
    """Read a stored report. JSON has no NaN, which means that nothing arrived in a window; it is stored as null."""
    stored = msgspec.json.decode(text)
    for one in stored["results"]:
        one["scenario"] = RENAMED.get(one["scenario"], one["scenario"])
        one["size"] = RENAMED.get(one["size"], one["size"])
        for numbers in (one["fires"] or {}, one["values"]):
            numbers.update({name: math.nan for name, value in numbers.items() if value is None})
    return msgspec.convert(stored, type=Report)


def blocks(report: Report) -> dict[str, str]:
    """Return the blocks of a document as Markdown, by name."""
    facts = report.machine
    packages = {**facts["packages"], **report.peers}
    versions = ", ".join(f"{name} {packages[name]}" for name in NAMED if name in packages)
    bare = "; ".join(
        f"{name} {value:,.0f}" if value >= 100 else f"{name} {value:.1f}" for name, value in report.sink.items()
    )
    return {
        "machine": (
            f"{facts['processor']} ({facts['cores']} cores), Linux {facts['kernel']}, Python {facts['python']}, "
            f"{server_name(facts)}; {versions}. {report.began_at[:10]}, {report.took_seconds / 60:.0f} minutes, "
            f"load average at the start {facts['load_average'][0]:.2f}. The sink: {bare}.{_speed(report)}"
        ),
        "comparison": as_markdown(comparison(report.results, sign="×")),
        "targets": as_markdown(targets(report.results)),
        "tables": "\n\n".join(
            f"### {title.capitalize()}\n\n{as_markdown(rows)}" for title, rows in tables(report.results)
        ),
    }


def server_name(facts: dict[str, Any]) -> str:
    """Return the name and version of the server program; older reports have the version only."""
    found = str(facts["redis"])
    return found if " " in found else f"Redis {found}"


def _speed(report: Report) -> str:
    """Return how fast the machine was, as a sentence."""
    if not report.calibration:
        return ""
    speeds = [
        f"{name} {' and '.join(f'{one[name]:.1f}' for one in report.calibration)}" for name in report.calibration[0]
    ]
    return f" Speed of the machine at the begin and at the end: {'; '.join(speeds)}."


def update(text: str, found: dict[str, str]) -> str:
    """Replace the marked blocks of ``text``.

    A block lies between ``<!-- bench: NAME -->`` and ``<!-- end -->``, each on a line of its own.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in found:
            return match[0]
        return f"<!-- bench: {name} -->\n\n{found[name]}\n\n<!-- end -->".replace("\n\n\n\n", "\n\n")

    return _BLOCK.sub(fill, text)


def main() -> None:
    """Print a stored report as Markdown, or put it into a document and draw its chart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument(
        "files", type=Path, nargs="+", help="results; those of a later file replace those of an earlier one"
    )
    parser.add_argument("--update", type=Path, metavar="FILE", help="a document with marked blocks")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="where to write the chart, as SVG")
    arguments = parser.parse_args()
    report = merged([load_report(path.read_bytes()) for path in arguments.files])
    if arguments.chart is not None:
        arguments.chart.write_text(chart(report.results))
    if arguments.update is not None:
        arguments.update.write_text(update(arguments.update.read_text(), blocks(report)))
    elif arguments.chart is None:
        print("\n\n".join(blocks(report).values()))


def merged(reports: Sequence[Report]) -> Report:
    """Merge reports: for each scenario, size and system the results of the last report that has any."""
    last = reports[-1]
    results: dict[tuple[str, str, str], list[Result]] = {}
    for report in reports:
        own: dict[tuple[str, str, str], list[Result]] = {}
        for one in report.results:
            own.setdefault((one.scenario, one.size, one.system), []).append(one)
        results |= own
    return msgspec.structs.replace(
        last,
        results=[one for found in results.values() for one in found],
        took_seconds=sum(report.took_seconds for report in reports),
    )


if __name__ == "__main__":
    main()
