"""``AttentionStore``: the protocol for what needs a person on one shard."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec


class Source(StrEnum):
    """A sorted set from which the list of what needs a person is made. The first one of a section goes first."""

    SETTLEMENTS = "settlements"
    """Settlements that Redis refuses, by the instant at which they were set aside."""
    QUARANTINED = "quarantined"
    """Quarantined jobs. Their order is that of their ids."""
    JOBS = "jobs"
    """Jobs whose latest run failed for good or that have entries set aside, since when."""
    TASKS = "tasks"
    """Stale one-off tasks, by the instant of their last call. Only on the first shard."""


class Spot(msgspec.Struct, frozen=True, order=True):
    """A place in one source. Each source is read from its largest spot down."""

    score: int
    member: bytes


class SetAside(msgspec.Struct, frozen=True, array_like=True):
    """A settlement that Redis refuses: the run has ended, and its end cannot be stored."""

    claim_key: str
    fence: int
    run_id: str
    """Empty: no run; the settlement only moves the job."""
    detail: str
    """What Redis answered."""


class AttentionCounts(msgspec.Struct, frozen=True):
    """How many members the sources of one shard have."""

    settlements: int
    quarantined: int
    jobs: int
    tasks: int = 0
    """Without those that were dismissed."""


class AttentionStore(Protocol):
    """Reads what needs a person on one shard. Every method raises StoreUnavailable or StoreRefused."""

    async def counts(self) -> AttentionCounts:
        """Count what needs a person."""
        ...

    async def page(self, source: Source, before: Spot | None, *, limit: int) -> list[Spot]:
        """Return the first ``limit`` spots of a source below ``before``, the largest first."""
        ...

    async def fences_of(self, claim_keys: Sequence[str]) -> list[int | None]:
        """Return the fences of the leases of these claim keys; None: no lease."""
        ...

    async def set_aside(self, one: SetAside, *, at_ms: int) -> None:
        """Note a settlement that Redis refuses. Repeating the note changes nothing."""
        ...

    async def drop_set_aside(self, member: bytes) -> bool:
        """Remove the note of a settlement (``encode_set_aside``); return whether it was there."""
        ...

    async def job_since_ms(self, job_id: str) -> int | None:
        """Return since when a job is in ``JOBS``; None: it is not there."""
        ...

    async def drop_job(self, job_id: str, since_ms: int) -> bool:
        """Remove a job from ``JOBS`` if it is there since ``since_ms``; return whether it was removed.

        For jobs with ``overlap: allow``, whose states do not have the failures of their child runs.
        """
        ...


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SetAside)


def encode_set_aside(one: SetAside) -> bytes:
    """Encode a settlement as a member of its set. The same settlement is always the same member."""
    return _encoder.encode(one)


def decode_set_aside(member: bytes) -> SetAside | None:
    """Decode a member; None: Cronpost did not write it."""
    try:
        return _decoder.decode(member)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
