"""Spares claims that would find nothing, because other nodes have taken the jobs.

All nodes know the next wake-up and would claim at the same instant; the first one takes a small burst alone. So each
node wakes up at another time before the wake-up, and looks at the beginning of the due set before it claims. Nodes
agree on nothing: each one looks before each wake-up that it knows, so the jobs of a node that has just died are claimed
in time by the others.
"""

from __future__ import annotations

from zlib import crc32

from scheduler_core.base.clock import Clock
from scheduler_core.node.loops.horizon import Horizon
from scheduler_core.node.node import Node
from scheduler_core.store.loop import Head, LoopStore

SPREAD_MS = 25
"""Nodes begin to look within this time after the begin of the lead, which is twice as long at least."""
CLAIM_AT_LEAST_SECONDS = 30.0
"""A node claims at least this often, whatever it sees: only a claim counts suspects, for the warnings of ``/ready``."""
SLICE_MS = 1000
"""The order of the nodes changes this often, so that each of them takes the small bursts in its turn."""


class Others:
    """What the claimer of one shard does because other nodes claim from the same shard."""

    def __init__(self, node: Node, store: LoopStore, horizon: Horizon, clock: Clock) -> None:
        self._node = node
        self._store = store
        self._horizon = horizon
        self._clock = clock
        self._claimed_at: float | None = None

    def claimed(self) -> None:
        """Note that the node claims."""
        self._claimed_at = self._clock.monotonic()

    def may_have_taken_all(self, room: int) -> bool:
        """Return whether to look before a claim. ``room``: how many jobs the node may claim ahead."""
        nodes = self._node.slots.live_nodes
        if nodes <= 1 or self._claimed_at is None:
            return False
        if self._clock.monotonic() - self._claimed_at >= CLAIM_AT_LEAST_SECONDS:
            return False
        return room <= 0 or not self._horizon.needs_all(nodes)

    async def nothing_until(self, until_ms: int) -> Head | None:
        """Return the beginning of the due set if a claim of what is due until ``until_ms`` would find nothing."""
        head = await self._store.head()
        if head.suspects or (head.wake_ms is not None and head.wake_ms <= until_ms):
            return None
        return head

    def delay_ms(self, wake_ms: int | None) -> int:
        """Return how much later than the begin of the lead this node wakes up for ``wake_ms``."""
        nodes = self._node.slots.live_nodes
        if wake_ms is None or nodes <= 1 or self._horizon.needs_all(nodes):
            return 0
        return SPREAD_MS * crc32(f"{self._node.id} {wake_ms // SLICE_MS}".encode()) >> 32
