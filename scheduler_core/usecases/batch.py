"""Upserts many jobs with few scripts. The result is the same as with single upserts, one after the other.

One script per chunk creates all new jobs without reading them first. It returns the stored documents of the other jobs:
an equal definition needs no write; other changes are planned from these documents and written together. A job that
another change overtakes is upserted again alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial

from scheduler_core.base.errors import CronpostError, InvalidInput, StoreRefused, StoreUnavailable
from scheduler_core.base.events import JOB_UPSERTED, JOBS_UPSERTED, get_logger
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import DEFAULT_POLICIES
from scheduler_core.model.transition import Transition
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import PerShard
from scheduler_core.triggers.trigger import TriggerSpec, depends_on_id
from scheduler_core.usecases.job_reads import JobView, view_after
from scheduler_core.usecases.jobs import JobService, as_created, step_of_upsert
from scheduler_core.usecases.release import ReleaseWait, plan_as_of, plan_released

log = get_logger(__name__)

CHUNK = 128
"""Jobs per script. A script blocks Redis, and the event loop of this process, for 1 to 2 ms."""

Upserted = tuple[JobView, bool]
"""The job as stored, and whether anything changed."""


async def upsert_many(
    service: JobService, new: Sequence[Job], *, restart: bool = False
) -> list[Upserted | CronpostError]:
    """Store each job under its id, as ``JobService.upsert`` would; returns the result of each, in their order.

    The jobs are independent: a job that is invalid, or that Redis refuses, keeps its stored definition. An error in the
    result is what ``upsert`` would have raised. If Redis does not answer, all remaining jobs get an error:
    OutcomeUnknown for those that may have been stored.
    """
    chunks = [_Chunk(service, jobs, restart=restart) for jobs in _chunks(new)]
    unsent: StoreUnavailable | None = None
    try:
        await _apply(chunks, ReleaseWait(service.store, service.clock))
    except StoreUnavailable as error:
        unsent = StoreUnavailable(f"not sent, because Redis did not answer for earlier jobs of the batch: {error}")
    results = [result for chunk in chunks for result in chunk.results(unsent)]
    changed = sum(not isinstance(one, CronpostError) and one[1] for one in results)
    refused = sum(isinstance(one, CronpostError) for one in results)
    log.info(JOBS_UPSERTED, jobs=len(new), changed=changed, unchanged=len(new) - changed - refused, refused=refused)
    return results


async def upsert_on_shards(
    services: PerShard[JobService], new: Sequence[Job], *, restart: bool = False
) -> list[Upserted | CronpostError]:
    """Upsert each job on its shard. A fault of one shard affects only the jobs of that shard."""
    if len(services) == 1:
        return await upsert_many(services.lead, new, restart=restart)
    places = services.places(job.id for job in new)
    parts = await asyncio.gather(
        *(
            upsert_many(services.all[shard], [new[place] for place in own], restart=restart)
            for shard, own in places.items()
        )
    )
    by_place = {
        place: one
        for own, part in zip(places.values(), parts, strict=True)
        for place, one in zip(own, part, strict=True)
    }
    return [by_place[place] for place in range(len(new))]


async def _apply(chunks: Sequence[_Chunk], release: ReleaseWait) -> None:
    """Store all jobs. Those that nodes hold ahead of their wake-up come last, unless the same id comes twice."""
    held: list[_Chunk] = []
    for chunk in chunks:
        if any(earlier.holds_one_of(chunk) for earlier in held):
            held, waiting = [], held
            await _change_held(waiting, release)
        await chunk.apply()
        if chunk.held:
            held.append(chunk)
    if held:
        await _change_held(held, release)


async def _change_held(chunks: Sequence[_Chunk], release: ReleaseWait) -> None:
    """Change the jobs that nodes held ahead of their wake-up: one request to release all of them, and one wait."""
    released = await release.released({job.id: stored for chunk in chunks for job, stored in chunk.held})
    for chunk in chunks:
        await chunk.change_held(released)


def _chunks(new: Sequence[Job]) -> Iterator[list[Job]]:
    """Yield chunks of at most CHUNK jobs in order. No id occurs twice in a chunk, so that of two definitions of a job
    the later one is applied later."""
    chunk: list[Job] = []
    ids: set[str] = set()
    for job in new:
        if len(chunk) == CHUNK or job.id in ids:
            yield chunk
            chunk, ids = [], set()
        chunk.append(job)
        ids.add(job.id)
    if chunk:
        yield chunk


class _Chunk:
    """Jobs with different ids that are upserted together."""

    def __init__(self, service: JobService, new: Sequence[Job], *, restart: bool) -> None:
        self._service = service
        self._store = service.store
        self._new = new
        self._restart = restart
        self._results: dict[str, Upserted | CronpostError] = {}
        self.held: list[tuple[Job, StoredJob]] = []
        """Jobs to change that a node holds ahead of their wake-up, as stored before the change."""
        self._lost: StoreUnavailable | None = None

    def holds_one_of(self, other: _Chunk) -> bool:
        """Return whether an id of the other chunk is in ``held``."""
        return not {job.id for job, _ in self.held}.isdisjoint(job.id for job in other._new)

    async def apply(self) -> None:
        """Store all jobs but those in ``held``. Raises StoreUnavailable if Redis stops answering before all are
        done."""
        try:
            await self._change(await self._create())
            await self._upsert_rest({job.id for job, _ in self.held})
        except StoreUnavailable as error:
            self._lost = error
            raise

    async def change_held(self, released: Mapping[str, StoredJob]) -> None:
        """Change the jobs in ``held`` from how they are stored after the wait for their release."""
        held, self.held = self.held, []
        try:
            await self._change([(job, released[job.id]) for job, _ in held], waited=True)
            await self._upsert_rest(frozenset())
        except StoreUnavailable as error:
            self._lost = error
            raise

    async def _upsert_rest(self, but: Set[str]) -> None:
        """Upsert the jobs that have no result yet, one by one."""
        for job in self._new:
            if job.id not in self._results and job.id not in but:
                await self._upsert_alone(job)

    def results(self, unsent: StoreUnavailable | None) -> list[Upserted | CronpostError]:
        """Return the result of each job: the fault that stopped this chunk, or ``unsent``, where it is unknown."""
        fault = self._lost or unsent
        if fault is None:
            return [self._results[job.id] for job in self._new]
        return [self._results.get(job.id, fault) for job in self._new]

    async def _create(self) -> list[tuple[Job, StoredJob]]:
        """Create the new jobs; returns the others with their stored documents."""
        fresh = self._planned()
        try:
            rows = await self._store.create([(job, state) for _, job, state in fresh]) if fresh else []
        except (StoreUnavailable, StoreRefused) as error:
            _stop_if_unknown(error)
            # Redis is out of memory and refused the chunk. Retry one by one: unchanged jobs succeed, they need no
            # write.
            return []
        found: list[tuple[Job, StoredJob]] = []
        for (asked, job, state), stored in zip(fresh, rows, strict=True):
            if stored is None:
                self._results[job.id] = JobView(job.id, job, state, None), True
                log.debug(JOB_UPSERTED, job_id=job.id, version=1)
            elif stored != "large":
                found.append((asked, stored))
        return found

    def _planned(self) -> list[tuple[Job, Job, JobState]]:
        """Return for each job the requested definition, and definition and state to store if the id is new."""
        states: dict[TriggerSpec, JobState] = {}
        fresh: list[tuple[Job, Job, JobState]] = []
        now_ms = self._service.clock.now_ms()
        for job in self._new:
            # With default policies the first state depends only on the trigger, which many jobs share.
            is_usual = job.policies is DEFAULT_POLICIES and not depends_on_id(job.trigger)
            created = as_created(job, now_ms=now_ms, state=states.get(job.trigger) if is_usual else None)
            if created is not None:
                fresh.append((job, *created))
                if is_usual:
                    states[job.trigger] = created[1]
        return fresh

    async def _change(self, found: Sequence[tuple[Job, StoredJob]], *, waited: bool = False) -> None:
        """Replace the stored definitions that differ, except of jobs that a node holds ahead of their wake-up: these go
        to ``held``. ``waited``: the wait for their release is over, so replace these too."""
        now_ms = self._service.clock.now_ms()
        plan = plan_released if waited else plan_as_of
        changes: list[tuple[str, StoredJob, Transition]] = []
        for job, stored in found:
            try:
                step = plan(stored, partial(step_of_upsert, job, restart=self._restart), now_ms)
            except InvalidInput as error:
                self._results[job.id] = error
                continue
            if step is None:
                await self._finish(job.id, stored, None, now_ms)
            elif not waited and stored.snapshot.is_held_ahead(now_ms):
                self.held.append((job, stored))
            else:
                changes.append((job.id, stored, step))
        if not changes:
            return
        try:
            answers = await self._store.change_many(changes)
        except (StoreUnavailable, StoreRefused) as error:
            _stop_if_unknown(error)
            self._results |= {job_id: error for job_id, _, _ in changes}
            return
        for (job_id, stored, step), answer in zip(changes, answers, strict=True):
            if isinstance(answer, StoreRefused):
                self._results[job_id] = answer
            elif answer:
                self._service.report(job_id, step)
                await self._finish(job_id, stored, step, now_ms)
                log.debug(JOB_UPSERTED, job_id=job_id, version=step.job.version if step.job else None)

    async def _finish(self, job_id: str, stored: StoredJob, step: Transition | None, now_ms: int) -> None:
        """Run the step after the write of an upsert, or after finding that no write is needed."""
        try:
            child = await self._service.finish_upsert(stored, job_id, step)
        except CronpostError as error:
            self._results[job_id] = error
            _stop_if_unknown(error)
        else:
            self._results[job_id] = view_after(job_id, stored, step, now_ms, child), step is not None

    async def _upsert_alone(self, job: Job) -> None:
        """Upsert a single job: another change overtook it, or it is too large for the chunk."""
        try:
            self._results[job.id] = await self._service.upsert(job, restart=self._restart)
        except CronpostError as error:
            _stop_if_unknown(error)
            self._results[job.id] = error


def _stop_if_unknown(error: CronpostError) -> None:
    """Raise the error again if Redis did not answer: the next command would wait for the same timeout."""
    if isinstance(error, StoreUnavailable) and (error.effect_unknown or error.unreachable):
        raise error
