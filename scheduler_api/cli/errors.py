"""Exit codes, and error output: one line for people, JSON for programs (``--json``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

EXIT_OTHER = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_REFUSED = 4
EXIT_UNREACHABLE = 5

EXIT_CODES = """Exit codes: 0 done; 1 another failure; 2 wrong usage or settings; 3 not found; 4 refused by the server
(400, 401, 403, 409, 412, 422 and the like); 5 no server answers, or it answers 429 or 503: try again later."""

_UNAVAILABLE = frozenset({429, 502, 503, 504})


def exit_code_of(status: int) -> int:
    """Return the exit code for an error status. 502 and 504 come from a proxy that does not reach the server."""
    if status == 404:
        return EXIT_NOT_FOUND
    if status in _UNAVAILABLE:
        return EXIT_UNREACHABLE
    return EXIT_REFUSED if 400 <= status < 500 else EXIT_OTHER


class Failed(Exception):
    """A command failed. ``problem`` is what ``--json`` prints: the server's problem document, or a local one with
    ``title``, ``detail`` and ``code``."""

    def __init__(self, message: str, *, exit_code: int = EXIT_OTHER, problem: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.problem = problem


def local_problem(title: str, detail: str, code: str) -> dict[str, Any]:
    """Build a problem document for an error without a response. It has no status."""
    return {"title": title, "detail": detail, "code": code}


def unusable_file(detail: str) -> Failed:
    """Build the error for a file that cannot be read or has invalid content."""
    return Failed(detail, exit_code=EXIT_USAGE, problem=local_problem("Unusable file", detail, "bad_file"))


def unreachable(detail: str) -> Failed:
    """Build the error for a server that does not answer."""
    problem = local_problem("Server unreachable", detail, "unreachable")
    return Failed(detail, exit_code=EXIT_UNREACHABLE, problem=problem)


def report(error: Exception, *, as_json: bool) -> int:
    """Print ``error`` to standard error and return the exit code. Raises errors of other types."""
    from scheduler_core.base.errors import ConfigError, CronpostError, InvalidInput

    if isinstance(error, Failed):
        text, exit_code, problem = error.message, error.exit_code, error.problem
    elif isinstance(error, click.UsageError):
        text, exit_code = error.format_message(), EXIT_USAGE
        problem = local_problem("Wrong usage", text, "usage")
    elif isinstance(error, CronpostError):
        text = str(error)
        wrong_usage = isinstance(error, ConfigError | InvalidInput)
        exit_code = EXIT_USAGE if wrong_usage else EXIT_OTHER
        problem = local_problem("Wrong usage" if wrong_usage else "Failed", text, error.code)
    else:
        raise error
    _write(json.dumps(problem, ensure_ascii=False) if as_json else f"cronpost: {text}")
    return exit_code


def _write(line: str) -> None:
    if "scheduler_core.base.events" in sys.modules:  # a server: log lines go there too, keep the order
        from scheduler_api.cli.screen import show_error

        show_error(line)
    else:
        click.echo(line, err=True)
