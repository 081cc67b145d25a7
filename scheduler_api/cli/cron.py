"""``cronpost cron``: explains an expression and shows its next fire times. Needs no server."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click
from msgspec.structs import replace

from scheduler_core.base.clock import SystemClock
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import parse_instant, rfc3339
from scheduler_core.triggers.cron_words import describe
from scheduler_core.triggers.trigger import EverySpec, check_fires_again, compile_trigger, read_cron

MAX_TIMES = 100


@click.command()
@click.argument("expression")
@click.option(
    "--tz",
    "--timezone",
    "timezone",
    default=None,
    help="IANA name of the time zone of the expression. [default: UTC, or the zone of its prefix TZ=]",
)
@click.option(
    "-n", "count", default=5, show_default=True, type=click.IntRange(1, MAX_TIMES), help="Number of fire times."
)
@click.option("--start", default=None, help="Show fire times after this RFC 3339 instant. [default: now]")
@click.option("--id", "job_id", default=None, help="The id of the job; H in the expression needs it.")
def cron(expression: str, timezone: str | None, count: int, start: str | None, job_id: str | None) -> None:
    """Explain a cron EXPRESSION in words and show its next fire times.

    5 fields: minute hour day month weekday; 6: seconds first; 7: year last. Quote it: cronpost cron "*/10 * * * * *"
    """
    try:
        spec = read_cron(expression, timezone, job_id)
    except InvalidInput as error:
        if error.field == "id":
            raise InvalidInput(f"{error.detail} with --id", field="id") from None
        raise
    after_ms = SystemClock().now_ms() if start is None else parse_instant(start, field="start")
    if isinstance(spec, EverySpec):
        spec, zone_name, counted = replace(spec, anchor_ms=after_ms), "UTC", f"counted from {rfc3339(after_ms)}"
    else:
        zone_name = counted = spec.timezone
    trigger = compile_trigger(spec, job_id)
    check_fires_again(trigger, after_ms)
    click.echo(f"{expression.strip()}  fires {describe(expression, job_id)} ({counted})\n")
    zone = ZoneInfo(zone_name)
    at_ms = trigger.next_after(after_ms)
    shown = 0
    while at_ms is not None and shown < count:
        instant = datetime.fromtimestamp(at_ms // 1000, UTC)
        local = instant.astimezone(zone)
        utc = f"{instant:%Y-%m-%d %H:%M:%S}{f'.{at_ms % 1000:03}' if at_ms % 1000 else ''}Z"
        click.echo(utc if zone_name == "UTC" else f"{local:%a %Y-%m-%d %H:%M:%S %z}   {utc}")
        shown += 1
        at_ms = trigger.next_after(at_ms)
    if shown < count:
        click.echo("no further fire times")
