"""Defines the command ``cronpost``. A command's module is imported when the command is called."""

from __future__ import annotations

from typing import Any

import click

from scheduler_api.cli.errors import EXIT_CODES, Failed, report
from scheduler_api.cli.lazy import LazyGroup
from scheduler_core.base.errors import CronpostError
from scheduler_core.version import __version__

COMMANDS = {
    "serve": (
        "scheduler_api.cli.serve:serve",
        "Run the server: API and scheduler in one process, or with --nodes, node processes beside it.",
    ),
    "api": ("scheduler_api.cli.serve:api", "Run the API alone, on a Redis that it shares with nodes."),
    "node": (
        "scheduler_api.cli.serve:node",
        "Run one scheduler node, or several, on a Redis that is shared with other processes.",
    ),
    "demo": (
        "scheduler_api.cli.serve:demo",
        "Start a server, a runner and an example job, and show each fire until Ctrl-C.",
    ),
    "config": (
        "scheduler_api.cli.serve:config",
        "List all settings: value, source, default, meaning.",
    ),
    "health": (
        "scheduler_api.cli.health:health",
        "Check whether the server or node of this container is alive; for health checks.",
    ),
    "cron": ("scheduler_api.cli.cron:cron", "Explain a cron EXPRESSION in words and show its next fire times."),
    "jobs": ("scheduler_api.cli.jobs:jobs", "Show and change the jobs of a running server."),
    "runs": ("scheduler_api.cli.runs:runs", "Show, cancel and retry runs of jobs, schedules and tasks."),
    "pause": ("scheduler_api.cli.pauses:pause", "Pause everything: all jobs, schedules and one-off tasks."),
    "resume": ("scheduler_api.cli.pauses:resume", "Resume everything."),
    "watch": ("scheduler_api.cli.watch:watch", "Show events of jobs, runs and nodes as they happen, until Ctrl-C."),
    "alerts": ("scheduler_api.cli.alerts:alerts", "Show and change alert rules and channels, and list the messages."),
    "attention": (
        "scheduler_api.cli.attention:attention",
        "List what needs a person, the worst first, with the command that resolves it.",
    ),
    "statistics": (
        "scheduler_api.cli.statistics:statistics",
        "Show what all nodes counted: ends of runs by state, misses by reason, and the lateness.",
    ),
    "forecast": (
        "scheduler_api.cli.forecast:forecast",
        "Show the fire times of the next 24 hours: a line for each hour, a block for each minute, then the peaks.",
    ),
    "nodes": ("scheduler_api.cli.nodes:nodes", "List the nodes and the shards with their state."),
    "operations": (
        "scheduler_api.cli.operations:operations",
        "Show, follow and cancel operations on many jobs or runs.",
    ),
    "completion": ("scheduler_api.cli.completion:completion", "Print the completion script of a shell."),
}

_AS_JSON = "scheduler_api.cli.main.as_json"


class Main(LazyGroup):
    """Prints an expected error as one line, or as JSON with ``--json``. Only an unexpected one gives a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember ``--json`` before the command parses its options, so that an error in them is JSON too."""
        given = args[: args.index("--")] if "--" in args else args
        ctx.meta[_AS_JSON] = "--json" in given or "--jsonl" in given
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn an expected error into output and an exit code."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if not ctx.meta[_AS_JSON]:
                raise  # click shows the usage with it
            ctx.exit(report(error, as_json=True))
        except (Failed, CronpostError) as error:
            ctx.exit(report(error, as_json=ctx.meta[_AS_JSON]))


def _dashed(option: str) -> str:
    return option.replace("_", "-")  # --redis_url is --redis-url


@click.group(
    cls=Main,
    lazy=COMMANDS,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _dashed},
)
@click.version_option(__version__, prog_name="cronpost")
def main() -> None:
    """Cron for HTTP: upsert a job by id, and its runner is called at every fire time."""


if __name__ == "__main__":
    main()
