"""``cronpost watch``: shows events of jobs, runs and nodes as they happen."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import click
import msgspec

from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.errors import EXIT_CODES, EXIT_UNREACHABLE, Failed
from scheduler_api.cli.output import in_colour, paint, printable
from scheduler_core.model.event import EventType

RETRY_SECONDS = 2.0
"""Pause before the next connection, until the server names another one."""
WIDTHS = {"TIME": 24, "EVENT": 18, "JOB": 28, "STATE": 12, "REASON": 12, "STATUS": 6, "DETAIL": 0}


@click.command(epilog=EXIT_CODES)
@click.option("--job", "jobs", multiple=True, shell_complete=complete_job, help="Only this job. Can be repeated.")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY[:VALUE]", help="Only jobs with this label. Repeated: with all."
)
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice([one.value for one in EventType]),
    help="Only this type. Can be repeated.",
)
@click.option("--count", type=click.IntRange(min=1), default=None, help="End after this many events.")
@click.option("--last-event-id", default=None, metavar="ID", help="Begin after this position, from an earlier --json.")
@with_server
def watch(
    server: Server,
    jobs: tuple[str, ...],
    labels: tuple[str, ...],
    types: tuple[str, ...],
    count: int | None,
    last_event_id: str | None,
) -> None:
    """Show events of jobs, runs and nodes as they happen, until Ctrl-C.

    After a lost connection it connects again and continues where it was. Events that were lost are shown as
    events.lost. With --json each event is a line.
    """
    show_events(server, {"job": jobs, "label": labels, "type": types}, count=count, last_event_id=last_event_id)


def show_events(
    server: Server, filters: dict[str, Any], *, count: int | None = None, last_event_id: str | None = None
) -> None:
    """Print the events that match ``filters``, the parameters of ``GET /events``; ends after ``count`` of them."""
    feed = _Feed(server, filters, last_event_id)
    if not server.as_json:
        head = _aligned([*WIDTHS])
        click.echo(click.style(head, bold=True) if in_colour() else head)
    try:
        for left, data in enumerate(feed.events(), 1):
            click.echo(data if server.as_json else _line(msgspec.json.decode(data)))
            if left == count:
                return
    except KeyboardInterrupt:
        return


class _Feed:
    """Reads ``GET /events``, and connects again when the connection is lost."""

    def __init__(self, server: Server, params: dict[str, Any], last_id: str | None) -> None:
        self._server = server
        self._params = params
        self._last_id = last_id
        self._retry_seconds = RETRY_SECONDS

    def events(self) -> Iterator[str]:
        """Yield the data of each event. Raises Failed if the first connection fails, or the server refuses."""
        was_connected = is_told = False
        while True:
            headers = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
            try:
                with self._server.stream("/events", params=self._params, headers=headers) as lines:
                    was_connected, is_told = True, False
                    yield from self._read(lines)
            except Failed as error:
                if not was_connected or error.exit_code != EXIT_UNREACHABLE:
                    raise
            if not is_told:
                click.echo("cronpost: the connection is lost; connecting again", err=True)
                is_told = True
            threading.Event().wait(self._retry_seconds)

    def _read(self, lines: Iterable[str]) -> Iterator[str]:
        data = ""
        for line in lines:
            field, _, value = line.partition(": ")
            if field == "id":
                self._last_id = value
            elif field == "data":
                data = value
            elif field == "retry" and value.isdecimal():
                self._retry_seconds = int(value) / 1000
            elif not line and data:
                yield data
                data = ""


def _line(event: dict[str, Any]) -> str:
    """Return an event as an aligned line."""
    cells = {
        "TIME": event.get("at", "-"),
        "EVENT": event["type"],
        "JOB": event.get("job_id", event.get("node", "-")),
        "STATE": event.get("state", "-"),
        "REASON": event.get("reason", "-"),
        "STATUS": str(event.get("status_code", "-")),
        "DETAIL": _detail(event),
    }
    return _aligned([printable(cell) for cell in cells.values()])


def _detail(event: dict[str, Any]) -> str:
    count = event.get("count")
    if event["type"] == "events.lost":
        return "an unknown number" if count is None else f"{count} events"
    if event["type"] == EventType.RUN_MISSED:
        first, last = event.get("fire_time"), event.get("last_fire_time")
        times = "" if count is None else f"{count} fire time{'s' if count > 1 else ''}: "
        return f"{times}{first}" if first == last else f"{times}{first} to {last}"
    if "version" in event:
        return f"version {event['version']}"
    attempt = event.get("attempt", 0)
    return f"{event.get('run_id', '')}{f' attempt {attempt}' if attempt > 1 else ''}"


def _aligned(cells: list[str]) -> str:
    parts = []
    for (name, width), cell in zip(WIDTHS.items(), cells, strict=True):
        shown_as = {"STATE": cell, "EVENT": "lost" if cell == "events.lost" else ""}.get(name, "")
        parts.append(paint(cell.ljust(width), shown_as) if shown_as else cell.ljust(width))
    return "  ".join(parts).rstrip()
