"""The options of ``cronpost jobs put`` and ``update``: one for each field of a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from scheduler_api.cli.client import json_option
from scheduler_api.cli.definition import Fields
from scheduler_api.cli.request_options import REQUEST_FIELDS, request_fields, request_options
from scheduler_api.wire.labels import LABEL_FIELDS
from scheduler_api.wire.policy_row import Row
from scheduler_api.wire.policy_rows import POLICY_FIELDS, ROWS
from scheduler_api.wire.triggers import TRIGGER_FIELDS

UNSET = ("timezone", "retry_already_running", "recovery_check", *REQUEST_FIELDS, *LABEL_FIELDS, *POLICY_FIELDS)


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add one option for each field of a job to a command, named after the field."""
    options: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...] = (
        click.option("--endpoint", help="URL of the runner."),
        click.option("--cron", "cron", help="Cron expression: 5, 6 (seconds first) or 7 fields, or a macro."),
        click.option("--every-seconds", type=float, help="Interval, instead of --cron: at least 0.1, three decimals."),
        click.option("--at", "at", help="The only fire time, instead of --cron: RFC 3339 with its offset, or now."),
        click.option("--on-request", is_flag=True, default=None, help="No fire times: the job runs only on request."),
        click.option("--payload", help="Request body, JSON. @FILE reads it from a file."),
        request_options,
        click.option("--timezone", help="IANA name. [default: UTC]"),
        click.option("--retry-already-running", type=int, help="Retry this many seconds after a 409."),
        click.option("--recovery-check/--no-recovery-check", default=None, help="Run once after a downtime."),
        click.option(
            "--labels", help='As JSON, for example {"team": "billing"}. update keeps other labels; null removes one.'
        ),
        click.option("--description", help="Text for people."),
        *(_policy_option(row) for row in ROWS),
        click.option("--retry", help='As JSON, for example {"attempts": 3, "statuses": [500]}.'),
        click.option("--limits", help='As JSON, for example {"max_in_flight": 5, "rate": 10}.'),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _policy_option(row: Row) -> Callable[[Callable[..., None]], Callable[..., None]]:
    name = "--" + row.name.replace("_", "-")
    if row.kind == "flag":
        return click.option(f"{name}/--no-{name[2:]}", default=None, help=row.meaning)
    return click.option(name, type=_option_type(row), default=None, help=_option_help(row))


def _option_type(row: Row) -> Any:
    if row.kind == "choice":
        return click.Choice(row.choices)
    return {"whole": int, "seconds": float, "number": float}.get(row.kind, str)


def _option_help(row: Row) -> str:
    only = "" if row.needs is None else f" Only with --{row.needs[0]} {row.needs[1]}."
    default = row.default_text if row.default is None else f"{row.default}"
    return f"{row.meaning}{only} [default: {default}]"


def trigger_options(options: dict[str, Any]) -> list[str]:
    """Return the options that select the trigger. Raises UsageError if there are two."""
    given = [f"--{name.replace('_', '-')}" for name in (*TRIGGER_FIELDS, "on_request") if options[name] is not None]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} are two triggers: give one of them")
    return given


def given_fields(options: dict[str, Any]) -> Fields:
    """Encode the options as the fields of a job. A payload stays the text that was given."""
    fields: Fields = request_fields(options)
    for name, value in options.items():
        if value is None:
            continue
        if name == "on_request":
            fields["cron"] = msgspec.Raw(b"null")
        elif name in {"payload", "labels", "retry", "limits"}:
            fields[name] = msgspec.Raw(json_option(f"--{name}", value))
        else:
            fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return fields
