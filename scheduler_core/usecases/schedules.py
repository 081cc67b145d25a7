"""Creates, reads, changes and deletes schedules, and keeps the job and the catalogue of a schedule equal.

A schedule is a job; the node's loops execute its runs. The catalogue has its unique name, its target and the counts by
status. Job and catalogue are written one after the other:

* create: reserve name and id, write the job, commit. The schedule is invisible until the commit.
* change name or target: first the catalogue, which decides, then the job.
* change timing, pause, resume: first the job, which decides, then the catalogue. After writing the catalogue, read the
  job again, so that the later of two concurrent changes leaves both equal.
* delete: first the job, then the catalogue, so that a name becomes free only when its job is gone.

Each step can be repeated, and ``catalogue_sweep`` completes interrupted operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import (
    DuplicateName,
    JobNotFound,
    OutcomeUnknown,
    RunConflict,
    ScheduleNotFound,
    StoreError,
    StoreUnavailable,
    TargetNotFound,
    WrongStatus,
)
from scheduler_core.base.events import (
    JOB_UPSERTED,
    SCHEDULES_SWEPT,
    get_logger,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import (
    ScheduleStatus,
    ScheduleType,
    Timing,
    check_timing,
    end_of,
    is_paused,
    job_id_of,
    job_of_schedule,
    schedule_status,
    timing_of,
    with_timing,
)
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import Run
from scheduler_core.model.transition import Transition
from scheduler_core.plan.change import plan_upsert
from scheduler_core.store.catalogue import CatalogueCounts, Row, draw_token
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.triggers.trigger import IntervalSpec
from scheduler_core.usecases.catalogue_steps import TRIES, read_target, repeat_if_unknown
from scheduler_core.usecases.job_reads import JobView, exists, view_after, view_of
from scheduler_core.usecases.jobs import JobService

log = get_logger(__name__)

PATIENCE_MS = 1_000
"""How long a name stays reserved for a new schedule. Also the ``Retry-After`` of a request that must be repeated."""
EXAMINED = 20_000
"""A page of one status examines at most this many schedules; it may be short, and its cursor continues there."""
LOOK_AT = 1_000


class Schedule(msgspec.Struct, frozen=True):
    """A schedule as clients see it."""

    id: int
    view: JobView
    now_ms: int

    @property
    def status(self) -> ScheduleStatus:
        """The status; an unreadable schedule counts as paused."""
        if self.view.job is None or not isinstance(self.view.job.trigger, IntervalSpec):
            return ScheduleStatus.PAUSED
        return schedule_status(self.view.job, self.view.state, self.now_ms)


class ScheduleChange(msgspec.Struct, frozen=True):
    """A client's change; None: keep the value."""

    name: str | None = None
    target_id: int | None = None
    type: ScheduleType | None = None
    interval_seconds: int | None = None
    duration_seconds: int | None = None

    def timing(self, job: Job) -> Timing:
        """Return the timing of ``job`` after this change. Raises InvalidInput."""
        old = timing_of(job)
        return check_timing(
            self.type or old.type,
            old.interval_seconds if self.interval_seconds is None else self.interval_seconds,
            old.duration_seconds if self.duration_seconds is None else self.duration_seconds,
        )

    def applied(self, job: Job, state: JobState, now_ms: int) -> Job:
        """Return ``job`` after this change. Raises InvalidInput, and WrongStatus for a new timing of a stopped
        schedule: only its name and target can change, it never runs again."""
        timing = self.timing(job)
        if timing != timing_of(job):
            if schedule_status(job, state, now_ms) is ScheduleStatus.STOPPED:
                raise WrongStatus("the schedule has stopped and does not run again; create another one")
            job = with_timing(job, timing, now_ms=now_ms)
        return replace(
            job,
            name=job.name if self.name is None else self.name,
            target_id=job.target_id if self.target_id is None else self.target_id,
        )


class SchedulePage(msgspec.Struct, frozen=True):
    """Part of a list. ``cursor``: the id after which the next page begins; None at the end. ``skip``: how many of the
    schedules after the cursor the next page leaves out."""

    schedules: list[Schedule]
    cursor: int | None
    skip: int = 0


