"""Acts on many jobs or runs: options that select them, the count before, and the progress of the operation.

``cronpost jobs label`` and ``cronpost runs replay`` are here; other commands take many jobs with ``or_many``."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from scheduler_api.cli import selection_options
from scheduler_api.cli.client import Server, job_path, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.errors import EXIT_OTHER
from scheduler_api.cli.instants import PAST_FORMAT, instant_option
from scheduler_api.cli.output import printable
from scheduler_core.base.clock import SystemClock

POLL_SECONDS = 0.5
SHOWN_ERRORS = 20

DONE_WORDS = {
    "pause": "paused",
    "resume": "resumed",
    "run": "started",
    "delete": "deleted",
    "label": "changed",
    "replay": "requested again",
}

Command = Callable[..., None]


SELECTORS: tuple[Callable[[Command], Command], ...] = (
    *selection_options.SELECTORS,
    click.option("--all", "everything", is_flag=True, help="All jobs; required without another condition."),
)
FLOW = (
    click.option("--dry-run", is_flag=True, help="Only count."),
    click.option("--no-wait", is_flag=True, help="Do not wait for the end of a long operation."),
)
PER_SECOND = click.option(
    "--per-second", type=click.IntRange(1, 1000), default=None, help="The most runs to start per second. [default: 100]"
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Add options to a command, in this order."""

    def add(command: Command) -> Command:
        for one in reversed(options):
            command = one(command)
        return command

    return add


