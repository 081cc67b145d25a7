"""``cronpost jobs put`` and ``update``: change the definition of a job, and print what changed."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from scheduler_api.cli.client import Server, job_path, json_option, read_input, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.definition import (
    Change,
    Stored,
    body_of,
    changes_between,
    fields_of,
    is_unreadable,
    no_such_job,
    stored_job,
)
from scheduler_api.cli.errors import EXIT_REFUSED, Failed, local_problem
from scheduler_api.cli.if_match import if_match_option
from scheduler_api.cli.job_options import UNSET, given_fields, job_options, trigger_options
from scheduler_api.cli.output import in_zone, printable, show_in_flight

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print what the server would change and the next fire times; store nothing."
)

_NULL = msgspec.Raw(b"null")


class _Request(msgspec.Struct, frozen=True):
    """A change of a definition as it is sent."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    restart: bool = False

    def send(self, server: Server, *, dry_run: bool = False) -> bytes:
        """Send it; return the answer."""
        params = {"restart": "true" if self.restart else None, "dry_run": "true" if dry_run else None}
        answer = server.request(self.method, self.path, params=params, body=self.body, headers=self.headers)
        return answer.content


class _PlannedChange(msgspec.Struct, frozen=True):
    """A field that would differ."""

    field: str
    before: msgspec.Raw
    after: msgspec.Raw


class _Plan(msgspec.Struct, frozen=True):
    """The answer of the server to a dry run."""

    id: str
    changed: bool
    version: int
    changes: list[_PlannedChange]
    next_fire_times: list[str]
    in_flight: dict[str, Any] | None = None


@click.command()
@click.argument("job_id", required=False, shell_complete=complete_job)
@job_options
@click.option("--file", "file", type=click.Path(dir_okay=False, allow_dash=True), help="The whole body; - is stdin.")
@click.option("--restart", is_flag=True, help="If the job is completed, start its trigger again.")
@dry_run_option
@if_match_option
@with_server
def put(
    server: Server,
    job_id: str | None,
    file: str | None,
    restart: bool,
    dry_run: bool,
    headers: dict[str, str],
    **given: Any,
) -> None:
    """Create or replace a job, from options or from a file with the JSON body of POST /.

    A field that is not given is set to its default, even if the stored job has another value; changes are printed.
    Only the stored payload is kept if none is given. cronpost jobs update changes single fields.
    """
    if file is not None:
        if any(value is not None for value in given.values()):
            raise click.UsageError("give either --file or the options of a job")
        body = read_input(file)
        fields = fields_of(body) or {}
        name = job_id or _text(fields.get("id"))
        before = None if name is None else stored_job(server, name)
    else:
        if not job_id or not (given["endpoint"] or given["target"]) or not trigger_options(given):
            raise click.UsageError(
                "give JOB_ID, --endpoint (or --target) and --cron (or --every-seconds, --at, --on-request), or --file; "
                "cronpost jobs update changes single fields"
            )
        fields = {"id": msgspec.Raw(msgspec.json.encode(job_id))} | given_fields(given)
        before = stored_job(server, job_id)
        needs_body = given["target"] is None and given["method"] not in {"GET", "HEAD", "DELETE"}
        if needs_body and "payload" not in fields and "body" not in fields:
            if before is None or "payload" not in before.fields:
                raise click.UsageError("a new job needs --payload (JSON; 'null' if the runner needs none) or --file")
            fields["payload"] = before.fields["payload"]
        body = body_of(fields)
    method, path = ("PUT", job_path(job_id)) if job_id else ("POST", "/")
    _change(server, _Request(method, path, body, headers, restart), before, dry_run=dry_run)


