"""``cronpost jobs strip``: draw the fire times of a window as one line."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from scheduler_api.cli.client import Server, job_path, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.instants import FUTURE_FORMAT, PAST_FORMAT, instant_option
from scheduler_api.cli.job_history import zone_of
from scheduler_api.cli.output import in_colour, in_zone, printable, table

WIDTH = 72
"""In columns, if the output is no terminal."""
MOST_CELLS = 480
MARKS = {
    "lost": ("L", "red"),
    "failed": ("F", "red"),
    "conflict": ("C", "red"),
    "missed": ("M", "yellow"),
    "retrying": (">", "yellow"),
    "cancelled": ("x", "yellow"),
    "superseded": ("s", "yellow"),
    "waiting": ("w", "yellow"),
    "late": ("l", "yellow"),
    "retried": ("r", "yellow"),
    "taken": ("t", "cyan"),
    "open": ("o", "cyan"),
    "delivered": ("#", "green"),
    "planned": (".", "white"),
}
"""The character and the colour of each kind of cell, worst first."""
NOT_KEPT = "~"
ORDER = list(MARKS)
CALM = ("delivered", "planned")
MOST_ROWS = 20
ABOUT_A_DAY_MS = 90_000_000
"""The axis of a longer window shows the date."""


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option("--from", "start", default=None, help=f"{PAST_FORMAT}. [default: 24 hours before --to]")
@click.option("--to", "end", default=None, help=f"{FUTURE_FORMAT}. [default: now]")
@click.option("--week", is_flag=True, help="The last seven days.")
@click.option("--utc", is_flag=True, help="All times in UTC instead of the job's zone.")
@with_server
def strip(server: Server, job_id: str, start: str | None, end: str | None, week: bool, utc: bool) -> None:
    """Draw the results of a job's fire times as one line, and list those that are not plain successes."""
    if week and start is not None:
        raise click.UsageError("--week goes without --from")
    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, MOST_CELLS) if sys.stdout.isatty() else WIDTH
    begin = instant_option("7d" if week else start, "ago")
    params = {"from": begin, "to": instant_option(end, "ahead"), "cells": width}
    body = server.ask("GET", job_path(job_id, "/strip"), params=params)
    if server.as_json:
        return
    zone = None if utc else zone_of(server, job_id)
    cells: list[dict[str, Any]] = body["cells"]
    click.echo(f"{printable(job_id)}, {in_zone(body['from'], zone)} to {in_zone(body['to'], zone)}")
    click.echo(_line(body, width))
    click.echo(_axis(body, width, zone))
    click.echo(_legend(cells, body["not_kept"] is not None))
    rows = [_row(cell, zone) for cell in cells if cell["kind"] not in CALM]
    if rows:
        click.echo()
        table(("FIRE TIME", "RESULT", "COUNT", "WHY", "RUN"), rows[-MOST_ROWS:])
    if len(rows) > MOST_ROWS:
        click.echo(f"... and {len(rows) - MOST_ROWS} earlier: cronpost jobs account shows all", err=True)


def _ms(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1000)


def _line(body: dict[str, Any], width: int) -> str:
    """Draw each cell at its time; the worst of several in one column."""
    begin, end = _ms(body["from"]), _ms(body["to"])

    def column(instant: str) -> int:
        return min(max(_ms(instant) - begin, 0) * width // (end - begin), width - 1)

    kinds: list[str | None] = [None] * width
    for cell in body["cells"]:
        for place in range(column(cell["first_fire_time"]), column(cell["last_fire_time"]) + 1):
            known = kinds[place]
            if known is None or ORDER.index(cell["kind"]) < ORDER.index(known):
                kinds[place] = cell["kind"]
    drawn = [" " if kind is None else _mark(kind) for kind in kinds]
    kept = body["not_kept"]
    if kept is not None:
        for place in range(column(kept["from"]), column(kept["to"]) + 1):
            drawn[place] = NOT_KEPT if kinds[place] is None else drawn[place]
    return "".join(drawn).rstrip()


def _mark(kind: str) -> str:
    character, colour = MARKS[kind]
    return click.style(character, fg=colour) if in_colour() else character


def _axis(body: dict[str, Any], width: int, zone: str | None) -> str:
    """Return the local times of four places below the line."""
    begin, end = _ms(body["from"]), _ms(body["to"])
    parts = 4
    marks: list[str] = []
    for part in range(parts):
        at_ms = begin + (end - begin) * part // parts
        utc = datetime.fromtimestamp(at_ms / 1000, tz=datetime.fromisoformat("1970-01-01T00:00:00Z").tzinfo)
        local = datetime.fromisoformat(in_zone(utc.isoformat(), zone))
        text = local.strftime("%H:%M" if end - begin <= ABOUT_A_DAY_MS else "%a %d %H:%M")
        marks.append(text.ljust(width * (part + 1) // parts - width * part // parts))
    return "".join(marks).rstrip()


def _legend(cells: Sequence[dict[str, Any]], not_kept: bool) -> str:
    counts: Counter[str] = Counter()
    for cell in cells:
        counts.update(cell["fire_times"])
        counts.update(cell["requested"])
    parts = [f"{_mark(kind)} {kind} {counts[kind]}" for kind in reversed(ORDER) if counts[kind]]
    if not_kept:
        parts.append(f"{NOT_KEPT} not kept")
    return "   ".join(parts) or "no fire times"


def _row(cell: dict[str, Any], zone: str | None) -> tuple[str, ...]:
    first, last = cell["first_fire_time"], cell["last_fire_time"]
    counts = Counter(cell["fire_times"]) + Counter(cell["requested"])
    run = cell["run"]
    why = ", ".join(cell["reasons"])
    if not why and run is not None:
        late = run["late_ms"]
        why = run["message"] or (f"{late / 1000:g} s late" if cell["kind"] == "late" and late is not None else "")
        if not why and run["status_code"] is not None and cell["kind"] not in {"retried", "late"}:
            why = f"the answer was {run['status_code']}"
        elif not why and cell["kind"] == "retried":
            why = f"{run['attempts']} attempts"
    return (
        in_zone(first, zone) if first == last else f"{in_zone(first, zone)} to {in_zone(last, zone)}",
        cell["kind"],
        str(counts.total()) if cell["exact"] else f"{counts.total()}+",
        why,
        "-" if run is None else run["id"],
    )
