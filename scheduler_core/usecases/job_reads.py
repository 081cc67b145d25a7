"""Reads jobs for clients: definition, state, runs and history."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import (
    JobNotFound,
)
from scheduler_core.model.health import (
    DEFAULT_RULES,
    PRECEDENCE,
    Health,
    HealthRules,
    failures_of,
    health_of,
    last_success_ms,
)
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import Failures, JobState, LastRun, Snapshot
from scheduler_core.model.lease import Lease
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Miss, Record, Run, RunState
from scheduler_core.model.transition import Transition, is_finished
from scheduler_core.plan.paused import pass_pauses, resume_in_time
from scheduler_core.store.jobs import JobStore, StoredJob

RECORDS_LOOKED_AT = 100
ENTRIES_EXAMINED = 2_000
"""A page of a job's runs examines at most this many entries of its history."""
ENTRIES_READ = 200


class ChildFacts(msgspec.Struct, frozen=True):
    """What the history and the open child runs of a job with ``overlap: allow`` say about its health."""

    failures: Failures
    """From the kept history: a bounded number of its latest runs."""
    mean_ms: float | None
    """The mean run time; None: no such run is kept."""
    children: tuple[JobView, ...] = ()

    def of_children(self, rules: HealthRules) -> list[Health]:
        """Return the health of the open child runs that are late or stuck."""
        found = [
            health_of(
                one.job,
                one.state,
                one.lease,
                now_ms=one.read_at_ms,
                rules=rules,
                paused=one.paused_by_all,
                mean_ms=self.mean_ms,
            )
            for one in self.children
        ]
        return [health for health in found if health in (Health.LATE, Health.STUCK)]


class JobView(msgspec.Struct, frozen=True):
    """A job as clients see it."""

    id: str
    job: Job | None
    """None when the stored definition cannot be read."""
    state: JobState
    lease: Lease | None
    """None also while a node holds the job ahead of its wake-up: no run is open then."""
    fault: str | None = None
    child_in_flight: Run | None = None
    """After a change of a job with ``overlap: allow``: its child run in flight with the latest fire time."""
    paused_by_all: bool = False
    """Whether a pause of everything holds its runs back. Its status stays as it is."""
    read_at_ms: int = 0
    """The instant for which the job is shown."""
    child_facts: ChildFacts | None = None
    """Only of a job with ``overlap: allow``, whose state does not know how its child runs ended."""

    @property
    def failures(self) -> Failures | None:
        """The failures in a row and the latest one; None: no run has failed."""
        return failures_of(self.state) if self.child_facts is None else self.child_facts.failures

    @property
    def last_success_ms(self) -> int | None:
        """When the latest successful run ended."""
        if self.child_facts is None:
            return last_success_ms(self.state)
        return self.child_facts.failures.success_ms

    def health(self, rules: HealthRules = DEFAULT_RULES) -> Health:
        """Return the health of the job; of a job with ``overlap: allow``, also of its child runs if they were read."""
        facts = self.child_facts
        if facts is None:
            return health_of(
                self.job, self.state, self.lease, now_ms=self.read_at_ms, rules=rules, paused=self.paused_by_all
            )
        own = health_of(
            self.job,
            self.state,
            self.lease,
            now_ms=self.read_at_ms,
            rules=rules,
            paused=self.paused_by_all,
            failures=facts.failures,
            mean_ms=facts.mean_ms,
        )
        return min((own, *facts.of_children(rules)), key=PRECEDENCE.index)

    @property
    def in_flight(self) -> Run | None:
        """After a change: the run that it met in flight, whose request is open or can no longer be stopped."""
        return run_in_flight(self.state) or self.child_in_flight

    @property
    def status(self) -> str:
        """One word: quarantined, running, paused, taken, retrying, completed or active; the first that applies."""
        if self.fault is not None or self.state.quarantine is not None:
            return "quarantined"
        if self.lease is not None and self.lease.node != "-":
            return "running"
        if self.state.paused_at_ms is not None:
            return "paused"
        if self.state.open is not None:
            return "taken" if self.state.open.state is RunState.TAKEN else "retrying"
        if any(entry.run is not None for entry in self.state.pending):
            return "retrying"
        completed = self.state.completed_at_ms is not None and is_finished(self.state)
        return "completed" if completed else "active"


