"""What clients do with jobs: read, plan, write; again if the job changed in between.

Needs no node: an API process and a node share nothing but Redis.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from scheduler_core.clock import Clock
from scheduler_core.errors import JobNotFound, RunConflict, StoreUnavailable
from scheduler_core.events import JOB_DELETED, JOB_PAUSED, JOB_RESUMED, JOB_UPSERTED, get_logger
from scheduler_core.job import Job, JobState, Lease, Pending, Snapshot
from scheduler_core.metrics import Metrics
from scheduler_core.plan.change import plan_delete, plan_pause, plan_resume, plan_run_now, plan_upsert
from scheduler_core.run import Record, random_run_id
from scheduler_core.services.settle import report_record
from scheduler_core.store.redis_store import RedisStore, StoredJob
from scheduler_core.transition import Transition
from scheduler_core.trigger import check_fires_again, compile_trigger

log = get_logger(__name__)

TRIES = 32
"""Each failed try means that another change or a fire of this very job came first."""
PAGE_EXAMINES = 1000
"""How many jobs one page of a filtered list looks at; it may then be short, and its cursor goes on from there."""


class JobView(msgspec.Struct, frozen=True):
    """A job as clients see it."""

    id: str
    job: Job | None
    """None when the stored definition cannot be read."""
    state: JobState
    lease: Lease | None
    fault: str | None = None

    @property
    def status(self) -> str:
        """One word: quarantined, running, retrying, paused or active."""
        if self.fault is not None or self.state.quarantine is not None:
            return "quarantined"
        if self.lease is not None and self.lease.node != "-":
            return "running"
        if self.state.open is not None:
            return "retrying"
        return "paused" if self.state.paused_at_ms is not None else "active"


class Page(msgspec.Struct, frozen=True):
    """Part of a list. ``cursor``: where the next page begins; None at the end."""

    jobs: list[JobView]
    cursor: str | None


class JobService:
    """Every method raises StoreUnavailable or StoreRefused when Redis does not do its part; nothing is changed then,
    or, if the answer was lost, the change is made as a whole."""

    def __init__(self, store: RedisStore, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics

    async def upsert(self, job: Job) -> tuple[JobView, bool]:
        """Store the job under its id; the job as stored, and whether anything changed.

        Raises InvalidInput if its trigger never fires again.
        """

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            old, state = stored.snapshot.job, stored.snapshot.state
            if old is None or old.trigger != job.trigger or state is None or state.next_fire_ms is None:
                if stored.fault is None and old is not None and old.same_definition(job):
                    return None  # its last run is not settled yet; nothing changes
                check_fires_again(compile_trigger(job.trigger), now_ms)
            snapshot = stored.snapshot
            if stored.fault is not None:
                snapshot = Snapshot(None, None, snapshot.lease)
            return plan_upsert(job, snapshot, now_ms=now_ms, downtimes=stored.downtimes, store_id=stored.store_id)

        stored, transition = await self._change(job.id, plan)
        if transition is None:
            return _view(job.id, stored), False
        log.info(JOB_UPSERTED, job_id=job.id, version=transition.job.version if transition.job else None)
        return _changed(job.id, stored, transition), True

    async def delete(self, job_id: str) -> None:
        """Remove the job. Raises JobNotFound."""

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            if stored.fault is not None:
                return Transition(None, remove=True)
            return plan_delete(stored.snapshot, now_ms=now_ms, downtimes=stored.downtimes, store_id=stored.store_id)

        _, transition = await self._change(job_id, plan)
        if transition is None:
            raise JobNotFound(job_id)
        log.info(JOB_DELETED, job_id=job_id)

    async def pause(self, job_id: str) -> JobView:
        """Hold the trigger. A job that is paused stays so. Raises JobNotFound."""

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            return plan_pause(stored.snapshot, now_ms=now_ms, downtimes=stored.downtimes, store_id=stored.store_id)

        view, changed = await self._change_existing(job_id, plan)
        if changed:
            log.info(JOB_PAUSED, job_id=job_id)
        return view

    async def resume(self, job_id: str) -> JobView:
        """Let the trigger go on, without catching up; revive a quarantined job. Raises JobNotFound."""

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            return plan_resume(stored.snapshot, now_ms=now_ms)

        view, changed = await self._change_existing(job_id, plan)
        if changed:
            log.info(JOB_RESUMED, job_id=job_id)
        return view

    async def run_now(self, job_id: str, *, force: bool = False, payload: bytes | None = None) -> str:
        """Ask for a run at once; its id. ``force`` queues behind a run that is not settled.

        Raises JobNotFound and RunConflict.
        """
        run_id = ""

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            nonlocal run_id
            entry = Pending(random_run_id(now_ms), now_ms, payload)
            run_id = entry.run_id
            return plan_run_now(
                stored.snapshot, entry, force=force, downtimes=stored.downtimes, store_id=stored.store_id
            )

        await self._change_existing(job_id, plan)
        return run_id

    async def get(self, job_id: str) -> JobView:
        """Raises JobNotFound."""
        stored = await self._store.read(job_id)
        if not _exists(stored):
            raise JobNotFound(job_id)
        return _view(job_id, stored)

    async def page(self, *, cursor: str = "", prefix: str = "", status: str | None = None, limit: int = 100) -> Page:
        """Jobs in the order of their ids, from after ``cursor``: those that start with ``prefix`` and have ``status``.

        A page with a ``status`` looks at a bounded number of jobs, so it may be short and still not be the last.
        """
        found: list[JobView] = []
        examined = 0
        while len(found) < limit and examined < PAGE_EXAMINES:
            wanted = min(limit if status is None else PAGE_EXAMINES, limit - len(found) if status is None else 200)
            ids = await self._store.page_ids(after=cursor, prefix=prefix, limit=wanted)
            for job_id, stored in zip(ids, await self._store.read_many(ids), strict=True):
                cursor = job_id
                examined += 1
                if not _exists(stored):
                    continue  # deleted between the two reads
                view = _view(job_id, stored)
                if status is None or view.status == status:
                    found.append(view)
                if len(found) >= limit:
                    return Page(found, cursor)
            if len(ids) < wanted:
                return Page(found, None)
        return Page(found, cursor)

    async def history(self, job_id: str, *, skip: int = 0, limit: int = 100) -> list[Record]:
        """Settled runs and misses of a job, newest first; also of one that is gone, until they are trimmed."""
        return await self._store.history(job_id, skip=skip, limit=limit)

    async def _change_existing(
        self, job_id: str, plan: Callable[[StoredJob, int], Transition | None]
    ) -> tuple[JobView, bool]:
        def checked(stored: StoredJob, now_ms: int) -> Transition | None:
            if not _exists(stored):
                raise JobNotFound(job_id)
            if stored.fault is not None:
                raise RunConflict(f"the stored job cannot be read ({stored.fault}): put it again or delete it")
            return plan(stored, now_ms)

        stored, transition = await self._change(job_id, checked)
        if transition is None:
            return _view(job_id, stored), False
        return _changed(job_id, stored, transition), True

    async def _change(
        self, job_id: str, plan: Callable[[StoredJob, int], Transition | None]
    ) -> tuple[StoredJob, Transition | None]:
        for _ in range(TRIES):
            stored = await self._store.read(job_id)
            transition = plan(stored, self._clock.now_ms())
            if transition is None:
                return stored, None
            if await self._store.change(job_id, stored, transition):
                for record in transition.records:
                    report_record(self._metrics, job_id, record)
                return stored, transition
        raise StoreUnavailable(f"job {job_id!r} changes too often to be changed now")


def _exists(stored: StoredJob) -> bool:
    return stored.fault is not None or stored.snapshot.job is not None


def _view(job_id: str, stored: StoredJob) -> JobView:
    snapshot = stored.snapshot
    return JobView(job_id, snapshot.job, snapshot.state or JobState(), snapshot.lease, stored.fault)


def _changed(job_id: str, stored: StoredJob, transition: Transition) -> JobView:
    return JobView(job_id, transition.job or stored.snapshot.job, transition.state or JobState(), stored.snapshot.lease)
