"""``cronpost jobs run``, ``backfill`` and ``pending``: request runs."""

from __future__ import annotations

import json
from typing import Any

import click

from scheduler_api.cli.client import Server, job_path, json_option, read_input, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.if_match import if_match_option
from scheduler_api.cli.instants import FUTURE_FORMAT, PAST_FORMAT, instant_option
from scheduler_api.cli.many import PER_SECOND, or_many
from scheduler_api.cli.output import printable, table


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option(
    "--start", required=True, help=f"The first fire time to run again, or an instant before it: {PAST_FORMAT}."
)
@click.option(
    "--end", required=True, help="The last fire time to run again, or an instant after it, in the same format."
)
@click.option("--limit", type=int, default=None, help="Maximum number of runs. [default: 100]")
@with_server
def backfill(server: Server, job_id: str, start: str, end: str, limit: int | None) -> None:
    """Run past fire times again, one by one."""
    body: dict[str, Any] = {"start": instant_option(start, "ago"), "end": instant_option(end, "ago")}
    if limit is not None:
        body["limit"] = limit
    answer = server.ask("POST", job_path(job_id, "/backfill"), body=json.dumps(body).encode())
    if not server.as_json:
        click.echo(f"{answer['runs']} run(s) requested, for the fire times from {answer['first']} to {answer['last']}")


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option(
    "--put",
    "file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Replace the list by the JSON in this file; - is stdin.",
)
@click.option("--revive", "run_id", default=None, metavar="RUN", help="Retry a pending run that has failed.")
@with_server
def pending(server: Server, job_id: str, file: str | None, run_id: str | None) -> None:
    """Show, replace or revive the pending runs of a job."""
    if file is not None and run_id is not None:
        raise click.UsageError("give either --put or --revive")
    path = job_path(job_id, "/pending")
    if file is not None:
        answer = server.ask("PUT", path, body=read_input(file))
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
            "failed" if entry["failed"] is not None else "waiting",
            str(entry["attempts"]),
            json.dumps(entry["payload"], ensure_ascii=False) if "payload" in entry else "(the job's)",
            entry["run_id"],
            entry["failed"] or "",
        )
        for entry in answer["pending"]
    ]
    table(("NOT BEFORE", "REASON", "STATE", "ATTEMPTS", "PAYLOAD", "RUN", "WHY"), rows)


@click.command()
@click.argument("job_id", required=False, shell_complete=complete_job)
@click.option("--force", is_flag=True, help="Ignore not_before and min_interval_seconds; wait only for an open run.")
@click.option("--payload", help="Request body of this run instead of the job's, JSON. @FILE reads it from a file.")
@click.option("--not-before", default=None, help=f"Earliest start: {FUTURE_FORMAT}.")
@if_match_option
@with_server
@or_many("run", PER_SECOND, takes=("force",))
def run(
    server: Server,
    job_id: str,
    force: bool,
    payload: str | None,
    not_before: str | None,
    headers: dict[str, str],
) -> None:
    """Start a run of a job, or of many, now: the earliest pending one, else one with the job's payload."""
    fields: dict[str, Any] = {"force": force}
    if not_before is not None:
        fields["not_before"] = instant_option(not_before, "ahead")
    body = json.dumps(fields).encode()[:-1]
    if payload is not None:
        body += b', "payload": ' + json_option("--payload", payload)
    answer = server.ask("POST", job_path(job_id, "/run"), body=body + b"}", headers=headers)
    if server.as_json:
        return
    if "skipped" in answer:
        click.echo(f"nothing started: {answer['skipped'].replace('_', ' ')}, next at {answer['next_at'] or '-'}")
    else:
        click.echo(f"run {answer['run_id']} requested; cronpost jobs runs {printable(job_id)} shows its result")