def or_many(verb: str, *own: Callable[[Command], Command], takes: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Let a command with the argument JOB_ID act on all selected jobs too, and make the argument optional.

    ``own``: options that only the many have. ``takes``: options of the command that the many have, too. Both are sent
    in the body under their names.
    """

    def decorate(command: Command) -> Command:
        names = _names(own)

        @with_options(*SELECTORS, *own, *FLOW)
        @functools.wraps(command)
        def wrapped(server: Server, job_id: str | None, **given: Any) -> None:
            select = select_of(given)
            flow = {name: given.pop(name) for name in ("dry_run", "no_wait")}
            of_many = _sent({name: given.pop(name) for name in names})
            if select is None:
                if job_id is None:
                    raise click.UsageError("give JOB_ID, or select jobs with --label, --prefix ... or --all")
                _refuse({**_sent(flow), **of_many}, "goes with many jobs, not with JOB_ID")
                command(server, job_id, **given)
                return
            if job_id is not None:
                raise click.UsageError("give either JOB_ID or conditions on many jobs")
            yes = bool(given.pop("yes", False))
            fields = _sent(given)
            _refuse(fields.keys() - set(takes), "goes with JOB_ID, not with many jobs")
            if "until" in fields:
                fields["until"] = instant_option(fields["until"], "ahead")
            act(server, "/jobs", verb, select | fields | of_many, yes=yes, **flow)

        return wrapped

    return decorate


def _refuse(names: Iterable[str], why: str) -> None:
    for name in sorted(names):
        raise click.UsageError(f"--{'if-match' if name == 'headers' else name.replace('_', '-')} {why}")


def _names(options: tuple[Callable[[Command], Command], ...]) -> list[str]:
    """Return the parameter names of click options."""

    def nothing() -> None: ...

    for one in options:
        one(nothing)
    return [str(parameter.name) for parameter in getattr(nothing, "__click_params__", [])]


def _sent(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, False, (), {})}


def select_of(given: dict[str, Any]) -> dict[str, Any] | None:
    """Take the conditions out of the options; returns the fields of a body that select jobs, or None without any."""
    everything = given.pop("everything")
    select = selection_options.conditions_of(given)
    if not select and not everything:
        return None
    return {"select": select | {"all": True} if everything else select}


def act(
    server: Server,
    path: str,
    verb: str,
    body: dict[str, Any],
    *,
    dry_run: bool = False,
    no_wait: bool = False,
    yes: bool = False,
) -> None:
    """Count what the verb would change, ask before a deletion, carry it out, and show the result.

    With failures the exit code is 1.
    """
    noun, count = "run" if verb == "replay" else "job", 0
    if dry_run or not server.as_json:
        counted = _started(server, path, verb, body | {"dry_run": True}, wait=True)
        if server.as_json:
            click.echo(json.dumps(counted, ensure_ascii=False))
            return
        ending = "es" if counted["matched"] == 1 else ""
        click.echo(
            f"{_number(counted['matched'], noun)} match{ending}, {counted['changed']} to {verb}{_skipped(counted)}"
        )
        count = counted["changed"]
        if dry_run or not count:
            return
    if verb == "delete" and not yes:
        _confirm(server, count)
    result = _started(server, path, verb, body, wait=not no_wait)
    if server.as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
    elif "matched" not in result:
        name = printable(result["operation"])
        click.echo(f"operation {name} continues in the background; cronpost operations watch {name} follows it")
    else:
        show_result(verb, result)
    if result.get("failed"):
        raise click.exceptions.Exit(EXIT_OTHER)


def _confirm(server: Server, count: int) -> None:
    if server.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("deleting many jobs needs --yes where no terminal can ask")
    click.confirm(f"Delete {_number(count, 'job')}?", abort=True)


def _started(server: Server, path: str, verb: str, body: dict[str, Any], *, wait: bool) -> dict[str, Any]:
    """Send the request; with ``wait``, wait for the end of an operation that continues in the background."""
    answer: dict[str, Any] = server.request("POST", f"{path}:{verb}", body=json.dumps(body).encode()).json()
    if "matched" in answer or not wait:
        return answer
    return follow(server, answer["operation"])


def follow(server: Server, operation_id: str) -> dict[str, Any]:
    """Show the progress of an operation on standard error until it ends; returns how it ended."""
    terminal = sys.stderr.isatty()
    try:
        while True:
            operation: dict[str, Any] = server.request("GET", f"/operations/{operation_id}").json()
            if operation["ended_at"] is not None:
                if terminal and not server.as_json:
                    click.echo("\r\x1b[K", err=True, nl=False)
                return operation
            if terminal and not server.as_json:
                click.echo(f"\r\x1b[K{progress_of(operation)}", err=True, nl=False)
            asyncio.run(SystemClock().sleep(POLL_SECONDS))
    except KeyboardInterrupt:
        click.echo(
            f"\nthe operation continues; cronpost operations cancel {operation_id} stops it, "
            f"cronpost operations watch {operation_id} follows it",
            err=True,
        )
        raise


def progress_of(operation: dict[str, Any]) -> str:
    """Format how far an operation is."""
    text = f"{operation['verb']} {operation['state']}: {operation['changed']} of {operation['matched']} so far"
    if operation["per_second"]:
        text += f", {operation['per_second']:g} per second"
    if operation["seconds_left"] is not None:
        text += f", about {operation['seconds_left']} s left"
    return text + (f", at {printable(operation['position'])}" if operation["position"] else "")


def show_result(verb: str, result: dict[str, Any]) -> None:
    """Print the counts of an operation that has ended, and its first errors."""
    state = result.get("state", "done")
    words = "counted" if result.get("dry_run") else DONE_WORDS[verb]
    noun = "run" if verb == "replay" else "job"
    line = f"{_number(result['changed'], noun)} {words}{_skipped(result)}"
    if result["failed"]:
        line += f", {result['failed']} failed"
    if state != "done":
        line += f"; the operation was {state}" if state == "cancelled" else f"; the operation has {state}"
    click.echo(line)
    for error in result["errors"][:SHOWN_ERRORS]:
        where = f"{error['job_id']}{' ' + error['run_id'] if error.get('run_id') else ''}"
        click.echo(printable(f"  {where}: {error['detail']} [{error['code']}]"), err=True)
    if len(result["errors"]) > SHOWN_ERRORS:
        click.echo(f"  ... cronpost operations get {result.get('operation') or result.get('id')} shows more", err=True)


def _skipped(result: dict[str, Any]) -> str:
    if not result["skipped"]:
        return ""
    return ", skipped: " + ", ".join(f"{count} {why}" for why, count in sorted(result["skipped"].items()))


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@click.command()
@click.argument("job_id", required=False, shell_complete=complete_job)
@click.option("--set", "new", multiple=True, metavar="KEY:VALUE", help="Set this label. Can be repeated.")
@click.option("--unset", "removed", multiple=True, metavar="KEY", help="Remove this label. Can be repeated.")
@with_server
@with_options(*SELECTORS, *FLOW)
def label(server: Server, job_id: str | None, new: tuple[str, ...], removed: tuple[str, ...], **given: Any) -> None:
    """Set and remove labels of a job, or of many."""
    labels: dict[str, str | None] = dict.fromkeys(removed)
    for text in new:
        key, colon, value = text.partition(":")
        if not colon or key in labels:
            raise click.UsageError(f"--set {printable(text)}: give KEY:VALUE, and each key once")
        labels[key] = value
    if not labels:
        raise click.UsageError("give at least one --set KEY:VALUE or --unset KEY")
    select = select_of(given)
    if (select is None) == (job_id is None):
        raise click.UsageError("give either JOB_ID or conditions such as --label, --prefix or --all")
    if select is not None:
        act(server, "/jobs", "label", select | {"labels": labels}, **given)
        return
    assert job_id is not None
    _refuse(_sent(given), "goes with many jobs, not with JOB_ID")
    answer = server.ask("PATCH", job_path(job_id), body=json.dumps({"labels": labels}).encode())
    if not server.as_json:
        click.echo(f"{printable(job_id)} {'changed' if answer['changed'] else 'unchanged'}")


RUN_STATES = ("succeeded", "failed", "conflict", "superseded", "cancelled", "lost")


@click.command()
@click.option("--job", "job_id", default=None, shell_complete=complete_job, help="Only runs of this job.")
@click.option("--label", "labels", multiple=True, metavar="KEY[:VALUE]", help="Only of jobs with this label.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(RUN_STATES),
    help="Only this state. Can be repeated. [default: failed, lost, conflict]",
)
@click.option("--from", "start", default=None, help=f"Started at or after: {PAST_FORMAT}.")
@click.option("--to", "end", default=None, help=f"Started at or before: {PAST_FORMAT}.")
@click.option("--all", "everything", is_flag=True, help="All failed runs; required without another condition.")
@click.option("--current-definition", is_flag=True, help="Also runs whose job was changed since.")
@PER_SECOND
@with_options(*FLOW)
@with_server
def replay(
    server: Server,
    job_id: str | None,
    labels: tuple[str, ...],
    states: tuple[str, ...],
    start: str | None,
    end: str | None,
    everything: bool,
    current_definition: bool,
    per_second: int | None,
    dry_run: bool,
    no_wait: bool,
) -> None:
    """Run settled runs again, by default those that failed.

    At most ten replays of a job wait or run at the same time; a replay gives way to fire times that are due.
    """
    given = {
        "job": job_id,
        "label": list(labels) or None,
        "state": list(states) or None,
        "from": instant_option(start, "ago"),
        "to": instant_option(end, "ago"),
    }
    select: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if everything == bool(select):
        raise click.UsageError("give conditions such as --job, --label or --from, or only --all")
    flow = {"dry_run": dry_run, "no_wait": no_wait}
    replay_runs(server, select or {"all": True}, current_definition=current_definition, per_second=per_second, **flow)


def replay_runs(
    server: Server,
    select: dict[str, Any],
    *,
    current_definition: bool,
    per_second: int | None,
    dry_run: bool,
    no_wait: bool,
) -> None:
    """Replay the selected runs and print the progress."""
    body: dict[str, Any] = {"select": select}
    if per_second is not None:
        body["per_second"] = per_second
    if current_definition:
        body["definition"] = "current"
    act(server, "/runs", "replay", body, dry_run=dry_run, no_wait=no_wait)
