"""Runs, attempts and misses.

A fire time of a job becomes a run or lies in a miss. Both are entries of the job's history, in the order in which they
were settled. Together they form the account of the job.
"""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum
from typing import Final

import msgspec

from scheduler_core.model.outcome import OutcomeKind

NEXT_FIRE_TIME: Final = "next_fire_time"
"""``Run.ended_by`` of a run that ended because the next fire time started a new run."""
ATTEMPTS_KEPT = 10
"""A run's record keeps this many attempts: the first and the latest ones. ``Run.attempt`` counts all."""


class Reason(StrEnum):
    """Why a run exists."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"
    CONTINUATION = "continuation"
    """Requested by the answer of an earlier run, or put into the pending list by a client."""
    RECOVERY = "recovery"
    BACKFILL = "backfill"
    """A past fire time that a client requested again."""
    REPLAY = "replay"
    """A settled run that a client requested again, with the same fire time."""


_IN_TIME = frozenset({Reason.SCHEDULED, Reason.MANUAL, Reason.CONTINUATION})
"""Reasons of runs that exist at their fire time or before it."""


class RunState(StrEnum):
    """The state of a run. ``open``, ``retrying`` and ``taken`` are not settled; all others are final."""

    OPEN = "open"
    RETRYING = "retrying"
    TAKEN = "taken"
    """The runner accepted it and reports its end later (completion by callback)."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CONFLICT = "conflict"
    SUPERSEDED = "superseded"
    """The next fire time overtook it before any attempt had failed."""
    CANCELLED = "cancelled"
    LOST = "lost"


class MissReason(StrEnum):
    """Why fire times did not become runs."""

    OVERLAP = "overlap"
    """They passed while the previous run was not settled."""
    COALESCED = "coalesced"
    """They passed while all nodes were busy or the target was at its limit; one late run covers them."""
    DOWNTIME = "downtime"
    """They passed while no node was alive."""
    PAUSED = "paused"
    REPLACED = "replaced"
    """They were due but had not fired yet when the job's trigger was changed."""
    QUARANTINED = "quarantined"
    HELD = "held"
    """A continuation blocked the trigger."""
    EXPIRED = "expired"
    """They passed while no node was alive and exceed the limits of the job's recovery."""
    BREAKER = "breaker"
    """They passed while the circuit breaker of the job's target held its run back."""


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One ended request of a run."""

    number: int
    fence: int
    started_at_ms: int
    latency_ms: float
    outcome: OutcomeKind
    status: int | None = None
    message: str = ""


class Original(msgspec.Struct, frozen=True, array_like=True):
    """The settled run that a replay runs again."""

    run_id: str
    """Empty if the record of the replay was trimmed."""
    reason: Reason
    """Its reason; if it was a replay itself, that of the first run of the chain. Never ``replay``."""
    fire_time_ms: int

    @property
    def is_of_trigger(self) -> bool:
        """Whether its fire time is one of the trigger."""
        return self.reason not in (Reason.MANUAL, Reason.CONTINUATION)


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
    """How many attempts failed in a way that is retried with growing delays (conflicts do not count)."""
    attempts: tuple[Attempt, ...] = msgspec.field(default=(), name="a")
    retry_at_ms: int | None = msgspec.field(default=None, name="t")
    """When the next attempt is due; None unless ``state`` is ``retrying``."""
    conflict: bool = msgspec.field(default=False, name="c")
    """Whether the last answer was 409. The run is tried again until the runner accepts it."""
    in_flight: bool = msgspec.field(default=False, name="l")
    """Set only if the job was changed while a node executed this run; otherwise the lease shows it."""
    detached: bool = msgspec.field(default=False, name="d")
    """The job was changed, paused or deleted since the run started: its result is recorded, but it is not retried."""
    payload: bytes | None = msgspec.field(default=None, name="p")
    """The run's own payload; None: the job's payload."""
    message: str = msgspec.field(default="", name="m")
    """Why it ended in this state, for people."""
    excerpt: str = msgspec.field(default="", name="o")
    """The first bytes of the last answer's body, kept when the run did not succeed."""
    method: str = msgspec.field(default="POST", name="h")
    url: str = msgspec.field(default="", name="u")
    """The URL of the last attempt."""
    answer_bytes: int | None = msgspec.field(default=None, name="z")
    """How many bytes of the last answer's body were read; None: no answer."""
    completed: RunState | None = msgspec.field(default=None, name="y")
    """The final state that the runner reported by callback while the request was open. It overrides the answer."""
    progress: float | None = msgspec.field(default=None, name="g")
    """From 0 to 1, from the runner's latest heartbeat."""
    note: str = msgspec.field(default="", name="q")
    heartbeat_at_ms: int | None = msgspec.field(default=None, name="j")
    """When the runner's latest heartbeat arrived."""
    on_demand: bool = msgspec.field(default=False, name="as")
    """Whether the run comes from the pending list or a replay. It waits for its retry in the pending list and does not
    block the trigger."""
    list_replaced: bool = msgspec.field(default=False, name="lr")
    """The pending list was replaced while the run was in flight: continuations in its answer are dropped."""
    run_timeout_ms: int | None = msgspec.field(default=None, name="rt")
    """Once taken: the time within which it must be completed."""
    heartbeat_timeout_ms: int | None = msgspec.field(default=None, name="ht")
    """Once taken: the longest time without a heartbeat; None: no heartbeat is expected."""
    taken_at_ms: int | None = msgspec.field(default=None, name="ta")
    """When the runner accepted it; None: not accepted yet, or the answer itself completes the run."""
    ended_by: str = msgspec.field(default="", name="eb")
    """``NEXT_FIRE_TIME``, or empty: the run ended by itself."""
    replay_of: Original | None = msgspec.field(default=None, name="ro")
    """Of a replay: the run that it runs again."""
    replayed_by: str = msgspec.field(default="", name="rb")
    """Of a settled run: the id of the latest run that runs it again. The only field that changes after the end."""

    @property
    def has_failed_attempt(self) -> bool:
        """Whether an attempt of this run, which waits for its next one, failed. A 409 is no failure: the runner was
        busy."""
        return self.failures > 0 or (self.attempt > 0 and not self.conflict)

    @property
    def is_settled(self) -> bool:
        return self.state not in (RunState.OPEN, RunState.RETRYING, RunState.TAKEN)

    @property
    def is_set_aside_on_failure(self) -> bool:
        """Whether its pending entry is set aside if it fails for good: a continuation, or the replay of one."""
        original = self.replay_of
        return (self.reason if original is None else original.reason) is Reason.CONTINUATION

    @property
    def lateness_ms(self) -> int | None:
        """The time from the fire time to the start of the first attempt. None for backfills, recoveries and
        replays: their fire time had passed before the run existed."""
        if self.started_at_ms is None or self.reason not in _IN_TIME:
            return None
        return self.started_at_ms - self.fire_time_ms

    @property
    def last_status(self) -> int | None:
        """The HTTP status of the last attempt, if it was answered."""
        return self.attempts[-1].status if self.attempts else None


