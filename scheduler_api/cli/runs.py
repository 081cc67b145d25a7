"""``cronpost runs``: list runs of all jobs, show one with its request and response, cancel or retry one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import click
import msgspec

from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.complete_values import complete_job, complete_run
from scheduler_api.cli.errors import EXIT_CODES
from scheduler_api.cli.instants import PAST_FORMAT, instant_option
from scheduler_api.cli.lazy import LazyGroup
from scheduler_api.cli.many import replay
from scheduler_api.cli.output import paint, printable, table

STATES = ("open", "retrying", "taken", "succeeded", "failed", "conflict", "superseded", "cancelled", "lost")
PAGE = 1000
SEARCHED = 100_000
"""Maximum number of runs that a list with a filter reads."""
NAMES_WIDE = 26


@click.group(cls=LazyGroup, epilog=EXIT_CODES)
def runs() -> None:
    """Show, cancel and retry runs of jobs, schedules and tasks."""


runs.add_command(replay)


@runs.command("list")
@click.option("--job", "job_id", default=None, shell_complete=complete_job, help="Only runs of this job.")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only this state. Can be repeated.")
@click.option("--label", "labels", multiple=True, metavar="KEY[:VALUE]", help="Only of jobs with this label.")
@click.option("--reason", default=None, help="Only this reason, for example manual or replay.")
@click.option("--from", "start", default=None, help=f"Started at or after: {PAST_FORMAT}.")
@click.option("--to", "end", default=None, help=f"Started at or before: {PAST_FORMAT}.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, SEARCHED), help="Maximum number.")
@click.option("--jsonl", is_flag=True, help="One JSON object per line.")
@with_server
def list_runs(
    server: Server,
    job_id: str | None,
    states: tuple[str, ...],
    labels: tuple[str, ...],
    reason: str | None,
    start: str | None,
    end: str | None,
    limit: int,
    jsonl: bool,
) -> None:
    """List runs, newest first."""
    params: dict[str, Any] = {
        "job_id": job_id,
        "state": states[0] if len(states) == 1 else None,
        "reason": reason,
        "label": list(labels),
        "start_time": instant_option(start, "ago"),
        "end_time": instant_option(end, "ago"),
    }
    filtered = bool(states or reason or labels)
    found: list[tuple[bytes, dict[str, Any]]] = []
    for raw in _runs(server, params, None if filtered else limit):
        run = msgspec.json.decode(raw)
        # Also filtered here: an older server ignores filters that it does not know.
        if (states and run["state"] not in states) or reason not in {None, run["reason"]}:
            continue
        found.append((raw, run))
        if jsonl:
            click.echo(raw)
        if len(found) == limit:
            break
    if jsonl:
        return
    if server.as_json:
        click.echo(b"[" + b",".join(raw for raw, _ in found) + b"]")
        return
    heads = ("STARTED", "JOB", "STATE", "REASON", "STATUS", "TOOK MS", "RUN", "WHY")
    table(heads, [_row(run) for _, run in found])


def _runs(server: Server, params: dict[str, Any], limit: int | None) -> Iterator[bytes]:
    """Yield the runs of all pages as the bytes that the server sent."""
    left = SEARCHED if limit is None else limit
    params = dict(params)
    while left > 0:
        answer = server.request("GET", "/runs", params=params | {"limit": min(PAGE, left)})
        if params["label"] and "label" in answer.headers.get("Cronpost-Ignored", ""):
            raise click.UsageError("this server is of an earlier version, which cannot list runs by label")
        page = [bytes(raw) for raw in msgspec.json.decode(answer.content, type=list[msgspec.Raw])]
        yield from page
        left -= len(page)
        following = answer.links.get("next")
        if following is None:
            return
        params["cursor"] = parse_qs(urlsplit(following["url"]).query)["cursor"][0]


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    took = run["latency_ms"]
    return (
        run["started_at"] or "-",
        run["job_id"],
        run["state"],
        run["reason"],
        str(run["status_code"] or "-"),
        "-" if took is None else f"{took:.0f}",
        run["id"],
        run["error_message"] or "",
    )


@runs.command()
@click.argument("run_id", shell_complete=complete_run)
@with_server
def get(server: Server, run_id: str) -> None:
    """Show a run: its attempts, and the request and response of the last one."""
    run = server.ask("GET", f"/runs/{quote(run_id, safe='')}")
    if server.as_json:
        return
    for name, value in run.items():
        if value is None or value in ([], {}, ""):
            continue
        for place, line in enumerate(_lines(name, value)):
            shown = paint(printable(line)) if name in {"state", "status"} else printable(line)
            click.echo(f"{name if place == 0 else '':<{NAMES_WIDE}} {shown}")


def _lines(name: str, value: Any) -> list[str]:
    if name == "attempts":
        return [_attempt(attempt) for attempt in value]
    if isinstance(value, dict):
        return [f"{key}: {text}" for key, text in value.items()]
    if name in {"request_body", "response_body"}:
        return _pretty(str(value)).split("\n")
    return [str(value)]


def _attempt(attempt: dict[str, Any]) -> str:
    how = attempt["error_message"] or attempt["status"]
    code = f" {attempt['status_code']}" if attempt["status_code"] else ""
    return f"{attempt['attempt_number']}  {attempt['started_at']}{code}  {attempt['latency_ms']:.0f} ms  {how}"


def _pretty(body: str) -> str:
    """Indent a body if it is JSON."""
    try:
        return msgspec.json.format(body, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return body


@runs.command()
@click.argument("run_id", shell_complete=complete_run)
@with_server
def cancel(server: Server, run_id: str) -> None:
    """Cancel a run that has not ended. Its runner may still be working on it."""
    cancel_run(server, run_id)


def cancel_run(server: Server, run_id: str) -> None:
    """Cancel a run, and print whether its open request was cut."""
    answer = server.ask("POST", f"/runs/{quote(run_id, safe='')}/cancel")
    if server.as_json:
        return
    cut = {True: "; its open request was cut", False: "; its request may still be open"}.get(answer["request_cut"], "")
    click.echo(f"run {printable(answer['run_id'])} of {printable(answer['job_id'])} cancelled{cut}")


@runs.command()
@click.argument("run_id", shell_complete=complete_run)
@click.option("--current", is_flag=True, help="Also if the job was changed since: use its definition of now.")
@click.option("--force", is_flag=True, help="Also if the run succeeded or was replayed before.")
@with_server
def retry(server: Server, run_id: str, current: bool, force: bool) -> None:
    """Run a run that has ended again, as a new run with the same fire time."""
    retry_run(server, run_id, current=current, force=force)


def retry_run(server: Server, run_id: str, *, current: bool, force: bool) -> None:
    """Run a run again and print the id of the new one."""
    fields: dict[str, Any] = {"force": force}
    if current:
        fields["definition"] = "current"
    answer = server.ask("POST", f"/runs/{quote(run_id, safe='')}/retry", body=msgspec.json.encode(fields))
    if server.as_json:
        return
    again = f"runs {answer['fire_time']} of {printable(answer['job_id'])} again"
    click.echo(f"run {answer['run_id']} {again}; cronpost runs get {answer['run_id']} shows its result")
