"""Values that the shell completes: ids of jobs and runs from the server, and statuses.

A completion must never print an error or keep the prompt waiting, so every failure means "nothing to offer".
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

TIMEOUT_SECONDS = 1.0
OFFERED = 100
STATUSES = ("active", "running", "retrying", "taken", "paused", "quarantined")


def complete_status(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The statuses of jobs that begin with ``incomplete``."""
    return [CompletionItem(status) for status in STATUSES if status.startswith(incomplete)]


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of jobs that begin with ``incomplete``."""
    jobs = _asked(ctx, "/jobs", {"prefix": incomplete or None, "limit": OFFERED})
    return [CompletionItem(job["id"]) for job in (jobs or {}).get("jobs", ())]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of the latest runs that begin with ``incomplete``."""
    runs = _asked(ctx, "/runs", {"limit": OFFERED})
    return [
        CompletionItem(run["id"], help=f"{run['job_id']} {run['state']}")
        for run in runs or ()
        if run["id"].startswith(incomplete)
    ]


def _asked(ctx: click.Context, path: str, params: dict[str, Any]) -> Any:
    from scheduler_api.cli.client import find_server

    given = ctx.params
    key_file = given.get("api_key_file")
    if key_file == "-":
        return None  # standard input is the terminal of the shell that asks
    try:
        with find_server(given.get("server"), given.get("api_key"), key_file, timeout=TIMEOUT_SECONDS) as server:
            return server.request("GET", path, params=params).json()
    except Exception:  # noqa: BLE001 - whatever fails, the prompt shows no suggestions and no traceback
        return None
