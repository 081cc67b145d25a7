"""``cronpost jobs``: show and change the jobs of a running server."""

from __future__ import annotations

import click

from scheduler_api.cli.errors import EXIT_CODES
from scheduler_api.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("scheduler_api.cli.job_views:list_jobs", "List the jobs that match all given conditions."),
    "get": ("scheduler_api.cli.job_views:get", "Show a job."),
    "why": ("scheduler_api.cli.job_health:why", "Explain what a job waits for, and why."),
    "health": (
        "scheduler_api.cli.job_health:health",
        "Show the health of a job; without an id, list the jobs that are not well.",
    ),
    "runs": ("scheduler_api.cli.job_history:runs", "Show what happened at a job's fire times, newest first."),
    "account": (
        "scheduler_api.cli.job_history:account",
        "Show each fire time of a job, oldest first: its run or miss.",
    ),
    "strip": (
        "scheduler_api.cli.job_strip:strip",
        "Draw the results of a job's fire times as one line, and list those that are not plain successes.",
    ),
    "put": (
        "scheduler_api.cli.job_changes:put",
        "Create or replace a job, from options or from a file with the JSON body of POST /.",
    ),
    "update": ("scheduler_api.cli.job_changes:update", "Change single fields of a job; all others stay as they are."),
    "pause": ("scheduler_api.cli.job_state:pause", "Pause a job, or many: their triggers fire nothing."),
    "resume": ("scheduler_api.cli.job_state:resume", "Resume a paused or quarantined job, or many."),
    "delete": ("scheduler_api.cli.job_state:delete", "Remove a job, or many."),
    "run": (
        "scheduler_api.cli.run_requests:run",
        "Start a run of a job, or of many, now: the earliest pending one, else one with the job's payload.",
    ),
    "cancel": ("scheduler_api.cli.job_runs:cancel", "Cancel the runs of a job that have not ended."),
    "retry": (
        "scheduler_api.cli.job_runs:retry",
        "Run the latest failed run of a job again, as a new run with the same fire time.",
    ),
    "replay": ("scheduler_api.cli.job_runs:replay", "Run the failed runs of a job again."),
    "watch": (
        "scheduler_api.cli.job_runs:watch",
        "Show events of a job and its runs as they happen, until Ctrl-C.",
    ),
    "label": ("scheduler_api.cli.many:label", "Set and remove labels of a job, or of many."),
    "backfill": ("scheduler_api.cli.run_requests:backfill", "Run past fire times again, one by one."),
    "pending": (
        "scheduler_api.cli.run_requests:pending",
        "Show, replace or revive the pending runs of a job.",
    ),
    "export": ("scheduler_api.cli.transfer:export", "Print the definitions of jobs, for cronpost jobs import."),
    "import": ("scheduler_api.cli.transfer:import_jobs", "Create or replace the jobs of a file."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EXIT_CODES)
def jobs() -> None:
    """Show and change the jobs of a running server.

    The server address comes from --server, CRONPOST_SERVER (also in .env), or CRONPOST_HOST and CRONPOST_PORT; the key
    from --api-key-file, --api-key or CRONPOST_API_KEY.
    """
