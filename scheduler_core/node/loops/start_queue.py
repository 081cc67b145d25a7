"""The claimed jobs of one shard that have not been started: their wake-ups lie ahead, or no slot was free yet."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from scheduler_core.store.loop import ClaimedJob

LeaseId = tuple[str, int]
"""Claim key and fence."""


class StartQueue:
    """Claimed jobs in the order of their wake-ups. They take no slot."""

    def __init__(self) -> None:
        self._jobs: dict[str, ClaimedJob] = {}
        self._order: list[tuple[int, int, ClaimedJob]] = []
        """A heap. A job that was removed stays in it until it comes to its top."""
        self._numbers = itertools.count()
        self.payload_bytes = 0
        """The bytes of the payloads of these jobs."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def lease_ids(self) -> set[LeaseId]:
        """The leases of these jobs."""
        return {(claimed.id, claimed.lease.fence) for claimed in self._jobs.values()}

    def add(self, claimed: ClaimedJob) -> None:
        """Add a job that was just claimed."""
        known = self._jobs.get(claimed.id)
        if known is not None:
            self._forget(known)  # its lease was lost and claimed again
        self._jobs[claimed.id] = claimed
        self.payload_bytes += _payload_bytes(claimed)
        heapq.heappush(self._order, (claimed.lease.wake_ms, next(self._numbers), claimed))

    def next_wake_ms(self) -> int | None:
        """Return the earliest wake-up among these jobs; it may have passed. None: the queue is empty."""
        order, jobs = self._order, self._jobs
        while order:
            wake_ms, _, claimed = order[0]
            if jobs.get(claimed.id) is claimed:
                return wake_ms
            heapq.heappop(order)
        return None

    def pop(self, now_ms: int) -> ClaimedJob | None:
        """Remove and return the job with the earliest wake-up, if that has come."""
        wake_ms = self.next_wake_ms()
        if wake_ms is None or wake_ms > now_ms:
            return None
        claimed = heapq.heappop(self._order)[2]
        self._forget(claimed)
        return claimed

    def remove(self, claim_keys: Iterable[str], *, after_ms: int) -> list[ClaimedJob]:
        """Remove and return those of these jobs whose wake-ups lie after ``after_ms``."""
        found = [
            claimed
            for claim_key in claim_keys
            if (claimed := self._jobs.get(claim_key)) is not None and claimed.lease.wake_ms > after_ms
        ]
        for claimed in found:
            self._forget(claimed)
        return found

    def remove_all(self, *, after_ms: int) -> list[ClaimedJob]:
        """Remove and return all jobs whose wake-ups lie after ``after_ms``."""
        return self.remove(list(self._jobs), after_ms=after_ms)

    def _forget(self, claimed: ClaimedJob) -> None:
        del self._jobs[claimed.id]
        self.payload_bytes -= _payload_bytes(claimed)


def _payload_bytes(claimed: ClaimedJob) -> int:
    return 0 if claimed.job is None else len(claimed.job.payload)
