"""``LoopStore``: the protocol with which a node works on a shard. Claims, settlements, heartbeats, reaping."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.index import IndexWrite
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.lease import Lease, LostCause
from scheduler_core.model.node import NodeFacts, StoredNode
from scheduler_core.model.pause import Pauses
from scheduler_core.model.transition import Transition
from scheduler_core.store.events import EventStore
from scheduler_core.store.jobs import Beside

REPLY_BYTES = 2 << 20
"""The most bytes of definitions and states in one reply (at least one job is returned). It costs Redis a few
milliseconds, and passes a slow link before the socket's timeout."""


class ClaimedJob(msgspec.Struct, frozen=True):
    """A claimed job as it is stored. ``fault``: which document cannot be read, and why."""

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
    """The earliest wake-up among the jobs that no node holds."""
    downtimes: tuple[Downtime, ...] | None
    """All recorded downtimes; None: none was added since the caller's last claim."""
    downtime_count: int
    must_beat: bool = False
    suspects_waiting: int = 0
    """The number of suspects of this shard that wait for a trial."""
    suspects: int = 0
    """The number of suspects of this shard, those on trial included."""
    targets_version: int | None = None
    """Grows with every change of a target; None: unknown."""
    burst: int = 0
    """How many jobs become due at about ``next_wake_ms``, or are due before it."""
    pauses: Pauses | None = None
    """The pauses of everything; None: as the caller knows them."""


class Head(msgspec.Struct, frozen=True):
    """What a claim would find: the beginning of the due set."""

    wake_ms: int | None
    """The next wake-up of a job that no node holds; None: there is no such job."""
    suspects: bool
    """Whether suspects may wait for a trial."""


class OwnLease(msgspec.Struct, frozen=True):
    """A lease of a node as it is stored."""

    job_id: str
    fence: int
    token: int
    """The number of the claim that created it."""
    first_claimed_at_ms: int


class Settlement(msgspec.Struct, frozen=True):
    """A claimed job to settle; made by ``LoopStore.settlement``, ``requeue`` or ``lost``.

    It is encoded once, so that it has the same tag when it is sent again. The store recognises it by that tag.
    """

    claim_key: str
    job_id: str
    encoded: Any
    """The encoded arguments, which only the store reads."""
    wake_ms: int | None = None
    """When the job is due again; None: only a client can wake it."""
    index: tuple[IndexWrite, ...] = ()
    """Writes to the index of jobs, made in the same step."""
    claimed: ClaimedJob | None = None
    step: Transition | None = None
    """What was encoded, for its events; None: the job is released unfinished."""


class Settled(msgspec.Struct, frozen=True):
    """The answer to a settlement: ``ok``, ``done`` (applied before), ``stale`` (another node has the lease), ``full``
    (the job has ``max_concurrent`` child runs; the lease stays), ``later`` (nothing was done, send it again) or
    ``changed``, with the stored job."""

    result: str
    stored: ClaimedJob | None = None


class Beat(msgspec.Struct, frozen=True):
    """The answer to a heartbeat."""

    downtime_count: int
    downtimes: tuple[Downtime, ...]
    nodes: int
    store_id: str
    redis_ms: float
    """Redis's clock when the heartbeat arrived, in epoch milliseconds."""
    alert_book: bytes = b""
    """Names the version of the alert rules and channels, on the first shard. Empty: none was ever stored."""


class Release(msgspec.Struct, frozen=True):
    """A client is about to change these jobs: a node that claimed one of them ahead of its wake-up releases it."""

    until_ms: int
    """How long the client waits. After that it changes the jobs as if their runs were open: do not release them."""
    claim_keys: tuple[str, ...]
    """Empty: all jobs. Everything is paused."""


class Sign(Enum):
    """A message of a subscription that is neither a wake-up nor a request."""

    SILENT = 1
    """The server has not answered a ping yet."""
    TARGETS_CHANGED = 2
    """A named target was changed: do not use one that was looked up before."""


class ReapTurn(Enum):
    """What the calling node must do about the leases of dead nodes."""

    TAKEN = 0
    """Nothing: another node has had the turn."""
    IDLE = 1
    """Nothing: no node has died."""
    SWEEP = 2
    """A node has died: reclaim its jobs."""
    AUDIT = 3
    """An audit is due: examine all leases, also those of unknown nodes."""


