"""Replays settled runs: requests each again as a new run with the same fire time (``plan/replay.py``).

One step of the store adds the pending entry of the new run and notes its id in the record of the original. After a lost
answer the repetition therefore finds that note (``AlreadyReplayed``), or nothing was stored.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from scheduler_core.base.errors import (
    RunConflict,
    RunNotFound,
    StoreUnavailable,
)
from scheduler_core.base.events import RUN_REPLAYED, get_logger
from scheduler_core.model.catalogue import tried_target_of
from scheduler_core.model.run import derived_run_id, random_run_id
from scheduler_core.model.task import task_number
from scheduler_core.model.transition import Transition
from scheduler_core.plan.replay import MOST_REPLAYS, plan_replay
from scheduler_core.store.history import Stored, mark_of
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import PerShard
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import TRIES, JobService
from scheduler_core.usecases.release import ReleaseWait
from scheduler_core.usecases.repeats import Repeated, RunNow

log = get_logger(__name__)

INSTANT_DIGITS = 10
"""The first digits of a run id: the instant of the claim or request."""


class Replayed(msgspec.Struct, frozen=True):
    """A replay that was requested."""

    job_id: str
    run_id: str
    replay_of: str
    fire_time_ms: int


class ReplayService:
    """Replays settled runs. Raises StoreError as JobService does."""

    def __init__(self, jobs: PerShard[JobService], history: HistoryService) -> None:
        self._jobs = jobs
        self._history = history

    async def job_of(self, run_id: str) -> str:
        """Return the id of the job of a settled run.

        Raises RunNotFound, also for runs of one-off tasks and tries of targets; RunConflict if the run is not settled.
        """
        found = await self._history.get(run_id)
        if task_number(found.job_id) is not None:
            raise RunNotFound(
                f"the run {run_id[:100]!r} belongs to the one-off task {found.job_id}; to call that again, use "
                f"POST /api/v1/tasks/{found.job_id}/retry"
            )
        target_id = tried_target_of(found.job_id)
        if target_id is not None:
            raise RunNotFound(
                f"the run {run_id[:100]!r} tried the target {target_id}; to try it again, use "
                f"POST /targets/{target_id}/try"
            )
        if not found.run.is_settled:
            raise RunConflict(f"the run {run_id} has not ended ({found.run.state}); wait for its end, or cancel it")
        return found.job_id

    async def replay_run(
        self,
        run_id: str,
        *,
        job_id: str | None = None,
        current: bool = False,
        force: bool = False,
        key: str | None = None,
        token: str | None = None,
        most: int = MOST_REPLAYS,
    ) -> Replayed:
        """Request a settled run again. On return the request is stored; the replay waits in the job's pending list.

        ``job_id``: the job of the run, if the caller knows it. ``current``, ``force``, ``most``: see ``plan_replay``.

        ``key``: the ``Idempotency-Key`` of the request; a repetition within a day returns the first replay. ``token``:
        names the caller's operation; if the latest replay of the run was requested under the same token, it is
        returned, however long ago that was.

        Raises RunNotFound, JobNotFound, RunConflict (also: not settled), TooManyReplays, AlreadyReplayed,
        AlreadySucceeded, DefinitionChanged and KeyReused.
        """
        if job_id is None:
            job_id = await self.job_of(run_id)
        jobs = self._jobs.of(job_id)
        store, clock = jobs.store, jobs.clock
        repeated = None if key is None else Repeated("replay", run_id, key, request=f"{current} {force}".encode())
        release = ReleaseWait(store, clock)
        for _ in range(TRIES):
            now_ms = clock.now_ms()
            known = None if repeated is None else await repeated.stored(store, now_ms=now_ms)
            settled = await store.settled_record(run_id)
            if settled is None:
                raise RunNotFound(f"no settled run {run_id[:100]!r}")
            original = settled.run
            if known is not None and known.run_id is not None:
                return Replayed(job_id, known.run_id, run_id, original.fire_time_ms)
            new_id = random_run_id(now_ms) if token is None else derived_run_id(now_ms, "replay", token, run_id)
            if token is not None and original.replayed_by[INSTANT_DIGITS:] == new_id[INSTANT_DIGITS:]:
                return Replayed(job_id, original.replayed_by, run_id, original.fire_time_ms)

            def plan(stored: StoredJob, at_ms: int, settled: Stored = settled, new_id: str = new_id) -> Transition:
                step = plan_replay(
                    stored.snapshot,
                    settled.run,
                    new_id,
                    current=current,
                    force=force,
                    most=most,
                    now_ms=at_ms,
                    downtimes=stored.downtimes,
                    store_id=stored.store_id,
                )
                return replace(step, mark=mark_of(settled, new_id))

            stored, step = await jobs.planned(job_id, await store.read(job_id), jobs.checked(job_id, plan), release)
            assert step is not None
            answer = None if repeated is None else repeated.answer(RunNow(run_id=new_id), now_ms=now_ms)
            if await store.change(job_id, stored, step, answer=answer):
                jobs.report(job_id, step)
                log.info(RUN_REPLAYED, job_id=job_id, run_id=new_id, replay_of=run_id)
                return Replayed(job_id, new_id, run_id, original.fire_time_ms)
        raise StoreUnavailable(f"job {job_id!r} changes too often to be changed now")
