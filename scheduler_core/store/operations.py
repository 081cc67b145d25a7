"""``OperationStore``: the protocol for stored operations, which act on many jobs or runs one after another."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec


class OperationState(StrEnum):
    """The state of an operation. All but ``running`` are final."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It could not continue. Its last error has the reason."""


class TakenOperation(msgspec.Struct, frozen=True):
    """An operation that this process carries."""

    id: str
    fence: int
    spec: bytes
    progress: bytes
    cancelled: bool = False


class StoredOperation(msgspec.Struct, frozen=True):
    """An operation as it is stored."""

    id: str
    spec: bytes
    progress: bytes
    state: OperationState
    carrier: str
    """The process that works on it, or worked on it last."""
    leased_until_ms: int
    """The end of its lease; 0: released, or the operation has ended."""
    cancelled_at_ms: int | None = None
    ended_at_ms: int | None = None


class Saved(StrEnum):
    """The answer to a save."""

    OK = "ok"
    CANCELLED = "cancelled"
    """A client cancelled the operation: store its end."""
    LOST = "lost"
    """Another process carries the operation, or it has ended; nothing was stored."""


class OpenOperations(msgspec.Struct, frozen=True):
    """The numbers of open operations."""

    carried: int
    """A process works on them."""
    waiting: int
    """Their lease is over, so a node will take them."""


class OperationStore(Protocol):
    """Stores operations on the first shard. Every method raises StoreUnavailable or StoreRefused; ``create`` and
    ``cancel`` raise OutcomeUnknown as in ``JobStore``."""

    async def create(
        self, operation_id: str, *, spec: bytes, progress: bytes, carrier: str, now_ms: int, until_ms: int
    ) -> bool:
        """Store a new operation with its lease until ``until_ms`` (fence 1); return False if too many are open."""
        ...

    async def without_carrier(self, *, now_ms: int, limit: int) -> list[str]:
        """Return the ids of open operations whose lease is over, those that waited longest first."""
        ...

    async def count_open(self, *, now_ms: int) -> OpenOperations:
        """Count the open operations."""
        ...

    async def take(self, operation_id: str, *, carrier: str, now_ms: int, until_ms: int) -> TakenOperation | None:
        """Take an open operation whose lease is over; None: it has ended, or another process was faster."""
        ...

    async def save(self, operation_id: str, *, fence: int, progress: bytes, until_ms: int) -> Saved:
        """Store the progress, and prolong the lease until ``until_ms``; 0 releases it."""
        ...

    async def end(self, operation_id: str, *, fence: int, progress: bytes, state: OperationState, now_ms: int) -> Saved:
        """Store the end of an operation. Its document is kept for a day."""
        ...

    async def cancel(self, operation_id: str, *, now_ms: int) -> str:
        """Cancel an operation: ``ok``, ``ended`` or ``missing``. A process that carries it ends it with its next
        save."""
        ...

    async def read(self, operation_id: str) -> StoredOperation | None:
        """Read one operation; None: it does not exist, or its day is over. Raises CorruptDocument."""
        ...

    async def ids(self) -> list[str]:
        """Return the ids of all listed operations, newest first."""
        ...

    async def read_many(self, operation_ids: Sequence[str]) -> list[StoredOperation]:
        """Read operations; those that are gone or cannot be read are left out."""
        ...