class LoopStore(EventStore, Protocol):
    """Claims and settles jobs, and records heartbeats. Every method that does I/O raises StoreUnavailable or
    StoreRefused."""

    async def claim(
        self,
        *,
        now_ms: int,
        limit: int,
        node: str,
        token: int,
        recent_ms: int,
        dead_after_ms: int,
        downtime_count: int,
        trial: bool = True,
        ahead_ms: int = 0,
        pause_version: int = 0,
    ) -> Claim:
        """Claim up to ``limit`` jobs that become due within ``ahead_ms``, fewer if their documents are large.

        ``token`` numbers the claims of this node, from 1. ``recent_ms``: half of the batch goes to jobs that became due
        in this time. ``trial``: suspects may be claimed (jobs whose runs were lost with ``SUSPECT_LOSSES`` nodes in a
        row). ``pause_version``: of the pauses of everything that the node knows. After StoreUnavailable with
        ``effect_unknown``, call ``recover``.
        """
        ...

    async def pauses(self) -> Pauses:
        """Read the pauses of everything."""
        ...

    async def head(self) -> Head:
        """Read the beginning of the due set. It takes a tenth of Redis's time for a claim."""
        ...

    async def recover(
        self, *, node: str, token: int, claimed_at_ms: int | None = None, reply_bytes: int = REPLY_BYTES
    ) -> list[ClaimedJob]:
        """Return the jobs of a claim whose reply was lost, and void that claim if it has not arrived yet.

        ``claimed_at_ms``: the ``now_ms`` of that claim; None: unknown, so all claimed jobs are examined. Jobs that do
        not fit into ``reply_bytes`` are released: they are due again. With 0, all are released.
        """
        ...

    async def leases_of(self, node: str, *, page: int = 500) -> list[OwnLease]:
        """Read all leases of a node, in pages. Leases that cannot be read are left out: the reaper voids them."""
        ...

    def settlement(self, claimed: ClaimedJob, transition: Transition | None) -> Settlement:
        """Encode the transition of a claimed job; None releases the job unfinished, due at once."""
        ...

    def requeue(self, claimed: ClaimedJob, wake_ms: int) -> Settlement:
        """Encode the release of a claimed job that is to be claimed again at ``wake_ms``."""
        ...

    def lost(self, claimed: ClaimedJob, cause: LostCause, at_ms: int) -> Settlement:
        """Encode the release of a claimed job whose request, begun at ``at_ms``, may have been sent."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Apply a batch of settlements; one answer each. Sending the same batch again changes nothing."""
        ...

    async def beside(self, job_id: str, claim_key: str) -> Beside:
        """Read what the next attempt of a child run needs besides its own documents."""
        ...

    async def children(self, job_id: str, *, limit: int = 1000) -> list[str]:
        """Return the claim keys of the open child runs of a job, oldest first."""
        ...

    async def secret(self) -> bytes:
        """Return the secret that signs tokens: 32 random bytes, drawn once for each shard.

        Read it for each token: a store that was emptied or restored has another one.
        """
        ...

    async def beat(
        self,
        *,
        node: str,
        now_ms: int,
        starting: bool,
        sole: bool,
        start_gap_ms: int,
        lived_gap_ms: int,
        forget_ms: int,
        store_id: str,
        facts: NodeFacts | None = None,
    ) -> Beat:
        """Record a heartbeat of ``node``, and its ``facts`` in the same step. ``store_id`` becomes the store's id if it
        has none."""
        ...

    async def stored_nodes(self) -> list[StoredNode]:
        """Return the nodes with a heartbeat within the last hour, those that are dead too."""
        ...

    async def leave(self, *, node: str, now_ms: int) -> int:
        """Remove the entry of a node that stops; return the number of nodes left."""
        ...

    async def take_reap_turn(self, *, now_ms: int, dead_after_ms: int, interval_ms: int, audit_ms: int) -> ReapTurn:
        """Ask for the turn to reap, which one node gets in each interval."""
        ...

    async def reap(self, *, now_ms: int, dead_after_ms: int, void_all: bool = False, page: int = 500) -> list[str]:
        """Reclaim the jobs of dead nodes (with ``void_all``, of all nodes); return their claim keys.

        Examines every claimed job, in pages, in the order of the claims.
        """
        ...

    async def dead_nodes(self, *, now_ms: int, dead_after_ms: int) -> list[str]:
        """Return the nodes whose heartbeats have ended since the latest complete sweep."""
        ...

    async def swept(self, *, until_ms: int, audited_at_ms: int | None = None) -> None:
        """Record that all leases were examined, and that those of nodes whose last heartbeat was before ``until_ms``
        were reclaimed."""
        ...

    async def time_ms(self) -> float:
        """Read the server's clock, in epoch milliseconds."""
        ...

    def wake_ups(self, *, ping_seconds: float) -> AsyncGenerator[int | Release | Sign | None]:
        """Yield wake-ups (epoch ms) that clients set and that come before all others, and requests to release jobs.

        The first item, None, means that the subscription is active; earlier messages are not received. A lost wake-up
        costs at most the longest sleep of the loop. SILENT follows within twice ``ping_seconds`` after the connection
        was cut, and None again if it works after all.
        """
        ...

    def runs_to_cut(self) -> AsyncGenerator[str | None]:
        """Yield ids of runs that were cancelled while their request was open. The first item, None, means that the
        subscription is active."""
        ...

    async def confirm_cut(self, run_id: str) -> None:
        """Confirm that the request of this run was aborted."""
        ...
