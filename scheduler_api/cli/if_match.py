"""The option ``--if-match``: change a job only if it still has an ETag."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from scheduler_api.cli.errors import Failed, local_problem

if TYPE_CHECKING:
    import httpx


def if_match_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option to a command, which receives the headers of its change as ``headers``."""

    @click.option(
        "--if-match",
        default=None,
        metavar="ETAG",
        help="Change nothing unless the job still has this ETag, as cronpost jobs get --etag prints it.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, if_match: str | None, **rest: Any) -> None:
        command(*args, headers={} if if_match is None else {"If-Match": _quoted(if_match)}, **rest)

    return wrapped


def _quoted(etag: str) -> str:
    """Return the ETag as it stands in a header; on the command line, its quotation marks can be left out."""
    if not all("!" <= character <= "~" for character in etag):
        raise click.UsageError("--if-match must be an ETag, as cronpost jobs get --etag prints it")
    return etag if etag == "*" or '"' in etag else f'"{etag}"'


def etag_of(answer: httpx.Response) -> str:
    """Return the ETag of a job without its quotation marks."""
    etag = answer.headers.get("ETag")
    if etag is None:
        detail = "the job has no ETag, because its definition cannot be read"
        raise Failed(detail, problem=local_problem("No ETag", detail, "no_etag"))
    return str(etag).strip('"')
