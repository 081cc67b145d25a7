"""``cronpost jobs backfill``, ``pending`` and ``account``: runs that were asked for, and what became of fire times."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from scheduler_api.cli_jobs import Server, job_path, jobs, printable, read_file, table, with_server


@jobs.command()
@click.argument("job_id")
@click.option("--start", required=True, help="RFC 3339 instant: the first fire time to run again, or one before it.")
@click.option("--end", required=True, help="The last fire time, or an instant after it.")
@click.option("--limit", type=int, default=None, help="At most so many runs. [default: 100]")
@with_server
def backfill(server: Server, job_id: str, start: str, end: str, limit: int | None) -> None:
    """Run fire times of the past once more, one by one."""
    body: dict[str, Any] = {"start": start, "end": end}
    if limit is not None:
        body["limit"] = limit
    answer = server.ask("POST", job_path(job_id, "/backfill"), body=body)
    if not server.as_json:
        click.echo(f"{answer['runs']} run(s) asked for, for the fire times from {answer['first']} to {answer['last']}")


@jobs.command()
@click.argument("job_id")
@click.option("--put", "file", type=click.Path(dir_okay=False, allow_dash=True), help="Replace the list; - is stdin.")
@click.option("--revive", "run_id", default=None, metavar="RUN", help="Try a run again that was set aside as failed.")
@with_server
def pending(server: Server, job_id: str, file: str | None, run_id: str | None) -> None:
    """Show the runs that wait for a job, replace them, or revive one."""
    if file is not None and run_id is not None:
        raise click.UsageError("either --put or --revive")
    path = job_path(job_id, "/pending")
    if file is not None:
        body = sys.stdin.buffer.read() if file == "-" else read_file(file)
        answer = server.ask("PUT", path, body=body)
    elif run_id is not None:
        answer = server.ask("POST", f"{path}/{job_path(run_id).removeprefix('/jobs/')}/revive")
    else:
        answer = server.ask("GET", path)
    if server.as_json:
        return
    rows = [
        (
            entry["not_before"],
            entry["reason"],
            "failed" if entry["failed"] is not None else "waits",
            str(entry["attempts"]),
            json.dumps(entry["payload"], ensure_ascii=False) if "payload" in entry else "(the job's)",
            entry["run_id"],
            entry["failed"] or "",
        )
        for entry in answer["pending"]
    ]
    table(("NOT BEFORE", "REASON", "STATE", "ATTEMPTS", "PAYLOAD", "RUN", "WHY"), rows)


@jobs.command()
@click.argument("job_id")
@click.option("--from", "start", default=None, help="RFC 3339 instant. [default: where the account begins]")
@click.option("--to", "end", default=None, help="RFC 3339 instant. [default: now]")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1_000_000), help="At most so many.")
@with_server
def account(server: Server, job_id: str, start: str | None, end: str | None, limit: int) -> None:
    """Show what became of each of a job's fire times, oldest first."""
    params: dict[str, Any] = {"from": start, "to": end}
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {}
    while len(found) < limit:
        asked = {name: value for name, value in params.items() if value is not None}
        page = server.ask("GET", job_path(job_id, "/account"), params=asked | {"limit": min(1000, limit - len(found))})
        found += page["entries"]
        params |= {"from": page["from"], "to": page["to"], "cursor": page["next"]}
        if page["next"] is None:
            break
    if server.as_json:
        return
    click.echo(f"{printable(job_id)}, accounted for from {page['accounted_from']} to {page['accounted_until']}")
    table(("FIRE TIME", "BECAME", "REASON", "HOW MANY", "RUN"), [_entry_row(entry) for entry in found])
    if params["cursor"] is not None:
        click.echo(f"... and more: --limit {limit * 2}", err=True)


def _entry_row(entry: dict[str, Any]) -> tuple[str, ...]:
    if entry["kind"] == "run":
        run = entry["run"]
        return (entry["fire_time"], run["state"], run["reason"], "1", run["id"])
    first, last = entry["first_fire_time"], entry["last_fire_time"]
    count = entry["count"]
    return (
        first if first == last else f"{first} to {last}",
        "missed" if entry["settled"] else "to come",
        entry["reason"],
        "-" if count is None else str(count),
        "-",
    )
