"""``cronpost cron``: explains an expression and shows its next fire times. Needs no server."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click

from scheduler_core.base.clock import SystemClock
from scheduler_core.base.instants import parse_instant
from scheduler_core.triggers.cron_words import describe
from scheduler_core.triggers.trigger import CronSpec, check_fires_again, compile_trigger

MAX_TIMES = 100


@click.command()
@click.argument("expression")
@click.option(
    "--tz",
    "--timezone",
    "timezone",
    default="UTC",
    show_default=True,
    help="IANA name of the time zone of the expression.",
)
@click.option(
    "-n", "count", default=5, show_default=True, type=click.IntRange(1, MAX_TIMES), help="Number of fire times."
)
@click.option("--start", default=None, help="Show fire times after this RFC 3339 instant. [default: now]")
def cron(expression: str, timezone: str, count: int, start: str | None) -> None:
    """Explain a cron EXPRESSION in words and show its next fire times.

    5 fields: minute hour day month weekday; 6: seconds first; 7: year last. Quote it: cronpost cron "*/10 * * * * *"
    """
    trigger = compile_trigger(CronSpec(expression, timezone))
    after_ms = SystemClock().now_ms() if start is None else parse_instant(start, field="start")
    check_fires_again(trigger, after_ms)
    click.echo(f"{expression.strip()}  fires {describe(expression)} ({timezone})\n")
    zone = ZoneInfo(timezone)
    at_ms = trigger.next_after(after_ms)
    shown = 0
    while at_ms is not None and shown < count:
        instant = datetime.fromtimestamp(at_ms / 1000, UTC)
        local = instant.astimezone(zone)
        utc = f"{instant:%Y-%m-%d %H:%M:%S}Z"
        click.echo(utc if timezone == "UTC" else f"{local:%a %Y-%m-%d %H:%M:%S %z}   {utc}")
        shown += 1
        at_ms = trigger.next_after(at_ms)
    if shown < count:
        click.echo("no further fire times")
