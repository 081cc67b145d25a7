"""``cronpost forecast``: how many jobs fire in each minute of the next 24 hours."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from scheduler_api.cli.chart import sparkline
from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.errors import EXIT_CODES, Failed, local_problem
from scheduler_api.cli.output import printable, table
from scheduler_core.base.clock import SystemClock

WAIT_SECONDS = 10
"""Shorter than the timeout of a request."""
LONGEST_SECONDS = 150.0


@click.command(epilog=EXIT_CODES)
@with_server
def forecast(server: Server) -> None:
    """Show the fire times of the next 24 hours: a line for each hour, a block for each minute, then the peaks.

    Of more than 10,000 jobs a random sample is read; +- is the standard error. The server keeps a forecast for ten
    minutes.
    """
    answer = _ask(server)
    if server.as_json:
        return
    found = answer["forecast"]
    if found is None:
        detail = answer["error"] or "the server is still computing the forecast; try again"
        raise Failed(detail, problem=local_problem("No forecast", detail, "no_forecast"))
    jobs = found["jobs"]
    total = "1 job" if jobs["total"] == 1 else f"all {jobs['total']:,} jobs"
    read = total if jobs["sampled"] >= jobs["total"] else f"{jobs['sampled']:,} of {jobs['total']:,} jobs"
    click.echo(f"{found['start']} to {found['end']}, from {read}, computed {answer['computed_at']}")
    click.echo(f"{_estimate(found['total']['fires'], found['total']['standard_error'])} fire times\n")
    _chart(found)
    if found["peaks"]:
        click.echo()
        table(("PEAK", "FIRE TIMES", "JOBS", "BUSIEST SECOND", "BUSIEST TARGET"), [_row(one) for one in found["peaks"]])
    for hint in _hints(found["peaks"]):
        click.echo(printable(hint))


def _ask(server: Server) -> dict[str, Any]:
    """Ask until the forecast is ready, and print it with ``--json``."""
    clock = SystemClock()
    until = clock.monotonic() + LONGEST_SECONDS
    while True:
        response = server.request("GET", "/forecast", params={"wait_seconds": WAIT_SECONDS})
        answer: dict[str, Any] = response.json()
        if answer["state"] != "computing" or clock.monotonic() > until:
            if server.as_json:
                click.echo(response.content, nl=False)
            return answer


def _chart(found: dict[str, Any]) -> None:
    """Print a line for each full hour. All lines have the same scale."""
    start = datetime.fromisoformat(found["start"])
    fires = found["fires"]
    highest = max(fires)
    place = 0
    while place < len(fires):
        at = start + timedelta(minutes=place)
        count = min(60 - at.minute, len(fires) - place)
        line = " " * at.minute + sparkline(fires[place : place + count], width=60, highest=highest)
        click.echo(f"{at:%H}:00 {line:<60} {sum(fires[place : place + count]):,.0f}")
        place += count


def _row(peak: dict[str, Any]) -> tuple[str, ...]:
    second = peak["instants"][0] if peak["instants"] else None
    target = peak["targets"][0] if peak["targets"] else None
    return (
        peak["at"],
        _estimate(peak["fires"], peak["standard_error"]),
        f"{peak['jobs']:,.0f}",
        "-" if second is None else f"{second['fires']:,.0f} at {second['at'][11:19]}",
        "-" if target is None else f"{100 * target['share']:.0f} % {target['target']}",
    )


def _hints(peaks: list[dict[str, Any]]) -> list[str]:
    """Return a hint for each trigger, from the highest of its peaks."""
    hints: dict[tuple[str | None, str | None, float | None], str] = {}
    for peak in sorted(peaks, key=lambda one: -float(one["fires"])):
        for group in peak["groups"]:
            hints.setdefault((group["cron"], group["timezone"], group["every_seconds"]), group["hint"])
    return list(hints.values())


def _estimate(value: float, error: float) -> str:
    return f"{value:,.0f} +- {error:,.0f}" if error else f"{value:,.0f}"
