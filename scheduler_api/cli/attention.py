"""``cronpost attention``: show and dismiss what needs a person."""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import quote

import click
import msgspec

from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.errors import EXIT_CODES
from scheduler_api.cli.job_views import pages
from scheduler_api.cli.output import printable, table

MOST = 10_000


@click.command(epilog=EXIT_CODES)
@click.option("--dismiss", "dismissed", multiple=True, metavar="ID", help="Remove this entry. Can be repeated.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, MOST), help="Maximum number.")
@with_server
def attention(server: Server, dismissed: tuple[str, ...], limit: int) -> None:
    """List what needs a person, the worst first, with the command that resolves it.

    Listed are settlements that Redis refuses, quarantined jobs, jobs whose last run failed for good, pending entries
    that are set aside, and stale one-off tasks. A dismissed entry comes back only with a newer failure.
    """
    if dismissed:
        for entry_id in dismissed:
            answer = server.ask("POST", f"/attention/{quote(entry_id, safe=':')}/dismiss")
            if not server.as_json:
                word = "dismissed" if answer["dismissed"] else "was not listed any more"
                click.echo(f"{printable(entry_id)} {word}")
        return
    found: list[bytes] = []
    rest: dict[str, Any] = {}
    for rows, others in pages(server, "/attention", "entries", {}, limit):
        found += rows
        rest = others
    if server.as_json:
        numbers = f'"total":{rest["total"]},"dropped":{rest["dropped"]},"next":{json.dumps(rest["next"])}'
        click.echo(b'{"entries":[' + b",".join(found) + b"]," + numbers.encode() + b"}")
        return
    table(("SINCE", "ENTRY", "REASON", "WHY", "NEXT"), [_row(msgspec.json.decode(row)) for row in found])
    if rest["next"] is not None:
        click.echo(f"... and more: --limit {min(limit * 2, MOST)}", err=True)
    if rest["dropped"]:
        click.echo(f"{rest['dropped']} more are not listed", err=True)


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    return (entry["since"] or "-", entry["id"], entry["reason"], entry["detail"], command_of(entry))


def command_of(entry: dict[str, Any]) -> str:
    """Return the command, or the call of the API, that usually resolves an entry."""
    first = entry["actions"][0]
    job = shlex.quote(entry["job_id"])
    commands = {
        "replay": f"cronpost runs retry {entry['run_id']}",
        "run": f"cronpost jobs run {job}",
        "revive": f"cronpost jobs pending {job} --revive {entry['run_id']}",
        "delete": f"cronpost jobs delete {job}",
        "dismiss": f"cronpost attention --dismiss {shlex.quote(entry['id'])}",
    }
    if first["name"] == "resume" and first["path"].startswith("/jobs/"):
        return f"cronpost jobs resume {job}"
    return commands.get(first["name"], f"{first['method']} {first['path']}")