class ScheduleJobs(JobService):
    """A ``JobService`` that also edits the jobs of schedules."""

    async def edit(self, job_id: str, change: Callable[[Job | None, JobState | None, int], Job]) -> JobView:
        """Store the result of ``change(definition, state, now)``; start again if the job changed in between. Unlike an
        upsert, this accepts a trigger that never fires again: the window of a schedule may be over already."""

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            if stored.fault is not None:
                raise RunConflict(f"the stored schedule cannot be read ({stored.fault}); delete it")
            snapshot = stored.snapshot
            job = change(snapshot.job, snapshot.state, now_ms)
            return plan_upsert(job, snapshot, now_ms=now_ms, downtimes=stored.downtimes, store_id=stored.store_id)

        stored, transition = await self.change(job_id, plan)
        if transition is not None:
            log.info(JOB_UPSERTED, job_id=job_id, version=transition.job.version if transition.job else None)
        return view_after(job_id, stored, transition, self._clock.now_ms())


class ScheduleService:
    """Creates, reads, changes and deletes schedules. Every method raises StoreUnavailable or StoreRefused if Redis
    fails."""

    def __init__(self, shards: Shards[ShardStore], clock: Clock, metrics: Metrics) -> None:
        self._shards = shards
        self._catalogue = shards.lead.catalogue_store()
        self._clock = clock
        self.jobs = shards.each(lambda store: ScheduleJobs(store, clock, metrics))

    async def views(self, job_ids: Sequence[str]) -> list[JobView | None]:
        """Read at most 1000 jobs; None for a missing one."""
        stored = await self._shards.read_many(job_ids)
        now_ms = self._clock.now_ms()
        return [
            view_of(job_id, one, now_ms) if exists(one) else None for job_id, one in zip(job_ids, stored, strict=True)
        ]

    def _jobs_of(self, schedule_id: int) -> ScheduleJobs:
        return self.jobs.of(job_id_of(schedule_id))

    async def counts(self) -> CatalogueCounts:
        """Count targets and schedules, and schedules by status."""
        return await self._catalogue.counts(now_ms=self._clock.now_ms())

    async def add(self, name: str, target_id: int, timing: Timing) -> Schedule:
        """Create a schedule: its first fire time is one interval from now.

        Raises TargetNotFound and DuplicateName. If Redis fails in between, the finished steps are undone as far as
        possible; the sweeper undoes the rest.
        """
        row, token = Row(target_id, name), draw_token()
        now_ms = self._clock.now_ms()
        answer = await repeat_if_unknown(
            lambda: self._catalogue.reserve(row, token=token, now_ms=now_ms, patience_ms=PATIENCE_MS)
        )
        if answer == "taken":
            raise DuplicateName("schedule", name)
        if isinstance(answer, str):
            raise TargetNotFound(target_id)
        schedule_id = answer

        def create(old: Job | None, _: JobState | None, at_ms: int) -> Job:
            return old or job_of_schedule(schedule_id, name=name, target_id=target_id, timing=timing, now_ms=at_ms)

        try:
            view = await self._jobs_of(schedule_id).edit(job_id_of(schedule_id), create)
            return await self._align(schedule_id, view)
        except ScheduleNotFound:
            # Between reserve and commit the target was deleted, or another request got the name.
            await self.drop(schedule_id, of_target=target_id)
            await read_target(self._catalogue, target_id)
            raise DuplicateName("schedule", name) from None
        except StoreError as error:
            try:
                await self.drop(schedule_id, of_target=target_id)
            except StoreError:
                # If the job was written, a sweeper completes the schedule; otherwise it removes the reservation.
                raise OutcomeUnknown(f"the schedule may have been created: {error}") from error
            raise

    async def get(self, schedule_id: int) -> Schedule:
        """Return the schedule. Raises ScheduleNotFound."""
        try:
            view = await self._jobs_of(schedule_id).get(job_id_of(schedule_id))
        except JobNotFound:
            raise ScheduleNotFound(schedule_id) from None
        return self._shown(schedule_id, view)

    async def page(
        self, *, after: int = 0, skip: int = 0, limit: int = 100, status: ScheduleStatus | None = None
    ) -> SchedulePage:
        """Return schedules in the order of their ids, optionally only those with ``status``.

        A page with a ``status`` examines a bounded number of schedules, so a short page need not be the last.
        """
        if status is None:
            ids = await self._catalogue.page_schedules(after=after, skip=skip, limit=limit + 1)
            cursor = ids[limit - 1] if len(ids) > limit else None
            return SchedulePage(await self._read(ids[:limit]), cursor)
        found: list[int] = []
        for _ in range(EXAMINED // LOOK_AT):
            ids = await self._catalogue.page_schedules(after=after, skip=0, limit=LOOK_AT)
            statuses = await self._catalogue.statuses(ids, now_ms=self._clock.now_ms())
            found += [one for one, its in zip(ids, statuses, strict=True) if its is status]
            if len(found) > skip + limit:
                found = found[: skip + limit]
                return SchedulePage(await self._read(found[skip:], status), found[-1])
            if len(ids) < LOOK_AT:
                return SchedulePage(await self._read(found[skip:], status), None)
            after = ids[-1]
        return SchedulePage(await self._read(found[skip:], status), after, max(0, skip - len(found)))

    async def change(self, schedule_id: int, change: ScheduleChange) -> Schedule:
        """Change a schedule; a changed interval counts from now.

        Raises ScheduleNotFound, TargetNotFound, DuplicateName, InvalidInput and WrongStatus. If Redis fails in between,
        name and target may be changed and the timing not yet; repeating the change completes it.
        """

        def apply(job: Job | None, state: JobState | None, now_ms: int) -> Job:
            if job is None or state is None:
                raise ScheduleNotFound(schedule_id)
            return change.applied(job, state, now_ms)

        view = (await self.get(schedule_id)).view
        if view.job is not None:
            apply(view.job, view.state, self._clock.now_ms())  # before anything is written
        await self._change_row(schedule_id, change)
        view = await self._jobs_of(schedule_id).edit(job_id_of(schedule_id), apply)
        return await self._align(schedule_id, view)

    async def pause(self, schedule_id: int) -> Schedule:
        """Pause a schedule. An open request is not cut off. Raises ScheduleNotFound and WrongStatus."""
        await self._require(schedule_id, ScheduleStatus.ACTIVE, "paused")
        return await self._align(schedule_id, await self._job_of(schedule_id, self._jobs_of(schedule_id).pause))

    async def resume(self, schedule_id: int) -> Schedule:
        """Resume a schedule on its old grid; nothing is caught up.

        Raises ScheduleNotFound and WrongStatus.
        """
        await self._require(schedule_id, ScheduleStatus.PAUSED, "resumed")
        return await self._align(schedule_id, await self._job_of(schedule_id, self._jobs_of(schedule_id).resume))

    async def delete(self, schedule_id: int) -> Run | None:
        """Delete a schedule, or continue an interrupted deletion; returns its run in flight. Raises
        ScheduleNotFound."""
        if not await self._catalogue.is_committed(schedule_id):
            raise ScheduleNotFound(schedule_id)
        return await self.drop(schedule_id)

    async def align(self, schedule_id: int) -> None:
        """Make job and catalogue equal. Removes a schedule whose job, catalogue entry or target is missing."""
        try:
            await self._align(schedule_id, await self._jobs_of(schedule_id).get(job_id_of(schedule_id)))
        except (JobNotFound, ScheduleNotFound):
            await self.drop(schedule_id)

    async def _align(self, schedule_id: int, view: JobView) -> Schedule:
        """Copy the schedule's status to the catalogue, and name and target from the catalogue to the job.

        The job is read again after the last write; if it was changed in between, everything is repeated. Raises
        ScheduleNotFound if job, catalogue entry or target is gone.
        """
        for _ in range(TRIES):
            job = view.job
            if job is None:
                raise RunConflict(f"the stored schedule cannot be read ({view.fault}); delete it")
            row = await self._catalogue.commit(schedule_id, end_ms=end_of(job), paused=is_paused(view.state))
            if row is None:
                if await self._repaired_row(schedule_id, job):
                    continue
                raise ScheduleNotFound(schedule_id)
            if (row.name, row.target_id) != (job.name, job.target_id):
                view = await self._jobs_of(schedule_id).edit(job_id_of(schedule_id), _copy_of(schedule_id, row))
                continue
            fresh = (await self.get(schedule_id)).view
            if fresh.job is not None and _facts(fresh.job, fresh.state) == _facts(job, view.state):
                return self._shown(schedule_id, fresh)
            view = fresh
        raise StoreUnavailable(f"schedule {schedule_id} changes too often to be changed now")

    async def _repaired_row(self, schedule_id: int, job: Job) -> bool:
        """Rewrite an unreadable catalogue row from the schedule's job; returns whether that was done."""
        row = (await self._catalogue.rows([schedule_id]))[0]
        if row is None or row.unreadable is None or not job.name or job.target_id is None:
            return False
        log.warning(SCHEDULES_SWEPT, count=1, detail=f"the row of schedule {schedule_id} could not be read")
        return await self._catalogue.change_schedule(schedule_id, row, Row(job.target_id, job.name)) == "ok"

    async def drop(self, schedule_id: int, *, of_target: int | None = None) -> Run | None:
        """Delete the job, then its catalogue entry; returns the job's run in flight. With ``of_target``, only if it
        still belongs to that target."""
        row = (await self._catalogue.rows([schedule_id]))[0]
        if row is not None and row.unreadable is None and of_target not in {None, row.target_id}:
            return None
        in_flight: Run | None = None
        with contextlib.suppress(JobNotFound):
            in_flight = await self._jobs_of(schedule_id).delete(job_id_of(schedule_id))
        for _ in range(TRIES):
            row = (await self._catalogue.rows([schedule_id]))[0]
            if await self._catalogue.remove_schedule(schedule_id, row, target_id=of_target):
                return in_flight
        raise StoreUnavailable(f"schedule {schedule_id} changes too often to be deleted now")

    async def _change_row(self, schedule_id: int, change: ScheduleChange) -> None:
        if change.name is None and change.target_id is None:
            return
        for _ in range(TRIES):
            old = (await self._catalogue.rows([schedule_id]))[0]
            if old is None:
                raise ScheduleNotFound(schedule_id)
            if old.unreadable is not None:
                job = (await self.get(schedule_id)).view.job
                if job is None or not await self._repaired_row(schedule_id, job):
                    raise RunConflict(f"schedule {schedule_id} cannot be read; delete it")
                continue
            new = Row(
                old.target_id if change.target_id is None else change.target_id,
                old.name if change.name is None else change.name,
            )
            if new == old:
                return
            result = await self._catalogue.change_schedule(schedule_id, old, new)
            if result == "ok":
                return
            if result == "taken":
                raise DuplicateName("schedule", new.name)
            if result == "no target":
                raise TargetNotFound(new.target_id)
            if result == "gone":
                raise ScheduleNotFound(schedule_id)
        raise StoreUnavailable(f"schedule {schedule_id} changes too often to be changed now")

    async def _require(self, schedule_id: int, status: ScheduleStatus, what: str) -> None:
        schedule = await self.get(schedule_id)
        if schedule.status is not status:
            raise WrongStatus(f"the schedule is {schedule.status.value}; only one that is {status.value} can be {what}")

    async def _job_of(self, schedule_id: int, operation: Callable[[str], Awaitable[JobView]]) -> JobView:
        try:
            return await operation(job_id_of(schedule_id))
        except JobNotFound:
            raise ScheduleNotFound(schedule_id) from None

    async def _read(self, schedule_ids: Sequence[int], status: ScheduleStatus | None = None) -> list[Schedule]:
        views = await self.views([job_id_of(one) for one in schedule_ids])
        found = [self._shown(one, view) for one, view in zip(schedule_ids, views, strict=True) if view is not None]
        return [one for one in found if status is None or one.status is status]

    def _shown(self, schedule_id: int, view: JobView) -> Schedule:
        return Schedule(schedule_id, view, self._clock.now_ms())


def _copy_of(schedule_id: int, row: Row) -> Callable[[Job | None, JobState | None, int], Job]:
    def copy(job: Job | None, _state: JobState | None, _now_ms: int) -> Job:
        if job is None:
            raise ScheduleNotFound(schedule_id)
        return replace(job, name=row.name, target_id=row.target_id)

    return copy


def _facts(job: Job, state: JobState) -> tuple[object, ...]:
    """Return the fields of a job that the catalogue copies."""
    return job.name, job.target_id, end_of(job), is_paused(state)
