"""Writes the output of a running server to the terminal without blocking.

A stopped terminal (Ctrl-S), or a pipe without a reader, must not stop the event loop. Commands that print a result and
exit use ``click.echo`` instead.
"""

from __future__ import annotations

import atexit
import functools
import sys

import click

from scheduler_api.cli.output import in_colour
from scheduler_core.base.events import EXIT_SECONDS, write_error
from scheduler_core.base.line_writer import LineWriter


def show(text: str) -> None:
    """Write to standard output, with colours if it takes them."""
    writer = _writer()
    if writer is None:
        click.echo(text)
    else:
        writer.put(text if in_colour() else click.unstyle(text))


def show_error(text: str) -> None:
    """Write to standard error."""
    if not write_error(text):
        click.echo(text, err=True)


@functools.cache
def _writer() -> LineWriter | None:
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # not a file descriptor
        return None
    sys.stdout.flush()
    writer = LineWriter(descriptor)
    atexit.register(writer.flush, EXIT_SECONDS)
    return writer
