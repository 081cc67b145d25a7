"""``cronpost operations``: show, follow and cancel operations on many jobs or runs."""

from __future__ import annotations

from urllib.parse import quote

import click

from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.errors import EXIT_CODES, EXIT_OTHER
from scheduler_api.cli.job_views import pages
from scheduler_api.cli.lazy import LazyGroup
from scheduler_api.cli.many import follow, progress_of, show_result
from scheduler_api.cli.output import printable, table


@click.group(cls=LazyGroup, epilog=EXIT_CODES)
def operations() -> None:
    """Show, follow and cancel operations on many jobs or runs."""


@operations.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1100), help="Maximum number.")
@with_server
def list_operations(server: Server, limit: int) -> None:
    """List operations, newest first. They are kept for a day after their end."""
    import json

    import msgspec

    rows = [row for page, _ in pages(server, "/operations", "operations", {}, limit) for row in page]
    if server.as_json:
        click.echo(b'{"operations":[' + b",".join(rows) + b"]}")
        return
    found = [msgspec.json.decode(row) for row in rows]
    heads = ("CREATED", "VERB", "STATE", "MATCHED", "CHANGED", "FAILED", "SELECT", "OPERATION")
    table(
        heads,
        [
            (
                one["created_at"],
                one["verb"] + (" (dry run)" if one["dry_run"] else ""),
                one["state"],
                str(one["matched"]),
                str(one["changed"]),
                str(one["failed"]),
                json.dumps(one["select"], ensure_ascii=False),
                one["id"],
            )
            for one in found
        ],
    )


@operations.command()
@click.argument("operation_id")
@with_server
def get(server: Server, operation_id: str) -> None:
    """Show an operation: its counts, its position and its errors."""
    one = server.ask("GET", _path(operation_id))
    if server.as_json:
        return
    if one["ended_at"] is None:
        click.echo(progress_of(one))
    else:
        show_result(one["verb"], one)


@operations.command()
@click.argument("operation_id")
@with_server
def watch(server: Server, operation_id: str) -> None:
    """Follow an operation until it ends."""
    one = follow(server, quote(operation_id, safe=""))
    if server.as_json:
        import json

        click.echo(json.dumps(one, ensure_ascii=False))
    else:
        show_result(one["verb"], one)
    if one["failed"]:
        raise click.exceptions.Exit(EXIT_OTHER)


@operations.command()
@click.argument("operation_id")
@with_server
def cancel(server: Server, operation_id: str) -> None:
    """Cancel an operation: what it has done stays, and it handles no further job."""
    one = server.ask("POST", _path(operation_id, "/cancel"))
    if not server.as_json:
        click.echo(f"operation {printable(one['id'])} {one['state']}: {one['changed']} of {one['matched']} so far")


def _path(operation_id: str, action: str = "") -> str:
    return f"/operations/{quote(operation_id, safe='')}{action}"
