"""``cronpost statistics``: ends of runs, misses and lateness over time."""

from __future__ import annotations

from typing import Any

import click

from scheduler_api.cli.chart import GAP, sparkline
from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.errors import EXIT_CODES
from scheduler_api.cli.instants import PAST_FORMAT, instant_option
from scheduler_api.cli.output import table


@click.command(epilog=EXIT_CODES)
@click.option("--from", "start", default=None, help=f"The start: {PAST_FORMAT}. Default: an hour before the end.")
@click.option("--to", "end", default=None, help=f"The end: {PAST_FORMAT}. Default: now.")
@click.option("--step-seconds", default=None, type=int, help="The length of a bucket. Default: chosen for the span.")
@with_server
def statistics(server: Server, start: str | None, end: str | None, step_seconds: int | None) -> None:
    """Show what all nodes counted: ends of runs by state, misses by reason, and the lateness.

    A column of a chart is one bucket, or the highest of several. The heights of each line are its own.
    """
    params = {"from": instant_option(start, "ago"), "to": instant_option(end, "ago"), "step_seconds": step_seconds}
    answer = server.ask("GET", "/statistics", params=params)
    if server.as_json:
        return
    buckets = answer["buckets"]
    click.echo(f"{answer['start']} to {answer['end']}, {len(buckets)} buckets of {answer['step_seconds']} s")
    rows = [_counts(answer, kind, name) for kind in ("runs", "misses") for name in answer["total"][kind]]
    rows += [row for kind in ("lateness", "task_lateness") if (row := _lateness(answer, kind)) is not None]
    table(("WHAT", "TOTAL", "OVER TIME"), rows)
    missing = answer["total"]["missing_minutes"]
    if missing:
        click.echo(f"{GAP}: no node reported; {missing} minute(s) are missing", err=True)


def _counts(answer: dict[str, Any], kind: str, name: str) -> tuple[str, ...]:
    values = [None if _is_gap(one) else one[kind].get(name, 0) for one in answer["buckets"]]
    return (f"{kind} {name}", f"{answer['total'][kind][name]:,}", sparkline(values))


def _lateness(answer: dict[str, Any], kind: str) -> tuple[str, ...] | None:
    total = answer["total"][kind]
    if total is None:
        return None
    values = [None if _is_gap(one) else one[kind]["p99_ms"] if one[kind] else 0 for one in answer["buckets"]]
    shown = ", ".join(f"{name} {total[f'{name}_ms']:,.1f}" for name in ("p50", "p95", "p99"))
    return (f"{kind.replace('_', ' ')} p99", f"{shown} ms", sparkline(values))


def _is_gap(bucket: dict[str, Any]) -> bool:
    return not bucket["nodes"] and not any(bucket[kind] for kind in ("runs", "misses", "lateness", "task_lateness"))
