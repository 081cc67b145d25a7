"""Tries a target with one request: a manual run of a job that exists only for it.

The job goes the way of all jobs (claim, limits, guard, delivery, settle, history), so its run is recorded as any other.
The step that ends the run deletes the job.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec
from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import NoNode, RunConflict
from scheduler_core.base.events import TARGET_TRIED, get_logger
from scheduler_core.model.catalogue import Target, job_of_try
from scheduler_core.model.job_state import JobState, Pending
from scheduler_core.model.run import random_run_id
from scheduler_core.model.transition import Transition
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import PerShard, Shards, ShardStore
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.repeats import Repeated, RunNow
from scheduler_core.usecases.targets import TargetService

log = get_logger(__name__)

TOKEN_BYTES = 10


class TargetTry(msgspec.Struct, frozen=True):
    """One request to a target that a client asked for."""

    target: Target
    job_id: str
    run_id: str


class TargetTries:
    """Tries targets. Raises StoreError as JobService does."""

    def __init__(
        self, shards: Shards[ShardStore], jobs: PerShard[JobService], targets: TargetService, clock: Clock
    ) -> None:
        self._shards = shards
        self._jobs = jobs
        self._targets = targets
        self._clock = clock

    async def send(self, target_id: int, *, key: str | None = None) -> TargetTry:
        """Store one request to a target. On return it is stored; a node sends it at once, also during a pause.

        ``key``: the ``Idempotency-Key``; a repetition within a day returns the first result, also if the target was
        changed since. Raises TargetNotFound, CorruptDocument, NoNode, RunConflict and KeyReused.
        """
        target = await self._targets.get(target_id)
        token = secrets.token_hex(TOKEN_BYTES) if key is None else _token_of(target_id, key)
        job = job_of_try(target_id, token, now_ms=self._clock.now_ms())
        jobs = self._jobs.of(job.id)
        answer = RunNow()

        def plan(stored: StoredJob, now_ms: int) -> Transition:
            nonlocal answer
            if stored.snapshot.job is not None or stored.snapshot.lease is not None:
                raise RunConflict("an earlier try with this Idempotency-Key has not ended; use another key")
            entry = Pending(random_run_id(now_ms), now_ms)
            answer = RunNow(run_id=entry.run_id)
            new = replace(job, created_at_ms=now_ms, updated_at_ms=now_ms)
            return Transition(JobState(pending=(entry,)), job=new)

        if key is not None:
            repeated = Repeated("try", str(target_id), key, request=b"")
            known = await repeated.stored(jobs.store, now_ms=self._clock.now_ms())
            if known is None:
                await self._require_node()
                known = await jobs.once(job.id, repeated, plan, lambda: answer)
            answer = known
        else:
            await self._require_node()
            await jobs.change(job.id, plan)
        assert answer.run_id is not None
        log.info(TARGET_TRIED, target_id=target_id, name=target.name, job_id=job.id, run_id=answer.run_id)
        return TargetTry(target, job.id, answer.run_id)

    async def has_ended(self, tried: TargetTry) -> bool:
        """Return whether the result of a try is recorded."""
        return await self._shards.of(tried.job_id).settled_run(tried.run_id) is not None

    async def _require_node(self) -> None:
        if not (await self._shards.counts(now_ms=self._clock.now_ms())).nodes:
            raise NoNode


def _token_of(target_id: int, key: str) -> str:
    """Return the token of a request with a key: the same for each repetition, so that all meet on one shard."""
    return hashlib.blake2b(f"{target_id} {key}".encode(), digest_size=TOKEN_BYTES).hexdigest()
