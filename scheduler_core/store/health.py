"""``HealthStore``: the protocol with which one node finds the jobs of a shard whose health changes without a write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from scheduler_core.model.health import Health

MOST_KNOWN = 10_000
"""The most late jobs of a shard that are remembered, and the most stuck ones. Changes of further ones are counted and
not reported."""


class Source(Enum):
    """A set of claim keys that can hold unhealthy jobs, in the order in which a pass reads them."""

    DUE = 0
    """Due for too long, and not claimed."""
    CLAIMED = 1
    """Claimed for long."""
    WAITING = 2
    """A run is taken or waits for a retry for long."""
    FAILING = 3
    """Their last run failed."""
    LATE = 4
    """Found to be late by an earlier pass."""
    STUCK = 5
    """Found to be stuck by an earlier pass."""


class Bounds(msgspec.Struct, frozen=True):
    """The instants before which a claim key of a source may be late or stuck."""

    due_ms: int
    claimed_ms: int
    waiting_ms: int


class HealthStore(Protocol):
    """Every method raises StoreUnavailable or StoreRefused."""

    async def take_turn(self, *, now_ms: int, interval_ms: int) -> bytes | None:
        """Take the turn, which one node gets in each interval; return the progress of the pass that is under way
        (empty: a pass begins), or None if another node has had the turn."""
        ...

    async def keep(self, progress: bytes, counts: bytes | None) -> None:
        """Store the progress and, after a complete pass, its counts."""
        ...

    async def counts(self) -> bytes | None:
        """Return the counts of the latest complete pass; None: no pass was complete."""
        ...

    async def candidates(self, source: Source, bounds: Bounds, *, skip: int, limit: int) -> list[str]:
        """Return up to ``limit`` claim keys of a source, after the first ``skip``."""
        ...

    async def known(self, job_ids: Sequence[str]) -> list[Health | None]:
        """Return for each job whether an earlier pass found it late or stuck."""
        ...

    async def remember(self, found: Mapping[str, Health | None], *, now_ms: int) -> None:
        """Store which jobs are late or stuck now; None: neither, it is forgotten."""
        ...

    async def room(self, health: Health) -> int:
        """Return how many more late (or stuck) jobs can be remembered."""
        ...

    async def not_failing(self, job_ids: Sequence[str]) -> None:
        """Remove jobs from those that are failing."""
        ...
