"""``cronpost jobs delete``, ``pause`` and ``resume``."""

from __future__ import annotations

import sys

import click

from scheduler_api.cli.client import Server, job_path, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.if_match import if_match_option
from scheduler_api.cli.many import or_many
from scheduler_api.cli.output import in_zone, printable, show_in_flight
from scheduler_api.cli.pauses import NOTE_HELP, UNTIL_HELP, pause_body


@click.command()
@click.argument("job_id", required=False, shell_complete=complete_job)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@if_match_option
@with_server
@or_many("delete")
def delete(server: Server, job_id: str, yes: bool, headers: dict[str, str]) -> None:
    """Remove a job, or many. A request that is open can still end.

    On a terminal it asks for confirmation unless --yes is given. Many are counted first.
    """
    if not yes and not server.as_json and sys.stdin.isatty() and sys.stdout.isatty():
        click.confirm(f"Delete the job {printable(job_id)}?", abort=True)
    answer = server.ask("DELETE", job_path(job_id), headers=headers)
    if not server.as_json:
        click.echo(f"{printable(job_id)} deleted")
        show_in_flight(answer)


@click.command()
@click.argument("job_id", required=False, shell_complete=complete_job)
@click.option("--until", default=None, help=UNTIL_HELP)
@click.option("--note", default=None, help=NOTE_HELP)
@if_match_option
@with_server
@or_many("pause", takes=("until", "note"))
def pause(server: Server, job_id: str, until: str | None, note: str | None, headers: dict[str, str]) -> None:
    """Pause a job, or many: their triggers fire nothing. A pause of a paused job replaces note and end."""
    job = server.ask("POST", job_path(job_id, "/pause"), body=pause_body(until, note), headers=headers)
    if not server.as_json:
        end = "" if "paused_until" not in job else f" until {in_zone(job['paused_until'], job.get('timezone'))}"
        click.echo(f"{printable(job_id)} paused{end}")
        show_in_flight(job, job.get("timezone"))


@click.command()
@click.argument("job_id", required=False, shell_complete=complete_job)
@if_match_option
@with_server
@or_many("resume")
def resume(server: Server, job_id: str, headers: dict[str, str]) -> None:
    """Resume a paused or quarantined job, or many."""
    job = server.ask("POST", job_path(job_id, "/resume"), headers=headers)
    if not server.as_json:
        next_fire = in_zone(next(iter(job.get("next_fire_times", [])), None), job.get("timezone"))
        click.echo(f"{printable(job_id)} resumed, next fire {next_fire}")
        show_in_flight(job, job.get("timezone"))
