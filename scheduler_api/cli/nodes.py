"""``cronpost nodes``: the nodes and shards of an installation."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from scheduler_api.cli.client import Server, with_server
from scheduler_api.cli.errors import EXIT_CODES
from scheduler_api.cli.output import printable, table
from scheduler_core.base.clock import SystemClock

NODE_HEADS = ("NODE", "STATE", "HOST", "PID", "VERSION", "SINCE", "HEARTBEAT", "IN FLIGHT", "AHEAD")
SHARD_HEADS = ("SHARD", "SERVER", "PING", "JOBS", "DUE", "CLAIMED", "MEMORY", "VERSION")


@click.command(epilog=EXIT_CODES)
@with_server
def nodes(server: Server) -> None:
    """List the nodes and the shards with their state.

    A node that died is listed for an hour. DUE counts jobs that are due and that no node has claimed.
    """
    answer = server.ask("GET", "/nodes")
    if server.as_json:
        return
    now = SystemClock().now_ms()
    table(NODE_HEADS, [_node(one, now) for one in answer["nodes"]])
    for one in answer["nodes"]:
        if one["silent_shards"]:
            numbers = ", ".join(map(str, one["silent_shards"]))
            click.echo(f"node {one['id']} sends no heartbeats to shard {numbers}", err=True)
    click.echo()
    table(SHARD_HEADS, [_shard(one) for one in answer["shards"]])
    for one in answer["shards"]:
        for text in (*one["warnings"], *([one["error"]] if one["error"] else [])):
            click.echo(f"shard {one['number']}: {printable(text)}", err=True)


def _node(node: dict[str, Any], now_ms: int) -> tuple[str, ...]:
    values = [node[name] for name in ("host", "pid", "version", "started_at")]
    counts = [node[name] for name in ("in_flight", "claimed_ahead")]
    if node["state"] == "dead":
        counts = [None, None]
    return (
        node["id"],
        node["state"],
        *map(_text, values),
        _ago(node["last_heartbeat_at"], now_ms),
        *map(_text, counts),
    )


def _shard(shard: dict[str, Any]) -> tuple[str, ...]:
    ping = "no answer" if not shard["reachable"] else f"{shard['ping_ms']:.1f} ms"
    counts = (shard[name] for name in ("jobs", "due", "claimed"))
    numbers = ("-" if count is None else f"{count:,}" for count in counts)
    memory = _mebibytes(shard["memory_bytes"])
    if shard["memory_limit_bytes"]:
        memory += f" of {_mebibytes(shard['memory_limit_bytes'])}"
    return (str(shard["number"]), _text(shard["server"]), ping, *numbers, memory, _text(shard["server_version"]))


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _ago(instant: str, now_ms: int) -> str:
    seconds = max(0.0, now_ms / 1000 - datetime.fromisoformat(instant).timestamp())
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"
