"""``HistoryStore``: the protocol for the runs of all jobs of a shard. List, totals, trimming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace

from scheduler_core.model.run import Reason, Run, RunDetail, RunState
from scheduler_core.model.status import RunStatus
from scheduler_core.model.transition import Mark


class Place(msgspec.Struct, frozen=True, order=True):
    """The position of a run in the list of runs. The list begins with the largest place."""

    at_ms: int
    """Start of the run; its end if it never started."""
    member: bytes
    """Orders equal instants: the run's id, or the claim key of a run that is not settled."""


class Candidate(msgspec.Struct, frozen=True):
    """A possible row of the list: a settled run, or a claim key with a run that is not settled."""

    place: Place
    is_settled: bool
    waits: bool = False
    """For a claim key: its run waits for a retry or a callback; otherwise a node holds it."""

    @property
    def name(self) -> str:
        return self.place.member.decode()


class Query(msgspec.Struct, frozen=True):
    """A filter of the list. Bounds are inclusive and apply to the start of a run."""

    status: RunStatus | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    state: RunState | None = None
    reason: Reason | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    """Labels that the job of a run has now: key, and value or None for any. State, reason and labels have no index of
    runs: the runs that match the other fields are read and filtered."""
    is_settled: bool = False
    """Only settled runs."""

    @property
    def looks_at_runs(self) -> bool:
        """Whether it filters by a field that has no index."""
        return self.state is not None or self.reason is not None or bool(self.labels)

    def takes(self, run: Run) -> bool:
        """Return whether state and reason match."""
        return self.state in (None, run.state) and self.reason in (None, run.reason)

    def covers(self, place: Place) -> bool:
        """Return whether a place is within the bounds."""
        low = 0 if self.start_ms is None else self.start_ms
        return low <= place.at_ms and (self.end_ms is None or place.at_ms <= self.end_ms)


class Stored(msgspec.Struct, frozen=True):
    """A settled run."""

    job_id: str
    run: Run
    detail: RunDetail | None = None
    raw: bytes = b""
    """The record as it is stored; only of a run that was read alone."""


class RunTotals(msgspec.Struct, frozen=True):
    """Totals of all runs that were ever settled, also of those whose records were trimmed."""

    by_status: dict[RunStatus, int]
    latency_ms: float
    """The sum over the last attempts of ``timed`` runs."""
    timed: int
    last_hour: int
    """Runs that started in this minute or in the 59 before it."""
    stored: int
    """Runs whose records are stored."""
    stored_bytes: int

    @property
    def runs(self) -> int:
        return sum(self.by_status.values())

    @property
    def success_rate(self) -> float:
        """The share of successes in percent, with two decimals; 0 without runs."""
        return round(100 * self.by_status[RunStatus.SUCCESS] / self.runs, 2) if self.runs else 0.0

    @property
    def avg_latency_ms(self) -> float | None:
        return self.latency_ms / self.timed if self.timed else None


def sum_of(totals: Sequence[RunTotals]) -> RunTotals:
    """Add up the totals of several shards."""
    return RunTotals(
        by_status={status: sum(one.by_status[status] for one in totals) for status in RunStatus},
        latency_ms=sum(one.latency_ms for one in totals),
        timed=sum(one.timed for one in totals),
        last_hour=sum(one.last_hour for one in totals),
        stored=sum(one.stored for one in totals),
        stored_bytes=sum(one.stored_bytes for one in totals),
    )


class Bounds(msgspec.Struct, frozen=True):
    """How many runs of all jobs are kept, successes and failures separately."""

    success_age_ms: int = 7 * 86_400_000
    failure_age_ms: int = 30 * 86_400_000
    successes: int = 1_000_000
    failures: int = 1_000_000
    bytes: int = 512 << 20


def place_of(run: Run) -> Place:
    """Return the place of a settled run in the list."""
    at_ms = run.started_at_ms if run.started_at_ms is not None else run.ended_at_ms
    return Place(run.fire_time_ms if at_ms is None else at_ms, run.id.encode())


def mark_of(settled: Stored, new_id: str) -> Mark:
    """Return the note in the record of a settled run, which was read alone, that the run ``new_id`` runs it again."""
    return Mark(replace(settled.run, replayed_by=new_id, payload=None), settled.raw)


class HistoryStore(Protocol):
    """Lists and trims the runs of all jobs of a shard. Every method raises StoreUnavailable or StoreRefused."""

    async def candidates(self, query: Query, *, before: Place | None, count: int) -> list[Candidate]:
        """Return the first ``count`` places of the list that match ``query``, after ``before``.

        Unsettled runs are read first, so that a run that is settled in between is found twice rather than not at all.
        """
        ...

    async def records(self, run_ids: Sequence[str]) -> list[Stored | None]:
        """Read settled runs; None for one that is gone or cannot be read."""
        ...

    async def record(self, run_id: str) -> Stored | None:
        """Read a settled run with its own payload, if it had one, and with what its last attempt sent and received, as
        far as that was kept."""
        ...

    async def places_of_job(self, job_id: str, query: Query) -> list[Place]:
        """Return the places of all settled runs of a job that match ``query``, unordered."""
        ...

    async def claim_keys_from(self, at_ms: int, *, limit: int) -> tuple[list[Candidate], int | None]:
        """Return claim keys with an unsettled run that started, or was requested, at ``at_ms`` or later: up to
        ``limit`` of each kind, the earliest ones. Also returns the instant at which to continue; None: there are no
        more."""
        ...

    async def totals(self, *, now_ms: int) -> RunTotals:
        """Read the totals of all runs ever settled; trimming does not change them."""
        ...

    async def sweep(self, bounds: Bounds, *, now_ms: int, page: int = 500) -> tuple[int, bool]:
        """Trim one page of the runs beyond ``bounds``; return how many were trimmed and whether more may be left."""
        ...
