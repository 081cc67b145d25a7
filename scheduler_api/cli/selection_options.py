"""The options that select jobs, for ``cronpost jobs list`` and for changes of many jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from scheduler_api.cli.complete_values import complete_health, complete_status

SELECTORS: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...] = (
    click.option(
        "--label",
        multiple=True,
        metavar="KEY[:VALUE]",
        help="Only jobs with this label. Can be repeated: all must match.",
    ),
    click.option("--prefix", default=None, help="Only ids with this prefix."),
    click.option(
        "--status",
        default=None,
        shell_complete=complete_status,
        help="For example active, retrying, paused, quarantined.",
    ),
    click.option(
        "--health", default=None, shell_complete=complete_health, help="For example failing, late, stuck, ok."
    ),
    click.option("--target", default=None, metavar="NAME", help="Only jobs that use this target."),
    click.option("--text", "--search", default=None, help="Only jobs with this text in id, description or URL."),
    click.option("--next-fire-before", default=None, metavar="INSTANT", help="Only jobs that wake before this."),
    click.option("--next-fire-after", default=None, metavar="INSTANT", help="Only jobs that wake after this."),
)


def selection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select jobs to a command, which receives them as keyword arguments."""
    for option in reversed(SELECTORS):
        command = option(command)
    return command


def conditions_of(options: dict[str, Any]) -> dict[str, Any]:
    """Take the conditions out of the options; returns those that were given under their names in the API, for a query
    or for ``select`` in a body."""
    found = {
        "label": list(options.pop("label")),
        "prefix": options.pop("prefix"),
        "status": options.pop("status"),
        "health": options.pop("health"),
        "target": options.pop("target"),
        "q": options.pop("text"),
        "next_fire_before": options.pop("next_fire_before"),
        "next_fire_after": options.pop("next_fire_after"),
    }
    return {name: value for name, value in found.items() if value is not None and value != []}
