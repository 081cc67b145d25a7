"""``cronpost alerts``: shows and changes rules and channels, tests channels, and lists messages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import click
import msgspec

from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.errors import EXIT_CODES
from scheduler_api.cli.job_views import pages
from scheduler_api.cli.lazy import LazyGroup
from scheduler_api.cli.output import printable, table

MOST = 1_000


@click.group(cls=LazyGroup, epilog=EXIT_CODES)
def alerts() -> None:
    """Show and change alert rules and channels, and list the messages."""


def _changes(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that create and delete a rule or a channel."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option(
            "--delete", "deleted", multiple=True, type=int, metavar="ID", help=f"Delete this {what}. Can be repeated."
        )(command)
        return click.option(
            "--add",
            metavar="FILE",
            type=click.File("rb"),
            help=f"Create the {what} in this JSON file; -: standard input.",
        )(command)

    return decorate


@alerts.command(epilog=EXIT_CODES)
@_changes("rule")
@click.option("--preview", is_flag=True, help="With --add: store nothing, show which jobs match.")
@with_server
def rules(server: Server, add: BinaryIO | None, preview: bool, deleted: tuple[int, ...]) -> None:
    """List the alert rules, or change them."""
    if preview:
        if add is None or deleted:
            raise click.UsageError("--preview needs --add FILE, and no --delete")
        answer = server.ask("POST", "/alerts/rules", body=add.read(), params={"dry_run": "true"})
        if not server.as_json:
            click.echo(f"{answer['matched']} jobs match: {', '.join(map(printable, answer['jobs'])) or '-'}")
            click.echo(f"{answer['alarming']} conditions hold now")
        return
    if _change(server, "rule", add, deleted):
        return
    answer = server.ask("GET", "/alerts/rules")
    if not server.as_json:
        table(("ID", "NAME", "ON", "JOBS", "CHANNELS", "STATE"), [_rule_row(one) for one in answer["rules"]])
    _show_faults(answer)


@alerts.command(epilog=EXIT_CODES)
@_changes("channel")
@with_server
def channels(server: Server, add: BinaryIO | None, deleted: tuple[int, ...]) -> None:
    """List the channels of alerts, or change them. Secrets are masked."""
    if _change(server, "channel", add, deleted):
        return
    answer = server.ask("GET", "/alerts/channels")
    if not server.as_json:
        table(("ID", "NAME", "KIND", "TO"), [_channel_row(one) for one in answer["channels"]])
    _show_faults(answer)


def _change(server: Server, what: str, add: BinaryIO | None, deleted: tuple[int, ...]) -> bool:
    """Create or delete rules or channels. Returns False if neither was asked for."""
    if add is not None and deleted:
        raise click.UsageError("--add and --delete exclude each other: use one of them")
    if add is not None:
        answer = server.ask("POST", f"/alerts/{what}s", body=add.read())
        if not server.as_json:
            click.echo(f"alert {what} {answer['id']} created")
    for one in deleted:
        server.ask("DELETE", f"/alerts/{what}s/{one}")
        if not server.as_json:
            click.echo(f"alert {what} {one} deleted")
    return add is not None or bool(deleted)


@alerts.command(epilog=EXIT_CODES)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, MOST), help="Maximum number.")
@with_server
def sent(server: Server, limit: int) -> None:
    """List messages, newest first: sent, waiting and failed."""
    found: list[bytes] = []
    for rows, _ in pages(server, "/alerts/sent", "messages", {}, limit):
        found += rows
    if server.as_json:
        click.echo(b'{"messages":[' + b",".join(found) + b"]}")
        return
    table(
        ("TIME", "STATE", "RULE", "CHANNEL", "EVENT", "JOBS", "RESULT"),
        [_message_row(msgspec.json.decode(row)) for row in found],
    )


@alerts.command(epilog=EXIT_CODES)
@click.argument("channel", type=int)
@with_server
def test(server: Server, channel: int) -> None:
    """Send a test message to a CHANNEL (its id). The exit code is 1 if it does not arrive."""
    answer = server.ask("POST", f"/alerts/channels/{channel}/test")
    if not server.as_json:
        click.echo(f"{'sent' if answer['sent'] else 'not sent'}: {printable(answer['detail'])}")
    if not answer["sent"]:
        sys.exit(1)


def _show_faults(answer: dict[str, Any]) -> None:
    """Write to standard error which rules and channels the server cannot read."""
    for fault in answer.get("faults", ()):
        click.echo(printable(fault), err=True)


def _rule_row(one: dict[str, Any]) -> tuple[str, ...]:
    labels = ",".join(key if value is None else f"{key}:{value}" for key, value in one["labels"].items())
    return (
        str(one["id"]),
        one["name"],
        ",".join(one["on"]),
        labels or "all",
        ",".join(map(str, one["channels"])),
        "on" if one["enabled"] else "off",
    )


def _channel_row(one: dict[str, Any]) -> tuple[str, ...]:
    return (str(one["id"]), one["name"], one["kind"], one.get("url") or ", ".join(one.get("to", ())))


def _message_row(one: dict[str, Any]) -> tuple[str, ...]:
    first = one["jobs"][0]["job_id"] if one["jobs"] else "-"
    jobs = first if one["count"] <= 1 else f"{first} and {one['count'] - 1} more"
    channel = one["channel_name"] or str(one["channel_id"])
    at = one["ended_at"] or one["created_at"]
    return (at, one["state"], one["rule_name"], channel, one["event"], jobs, one["result"] or "-")
