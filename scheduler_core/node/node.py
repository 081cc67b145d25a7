"""The facts that the loops of a node share: its identity, and the results of its last heartbeat."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from scheduler_core.base.clock import Clock
from scheduler_core.base.config import EngineSettings
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.node import NodeFacts
from scheduler_core.model.pause import Pauses
from scheduler_core.model.run import random_store_id
from scheduler_core.node.slots import Occupant, SlotPool


class Node:
    """One scheduler process, as one shard of the store sees it.

    The id is random and new at each start: a host name or a pid could belong to another process after a restart. The
    shards of a process have the same id and share the ``slots``; each has its own leases, downtimes and store id.
    """

    def __init__(
        self, settings: EngineSettings, clock: Clock, *, node_id: str | None = None, slots: SlotPool | None = None
    ) -> None:
        self.id = secrets.token_hex(8) if node_id is None else node_id
        self.settings = settings
        self.slots = SlotPool(settings.max_in_flight) if slots is None else slots
        self.store_id = random_store_id()
        """Proposed with the first heartbeat; then replaced by the store's id."""
        self.downtimes: tuple[Downtime, ...] = ()
        self.downtime_count = -1
        self.alert_book = b""
        """Names the version of the alert book, as the latest heartbeat on the first shard returned it. Empty: no alert
        rule was ever stored."""
        self.pauses = Pauses()
        """The pauses of everything, as the latest claim returned them."""
        self.dead_after_ms = int(settings.dead_after_seconds * 1000)
        self.clock = clock
        self.in_flight: set[Occupant] = self.slots.in_flight
        """The attempts in flight of the process."""
        self.facts: Callable[[], NodeFacts] | None = None
        """What the node says about itself with each heartbeat; None: nothing on this shard."""
        self._dead_after = settings.dead_after_seconds
        self._beat_at: float | None = None
        self._beating_since: float | None = None

    def beat_taken(self, sent_at: float) -> None:
        """Note that Redis accepted a heartbeat that was sent at ``sent_at`` (monotonic seconds)."""
        if not self.holds_lease():
            self._beating_since = sent_at
        self._beat_at = sent_at

    def holds_lease(self) -> bool:
        """Return whether no other node can count this one as dead yet. The time counts from before the heartbeat was
        sent."""
        return self._beat_at is not None and self.clock.monotonic() - self._beat_at < self._dead_after

    @property
    def may_reap(self) -> bool:
        """Whether this node has sent heartbeats without a gap for the time after which a silent node counts as dead.

        After an outage of Redis, the last heartbeat of every node is too old. Each node has this time to send another
        one before its runs are reclaimed.
        """
        if not self.holds_lease() or self._beating_since is None:
            return False
        return self.clock.monotonic() - self._beating_since >= self._dead_after
