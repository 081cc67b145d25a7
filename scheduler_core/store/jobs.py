"""What clients store and read of jobs."""

from __future__ import annotations

import msgspec

from scheduler_core.model.job import Downtime, JobState, Snapshot
from scheduler_core.model.run import Reason, Record, Run, RunState


class Retention(msgspec.Struct, frozen=True):
    """How much history a job keeps: ``entries`` runs and misses, and ``failures`` runs that left these and did not
    succeed; nothing of it when ``after_ms`` have passed since the last entry."""

    entries: int = 100
    after_ms: int = 30 * 86_400_000
    failures: int = 100


class StoredJob(msgspec.Struct, frozen=True):
    """A job as read for a change, with what the change is checked against."""

    snapshot: Snapshot
    tag: bytes
    lease_row: bytes
    downtimes: tuple[Downtime, ...]
    store_id: str
    fault: str | None = None
    children: int = 0
    """Where there is no job: how many runs of an earlier one, which allowed overlap, are open."""


class Entry(msgspec.Struct, frozen=True):
    """An entry of a job's list that stands for a run: what is known of it even when its record was trimmed."""

    letter: str
    """Of its status."""
    run_id: str
    fire_time_ms: int
    reason: Reason

    def bare(self) -> Run:
        """The run without its record."""
        state = RunState.SUCCEEDED if self.letter == "S" else RunState.FAILED
        return Run(self.run_id, self.fire_time_ms, self.reason, state, message="its record was trimmed")


class Beside(msgspec.Struct, frozen=True):
    """What is stored beside a run of a job that allows overlap."""

    job: str
    """``same``: the job is the one that the run was made from; ``changed`` or ``gone``: it is not."""
    latest_success: Entry | None


class Answer(msgspec.Struct, frozen=True):
    """The answer to a change that is asked for once, kept so that a repetition is answered the same."""

    key: str
    content: bytes
    now_ms: int
    until_ms: int
    """How long it is kept, unless there are very many."""


class Counts(msgspec.Struct, frozen=True):
    """Sizes for metrics and readiness."""

    jobs: int
    due: int
    claimed: int
    nodes: int
    suspects: int = 0
    """Runs that are tried, or wait for a trial, because they were lost with several nodes."""


class StoredAccount(msgspec.Struct, frozen=True):
    """A job with its history, all of one moment."""

    stored: StoredJob
    records: tuple[Record, ...]
    """Oldest first. Runs are bare: what their entry tells, without attempts."""
    forgotten_ms: int | None
    """The latest fire time that may have left the history; None: there is no history."""
    children: tuple[JobState, ...]

    @property
    def exists(self) -> bool:
        """Whether anything is known under the id."""
        snapshot = self.stored.snapshot
        return not (snapshot.job is None and snapshot.state is None and self.stored.fault is None) or (
            self.forgotten_ms is not None
        )
