"""``FindStore``: the protocol with which lists of jobs choose the jobs to read, and with which the index is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from scheduler_core.model.index import FAILING, UNREADABLE


class Kind(StrEnum):
    """The sets of jobs that the store lists without reading a job."""

    ALL = "all"
    INDEX = "index"
    """The jobs that the index lists under ``Source.name``."""
    RUNNING = "running"
    """The jobs that a node holds."""
    WAITING = "waiting"
    """The jobs with a run that waits for a retry or a callback, and those that are due at ``high_ms``: a run may be
    open in their state whose node has died."""
    UNSETTLED = "unsettled"
    """The jobs that a node holds, and those with a run that waits for a retry or a callback."""
    COMPLETED = "completed"
    QUARANTINED = "quarantined"
    WAKE = "wake"
    """The jobs that wake from ``low_ms`` to ``high_ms``, and those that a node holds: it may hold them ahead of their
    wake-up."""


class Source(msgspec.Struct, frozen=True):
    """A set of jobs from which a list is selected. It may contain further jobs and child runs: readers check each."""

    kind: Kind = Kind.ALL
    name: str = ""
    prefix: str = ""
    """Of ``ALL`` and ``INDEX``: only ids that start with this."""
    low_ms: int = 0
    high_ms: int = 0

    @property
    def is_by_id(self) -> bool:
        """Whether the store can list it in the order of ids, page by page."""
        return self.kind is Kind.ALL or (self.kind is Kind.INDEX and self.name not in (FAILING, UNREADABLE))


class Order(StrEnum):
    """The orders of jobs that the store keeps, beside that of ids."""

    NEXT_FIRE = "next_fire"
    """By next wake-up; then claimed, completed, idle, paused and quarantined jobs."""
    FAILURES = "failures"
    """By failures in a row, most first; only jobs that have any."""


class Ranked(msgspec.Struct, frozen=True, order=True):
    """A place in an order. Equal scores are ordered by the bytes of the claim keys."""

    score: int
    member: bytes


class FindStore(Protocol):
    """Finds jobs of a shard. Every method raises StoreUnavailable or StoreRefused."""

    async def is_indexed(self) -> bool:
        """Return whether the index is complete. It is not yet after an upgrade from a version without it."""
        ...

    async def sizes(self, sources: Sequence[Source]) -> list[int]:
        """Return how many entries each source has."""
        ...

    async def page(self, source: Source, *, after: str, limit: int) -> list[str]:
        """Return up to ``limit`` ids of a source ``by id`` that follow ``after``, ordered by their bytes."""
        ...

    async def random_ids(self, *, limit: int) -> list[str]:
        """Return up to ``limit`` different ids of jobs, chosen at random."""
        ...

    async def at_ranks(self, ranks: Sequence[int]) -> list[str]:
        """Return the ids at these places in the order of all ids, from 0; those beyond the end are left out."""
        ...

    async def members(self, source: Source, *, limit: int) -> list[str]:
        """Return up to ``limit`` job ids of a source in any order."""
        ...

    async def contains(self, source: Source, job_ids: Sequence[str]) -> list[bool]:
        """Return for each job whether the source lists it."""
        ...

    async def ranked(self, order: Order, *, after: Ranked | None, limit: int) -> list[Ranked]:
        """Return up to ``limit`` places that follow ``after``; None: from the beginning. They include child runs and
        ids of jobs that were deleted."""
        ...

    async def ranks(self, order: Order, job_ids: Sequence[str]) -> list[int | None]:
        """Return the score of each job in an order; None: it is not listed."""
        ...

    async def starts(self, run_ids: Sequence[str]) -> list[int | None]:
        """Return the start of each settled run (epoch ms); None: its record was trimmed."""
        ...

    async def latest_runs(self, job_ids: Sequence[str]) -> list[str | None]:
        """Return the id of the run that each job's history recorded last; None: its latest entries hold no run."""
        ...

    async def add_missing(self, page: Sequence[tuple[str, bytes, Mapping[str, int]]]) -> tuple[int, bool]:
        """Add jobs to the sets of the index that miss them; return how many entries were missing, and whether all of
        them were added.

        Takes ids, the tags of the states that the entries were computed from, and the entries: sets with scores.
        Entries of a job that was changed since are not added.
        """
        ...

    async def mark_indexed(self) -> None:
        """Record that the index is complete."""
        ...
