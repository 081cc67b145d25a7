"""Runs, attempts and misses: what happened to each fire time.

A fire time of a job becomes a run, or lies in a miss. Both are entries of the job's history, in the order in which
they were settled; together they are the account of the job.
"""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum

import msgspec

from scheduler_core.model.outcome import OutcomeKind

ATTEMPTS_KEPT = 10
"""How many attempts a run's record keeps: the first, and the latest ones. ``Run.attempt`` counts them all."""


class Reason(StrEnum):
    """Why a run exists."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"
    CONTINUATION = "continuation"
    """Asked for by the answer of an earlier run, or put in line by a client to be worked off before the trigger."""
    RECOVERY = "recovery"
    BACKFILL = "backfill"
    """A fire time of the past that a client asked for again."""


_IN_TIME = frozenset({Reason.SCHEDULED, Reason.MANUAL, Reason.CONTINUATION})
"""Runs that were asked for before their fire time, or at it."""


class RunState(StrEnum):
    """Where a run stands. ``open``, ``retrying`` and ``taken`` are not settled, all others are final."""

    OPEN = "open"
    RETRYING = "retrying"
    TAKEN = "taken"
    """The runner took it and will say later how it ended (completion by callback)."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CONFLICT = "conflict"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    LOST = "lost"


class MissReason(StrEnum):
    """Why fire times became no run."""

    OVERLAP = "overlap"
    """They passed while the previous run was not settled."""
    COALESCED = "coalesced"
    """They passed while all nodes were busy, or the target had no room; one late run stands for them."""
    DOWNTIME = "downtime"
    """They passed while no node was alive."""
    PAUSED = "paused"
    REPLACED = "replaced"
    """They were due, but not fired yet, when the job's trigger was changed."""
    QUARANTINED = "quarantined"
    HELD = "held"
    """A continuation went first."""
    EXPIRED = "expired"
    """They passed while no node was alive, and lie beyond what the job's recovery catches up."""
    BREAKER = "breaker"
    """They passed while the circuit breaker of the job's target held its run back."""


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One HTTP request of a run, ended."""

    number: int
    fence: int
    started_at_ms: int
    latency_ms: float
    outcome: OutcomeKind
    status: int | None = None
    message: str = ""


class Run(msgspec.Struct, frozen=True, omit_defaults=True, tag="r", tag_field="k"):
    """One fire of one job."""

    id: str = msgspec.field(name="i")
    fire_time_ms: int = msgspec.field(name="f")
    reason: Reason = msgspec.field(default=Reason.SCHEDULED, name="w")
    state: RunState = msgspec.field(default=RunState.OPEN, name="s")
    job_version: int = msgspec.field(default=1, name="v")
    """The version of the definition that the run started with, and ends with."""
    started_at_ms: int | None = msgspec.field(default=None, name="b")
    """When its first attempt started."""
    ended_at_ms: int | None = msgspec.field(default=None, name="e")
    attempt: int = msgspec.field(default=0, name="n")
    """How many attempts have ended."""
    failures: int = msgspec.field(default=0, name="x")
    """How many of them ended in a way that is retried with growing delays (conflicts do not count)."""
    attempts: tuple[Attempt, ...] = msgspec.field(default=(), name="a")
    retry_at_ms: int | None = msgspec.field(default=None, name="t")
    """When the next attempt is due; None unless ``state`` is ``retrying``."""
    conflict: bool = msgspec.field(default=False, name="c")
    """Whether the last answer was 409, so that the run is tried again until the runner takes it."""
    in_flight: bool = msgspec.field(default=False, name="l")
    """Stored only when something changed the job while a node worked this run; else the lease says it."""
    detached: bool = msgspec.field(default=False, name="d")
    """The job was changed, paused or deleted since the run started: what comes of it is recorded, never retried."""
    payload: bytes | None = msgspec.field(default=None, name="p")
    """A payload of the run's own; None: the job's."""
    message: str = msgspec.field(default="", name="m")
    """Why it ended as it did, for people."""
    excerpt: str = msgspec.field(default="", name="o")
    """The first bytes of the last answer's body, kept when the run did not succeed."""
    method: str = msgspec.field(default="POST", name="h")
    url: str = msgspec.field(default="", name="u")
    """Of the last attempt's request."""
    answer_bytes: int | None = msgspec.field(default=None, name="z")
    """How many bytes of body the last answer had, as far as they were read; None: there was no answer."""
    completed: RunState | None = msgspec.field(default=None, name="y")
    """What the runner said by callback while the request was open: it decides, whatever the answer will be."""
    progress: float | None = msgspec.field(default=None, name="g")
    """From 0 to 1, as the runner last said by callback."""
    note: str = msgspec.field(default="", name="q")
    heartbeat_at_ms: int | None = msgspec.field(default=None, name="j")
    """When the runner last gave a sign of life by callback."""
    on_demand: bool = msgspec.field(default=False, name="as")
    """It was asked for (an entry of the pending list, a replay): it waits for its retry there, not in the trigger's
    way."""
    list_replaced: bool = msgspec.field(default=False, name="lr")
    """The pending list was replaced while it was in flight: the continuations that it asks for are dropped."""
    run_timeout_ms: int | None = msgspec.field(default=None, name="rt")
    """Once it is taken: how long it may take to be completed."""
    heartbeat_timeout_ms: int | None = msgspec.field(default=None, name="ht")
    """Once it is taken: how long it may go without a sign of life; None: none is expected."""
    taken_at_ms: int | None = msgspec.field(default=None, name="ta")
    """When the runner took it; None: completion is the answer itself, or it has not been taken yet."""

    @property
    def is_settled(self) -> bool:
        return self.state not in (RunState.OPEN, RunState.RETRYING, RunState.TAKEN)

    @property
    def lateness_ms(self) -> int | None:
        """From the fire time to the start of the first attempt. None for a run whose fire time had passed when it was
        asked for (a backfill) or was missed in a downtime (a recovery): it is not late, it was never due in time."""
        if self.started_at_ms is None or self.reason not in _IN_TIME:
            return None
        return self.started_at_ms - self.fire_time_ms

    @property
    def last_status(self) -> int | None:
        """The HTTP status of the last attempt, if it was answered."""
        return self.attempts[-1].status if self.attempts else None


