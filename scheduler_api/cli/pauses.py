"""``cronpost pause`` and ``cronpost resume``: of everything."""

from __future__ import annotations

import json
from typing import Any

import click

from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.instants import FUTURE_FORMAT, instant_option
from scheduler_api.cli.output import printable, table

UNTIL_HELP = f"The end, at which it resumes by itself: {FUTURE_FORMAT}."
NOTE_HELP = "The reason, shown with the pause; at most 1000 characters."


def pause_body(until: str | None, note: str | None) -> bytes:
    """Return the body of a pause; empty if neither an end nor a note is given."""
    given = {"until": instant_option(until, "ahead"), "note": note}
    fields = {name: value for name, value in given.items() if value is not None}
    return json.dumps(fields).encode() if fields else b""


@click.command()
@click.option("--until", default=None, help=UNTIL_HELP)
@click.option("--note", default=None, help=NOTE_HELP)
@click.option("--show", is_flag=True, help="Change nothing: show the pause that runs, and the latest ones.")
@with_server
def pause(server: Server, until: str | None, note: str | None, show: bool) -> None:
    """Pause everything: all jobs, schedules and one-off tasks.

    Fire times in the pause are misses, and nothing is caught up. Open runs end. cronpost jobs run works. A pause of one
    job is cronpost jobs pause.
    """
    if show:
        if until is not None or note is not None:
            raise click.UsageError("--show goes with neither --until nor --note")
        _show(server)
        return
    answer = server.ask("POST", "/pause", body=pause_body(until, note))
    if not server.as_json:
        paused = answer["pause"]
        end = "until cronpost resume" if paused["until"] is None else f"until {paused['until']}"
        said = "everything paused" if answer["changed"] else f"everything is paused already, since {paused['at']},"
        click.echo(f"{said} {end}")
        if answer["in_flight"]:
            click.echo(f"in flight: {answer['in_flight']} run(s)")


@click.command()
@with_server
def resume(server: Server) -> None:
    """Resume everything. Jobs that are paused themselves stay paused."""
    answer = server.ask("POST", "/resume")
    if not server.as_json:
        click.echo("everything resumed" if answer["changed"] else "everything was not paused")


def _show(server: Server) -> None:
    answer = server.ask("GET", "/pause")
    if server.as_json:
        return
    heads = ("FROM", "UNTIL", "ENDED", "BY", "ENDED BY", "NOTE")
    table(heads, [_row(one) for one in answer["ranges"]])
    if not answer["complete"]:
        click.echo("not all shards agree: repeat cronpost pause or cronpost resume", err=True)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    named = (one["until"], one["ended_at"], one["by"], one["ended_by"])
    return (one["at"], *(value or "-" for value in named), printable(one["note"]))
