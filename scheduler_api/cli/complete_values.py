"""Completes values in the shell: statuses, and ids of jobs and runs from the server.

A completion must not print an error or delay the prompt, so it offers nothing when anything fails.
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

TIMEOUT_SECONDS = 1.0
OFFERED = 100
STATUSES = ("active", "running", "retrying", "taken", "paused", "quarantined", "completed")
HEALTHS = ("stuck", "late", "never_succeeded", "failing", "ok", "unknown")


def complete_status(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete job statuses that begin with ``incomplete``."""
    return [CompletionItem(status) for status in STATUSES if status.startswith(incomplete)]


def complete_health(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete kinds of health that begin with ``incomplete``."""
    return [CompletionItem(health) for health in HEALTHS if health.startswith(incomplete)]


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete ids of jobs that begin with ``incomplete``."""
    jobs = _get_json(ctx, "/jobs", {"prefix": incomplete or None, "limit": OFFERED})
    return [CompletionItem(job["id"]) for job in (jobs or {}).get("jobs", ())]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete ids of the latest runs that begin with ``incomplete``."""
    runs = _get_json(ctx, "/runs", {"limit": OFFERED})
    return [
        CompletionItem(run["id"], help=f"{run['job_id']} {run['state']}")
        for run in runs or ()
        if run["id"].startswith(incomplete)
    ]


def _get_json(ctx: click.Context, path: str, params: dict[str, Any]) -> Any:
    from scheduler_api.cli.client import find_server

    given = ctx.params
    key_file = given.get("api_key_file")
    if key_file == "-":
        return None  # standard input is the terminal
    try:
        with find_server(given.get("server"), given.get("api_key"), key_file, timeout=TIMEOUT_SECONDS) as server:
            return server.request("GET", path, params=params).json()
    except Exception:  # noqa: BLE001 - on any failure the prompt shows no suggestions and no traceback
        return None
