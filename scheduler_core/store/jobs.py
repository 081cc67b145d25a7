"""``JobStore``: the protocol with which use cases read, change, create and list the jobs of a shard."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol

import msgspec

from scheduler_core.base.errors import StoreRefused
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.pause import PauseEntry, Pauses
from scheduler_core.model.run import Original, Reason, Record, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.history import Stored


class Retention(msgspec.Struct, frozen=True):
    """The limits of a job's history: at most ``entries`` runs and misses, and ``failures`` unsuccessful runs that are
    older than these. All expire ``after_ms`` after the last entry."""

    entries: int = 100
    after_ms: int = 30 * 86_400_000
    failures: int = 100


class CompletedBounds(msgspec.Struct, frozen=True):
    """How many completed jobs are kept, and how long. The ids of jobs that were deleted when they completed have the
    same ``most`` and an age of their own."""

    age_ms: int = 30 * 86_400_000
    most: int = 100_000
    id_age_ms: int = 86_400_000


class StoredJob(msgspec.Struct, frozen=True):
    """A job as it was read, with the snapshot that a change is checked against."""

    snapshot: Snapshot
    tag: bytes
    lease_row: bytes
    downtimes: tuple[Downtime, ...]
    store_id: str
    fault: str | None = None
    children: int = 0
    """If no job is stored: the number of open child runs of an earlier job."""

    def as_of(self, now_ms: int) -> StoredJob:
        """Return the job as it is at ``now_ms`` (see ``Snapshot.as_of``)."""
        snapshot = self.snapshot.as_of(now_ms)
        return self if snapshot is self.snapshot else msgspec.structs.replace(self, snapshot=snapshot)


class Entry(msgspec.Struct, frozen=True):
    """The entry of a run in a job's list: the facts that stay known after its record was trimmed."""

    letter: str
    """The letter of its status."""
    run_id: str
    fire_time_ms: int
    reason: Reason
    original: Reason | None = None
    """Of a replay: ``scheduled`` if its fire time is one of the trigger, else ``manual``."""

    def bare(self) -> Run:
        """Return the run without its record."""
        state = RunState.SUCCEEDED if self.letter == "S" else RunState.FAILED
        original = None if self.original is None else Original("", self.original, self.fire_time_ms)
        return Run(
            self.run_id,
            self.fire_time_ms,
            self.reason,
            state,
            message="its record was trimmed",
            replay_of=original,
        )


class Beside(msgspec.Struct, frozen=True):
    """Data that the next attempt of a child run needs besides the run's own documents."""

    job: str
    """``same``: the job still has the definition that the run started with, apart from labels and description; else
    ``changed`` or ``gone``."""
    latest_success: Entry | None


class Answer(msgspec.Struct, frozen=True):
    """The answer to a change with an idempotency key, stored so that a repetition gets the same answer."""

    key: str
    content: bytes
    now_ms: int
    until_ms: int
    """When the answer expires. If too many answers are stored, the oldest are removed earlier."""


class Counts(msgspec.Struct, frozen=True):
    """Sizes for metrics and readiness."""

    jobs: int
    due: int
    claimed: int
    nodes: int
    suspects: int = 0
    """Suspects: runs that were lost with several nodes in a row, waiting for a trial or on trial."""


class StoredAccount(msgspec.Struct, frozen=True):
    """A job with its history, read in one step."""

    stored: StoredJob
    records: tuple[Record, ...]
    """Oldest first. Runs have only what their entries hold, no attempts."""
    forgotten_ms: int | None
    """The latest fire time that may have left the history; None: no history."""
    children: tuple[JobState, ...]

    @property
    def exists(self) -> bool:
        """Whether anything is stored under the id."""
        snapshot = self.stored.snapshot
        return not (snapshot.job is None and snapshot.state is None and self.stored.fault is None) or (
            self.forgotten_ms is not None
        )


