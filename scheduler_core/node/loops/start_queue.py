"""The claimed jobs of one shard that have not been started: their wake-ups lie ahead, or no slot was free yet."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from scheduler_core.model.transition import Transition
from scheduler_core.node.dispatch.in_flight import InFlight
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
    attempt: InFlight | None = None
    """Its attempt, built ahead of the wake-up; None: it is built when it starts."""


class StartQueue:
    """Claimed jobs in the order of their wake-ups. They take no slot."""

    def __init__(self) -> None:
        self._jobs: dict[str, Waiting] = {}
        self._by_wake: dict[int, list[Waiting]] = {}
        """The jobs of each wake-up. A burst has one wake-up, so it is taken as a whole. A job that was removed stays in
        the list until it comes to its beginning."""
        self._wakes: list[int] = []
        """A heap: the keys of ``_by_wake``."""
        self.next_wake_ms: int | None = None
        """The earliest wake-up among these jobs; it may have passed. None: the queue is empty."""
        self.payload_bytes = 0
        """The bytes of the payloads of these jobs."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def next_count(self) -> int:
        """How many jobs have the earliest wake-up; may include some that were removed."""
        return 0 if self.next_wake_ms is None else len(self._by_wake[self.next_wake_ms])

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
        self._of_wake(wake_ms).append(one)
        if self.next_wake_ms is None or wake_ms < self.next_wake_ms:
            self.next_wake_ms = wake_ms

    def take_due(self, now_ms: int, limit: int) -> list[Waiting]:
        """Remove and return up to ``limit`` jobs whose wake-ups have come, the earliest first."""
        jobs, taken = self._jobs, list[Waiting]()
        while (left := limit - len(taken)) > 0 and self.next_wake_ms is not None and self.next_wake_ms <= now_ms:
            of_wake = self._by_wake[self.next_wake_ms]
            for one in of_wake[:left]:
                claim_key = one.claimed.id
                if jobs.get(claim_key) is one:
                    del jobs[claim_key]
                    self.payload_bytes -= one.payload_bytes
                    taken.append(one)
            del of_wake[:left]
            self._find_next()
        return taken

    def put_back(self, taken: Sequence[Waiting]) -> None:
        """Add the last jobs that ``take_due`` returned once more, before all others."""
        for one in taken:
            self._jobs[one.claimed.id] = one
            self.payload_bytes += one.payload_bytes
        for wake_ms, of_wake in itertools.groupby(taken, lambda one: one.claimed.lease.wake_ms):
            self._of_wake(wake_ms)[:0] = of_wake
        self._find_next()

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

    def _of_wake(self, wake_ms: int) -> list[Waiting]:
        of_wake = self._by_wake.get(wake_ms)
        if of_wake is None:
            of_wake = self._by_wake[wake_ms] = []
            heapq.heappush(self._wakes, wake_ms)
        return of_wake

    def _find_next(self) -> None:
        """Drop removed jobs, and wake-ups without jobs, until a job is at the beginning."""
        wakes, by_wake, jobs = self._wakes, self._by_wake, self._jobs
        while wakes:
            of_wake = by_wake[wakes[0]]
            removed = 0
            for one in of_wake:
                if jobs.get(one.claimed.id) is one:
                    break
                removed += 1
            del of_wake[:removed]
            if of_wake:
                break
            del by_wake[heapq.heappop(wakes)]
        self.next_wake_ms = wakes[0] if wakes else None
