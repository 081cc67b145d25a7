"""The protocols of alerts: ``AlertBook`` for rules and channels, ``SweepStore`` for the examination of the jobs of one
shard, ``Outbox`` for messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from scheduler_core.model.alerts import Book, Channel, Finding, JobAlerts, Message, Rule
from scheduler_core.model.pause import Pauses
from scheduler_core.model.run import Record

TAIL = 100
"""At most this many of the latest entries of a job's history are examined at once."""
MESSAGES_KEPT = 1_000
"""How many messages that were sent, or are not tried again, are kept."""


class Listed(msgspec.Struct, frozen=True):
    """A job to be examined."""

    job_id: str
    score: int | None
    """Its score when it was read: an instant; None: it is not listed, for example because it is late."""


class Tail(msgspec.Struct, frozen=True):
    """The latest entries of a job's history."""

    records: tuple[Record, ...] = ()
    """Those after the cursor, oldest first."""
    cursor: str = ""
    """Names the latest entry; empty: no entry follows the cursor."""
    is_whole: bool = True
    """Whether no entry between the cursor and these has left the history."""


class Kept(msgspec.Struct, frozen=True):
    """What to store of an examined job."""

    listed: Listed
    after: JobAlerts | None
    look_ms: int | None
    alarming: bool


class Saved(StrEnum):
    """The answer to ``SweepStore.save``."""

    OK = "ok"
    CHANGED = "changed"
    """Another node saved since the version was read; nothing was stored."""
    OFF = "off"
    """No rule exists; nothing was stored."""


class NumberedFinding(msgspec.Struct, frozen=True):
    """A finding with its number, which only grows within a shard."""

    number: int
    finding: Finding | None
    """None: it cannot be read."""


class AlertBook(Protocol):
    """Rules and channels, on the first shard. Every method raises StoreUnavailable or StoreRefused."""

    async def version(self) -> int:
        """Return the number of changes of the book."""
        ...

    async def read(self) -> Book:
        """Return all rules and channels."""
        ...

    async def put(self, book: Book, entry: Rule | Channel, *, last_id: int) -> bool:
        """Store an entry; return False if the book has changed since. Raises OutcomeUnknown as in ``JobStore``."""
        ...

    async def remove(self, book: Book, entry: Rule | Channel) -> bool:
        """Remove an entry; return False if the book has changed since. Raises OutcomeUnknown as in ``JobStore``."""
        ...


class SweepStore(Protocol):
    """What the examination of the jobs of one shard reads and writes. Every method raises StoreUnavailable or
    StoreRefused."""

    async def arm(self, *, on: bool, version: int, force: bool = False) -> bool:
        """Begin to list changed jobs, or stop and remove the results of examinations. ``version``: of the book that
        the caller read. Returns False, and changes nothing, if a later version was armed for, unless ``force``."""
        ...

    async def begin(self) -> tuple[int, bytes, Pauses]:
        """Return the version of the sweep, its progress, and the pauses of everything."""
        ...

    async def listed(self, *, now_ms: int, limit: int) -> list[Listed]:
        """Return jobs to be examined: those that changed, longest ago first, then those whose time has come."""
        ...

    async def late(self, *, after_ms: int, due_ms: int, skip: int, limit: int) -> list[str]:
        """Return jobs that wait since an instant after ``after_ms`` and until ``due_ms``, and are not claimed; of a
        child run, its job. The latest comes first: claims remove the first ones, so ``skip`` passes over none."""
        ...

    async def seed(self, job_ids: Sequence[str], *, at_ms: int) -> None:
        """List jobs to be examined at ``at_ms``, unless they are listed already."""
        ...

    async def alerts_of(self, job_ids: Sequence[str]) -> list[JobAlerts | None]:
        """Return what is stored of jobs; None also for what cannot be read."""
        ...

    async def tails(self, cursors: Mapping[str, str]) -> dict[str, Tail]:
        """Return the entries of histories after the cursors (by job id)."""
        ...

    async def save(self, kept: Sequence[Kept], findings: Sequence[Finding], *, version: int, progress: bytes) -> Saved:
        """Store the results of one examination, all or nothing. Raises the version by one."""
        ...

    async def alarming(self, *, after: str, limit: int) -> list[str]:
        """Return the ids of jobs with an alarm that follow ``after``, in the order of their bytes."""
        ...

    async def count_alarming(self) -> int:
        """Return how many jobs have an alarm."""
        ...

    async def findings(self, *, after: int, limit: int) -> list[NumberedFinding]:
        """Return findings with a number above ``after``, in order."""
        ...

    async def count_findings(self) -> int:
        """Return how many findings are stored."""
        ...

    async def drop_findings(self, *, up_to: int) -> None:
        """Remove findings that are in messages."""
        ...


class Outbox(Protocol):
    """Messages, on the first shard. Every method raises StoreUnavailable or StoreRefused."""

    async def take(self, *, node: str, now_ms: int, until_ms: int) -> bool:
        """Take or prolong the lease of the node that sweeps and sends; ``until_ms`` 0 releases it. Returns whether the
        node has it."""
        ...

    async def position(self, shards: int) -> tuple[int, list[int]]:
        """Return the version of the messages, and for each shard the number of its latest finding that is in one."""
        ...

    async def waiting(self) -> list[Message]:
        """Return the messages that are to be sent, in the order of their next attempts."""
        ...

    async def count_waiting(self) -> int:
        """Return how many messages are to be sent."""
        ...

    async def post(self, messages: Sequence[Message], *, version: int, positions: Mapping[int, int]) -> bool:
        """Store new and changed messages and positions, all or nothing; return False if the version differs. Raises the
        version by one."""
        ...

    async def page(self, *, before: str, limit: int) -> list[Message]:
        """Return messages whose id is less than ``before`` (empty: the latest), newest first."""
        ...
