"""Nodes and shards, as the API answers them."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from scheduler_api.wire.fields import Described, Instant, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.usecases.nodes import Fleet, NodeState, NodeView, ShardView


class NodeEntry(Described):
    """A node with a heartbeat within the last hour. All fields but the first four are null for a node of an earlier
    version."""

    id: str
    state: NodeState
    last_heartbeat_at: Instant
    silent_shards: Annotated[
        list[int],
        Meta(description="Shards that get no heartbeats from this node although it lives: others take over its runs."),
    ]
    host: Annotated[str | None, Meta(description="The name of its machine or container.")]
    pid: int | None
    version: str | None
    address: Annotated[str | None, Meta(description="Where runners reach its API; null also: it has none.")]
    started_at: Instant | None
    in_flight: Annotated[int | None, Meta(description="Its open attempts at the last heartbeat.")]
    claimed_ahead: Annotated[int | None, Meta(description="Jobs that it has claimed and not started.")]


class ShardEntry(Described):
    """A shard, and the server that has it."""

    number: int
    reachable: bool
    error: Annotated[str | None, Meta(description="Why it cannot be read. Then all that follows is null.")]
    server: Annotated[
        str | None,
        Meta(description="Host and port of the master, or the path of a socket; null: not known yet."),
    ]
    server_version: str | None
    ping_ms: Annotated[float | None, Meta(description="One round trip.")]
    jobs: Annotated[int | None, Meta(description="Stored jobs.")]
    due: Annotated[int | None, Meta(description="Jobs that are due and not claimed.")]
    claimed: Annotated[int | None, Meta(description="Jobs that nodes hold.")]
    memory_bytes: Annotated[int | None, Meta(description="Of the server: shards can share it.")]
    memory_limit_bytes: Annotated[int | None, Meta(description="`maxmemory`; null: no limit.")]
    warnings: Annotated[list[str], Meta(description="The warnings of `GET /ready` that concern this shard.")]


class Nodes(Described):
    """All nodes and shards."""

    nodes: Annotated[
        list[NodeEntry],
        Meta(description="Living ones first, oldest first; then the dead ones of the last hour, latest first."),
    ]
    shards: list[ShardEntry]


def show_fleet(fleet: Fleet) -> Nodes:
    """Show the nodes and shards."""
    return Nodes([_node(one) for one in fleet.nodes], [_shard(one) for one in fleet.shards])


def _node(node: NodeView) -> NodeEntry:
    facts = node.facts
    if facts is None:
        return NodeEntry(
            node.id,
            node.state,
            rfc3339(node.last_beat_ms),
            node.silent_shards,
            *(None,) * 7,
        )
    return NodeEntry(
        node.id,
        node.state,
        rfc3339(node.last_beat_ms),
        node.silent_shards,
        facts.host,
        facts.pid,
        facts.version,
        facts.address,
        instant(facts.started_at_ms),
        facts.in_flight,
        facts.claimed_ahead,
    )


def _shard(shard: ShardView) -> ShardEntry:
    counts, info = shard.counts, shard.info or {}
    return ShardEntry(
        number=shard.number,
        reachable=shard.error is None,
        error=shard.error,
        server=shard.server,
        server_version=_version(info),
        ping_ms=shard.ping_ms,
        jobs=None if counts is None else counts.jobs,
        due=None if counts is None else counts.due,
        claimed=None if counts is None else counts.claimed,
        memory_bytes=_number(info, "used_memory"),
        memory_limit_bytes=_number(info, "maxmemory") or None,
        warnings=shard.warnings,
    )


def _version(info: dict[str, Any] | Any) -> str | None:
    for name in ("valkey", "redis"):
        if f"{name}_version" in info:
            return f"{name} {info[f'{name}_version']}"
    return None


def _number(info: dict[str, Any] | Any, name: str) -> int | None:
    value = info.get(name)
    return value if isinstance(value, int) else None
