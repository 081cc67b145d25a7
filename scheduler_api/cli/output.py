"""Output for people: tables, colours, instants in a job's time zone."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

MAX_COLUMN = 48

ERRORS = ("FAILED", "TIMEOUT", "DNS_ERROR", "CONNECTION_ERROR")
_COLOURS = {
    "green": ("active", "succeeded", "ok"),
    "red": ("failed", "lost", "quarantined", "failing", "stuck", "never_succeeded", *ERRORS),
    "yellow": ("missed", "conflict", "superseded", "cancelled", "retrying", "paused", "late"),
    "cyan": ("running", "open", "taken"),
}
_COLOUR_OF = {word: colour for colour, words in _COLOURS.items() for word in words}


def in_colour() -> bool:
    """Return whether standard output takes colours: it is a terminal, and ``NO_COLOR`` is unset or empty."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(text: str, state: str | None = None) -> str:
    """Colour ``text`` for a state. Without ``state``, the first word of the text is the state."""
    colour = _COLOUR_OF.get(state or text.split(" ", maxsplit=1)[0])
    return click.style(text, fg=colour) if colour is not None and in_colour() else text


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. On a terminal, long values are truncated and states are coloured."""
    if not rows:
        click.echo("none")
        return
    terminal, colour = sys.stdout.isatty(), in_colour()
    lines = [[_cut(printable(cell)) if terminal else printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(heads), *lines]) for column in range(len(heads))]
    head = "  ".join(name.ljust(width) for name, width in zip(heads, widths, strict=True)).rstrip()
    click.echo(click.style(head, bold=True) if colour else head)
    painted = [name in {"STATE", "STATUS", "LAST RUN", "RESULT", "HEALTH"} for name in heads]
    for row in lines:
        cells = [
            paint(cell.ljust(width), cell.split(" ")[0]) if has_state else cell.ljust(width)
            for cell, width, has_state in zip(row, widths, painted, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _cut(text: str) -> str:
    return text if len(text) <= MAX_COLUMN else text[: MAX_COLUMN - 3] + "..."


def printable(text: str) -> str:
    """Escape characters that could control a terminal: ids and responses are untrusted."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def in_zone(instant: str | None, zone: str | None) -> str:
    """Convert an RFC 3339 instant to ``zone``; unchanged if the zone is UTC or unknown."""
    if not instant:
        return "-"
    if zone in {None, "", "UTC"}:
        return instant
    from zoneinfo import ZoneInfo

    try:
        local = datetime.fromisoformat(instant).astimezone(ZoneInfo(str(zone)))
    except (KeyError, ValueError, OSError):
        return instant
    return local.isoformat(timespec="milliseconds" if local.microsecond else "seconds")


def show_in_flight(answer: Mapping[str, Any], zone: str | None = None) -> None:
    """Print the run that a change met in flight, if its answer names one."""
    run = answer.get("in_flight")
    if run is not None:
        click.echo(f"in flight: run {printable(run['run_id'])}, fire time {in_zone(run['fire_time'], zone)}")


def run_why(run: dict[str, Any]) -> str:
    """Return why a run has not succeeded (yet): its message, or the result of its last attempt."""
    if run.get("state") in {"succeeded", "open"}:
        return ""
    message, last = str(run.get("message") or ""), run["attempts"][-1] if run.get("attempts") else None
    if last is None or (message and run.get("ended_by") is None):
        return message
    status = last["status_code"]
    how = str(last["message"] or (f"the answer was {status}" if status else last["outcome"]))
    return f"{message}: {how}" if message else how
