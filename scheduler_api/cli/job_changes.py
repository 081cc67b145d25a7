"""``cronpost jobs put`` and ``update``: change the definition of a job, and print what changed."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from scheduler_api.cli.client import Server, job_path, read_input, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.definition import (
    Change,
    Stored,
    body_of,
    changes_between,
    fields_of,
    is_unreadable,
    merged,
    no_such_job,
    stored_job,
)
from scheduler_api.cli.errors import EXIT_REFUSED, Failed, local_problem
from scheduler_api.cli.job_options import UNSET, given_fields, job_options, trigger_options
from scheduler_api.cli.output import in_zone, printable, show_in_flight
from scheduler_api.cli.request_options import without_replaced

FIRE_TIMES_SHOWN = 5


dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print what would change and the next fire times; store nothing."
)


@click.command()
@click.argument("job_id", required=False, shell_complete=complete_job)
@job_options
@click.option("--file", "file", type=click.Path(dir_okay=False, allow_dash=True), help="The whole body; - is stdin.")
@click.option("--restart", is_flag=True, help="If the job is completed, start its trigger again.")
@dry_run_option
@with_server
def put(server: Server, job_id: str | None, file: str | None, restart: bool, dry_run: bool, **given: Any) -> None:
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
        name = job_id
        fields = {"id": msgspec.Raw(msgspec.json.encode(job_id))} | given_fields(given)
        before = stored_job(server, job_id)
        needs_body = given["target"] is None and given["method"] not in {"GET", "HEAD", "DELETE"}
        if needs_body and "payload" not in fields and "body" not in fields:
            if before is None or "payload" not in before.fields:
                raise click.UsageError("a new job needs --payload (JSON; 'null' if the runner needs none) or --file")
            fields["payload"] = before.fields["payload"]
        body = body_of(fields)
    if dry_run:
        _show_plan(server, name, before, body)
        return
    path = ("PUT", job_path(job_id)) if job_id else ("POST", "/")
    _store(server, path, body, before, restart=restart)


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
@dry_run_option
@with_server
def update(server: Server, job_id: str, unset: tuple[str, ...], dry_run: bool, **given: Any) -> None:
    """Change single fields of a job; all others stay as they are.

    The job is read, merged with the options and stored. If another client changed it in between, an error is printed
    and the exit code is 4.
    """
    trigger_options(given)
    fields = given_fields(given)
    dropped = frozenset(name.replace("-", "_") for name in unset)
    if not fields and not dropped:
        raise click.UsageError("give at least one field to change, for example --cron '0 6 * * *'")
    both = sorted(dropped & fields.keys())
    if both:
        raise click.UsageError(f"give either --{both[0].replace('_', '-')} or --unset {both[0].replace('_', '-')}")
    before = stored_job(server, job_id)
    if before is None:
        raise no_such_job(job_id)
    if is_unreadable(before.fields):
        detail = f"the definition of {job_id!r} cannot be read; cronpost jobs put replaces it"
        raise Failed(detail, problem=local_problem("Corrupt", detail, "corrupt_document"))
    body = body_of(merged(without_replaced(before.fields, fields, dropped), fields, dropped))
    if dry_run:
        _show_plan(server, job_id, before, body)
        return
    _store(server, ("PUT", job_path(job_id)), body, before)


def _store(server: Server, path: tuple[str, str], body: bytes, before: Stored | None, *, restart: bool = False) -> None:
    """Send the definition and print what changed."""
    answer = server.request(*path, body=body, params={"restart": "true"} if restart else None).json()
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
    _check_race(answer, before)


def _check_race(answer: dict[str, Any], before: Stored | None) -> None:
    """Raise Failed if the version shows that another client changed the job after it was read."""
    read = 0 if before is None else before.version
    if not answer["changed"] or read is None or answer["version"] == read + 1:
        return
    detail = (
        f"another client changed {answer['id']!r} at the same time: version {read} was read, and version "
        f"{answer['version']} is stored now. Its change may be overwritten; check with cronpost jobs get"
    )
    raise Failed(detail, exit_code=EXIT_REFUSED, problem=local_problem("Conflict", detail, "changed_meanwhile"))


def _show_changes(changes: list[Change]) -> None:
    for change in changes:
        click.echo(f"  {printable(change.line())}")


def _show_plan(server: Server, job_id: str | None, before: Stored | None, body: bytes) -> None:
    """Print what storing the body would change, by the rules of this version of Cronpost. Changes nothing."""
    from scheduler_api.cli.definition import definition_of
    from scheduler_api.wire.answers.jobs import show_definition
    from scheduler_api.wire.jobs import JOB_FIELDS, job_of
    from scheduler_api.wire.json_body import read_object
    from scheduler_core.base.clock import SystemClock
    from scheduler_core.base.instants import rfc3339
    from scheduler_core.plan.fire_times import trigger_of
    from scheduler_core.plan.given import check_fires, completed_trigger, first_fire_ms

    now_ms = SystemClock().now_ms()
    job = completed_trigger(job_of(read_object(body, JOB_FIELDS), path_id=job_id), None, now_ms=now_ms)
    shown = msgspec.json.encode({"id": job.id} | show_definition(job))
    after = definition_of(msgspec.json.decode(shown, type=dict[str, msgspec.Raw]))
    changes = changes_between({} if before is None else before.fields, after)
    if changes:
        check_fires(job, now_ms)
    trigger = trigger_of(job)
    times: list[str] = []
    at_ms = first_fire_ms(job, now_ms)
    while at_ms is not None and len(times) < FIRE_TIMES_SHOWN:
        times.append(rfc3339(at_ms))
        at_ms = trigger.next_after(at_ms)
    if server.as_json:
        click.echo(msgspec.json.encode({"changes": changes, "next_fire_times": times}))
        return
    what = "would be created" if before is None else "would be changed" if changes else "would stay as it is"
    click.echo(f"{printable(job.id)} {what}")
    if before is not None:
        _show_changes(changes)
    zone = _text(after.get("timezone"))
    for place, instant in enumerate(times):
        click.echo(f"{'  next fire times  ' if place == 0 else ' ' * 19}{in_zone(instant, zone)}")
