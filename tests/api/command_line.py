"""Calls the command line in the test's own process."""

from __future__ import annotations

import re

from click.testing import CliRunner, Result

from scheduler_api.cli import main as cli

KEY = "a-key-of-the-tests-0123456789"


def run(*args: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli.main, args, input=stdin, env=env, prog_name="cronpost")


def errors_of(result: Result) -> str:
    """Return the standard error of the command, without the log lines of a server in the same process."""
    return re.sub(r"^\d\d:\d\d:\d\d\.\d{3}Z .*\n", "", result.stderr, flags=re.MULTILINE)


def jobs(server: str, *args: str, stdin: bytes | None = None) -> Result:
    return run("jobs", *args, "--server", server, "--api-key", KEY, stdin=stdin)
