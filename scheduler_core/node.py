"""What the services of one node share: who it is, and what it last learned from a heartbeat."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from scheduler_core.clock import Clock
from scheduler_core.config import EngineSettings
from scheduler_core.job import Downtime
from scheduler_core.run import random_store_id


class Node:
    """One scheduler process. Its id is drawn at start; a host name or a pid could be another's after a restart."""

    def __init__(self, settings: EngineSettings, clock: Clock) -> None:
        self.id = secrets.token_hex(8)
        self.settings = settings
        self.store_id = random_store_id()
        """Proposed with the first beat; replaced by the store's own."""
        self.downtimes: tuple[Downtime, ...] = ()
        self.downtime_count = -1
        self.dead_after_ms = int(settings.dead_after_seconds * 1000)
        self.in_flight: set[asyncio.Task[None]] = set()
        """Open attempts. The set also keeps the tasks alive."""
        self.slot_freed: Callable[[], None] = lambda: None
        """Called when an attempt has ended; the claimer puts its wake-up here while it waits for room."""
        self._clock = clock
        self._beat_at: float | None = None
        self._beating_since: float | None = None

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
