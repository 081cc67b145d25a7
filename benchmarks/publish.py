"""Writes a stored run into the documentation: ``python -m benchmarks.publish``, or ``make bench-docs``.

Replaces the marked blocks of ``docs/performance.md`` and of ``README.md``, and draws ``docs/performance.svg`` and
``docs/flame.svg``. Everything outside the blocks is written by hand and stays. Without a file it takes the newest run
in ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.bench import Result
from benchmarks.budget import Budget, lateness_table, table
from benchmarks.chart import chart
from benchmarks.compare import MEASURES, OWN, Compared, Measure, compared, systems_of
from benchmarks.goals import UNEXPLAINED, Reached, goal_table, missed, reached, reasons
from benchmarks.report import Report, as_markdown, blocks, load_report, merged, update

RESULTS = Path(__file__).parent / "results"
DOCS = machine.CHECKOUT / "docs"
README_MEASURES = (
    ("1000 jobs every second, p99 lateness", "1,000 jobs that all fire every second, p99 lateness"),
    ("5000 jobs every second, p99 lateness", "5,000 jobs that all fire every second, p99 lateness"),
    ("herd of 10,000, last one after", "10,000 jobs due at one instant, last one after"),
    ("100/s at random instants, p99 lateness", "100 fires per second at random instants, p99 lateness"),
    ("highest rate held", "highest rate held, fires/s (Cronpost: for 60 s, others: for 10 s)"),
    ("CPU per fire at 1000 jobs every second, own + Redis", "CPU per fire, own + Redis"),
)
README_GOALS = (
    # Key of the goal, and the sentence with its median.
    ("herd-50000", "50,000 jobs that are due at one instant are delivered within {} s."),
    ("start", "With a million jobs stored, a process fires {} ms after its start."),
    ("record", "A run is recorded within {} ms of its answer (p99 at 1,000 per second)."),
    ("held-one-core", "With Redis on the same core, {} fires per second are held."),
    ("nodes", "Two nodes on two cores deliver {} times what one delivers on one core."),
)


def goal_block(report: Report, found: dict[str, str]) -> str:
    """Return the table of goals, and below it why some were not reached."""
    why = [f"* **{name}**: {reason}" for name, reason in missed(report.results, found)]
    parts = [as_markdown(goal_table(report.results))]
    if why:
        parts += ["Not reached, and why:", "\n".join(why)]
    return "\n\n".join(parts)


def readme_block(results: Sequence[Result]) -> str:
    """Return the table of the README and the sentences below it."""
    measures = {one.name: one for one in MEASURES}
    systems = [name for name in systems_of(results) if name == OWN or not name.startswith(OWN)]
    rows = [["", *systems]]
    rows += [
        [title, *(_cell(results, measures[name], system) for system in systems)] for name, title in README_MEASURES
    ]
    goals = {one.goal.key: one for one in reached(results)}
    sentences = [text.format(_median(goals[key])) for key, text in README_GOALS if key in goals]
    return f"{as_markdown(rows)}\n\n{' '.join(sentences)}"


def _cell(results: Sequence[Result], measure: Measure, system: str) -> str:
    found = compared(results, measure, system)
    if not isinstance(found, Compared):
        return ""
    text = f"{found.value:,.{measure.digits}f}"
    if found.second is not None:
        text += f" + {found.second:,.{measure.digits}f}"
    text += f" {measure.unit}"
    if found.share < 1:
        text += f" [{100 * found.share:.0f} %]"
    return f"**{text}**" if system == OWN else text


def _median(one: Reached) -> str:
    return f"{one.median:,.{one.goal.digits}f}"


def publish(report: Report, docs: Path, readme: Path, found: dict[str, str]) -> None:
    """Write all blocks and pictures."""
    budgets = msgspec.convert(report.budgets, list[Budget])
    parts = {**blocks(report), "goals": goal_block(report, found), "readme": readme_block(report.results)}
    if budgets:
        parts |= {"budget": as_markdown(table(budgets)), "lateness": as_markdown(lateness_table(budgets))}
        (docs / "flame.svg").write_text(budgets[0].flame)
    (docs / "performance.svg").write_text(chart(report.results))
    for path in (docs / "performance.md", readme):
        path.write_text(update(path.read_text(), parts))


def main() -> None:
    """Publish the named results, or the newest ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("files", type=Path, nargs="*", help="results; a later file replaces what it repeats")
    arguments = parser.parse_args()
    files = arguments.files or sorted(RESULTS.glob("[0-9]*.json"))[-1:]
    if not files:
        sys.exit(f"no results in {RESULTS}: run make bench first")
    report = merged([load_report(path.read_bytes()) for path in files])
    found = reasons()
    publish(report, DOCS, machine.CHECKOUT / "README.md", found)
    print(f"published {', '.join(str(path) for path in files)}")
    for name, reason in missed(report.results, found):
        if reason == UNEXPLAINED:
            print(f"write into benchmarks/reasons.toml why this goal was not reached: {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
