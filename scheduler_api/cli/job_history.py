"""``cronpost jobs runs`` and ``account``: show what happened at a job's fire times."""

from __future__ import annotations

import json
from typing import Any

import click

from scheduler_api.cli.client import Server, job_path, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.errors import Failed
from scheduler_api.cli.instants import PAST_FORMAT, instant_option
from scheduler_api.cli.job_views import PAGE
from scheduler_api.cli.output import in_zone, printable, run_why, table


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option("--misses/--no-misses", default=True, show_default=True, help="Also show missed fire times.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="Maximum number.")
@click.option("--utc", is_flag=True, help="All times in UTC instead of the job's zone.")
@with_server
def runs(server: Server, job_id: str, misses: bool, limit: int, utc: bool) -> None:
    """Show what happened at a job's fire times, newest first."""
    params = {"misses": "true" if misses else "false", "limit": limit}
    answer = server.ask("GET", job_path(job_id, "/runs"), params=params)
    if server.as_json:
        return
    zone = None if utc else zone_of(server, job_id)
    rows = []
    if answer["open_run"] is not None:
        rows.append(_run_row({"fire_time": "", "reason": "", "id": "", **answer["open_run"]}, zone))
    rows += [_miss_row(one, zone) if one["kind"] == "miss" else _run_row(one, zone) for one in answer["runs"]]
    table(("FIRE TIME", "STATE", "REASON", "STATUS", "LATE MS", "ATTEMPTS", "RUN", "WHY"), rows)


def zone_of(server: Server, job_id: str) -> str | None:
    """Return the time zone of a job; None for a deleted job, whose history can still be read."""
    try:
        zone: str | None = server.request("GET", job_path(job_id)).json().get("timezone")
    except Failed:
        return None
    return zone


def _run_row(run: dict[str, Any], zone: str | None) -> tuple[str, ...]:
    late = run.get("lateness_ms")
    return (
        in_zone(run["fire_time"], zone),
        run["state"],
        run["reason"],
        str(run.get("status_code") or "-"),
        "-" if late is None else str(late),
        str(run["attempt"]),
        run["id"],
        run_why(run),
    )


def _range(first: str, last: str, zone: str | None) -> str:
    return in_zone(first, zone) if first == last else f"{in_zone(first, zone)} to {in_zone(last, zone)}"


def _miss_row(miss: dict[str, Any], zone: str | None) -> tuple[str, ...]:
    fire_times = _range(miss["first_fire_time"], miss["last_fire_time"], zone)
    return (fire_times, "missed", miss["reason"], "-", "-", "-", "-", "")


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option("--from", "start", default=None, help=f"{PAST_FORMAT}. [default: start of the account]")
@click.option("--to", "end", default=None, help=f"{PAST_FORMAT}. [default: now]")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1_000_000), help="Maximum number.")
@click.option("--utc", is_flag=True, help="All times in UTC instead of the job's zone.")
@with_server
def account(server: Server, job_id: str, start: str | None, end: str | None, limit: int, utc: bool) -> None:
    """Show each fire time of a job, oldest first: its run or miss."""
    params: dict[str, Any] = {"from": instant_option(start, "ago"), "to": instant_option(end, "ago")}
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {}
    while len(found) < limit:
        query = params | {"limit": min(PAGE, limit - len(found))}
        page = server.request("GET", job_path(job_id, "/account"), params=query).json()
        found += page["entries"]
        params |= {"from": page["from"], "to": page["to"], "cursor": page["next"]}
        if page["next"] is None:
            break
    if server.as_json:
        click.echo(json.dumps(page | {"entries": found}, ensure_ascii=False))
        return
    zone = None if utc else zone_of(server, job_id)
    begins, ends = in_zone(page["accounted_from"], zone), in_zone(page["accounted_until"], zone)
    click.echo(f"{printable(job_id)}, accounted for from {begins} to {ends}")
    table(("FIRE TIME", "RESULT", "REASON", "COUNT", "RUN"), [_entry_row(entry, zone) for entry in found])
    if params["cursor"] is not None:
        click.echo(f"... and more: --limit {limit * 2}", err=True)


def _entry_row(entry: dict[str, Any], zone: str | None) -> tuple[str, ...]:
    if entry["kind"] == "run":
        run = entry["run"]
        return (in_zone(entry["fire_time"], zone), run["state"], run["reason"], "1", run["id"])
    count = entry["count"]
    return (
        _range(entry["first_fire_time"], entry["last_fire_time"], zone),
        "missed" if entry["settled"] else "to come",
        entry["reason"],
        "-" if count is None else str(count),
        "-",
    )
