"""``cronpost jobs list`` and ``get``: show jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from scheduler_api.cli.client import Server, job_path, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.if_match import etag_of
from scheduler_api.cli.output import in_zone, paint, printable, table
from scheduler_api.cli.selection_options import conditions_of, selection_options

NAMES_WIDE = 26
PAGE = 1000

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

Row = dict[str, msgspec.Raw]

_page_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_rows_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def pages(
    server: Server, path: str, member: str, params: dict[str, Any], limit: int | None
) -> Iterator[tuple[list[bytes], dict[str, Any]]]:
    """Yield each page: its entries as the bytes that the server sent, and its other members as values."""
    left = limit
    params = dict(params)
    while left is None or left > 0:
        params["limit"] = PAGE if left is None else min(PAGE, left)
        page = _page_decoder.decode(server.request("GET", path, params=params).content)
        rows = [bytes(row) for row in _rows_decoder.decode(page.pop(member))]
        rest = {name: msgspec.json.decode(value) for name, value in page.items()}
        yield rows, rest
        if rest["next"] is None:
            return
        params["cursor"] = rest["next"]
        left = None if left is None else left - len(rows)


def one_line(row: bytes) -> bytes:
    """Remove line breaks between the tokens of a JSON value; numbers and strings stay unchanged."""
    return msgspec.json.format(row, indent=-1) if b"\n" in row or b"\r" in row else row


@click.command("list")
@selection_options
@click.option(
    "--sort",
    default=None,
    type=click.Choice(["id", "next_fire", "-last_run", "-consecutive_failures"]),
    help="The order. All but id go with at most one of --prefix, --label, --status and --target. [default: id]",
)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1_000_000), help="Maximum number.")
@click.option("--jsonl", is_flag=True, help="One JSON object per line.")
@click.option("--utc", is_flag=True, help="All times in UTC instead of the job's zone.")
@with_server
def list_jobs(server: Server, sort: str | None, limit: int, jsonl: bool, utc: bool, **options: Any) -> None:
    """List the jobs that match all given conditions."""
    params = conditions_of(options) | {"sort": sort, "view": "full" if server.as_json or jsonl else None}
    found: list[bytes] = []
    following: str | None = None
    for rows, rest in pages(server, "/jobs", "jobs", params, limit):
        following = rest["next"]
        if jsonl:
            for row in rows:
                click.echo(one_line(row))
        else:
            found += rows
    if server.as_json and not jsonl:
        click.echo(b'{"jobs":[' + b",".join(found) + b'],"next":' + json.dumps(following).encode() + b"}")
    elif not jsonl:
        heads = ("ID", "STATUS", "CRON", "ZONE", "NEXT FIRE", "LAST RUN", "ENDED")
        table(heads, [_job_row(msgspec.json.decode(row), utc=utc) for row in found])
    if following is not None and not server.as_json:
        click.echo(f"... and more: --limit {limit * 2}", err=True)


def _job_row(job: dict[str, Any], *, utc: bool) -> tuple[str, ...]:
    zone = None if utc else job.get("timezone")
    last = job.get("last_run")
    return (
        job["id"],
        job["status"],
        _trigger(job),
        job.get("timezone", ""),
        in_zone(next(iter(job.get("next_fire_times", [])), None), zone),
        _last(last),
        in_zone(last["ended_at"] if last else None, zone),
    )


def _trigger(job: dict[str, Any]) -> str:
    """Format the trigger of a job: its cron expression, or words for the others. Empty for a schedule."""
    if "every_seconds" in job:
        return f"every {job['every_seconds']} s"
    if "at" in job:
        return f"at {job['at']}"
    return job.get("cron", "") or ("on request" if "cron" in job else "")


def _last(last: dict[str, Any] | None) -> str:
    """Format state and status code of the last run. After a failure reported by callback, the 2xx is omitted."""
    if not last:
        return "-"
    code = last["status_code"]
    return last["state"] if not code or (code < 300 and last["state"] != "succeeded") else f"{last['state']} {code}"


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option("--utc", is_flag=True, help="All times in UTC instead of the job's zone.")
@click.option(
    "--definition", is_flag=True, help="Print only the JSON that cronpost jobs put --file stores again, unchanged."
)
@click.option("--etag", is_flag=True, help="Print only the ETag, for --if-match.")
@with_server
def get(server: Server, job_id: str, utc: bool, definition: bool, etag: bool) -> None:
    """Show a job."""
    if definition and etag:
        raise click.UsageError("give either --definition or --etag")
    answer = server.request("GET", job_path(job_id), params={"view": "definition" if definition else None})
    if etag:
        found = etag_of(answer)
        click.echo(json.dumps({"etag": found}) if server.as_json else found)
        return
    if server.as_json or definition:
        click.echo(answer.content.rstrip(b"\n"))
        return
    fields: Row = _page_decoder.decode(answer.content)
    zone = msgspec.json.decode(fields["timezone"]) if "timezone" in fields and not utc else None
    for name, raw in fields.items():
        _show_field(name, raw, zone)


def _show_field(name: str, raw: msgspec.Raw, zone: str | None) -> None:
    value = None if name == "payload" else msgspec.json.decode(raw)
    if name == "payload":
        lines = msgspec.json.format(bytes(raw), indent=2).decode().split("\n")
    elif value is None or value in ([], {}):
        return
    elif name == "next_fire_times":
        lines = [_both(instant, zone) for instant in value]
    elif name == "status":
        lines = [value]
    else:
        lines = readable(_localised(value, zone))
    for place, line in enumerate(lines):
        shown = paint(printable(line)) if name == "status" else printable(line)
        click.echo(f"{name if place == 0 else '':<{NAMES_WIDE}} {shown}")


def _localised(value: Any, zone: str | None) -> Any:
    """Convert the instants in a JSON value to ``zone``."""
    if isinstance(value, dict):
        return {name: _localised(entry, zone) for name, entry in value.items()}
    if isinstance(value, list):
        return [_localised(entry, zone) for entry in value]
    return in_zone(value, zone) if isinstance(value, str) and _INSTANT.fullmatch(value) else value


def _both(instant: str, zone: str | None) -> str:
    local = in_zone(instant, zone)
    return instant if local == instant else f"{local}   {instant}"


def readable(value: Any) -> list[str]:
    """Format a JSON value for people: an object as ``name value, name value``, a list as one line for each entry."""
    if isinstance(value, list):
        return [line for entry in value for line in readable(entry)]
    if isinstance(value, dict):
        parts = [f"{name} {_inner(entry)}" for name, entry in value.items() if entry not in (None, "", [], {})]
        return [", ".join(parts)] if parts else []
    return [_inner(value)]


def _inner(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
