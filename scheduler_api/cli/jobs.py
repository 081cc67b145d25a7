"""``cronpost jobs``: look at and change the jobs of a running server."""

from __future__ import annotations

import click

from scheduler_api.cli.errors import EXIT_CODES
from scheduler_api.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("scheduler_api.cli.job_views:list_jobs", "List jobs, in the order of their ids."),
    "get": ("scheduler_api.cli.job_views:get", "Show a job."),
    "runs": ("scheduler_api.cli.job_history:runs", "Show what happened at a job's fire times, newest first."),
    "account": (
        "scheduler_api.cli.job_history:account",
        "Show each fire time of a job, oldest first: its run or miss.",
    ),
    "put": (
        "scheduler_api.cli.job_changes:put",
        "Create or replace a job, from options or from a file with the JSON body of POST /.",
    ),
    "update": ("scheduler_api.cli.job_changes:update", "Change single fields of a job; all others stay as they are."),
    "pause": ("scheduler_api.cli.job_state:pause", "Hold a job's trigger."),
    "resume": ("scheduler_api.cli.job_state:resume", "Release the trigger of a paused or quarantined job."),
    "delete": ("scheduler_api.cli.job_state:delete", "Remove a job."),
    "run": ("scheduler_api.cli.run_requests:run", "Start a run now: the earliest that waits, or the job's usual one."),
    "backfill": ("scheduler_api.cli.run_requests:backfill", "Run fire times of the past once more, one by one."),
    "pending": (
        "scheduler_api.cli.run_requests:pending",
        "Show the runs that wait for a job, replace them, or revive one.",
    ),
    "export": ("scheduler_api.cli.transfer:export", "Print the definitions of jobs, for cronpost jobs import."),
    "import": ("scheduler_api.cli.transfer:import_jobs", "Create or replace the jobs of a file."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EXIT_CODES)
def jobs() -> None:
    """Look at and change the jobs of a running server.

    The server is the one of --server, CRONPOST_SERVER (also in .env), or the one that CRONPOST_HOST and CRONPOST_PORT
    name; the key is that of --api-key-file, --api-key or CRONPOST_API_KEY.
    """
