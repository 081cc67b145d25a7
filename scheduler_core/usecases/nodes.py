"""Reads the nodes and the shards, with their state, for people."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError
from scheduler_core.base.redis_url import Topology
from scheduler_core.model.node import NodeFacts, StoredNode
from scheduler_core.store.jobs import Counts
from scheduler_core.store.shards import Shards, ShardStore

DEAD_AFTER_MS = NodeFacts().dead_after_ms
"""For a node of a version without facts."""
MOST_DEAD = 100
"""Dead nodes are listed for an hour, the latest first, and at most this many."""


class NodeState(StrEnum):
    """The state of a node, from its heartbeats."""

    ALIVE = "alive"
    DRAINING = "draining"
    """It stops: it claims nothing, and ends its open attempts."""
    DEAD = "dead"
    """It sends no heartbeats any more: other nodes have taken over its runs. (A node that stops in good order is not
    listed.)"""


class NodeView(msgspec.Struct, frozen=True):
    """A node as clients see it."""

    id: str
    state: NodeState
    last_beat_ms: int
    facts: NodeFacts | None
    silent_shards: list[int]
    """Of a node that is not dead: the shards that get no heartbeats from it, so others take over its runs there."""


class ShardView(msgspec.Struct, frozen=True):
    """A shard as clients see it."""

    number: int
    server: str | None
    error: str | None
    """Why it cannot be read; None: it can."""
    ping_ms: float | None = None
    counts: Counts | None = None
    info: Mapping[str, Any] | None = None
    """The server's INFO; None: it does not answer, or does not allow it."""
    warnings: list[str] = []


class Fleet(msgspec.Struct, frozen=True):
    """All nodes and shards."""

    nodes: list[NodeView]
    shards: list[ShardView]


class _Read(msgspec.Struct, frozen=True):
    view: ShardView
    nodes: list[StoredNode]


async def read_fleet(shards: Shards[ShardStore], clock: Clock) -> Fleet:
    """Read the nodes and shards: three round trips to each shard. A shard that does not answer is shown as such."""
    info = None if shards.topology is Topology.CLUSTER else asyncio.ensure_future(_info(shards.lead))
    read = await asyncio.gather(*(_read(one, shards.topology, clock, info) for one in shards.all))
    return Fleet(_nodes([one.nodes for one in read], clock.now_ms()), [one.view for one in read])


async def _read(
    store: ShardStore, topology: Topology, clock: Clock, shared: asyncio.Future[Mapping[str, Any] | None] | None
) -> _Read:
    """Read one shard. ``shared``: the INFO of the server that has all shards."""
    warnings: list[str] = []
    try:
        began = clock.monotonic()
        await store.time_ms()
        ping_ms = 1000 * (clock.monotonic() - began)
        warnings += [f"store: {text}" for text in (await store.wrong_keys()).values()]
        nodes, counts = await asyncio.gather(store.stored_nodes(), store.counts(now_ms=clock.now_ms()))
    except StoreError as error:
        if shared is not None:
            await shared
        return _Read(ShardView(store.number, store.server(), str(error), warnings=warnings), [])
    info = await (_info(store) if shared is None else shared)
    if info is not None:
        warnings += [f"store: {finding.text}" for finding in store.findings([info], topology)]
    return _Read(ShardView(store.number, store.server(), None, round(ping_ms, 3), counts, info, warnings), nodes)


async def _info(store: ShardStore) -> Mapping[str, Any] | None:
    try:
        return await store.server_info()
    except StoreError:
        return None


def _nodes(of_shards: Sequence[Sequence[StoredNode]], now_ms: int) -> list[NodeView]:
    """Join what the shards have of each node: those that live first, by their first heartbeat."""
    beats: dict[str, dict[int, int]] = {}
    facts: dict[str, NodeFacts] = {}
    for shard, nodes in enumerate(of_shards):
        for node in nodes:
            beats.setdefault(node.id, {})[shard] = node.last_beat_ms
            if node.facts is not None:
                facts[node.id] = node.facts
    reached = [shard for shard, nodes in enumerate(of_shards) if nodes]
    views = [_view(node_id, of, facts.get(node_id), reached, now_ms) for node_id, of in beats.items()]
    living = [one for one in views if one.state is not NodeState.DEAD]
    living.sort(key=lambda one: (0 if one.facts is None else one.facts.started_at_ms, one.id))
    dead = [one for one in views if one.state is NodeState.DEAD]
    dead.sort(key=lambda one: (-one.last_beat_ms, one.id))
    return living + dead[:MOST_DEAD]


def _view(
    node_id: str, beats: Mapping[int, int], facts: NodeFacts | None, reached: Sequence[int], now_ms: int
) -> NodeView:
    since_ms = now_ms - (DEAD_AFTER_MS if facts is None else facts.dead_after_ms)
    last_ms = max(beats.values())
    if last_ms < since_ms:
        return NodeView(node_id, NodeState.DEAD, last_ms, facts, [])
    state = NodeState.DRAINING if facts is not None and facts.draining else NodeState.ALIVE
    silent = [shard for shard in reached if beats.get(shard, 0) < since_ms]
    return NodeView(node_id, state, last_ms, facts, silent)
