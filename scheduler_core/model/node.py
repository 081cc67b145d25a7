"""What a node says about itself with its heartbeat, for people. Nothing is decided from it."""

from __future__ import annotations

import msgspec


class NodeFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The facts of one node. A version may add fields; a reader ignores those that it does not know."""

    version: str = msgspec.field(default="", name="v")
    host: str = msgspec.field(default="", name="h")
    """The name of its machine or container."""
    pid: int = msgspec.field(default=0, name="p")
    address: str | None = msgspec.field(default=None, name="a")
    """Where runners reach its API (``CRONPOST_PUBLIC_URL``, or the port of its process); None: it has none."""
    started_at_ms: int = msgspec.field(default=0, name="s")
    """Its first heartbeat."""
    dead_after_ms: int = msgspec.field(default=5_000, name="x")
    """After this time without a heartbeat other nodes take over its runs."""
    in_flight: int = msgspec.field(default=0, name="f")
    """Its open attempts."""
    claimed_ahead: int = msgspec.field(default=0, name="c")
    """The jobs that it has claimed and not started."""
    draining: bool = msgspec.field(default=False, name="d")
    """Whether it stops: it claims nothing, and ends its open attempts."""


class StoredNode(msgspec.Struct, frozen=True):
    """A node with a heartbeat on a shard within the last hour."""

    id: str
    last_beat_ms: int
    facts: NodeFacts | None = None
    """Only on the first shard; None also for a node of a version without facts."""