class JobStore(Protocol):
    """Reads and changes the jobs of a shard for use cases.

    Every method raises StoreUnavailable or StoreRefused. A method that changes something raises OutcomeUnknown if the
    change was sent and not answered: it may be stored, but will not be stored later. After any other StoreError nothing
    is stored.
    """

    async def read(self, job_id: str) -> StoredJob:
        """Read a job (or a child run, by its claim key) in one step."""
        ...

    async def read_many(self, job_ids: Sequence[str]) -> list[StoredJob]:
        """Read up to 1000 jobs. Those that fit into one reply are read in one step."""
        ...

    async def page_ids(self, *, after: str, prefix: str, limit: int) -> list[str]:
        """Return up to ``limit`` job ids that start with ``prefix`` and follow ``after``, ordered by their
        bytes."""
        ...

    async def count_ids(self, *, after: str, prefix: str) -> int:
        """Count the job ids that start with ``prefix`` and follow ``after``."""
        ...

    async def children(self, job_id: str, *, limit: int = 1000) -> list[str]:
        """Return the claim keys of the open child runs of a job, oldest first."""
        ...

    async def create(self, new: Sequence[tuple[Job, JobState]]) -> list[StoredJob | Literal["large"] | None]:
        """Create each of these jobs (no id twice, at most 1000) whose id is free: no job, no tombstone and no open
        child run is stored under it.

        Returns None for each job that was created; for each other job the stored job, or ``large`` if that does not
        fit into the reply and must be read alone.
        """
        ...

    async def change(
        self, job_id: str, stored: StoredJob, transition: Transition, *, answer: Answer | None = None
    ) -> bool:
        """Apply a client's change if the job is still ``stored``; return whether it was applied.

        ``job_id`` may be the claim key of a child run. A change spawns no child run. ``answer`` is stored in the same
        step; if an answer is already stored under its key, nothing is applied. So is the mark of the transition; if the
        record of that run is not the one that was read, nothing is applied.
        """
        ...

    async def change_many(self, changes: Sequence[tuple[str, StoredJob, Transition]]) -> list[bool | StoreRefused]:
        """Apply changes of up to 250 different jobs, each as ``change`` does; each succeeds or fails alone."""
        ...

    async def beyond(self, bounds: CompletedBounds, *, now_ms: int, limit: int) -> list[str]:
        """Return up to ``limit`` ids of completed jobs beyond ``bounds``, and as many of jobs that were deleted when
        they completed; of each kind the oldest."""
        ...

    async def answer(self, key: str, *, now_ms: int) -> bytes | None:
        """Read the answer stored under this key (see ``Answer``)."""
        ...

    async def history(self, job_id: str, *, skip: int = 0, limit: int = 100) -> list[Record]:
        """Read settled runs and misses of a job, newest first, then the failures that were kept longer.

        Entries that cannot be read are left out. A run whose record was trimmed has only what its entry holds: id,
        fire time, reason and whether it succeeded.
        """
        ...

    async def history_entries(self, job_id: str, *, skip: int = 0, limit: int = 100) -> list[Record | None]:
        """Read as ``history`` does, with None for each unreadable entry: shorter than ``limit`` only at the end."""
        ...

    async def latest_runs(self, job_ids: Sequence[str], *, limit: int) -> list[list[Run]]:
        """Read up to ``limit`` of the latest entries of the history of each job, and return their runs, newest first.

        Misses are left out, and so are runs whose record was trimmed or cannot be read. Runs that have left the
        history are not read, although unsuccessful ones are kept longer: they would distort every rate.
        """
        ...

    async def failing(self, job_ids: Sequence[str]) -> list[int]:
        """Read how many runs of each of these jobs failed in a row, as the index of jobs has it; 0: none."""
        ...

    async def latest_success(self, job_id: str) -> Run | None:
        """Return the successful run with the latest fire time that the job's history still has."""
        ...

    async def settled_run(self, run_id: str) -> Run | None:
        """Read the record of a settled run; None: it was trimmed or never existed. Raises CorruptDocument."""
        ...

    async def settled_record(self, run_id: str) -> Stored | None:
        """Read the record of a settled run as it is stored, with the run's own payload; None: it is gone or cannot be
        read."""
        ...

    async def settled_runs(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Read the records of settled runs, by id. Records that were trimmed or cannot be read are left out."""
        ...

    async def read_account(self, job_id: str) -> StoredAccount:
        """Read a job with its history and its open child runs, in one step. Entries that cannot be read are left
        out."""
        ...

    async def secret(self) -> bytes:
        """Return the secret that signs tokens (see ``LoopStore.secret``)."""
        ...

    async def ask_to_release(self, claim_keys: Sequence[str], *, until_ms: int) -> None:
        """Publish that nodes which claimed these jobs ahead of their wake-up are to release them, if the message
        arrives before ``until_ms``. One message. Without claim keys, all jobs."""
        ...

    async def logged_pauses(self) -> Pauses:
        """Read the pauses of everything, with their entries."""
        ...

    async def change_pauses(
        self, known: Pauses, *, now_ms: int, begin: PauseEntry | None, until_ms: int | None = None, by: str = ""
    ) -> int | None:
        """Begin a pause of everything on this shard, which ends the one that runs; None: only end that.

        ``by`` ends it. Returns the instant of the change, which may lie a millisecond ahead; None: the pauses are not
        those that are ``known``, and nothing was changed.
        """
        ...

    async def held_jobs(self, *, now_ms: int, since_ms: int) -> tuple[int, int]:
        """Count the jobs that nodes hold, and those that they hold ahead of their wake-ups since ``since_ms``."""
        ...

    async def announce_changed_targets(self) -> None:
        """Publish that a named target was changed: nodes may have looked it up for jobs that they hold ahead."""
        ...

    async def ask_to_cut(self, run_id: str) -> None:
        """Ask the node that has the request of this run open to abort it."""
        ...

    def cut_runs(self) -> AsyncGenerator[str | None]:
        """Yield ids of runs whose requests nodes have aborted. The first item, None, means that the subscription is
        active."""
        ...
