"""The claimed jobs of one shard that have not been started: their wake-ups lie ahead, or no slot was free yet."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator

import msgspec

from scheduler_core.model.call import Call
from scheduler_core.model.transition import Transition
from scheduler_core.plan.claim import Work
from scheduler_core.store.loop import ClaimedJob

LeaseId = tuple[str, int]
"""Claim key and fence."""


class Waiting(msgspec.Struct, frozen=True, eq=False):
    """A claimed job, with what was prepared for its start."""

    claimed: ClaimedJob
    planned: Work | Transition
    """What the job does at its wake-up."""
    payload_bytes: int = 0
    """What its payload takes of the memory for claims ahead."""
    call: Call | None = None
    """The call of its attempt, if the claim was ahead of the wake-up and alone determines it."""


class StartQueue:
    """Claimed jobs in the order of their wake-ups. They take no slot."""

    def __init__(self) -> None:
        self._jobs: dict[str, Waiting] = {}
        self._order: list[tuple[int, int, Waiting]] = []
        """A heap. A job that was removed stays in it until it comes to its top."""
        self._numbers = itertools.count()
        self.next_wake_ms: int | None = None
        """The earliest wake-up among these jobs; it may have passed. None: the queue is empty."""
        self.payload_bytes = 0
        """The bytes of the payloads of these jobs."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._jobs.values())

    @property
    def lease_ids(self) -> set[LeaseId]:
        """The leases of these jobs."""
        return {(one.claimed.id, one.claimed.lease.fence) for one in self._jobs.values()}

    def add(self, one: Waiting) -> None:
        """Add a job that was just claimed."""
        claim_key, wake_ms = one.claimed.id, one.claimed.lease.wake_ms
        if claim_key in self._jobs:
            self.remove([claim_key], after_ms=-1)  # its lease was lost and claimed again
        self._jobs[claim_key] = one
        self.payload_bytes += one.payload_bytes
        heapq.heappush(self._order, (wake_ms, next(self._numbers), one))
        if self.next_wake_ms is None or wake_ms < self.next_wake_ms:
            self.next_wake_ms = wake_ms

    def pop(self) -> Waiting:
        """Remove and return the job with the earliest wake-up. Raises IndexError if the queue is empty."""
        one = heapq.heappop(self._order)[2]
        del self._jobs[one.claimed.id]
        self.payload_bytes -= one.payload_bytes
        self._find_next()
        return one

    def remove(self, claim_keys: Iterable[str], *, after_ms: int) -> list[ClaimedJob]:
        """Remove and return those of these jobs whose wake-ups lie after ``after_ms``."""
        found = [
            one
            for claim_key in claim_keys
            if (one := self._jobs.get(claim_key)) is not None and one.claimed.lease.wake_ms > after_ms
        ]
        for one in found:
            del self._jobs[one.claimed.id]
            self.payload_bytes -= one.payload_bytes
        self._find_next()
        return [one.claimed for one in found]

    def remove_all(self, *, after_ms: int) -> list[ClaimedJob]:
        """Remove and return all jobs whose wake-ups lie after ``after_ms``."""
        return self.remove(list(self._jobs), after_ms=after_ms)

    def _find_next(self) -> None:
        """Drop removed jobs from the top of the heap."""
        order, jobs = self._order, self._jobs
        while order and jobs.get(order[0][2].claimed.id) is not order[0][2]:
            heapq.heappop(order)
        self.next_wake_ms = order[0][0] if order else None
