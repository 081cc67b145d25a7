"""``cronpost jobs cancel, retry, replay, watch``: what ``cronpost runs`` and ``cronpost watch`` do, for one job."""

from __future__ import annotations

import click

from scheduler_api.cli.client import Server, job_path, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.errors import EXIT_REFUSED, Failed, local_problem
from scheduler_api.cli.instants import PAST_FORMAT, instant_option
from scheduler_api.cli.many import FLOW, PER_SECOND, replay_runs, with_options
from scheduler_api.cli.runs import cancel_run, retry_run
from scheduler_api.cli.watch import show_events


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@with_server
def cancel(server: Server, job_id: str) -> None:
    """Cancel the runs of a job that have not ended.

    Their runners may still be working on them. Runs that have not started are in the pending list and stay there.
    """
    found = server.request("GET", job_path(job_id)).json()
    runs = found.get("open_runs") or ([] if found["open_run"] is None else [found["open_run"]])
    if not runs:
        raise _refused(f"the job {job_id} has no open run", "no_open_run")
    for one in runs:
        cancel_run(server, one["id"])


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option("--current", is_flag=True, help="Also if the job was changed since: use its definition of now.")
@click.option("--force", is_flag=True, help="Also if the run was replayed before.")
@with_server
def retry(server: Server, job_id: str, current: bool, force: bool) -> None:
    """Run the latest failed run of a job again, as a new run with the same fire time."""
    failure = server.request("GET", job_path(job_id)).json()["last_failure"]
    if failure is None:
        raise _refused(f"no run of the job {job_id} has failed", "no_failure")
    retry_run(server, failure["run_id"], current=current, force=force)


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option("--from", "start", default=None, help=f"Started at or after: {PAST_FORMAT}.")
@click.option("--to", "end", default=None, help=f"Started at or before: {PAST_FORMAT}.")
@click.option("--current-definition", is_flag=True, help="Also runs that started before the job was changed.")
@PER_SECOND
@with_options(*FLOW)
@with_server
def replay(
    server: Server,
    job_id: str,
    start: str | None,
    end: str | None,
    current_definition: bool,
    per_second: int | None,
    dry_run: bool,
    no_wait: bool,
) -> None:
    """Run the failed runs of a job again.

    At most ten of them wait or run at the same time; they give way to fire times that are due.
    """
    window = {"from": instant_option(start, "ago"), "to": instant_option(end, "ago")}
    select = {"job": job_id} | {name: value for name, value in window.items() if value is not None}
    flow = {"dry_run": dry_run, "no_wait": no_wait}
    replay_runs(server, select, current_definition=current_definition, per_second=per_second, **flow)


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option("--count", type=click.IntRange(min=1), default=None, help="End after this many events.")
@click.option("--last-event-id", default=None, metavar="ID", help="Begin after this position, from an earlier --json.")
@with_server
def watch(server: Server, job_id: str, count: int | None, last_event_id: str | None) -> None:
    """Show events of a job and its runs as they happen, until Ctrl-C."""
    show_events(server, {"job": (job_id,)}, count=count, last_event_id=last_event_id)


def _refused(message: str, code: str) -> Failed:
    return Failed(message, exit_code=EXIT_REFUSED, problem=local_problem("Conflict", message, code))
