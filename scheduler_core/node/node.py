"""What the services of one node share: who it is, and what it last learned from a heartbeat."""

from __future__ import annotations

import asyncio
import secrets

from scheduler_core.base.clock import Clock
from scheduler_core.base.config import EngineSettings
from scheduler_core.model.job import Downtime
from scheduler_core.model.run import random_store_id
from scheduler_core.node.slots import SlotPool


class Node:
    """One scheduler process, as one shard of the store knows it. Its id is drawn at start; a host name or a pid could
    be another's after a restart.

    The shards of a process have the same id and share the ``slots``; each has leases, downtimes and a store id of its
    own.
    """

    def __init__(
        self, settings: EngineSettings, clock: Clock, *, node_id: str | None = None, slots: SlotPool | None = None
    ) -> None:
        self.id = secrets.token_hex(8) if node_id is None else node_id
        self.settings = settings
        self.slots = SlotPool(settings.max_in_flight) if slots is None else slots
        self.store_id = random_store_id()
        """Proposed with the first beat; replaced by the store's own."""
        self.downtimes: tuple[Downtime, ...] = ()
        self.downtime_count = -1
        self.dead_after_ms = int(settings.dead_after_seconds * 1000)
        self._clock = clock
        self._beat_at: float | None = None
        self._beating_since: float | None = None

    @property
    def in_flight(self) -> set[asyncio.Future[None]]:
        """Open attempts of the process."""
        return self.slots.in_flight

    def slot_freed(self) -> None:
        """An attempt has ended."""
        self.slots.freed()

    def beat_taken(self, sent_at: float) -> None:
        """A beat that was sent at ``sent_at`` (monotonic seconds) reached Redis."""
        if not self.lease_holds:
            self._beating_since = sent_at
        self._beat_at = sent_at

    @property
    def lease_holds(self) -> bool:
        """Whether no other node can have taken this node for dead. Counted from before the beat was sent."""
        if self._beat_at is None:
            return False
        return self._clock.monotonic() - self._beat_at < self.settings.dead_after_seconds

    @property
    def may_reap(self) -> bool:
        """Whether this node has beaten without a gap for as long as it takes to be dead.

        When Redis was away for all, every node's beat is over; each gets that long to beat again before another takes
        its runs.
        """
        if not self.lease_holds or self._beating_since is None:
            return False
        return self._clock.monotonic() - self._beating_since >= self.settings.dead_after_seconds
