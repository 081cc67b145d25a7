"""What the loop of a node stores and reads: claims, settlements, heartbeats, leases."""

from __future__ import annotations

from enum import Enum

import msgspec

from scheduler_core.model.job import Downtime, Job, JobState, Lease

REPLY_BYTES = 2 << 20
"""How many bytes of definitions and states one script reads into its reply, at least one job: a few milliseconds of
Redis's time, and a reply that passes a slow link before the socket's timeout."""


class ClaimedJob(msgspec.Struct, frozen=True):
    """A job that a claim took, as it is stored. ``fault`` says what cannot be read."""

    id: str
    job: Job | None
    state: JobState | None
    lease: Lease
    tag: bytes
    fault: str | None = None


class Claim(msgspec.Struct, frozen=True):
    """The answer to a claim."""

    jobs: list[ClaimedJob]
    next_wake_ms: int | None
    """The earliest wake-up among the jobs that nobody holds."""
    downtimes: tuple[Downtime, ...] | None
    """Set when they are others than the caller knows."""
    downtime_count: int
    must_beat: bool = False
    suspects_waiting: int = 0
    """How many suspects wait for a trial in this shard, ..."""
    suspects: int = 0
    """... and how many there are, with those that are tried now."""
    targets_version: int | None = None
    """Raised with every change of a target; None: unknown."""


class OwnLease(msgspec.Struct, frozen=True):
    """A job that a node holds, as Redis has it."""

    job_id: str
    fence: int
    token: int
    """The number of the claim that took it."""
    first_claimed_at_ms: int


class Settled(msgspec.Struct, frozen=True):
    """The answer to a settlement: ``ok``, ``done``, ``stale``, ``full`` (the job has as many runs at once as it may;
    the lease stays), ``later`` (nothing was done, send it again) or ``changed``, with what is stored."""

    result: str
    stored: ClaimedJob | None = None


class Beat(msgspec.Struct, frozen=True):
    """The answer to a heartbeat."""

    downtime_count: int
    downtimes: tuple[Downtime, ...]
    nodes: int
    store_id: str
    redis_ms: float
    """Redis's clock when the beat arrived, in epoch milliseconds."""


class ReapTurn(Enum):
    """What the node that asks has to do about the leases of dead nodes."""

    TAKEN = 0
    """Nothing: another node has had the turn."""
    IDLE = 1
    """Nothing: no node has died."""
    SWEEP = 2
    """A node has died: give back what it held."""
    AUDIT = 3
    """It is time to look for leases that the beats of nodes say nothing about."""
