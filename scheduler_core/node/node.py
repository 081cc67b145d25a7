"""What the services of one node share: who it is, and what it last learned from a heartbeat."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from scheduler_core.base.clock import Clock
from scheduler_core.base.config import EngineSettings
from scheduler_core.model.job import Downtime
from scheduler_core.model.run import random_store_id


class SlotPool:
    """How many attempts a process may have open at once. Those who claim for it share it: when it is full, they stand
    in line, and each place that becomes free goes to the one who has waited longest."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.live_nodes = 1
        """How many nodes beat lately, this one among them."""
        self.in_flight: set[asyncio.Future[None]] = set()
        """Open attempts."""
        self._reserved = 0
        self._line: dict[Callable[[], None], None] = {}
        self._trial: Callable[[], None] | None = None
        self._trial_line: dict[Callable[[], None], None] = {}

    @property
    def free(self) -> int:
        return self.size - len(self.in_flight) - self._reserved

    def reserve(self, most: int, wake: Callable[[], None]) -> int:
        """Places for a claim, at most ``most``, to be given back by ``release`` once the attempts have begun.

        0: there is none, and ``wake`` is called when it is the caller's turn.
        """
        free = self.free
        if free <= 0 or next(iter(self._line), wake) != wake:
            self._line.setdefault(wake)
            self.freed()
            return 0
        self._line.pop(wake, None)
        count = min(free, most)
        self._reserved += count
        self.freed()
        return count

    def release(self, count: int) -> None:
        """The claim is over: its attempts are among ``in_flight``, and what it did not need is free."""
        self._reserved -= count
        self.freed()

    def leave(self, wake: Callable[[], None]) -> None:
        """Stand in line no longer. The next may have been waiting for the caller to take what is free."""
        if wake in self._line:
            del self._line[wake]
            self.freed()

    def begin_trial(self, wake: Callable[[], None]) -> bool:
        """Whether the caller may hold suspects now: only one claimer of the process does, so that the death of the
        process is evidence against its group alone. False: ``wake`` is called when it is the caller's turn."""
        if self._trial is None and next(iter(self._trial_line), wake) == wake:
            self._trial = wake
            self._trial_line.pop(wake, None)
        if self._trial == wake:
            return True
        self._trial_line.setdefault(wake)
        return False

    def end_trial(self, wake: Callable[[], None]) -> None:
        """The caller holds no suspect, and waits for none any more."""
        self._trial_line.pop(wake, None)
        if self._trial == wake:
            self._trial = None
        if self._trial is None and self._trial_line:
            next(iter(self._trial_line))()

    def freed(self) -> None:
        """Tell the first in line if there is a place."""
        if self._line and self.free > 0:
            next(iter(self._line))()


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