class JobReader:
    """Reads jobs. Every method raises StoreUnavailable if Redis does not answer."""

    def __init__(self, store: JobStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    @property
    def store(self) -> JobStore:
        return self._store

    @property
    def clock(self) -> Clock:
        return self._clock

    async def children(self, job_id: str) -> list[JobView]:
        """Return the child runs of a job; empty without ``overlap: allow``."""
        claim_keys = await self._store.children(job_id)
        found = await self._store.read_many(claim_keys)
        now_ms = self._clock.now_ms()
        return [
            view_of(claim_key, stored, now_ms)
            for claim_key, stored in zip(claim_keys, found, strict=True)
            if exists(stored)
        ]

    async def get(self, job_id: str) -> JobView:
        """Return the job. Raises JobNotFound."""
        stored = await self._store.read(job_id)
        if not exists(stored):
            raise JobNotFound(job_id)
        return view_of(job_id, stored, self._clock.now_ms())

    async def history(self, job_id: str, *, skip: int = 0, limit: int = 100) -> list[Record]:
        """Return settled runs and misses of a job, newest first; also of a deleted job, until they are trimmed."""
        return await self._store.history(job_id, skip=skip, limit=limit)

    async def runs(self, job_id: str, *, skip: int, limit: int, misses: bool) -> tuple[list[Record], int | None]:
        """Return up to ``limit`` runs (with ``misses``, misses too) from the history entry ``skip`` on, and the entry
        at which the next page begins; None at the end.

        A page examines a bounded number of entries: it may be short or empty and still have a next page.
        """
        found: list[Record] = []
        at = skip
        while at - skip < ENTRIES_EXAMINED:
            wanted = limit - len(found) + 1 if at == skip or misses else ENTRIES_READ
            page = await self._store.history_entries(job_id, skip=at, limit=wanted)
            for record in page:
                if record is not None and (misses or not isinstance(record, Miss)):
                    if len(found) == limit:
                        return found, at
                    found.append(record)
                at += 1
            if len(page) < wanted:
                return found, None
        return found, at

    async def last_run(self, job_id: str) -> LastRun | None:
        """Return the latest settled run in the history, for a job with ``overlap: allow``, whose state does not have
        it."""
        for record in await self._store.history(job_id, limit=RECORDS_LOOKED_AT):
            if isinstance(record, Run):
                ended_at_ms = record.ended_at_ms or record.fire_time_ms
                return LastRun(record.id, record.fire_time_ms, record.state, ended_at_ms, record.last_status)
        return None


def run_in_flight(state: JobState | None) -> Run | None:
    """Return the run that a change stored as in flight, if it is not settled yet."""
    run = None if state is None else state.open
    return run if run is not None and run.in_flight else None


def latest_run(runs: Iterable[Run | None]) -> Run | None:
    """Return the run with the latest fire time; None: there is no run."""
    return max((run for run in runs if run is not None), key=lambda run: run.fire_time_ms, default=None)


def overlaps(stored: StoredJob) -> bool:
    """Return whether the job may have child runs."""
    job = stored.snapshot.job
    return job is not None and job.policies.overlap is Overlap.ALLOW


def exists(stored: StoredJob) -> bool:
    """Return whether a job is stored, readable or not."""
    return stored.fault is not None or stored.snapshot.job is not None


def view_of(job_id: str, stored: StoredJob, now_ms: int) -> JobView:
    """Return the view of a job as it was read."""
    return _view(job_id, stored.snapshot, now_ms, stored.fault)


def view_after(
    job_id: str, stored: StoredJob, transition: Transition | None, now_ms: int, child_in_flight: Run | None = None
) -> JobView:
    """Return the view of a job after a change (None: nothing was to change)."""
    before = stored.snapshot
    if transition is None:
        return _view(job_id, before, now_ms, stored.fault, child_in_flight)
    after = Snapshot(transition.job or before.job, transition.state, before.lease, before.pauses)
    return _view(job_id, after, now_ms, child_in_flight=child_in_flight)


def _view(
    job_id: str, snapshot: Snapshot, now_ms: int, fault: str | None = None, child_in_flight: Run | None = None
) -> JobView:
    seen = snapshot.as_of(now_ms)
    job, state = seen.job, seen.state or JobState()
    if state.pause is not None and job is not None:
        state = resume_in_time(job, state, now_ms=now_ms)[0]  # its next claim stores the resume
    if snapshot.pauses and job is not None and state.trigger_blocked_by is None:
        # The fire times of a pause of everything that is over become misses with the next claim.
        state = pass_pauses(job, state, snapshot.pauses, (), now_ms=now_ms)[0]
    paused_by_all = snapshot.paused_by_all(now_ms)
    return JobView(job_id, job, state, seen.lease, fault, child_in_flight, paused_by_all, now_ms)