class RunDetail(msgspec.Struct, frozen=True, array_like=True):
    """What the last attempt of a settled run sent and was answered: bounded, and stored beside the run's record."""

    request_headers: tuple[tuple[str, str], ...] = ()
    """Values that are secrets are masked."""
    request_body: bytes = b""
    response_headers: tuple[tuple[str, str], ...] = ()
    response_body: bytes = b""


class Miss(msgspec.Struct, frozen=True, omit_defaults=True, tag="m", tag_field="k"):
    """A range of fire times that became no run. Both bounds are fire times, and both are in the range."""

    reason: MissReason = msgspec.field(name="w")
    first_ms: int = msgspec.field(name="f")
    last_ms: int = msgspec.field(name="t")
    recorded_at_ms: int = msgspec.field(name="r")
    count: int | None = msgspec.field(default=None, name="n")
    """How many fire times lie in it, where that could be told cheaply when it was recorded."""


Record = Run | Miss
"""An entry of a job's history."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def _base32(number: int) -> str:
    """The low 50 bits of ``number`` as 10 digits of Crockford's base 32, which sort as the numbers do."""
    return (
        _PAIRS[number >> 40 & 1023]
        + _PAIRS[number >> 30 & 1023]
        + _PAIRS[number >> 20 & 1023]
        + _PAIRS[number >> 10 & 1023]
        + _PAIRS[number & 1023]
    )


def run_id(at_ms: int, store_id: str, fence: int) -> str:
    """The id of a run that was first claimed at ``at_ms`` with ``fence``.

    26 characters that sort by time, shaped like a ULID. ``store_id`` (6 characters, drawn once per store) and the
    fence (never given twice by a store) make it unique. It is a pure function, so a node that takes over a claim
    arrives at the same id.
    """
    return _base32(at_ms) + store_id + _base32(fence)


def run_id_ms(text: str) -> int | None:
    """The instant at which the run with this id was first claimed or asked for; None if it is no id of a run."""
    digits = [_ALPHABET.find(digit) for digit in text]
    if len(digits) != 26 or min(digits) < 0:
        return None
    at_ms = 0
    for digit in digits[:10]:
        at_ms = at_ms << 5 | digit
    return at_ms


def random_run_id(at_ms: int) -> str:
    """The id of a run that was asked for at ``at_ms`` and has not been claimed yet."""
    return _base32(at_ms) + "".join(_ALPHABET[byte & 31] for byte in secrets.token_bytes(16))


def derived_run_id(at_ms: int, *parts: object) -> str:
    """The id of a run that is known to come at ``at_ms``, from what no other run has: the same whenever it is asked."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=13).digest()
    return _base32(at_ms) + "".join(_ALPHABET[byte & 31] for byte in digest[:6]) + _base32(int.from_bytes(digest[6:]))


def random_store_id() -> str:
    """Six characters that tell this store's runs from another's."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(6))


def keep_attempts(attempts: tuple[Attempt, ...], attempt: Attempt) -> tuple[Attempt, ...]:
    """``attempts`` with one more, of which the first and the latest are kept."""
    if len(attempts) < ATTEMPTS_KEPT:
        return (*attempts, attempt)
    return (attempts[0], *attempts[-(ATTEMPTS_KEPT - 2) :], attempt)