def _text(raw: msgspec.Raw | None) -> str | None:
    value = None if raw is None else msgspec.json.decode(raw)
    return value if isinstance(value, str) and value else None


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@job_options
@click.option(
    "--unset",
    multiple=True,
    type=click.Choice([name.replace("_", "-") for name in UNSET]),
    help="Reset a field to its default. Can be repeated.",
)
@click.option("--patch", help="JSON merge patch of PATCH /jobs/{id}, instead of options. @FILE reads it from a file.")
@dry_run_option
@if_match_option
@with_server
def update(
    server: Server,
    job_id: str,
    unset: tuple[str, ...],
    patch: str | None,
    dry_run: bool,
    headers: dict[str, str],
    **given: Any,
) -> None:
    """Change single fields of a job; all others stay as they are.

    The server merges the fields into the stored job: members of --retry and --limits, and each --header and --query,
    are added to the stored ones. If another client changed the job at the same time, both changes are stored, a message
    is printed and the exit code is 4. With --if-match, nothing is stored then.
    """
    trigger_options(given)
    fields = given_fields(given)
    dropped = {name.replace("-", "_") for name in unset}
    if patch is None and not fields and not dropped:
        raise click.UsageError("give at least one field to change, for example --cron '0 6 * * *'")
    if patch is not None and (fields or dropped):
        raise click.UsageError("give either --patch or the options of a job")
    both = sorted(dropped & fields.keys())
    if both:
        raise click.UsageError(f"give either --{both[0].replace('_', '-')} or --unset {both[0].replace('_', '-')}")
    before = stored_job(server, job_id)
    if before is None:
        raise no_such_job(job_id)
    if is_unreadable(before.fields):
        detail = f"the definition of {job_id!r} cannot be read; cronpost jobs put replaces it"
        raise Failed(detail, problem=local_problem("Corrupt", detail, "corrupt_document"))
    body = body_of(fields | dict.fromkeys(dropped, _NULL)) if patch is None else json_option("--patch", patch)
    _change(server, _Request("PATCH", job_path(job_id), body, headers), before, dry_run=dry_run)


def _change(server: Server, request: _Request, before: Stored | None, *, dry_run: bool) -> None:
    """Send the change and print what it changed, or what it would change."""
    if dry_run:
        _show_plan(server, request.send(server, dry_run=True), before)
        return
    answer = msgspec.json.decode(request.send(server))
    after = stored_job(server, answer["id"]) if answer["changed"] else before
    changes = [] if before is None or after is None else changes_between(before.fields, after.fields)
    created = before is None and answer["changed"]
    if server.as_json:
        click.echo(msgspec.json.encode(answer | {"changes": changes}))
    else:
        what = "created" if created else "changed" if answer["changed"] else "unchanged"
        zone = _text(after.fields.get("timezone")) if after is not None else None
        next_fire = in_zone(answer["next_fire_time"], zone)
        click.echo(f"{printable(answer['id'])} {what} (version {answer['version']}), next fire {next_fire}")
        _show_changes(changes)
        show_in_flight(answer, zone)
    if not request.headers:
        _check_race(answer, before, merged=request.method == "PATCH")


def _check_race(answer: dict[str, Any], before: Stored | None, *, merged: bool) -> None:
    """Raise Failed if the version shows that another client changed the job after it was read."""
    read = 0 if before is None else before.version
    if not answer["changed"] or read is None or answer["version"] == read + 1:
        return
    effect = "Both changes are stored, yours last" if merged else "Its change may be overwritten"
    detail = (
        f"another client changed {answer['id']!r} at the same time: version {read} was read, and version "
        f"{answer['version']} is stored now. {effect}; check with cronpost jobs get"
    )
    raise Failed(detail, exit_code=EXIT_REFUSED, problem=local_problem("Conflict", detail, "changed_meanwhile"))


def _show_changes(changes: list[Change]) -> None:
    for change in changes:
        click.echo(f"  {printable(change.line())}")


def _show_plan(server: Server, answer: bytes, before: Stored | None) -> None:
    """Print what the server would change."""
    if server.as_json:
        click.echo(answer.rstrip(b"\n"))
        return
    plan = msgspec.json.decode(answer, type=_Plan)
    created = plan.changed and plan.version == 1
    what = "would be created" if created else "would be changed" if plan.changed else "would stay as it is"
    click.echo(f"{printable(plan.id)} {what}")
    if not created:
        _show_changes([Change(one.field, one.before, one.after) for one in plan.changes])
    zone = None if before is None else _text(before.fields.get("timezone"))
    for change in plan.changes:
        if change.field == "timezone":
            zone = _text(change.after)
    for place, instant in enumerate(plan.next_fire_times):
        click.echo(f"{'  next fire times  ' if place == 0 else ' ' * 19}{in_zone(instant, zone)}")
    show_in_flight({"in_flight": plan.in_flight}, zone)
