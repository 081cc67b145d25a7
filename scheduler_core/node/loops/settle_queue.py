"""Queues settlements and chooses which of them are sent next: a state machine without I/O.

::

                    Redis refuses the batch
       BATCHES ──────────────────────────────▶ ONE BY ONE ───┐ refused alone: it goes to the end of the batch;
          ▲                                      │    ▲      │ after REFUSALS in a row, to the rejected
          └──────────────────────────────────────┘    └──────┘
                nothing is left of the batch          ▲
                                                      └─── the rejected, after REJECTED_SECONDS

The keys of one job may be unusable: sent alone, only its settlement fails. Settlements that a refused batch had already
applied are answered with ``done`` the second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

import msgspec

from scheduler_core.model.transition import Transition
from scheduler_core.node.loops.start_queue import LeaseId
from scheduler_core.plan.claim import Work
from scheduler_core.plan.settle import Ended
from scheduler_core.store.loop import ClaimedJob, Settlement

BATCH = 256
REFUSALS = 5
"""After this many consecutive refusals (about 2.5 s), a settlement is rejected, so that it does not block the rest."""
REJECTED_SECONDS = 10.0
"""How long rejected settlements wait until they are tried again."""


class Mode(Enum):
    """How the current batch is sent."""

    BATCHES = 1
    ONE_BY_ONE = 2


class Refusal(Enum):
    """What follows when Redis refuses a part."""

    SPLIT = 1
    """The batch is sent one by one from now on."""
    AGAIN = 2
    """The settlement is tried again after the others of its batch."""
    REJECTED = 3
    """The settlement waits with the rejected."""


class Unsettled(msgspec.Struct):
    """A settlement that Redis has not accepted yet."""

    claimed: ClaimedJob
    transition: Transition | None
    """None: release the lease, the run is not finished; or it is not planned yet."""
    settlement: Settlement | None
    """None: it is planned from ``work`` and ``ended`` when its batch is sent."""
    work: Work | None = None
    ended: Ended | None = None
    refused: int = 0
    """How many times in a row Redis has refused it when it was sent alone."""
    was_rejected: bool = False
    note: bytes | None = None
    """The note in the store that Redis refuses it."""


class SettleQueue:
    """The settlements of one shard, in the order in which attempts ended. ``part`` is what is sent now."""

    def __init__(self) -> None:
        self.mode = Mode.BATCHES
        self.part: list[Unsettled] = []
        """All of the batch, or its first one."""
        self._queue: list[Unsettled] = []
        self._batch: list[Unsettled] = []
        self._rejected: list[Unsettled] = []
        """Settlements that Redis refuses although it accepts other writes: the keys of these jobs are unusable. No
        other node claims these jobs while this node is alive."""
        self.retry_rejected_at: float | None = None
        """When rejected settlements are sent again, in seconds of the monotonic clock; None: none is rejected."""
        self.arrived = asyncio.Event()
        """Set by ``append``; the settler clears it before it waits."""

    def __len__(self) -> int:
        return len(self._queue) + len(self._batch) + len(self._rejected)

    def lease_ids(self) -> set[LeaseId]:
        """Return the leases of all jobs in the queue."""
        return {(one.claimed.id, one.claimed.lease.fence) for one in (*self._queue, *self._batch, *self._rejected)}

    @property
    def is_idle(self) -> bool:
        """Whether everything is settled that Redis accepts."""
        return not self._queue and not self._batch

    @property
    def waiting(self) -> int:
        """How many settlements the next batch has so far; 0 while another one is being sent."""
        return 0 if self._batch else len(self._queue)

    def append(self, one: Unsettled) -> None:
        """Settle ``one`` with the next batch."""
        self._queue.append(one)
        self.arrived.set()

    def advance(self, now: Callable[[], float]) -> bool:
        """Choose the next part; return False if nothing is to be sent before ``append`` or ``retry_rejected_at``.

        ``now`` is called only while settlements are rejected: the clock is not read for each batch.
        """
        if not self._batch:
            if self.retry_rejected_at is not None and now() >= self.retry_rejected_at:
                self._batch, self._rejected, self.mode = self._rejected, [], Mode.ONE_BY_ONE
                self.retry_rejected_at = None
            elif self._queue:
                self._batch, self._queue, self.mode = self._queue[:BATCH], self._queue[BATCH:], Mode.BATCHES
            else:
                return False
        self.part = self._batch if self.mode is Mode.BATCHES else self._batch[:1]
        return True

    def accepted(self) -> list[Unsettled]:
        """Take the part, which Redis has answered, out of the batch and return it."""
        part, self.part = self.part, []
        self._batch = self._batch[len(part) :]
        return part

    def refused(self, now: float, *, takes_writes: bool) -> Refusal:
        """Decide what follows after Redis refused the part. ``takes_writes``: whether it accepts writes of others."""
        if self.mode is Mode.BATCHES:
            self.mode = Mode.ONE_BY_ONE
            return Refusal.SPLIT
        one = self._batch.pop(0)
        one.refused += 1
        if one.refused < REFUSALS or not takes_writes:
            self._batch.append(one)
            return Refusal.AGAIN
        self._rejected.append(one)
        self.retry_rejected_at = now + REJECTED_SECONDS
        return Refusal.REJECTED