class RunDetail(msgspec.Struct, frozen=True, array_like=True):
    """Request and answer of a settled run's last attempt: bounded, and stored beside the run's record."""

    request_headers: tuple[tuple[str, str], ...] = ()
    """Secret values are masked."""
    request_body: bytes = b""
    response_headers: tuple[tuple[str, str], ...] = ()
    response_body: bytes = b""
    payload: bytes | None = None
    """The run's own payload, whole; None: it had the payload of the job. Read as ``Run.payload``."""


class Miss(msgspec.Struct, frozen=True, omit_defaults=True, tag="m", tag_field="k"):
    """A range of fire times that did not become runs. Both bounds are fire times and belong to the range."""

    reason: MissReason = msgspec.field(name="w")
    first_ms: int = msgspec.field(name="f")
    last_ms: int = msgspec.field(name="t")
    recorded_at_ms: int = msgspec.field(name="r")
    count: int | None = msgspec.field(default=None, name="n")
    """How many fire times lie in it; None: counting them was too expensive."""


Record = Run | Miss
"""An entry of a job's history."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def _base32(number: int) -> str:
    """Return the low 50 bits of ``number`` as 10 digits of Crockford's base 32, which sort as the numbers do."""
    return (
        _PAIRS[number >> 40 & 1023]
        + _PAIRS[number >> 30 & 1023]
        + _PAIRS[number >> 20 & 1023]
        + _PAIRS[number >> 10 & 1023]
        + _PAIRS[number & 1023]
    )


def run_id(at_ms: int, store_id: str, fence: int) -> str:
    """Return the id of a run that was first claimed at ``at_ms`` with ``fence``.

    26 characters that sort by time, shaped like a ULID. ``store_id`` (6 characters, drawn once per store) and the
    fence (a store never issues one twice) make it unique. The function is pure, so a node that takes over a claim
    computes the same id. (A ULID library would draw a random one.)
    """
    return _base32(at_ms) + store_id + _base32(fence)


def run_id_ms(text: str) -> int | None:
    """Return the instant at which the run was first claimed or requested; None if ``text`` is no run id."""
    digits = [_ALPHABET.find(digit) for digit in text]
    if len(digits) != 26 or min(digits) < 0:
        return None
    at_ms = 0
    for digit in digits[:10]:
        at_ms = at_ms << 5 | digit
    return at_ms


def random_run_id(at_ms: int) -> str:
    """Return the id of a run that was requested at ``at_ms`` and has not been claimed yet."""
    return _base32(at_ms) + "".join(_ALPHABET[byte & 31] for byte in secrets.token_bytes(16))


def derived_run_id(at_ms: int, *parts: object) -> str:
    """Return the id of a run due at ``at_ms``, derived from ``parts``, which no other run has. Repeatable."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=13).digest()
    return _base32(at_ms) + "".join(_ALPHABET[byte & 31] for byte in digest[:6]) + _base32(int.from_bytes(digest[6:]))


def random_store_id() -> str:
    """Return six characters that distinguish this store's runs from another store's."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(6))


def keep_attempts(attempts: tuple[Attempt, ...], attempt: Attempt) -> tuple[Attempt, ...]:
    """Return ``attempts`` with one more, cut to the first and the latest ones."""
    if len(attempts) < ATTEMPTS_KEPT:
        return (*attempts, attempt)
    return (attempts[0], *attempts[-(ATTEMPTS_KEPT - 2) :], attempt)
