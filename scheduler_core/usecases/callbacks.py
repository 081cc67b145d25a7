"""Handles callbacks of runners: completion and heartbeats of runs that they have taken.

A callback finds its run through the claim key in its token, and is planned and written like any change of a job.
"""

from __future__ import annotations

from scheduler_core.base.errors import RunCancelled, RunLost, RunNotFound
from scheduler_core.base.events import RUN_COMPLETED, get_logger
from scheduler_core.base.tokens import claim_key_claimed, claim_key_of_token
from scheduler_core.model.run import RunState
from scheduler_core.model.transition import Transition
from scheduler_core.plan.complete import plan_complete, plan_heartbeat
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import PerShard, Shards, ShardStore
from scheduler_core.usecases.jobs import JobService

log = get_logger(__name__)


class CallbackService:
    """Records completions and heartbeats. Every method raises TokenRefused, RunNotFound, RunLost, and StoreError as
    JobService does."""

    def __init__(self, shards: Shards[ShardStore], jobs: PerShard[JobService]) -> None:
        self._shards = shards
        self._jobs = jobs

    async def complete(
        self, run_id: str, token: str, *, succeeded: bool, message: str = "", continuation: bytes | None = None
    ) -> RunState:
        """End a run; returns its final state. A repetition changes nothing and returns the same.

        ``continuation``: the JSON text of continuations. Raises InvalidInput if they cannot be accepted.
        """
        claim_key = await self._claim_key(run_id, token)
        wanted = RunState.SUCCEEDED if succeeded else RunState.FAILED
        answer: RunState | None = None

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            nonlocal answer
            planned = plan_complete(
                stored.snapshot,
                run_id,
                wanted,
                message=message,
                continuation=continuation,
                now_ms=now_ms,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
            )
            answer = wanted if isinstance(planned, Transition) else planned
            return planned if isinstance(planned, Transition) else None

        await self._jobs.of(claim_key).change(claim_key, plan)
        if answer is None:
            return await self._settled(claim_key, run_id)
        log.info(RUN_COMPLETED, job_id=job_of_claim_key(claim_key), run_id=run_id, state=answer.value)
        return answer

    async def heartbeat(self, run_id: str, token: str, *, progress: float | None = None, note: str = "") -> int | None:
        """Record a heartbeat; returns when the run is lost without another one (epoch ms), or None while its request is
        still open."""
        claim_key = await self._claim_key(run_id, token)
        lost_at_ms: int | None = None
        known = False

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            nonlocal lost_at_ms, known
            planned = plan_heartbeat(
                stored.snapshot,
                run_id,
                progress=progress,
                note=note,
                now_ms=now_ms,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
            )
            known = planned is not None
            if planned is None:
                return None
            transition, lost_at_ms = planned
            return transition

        await self._jobs.of(claim_key).change(claim_key, plan)
        if not known:
            await self._settled(claim_key, run_id)
        return lost_at_ms

    async def _claim_key(self, run_id: str, token: str) -> str:
        secret = await self._shards.of(claim_key_claimed(token)).secret()
        return claim_key_of_token(secret, token, run_id)

    async def _settled(self, claim_key: str, run_id: str) -> RunState:
        """Return the state of a settled run. Raises RunNotFound, RunLost and RunCancelled."""
        run = await self._shards.of(claim_key).settled_run(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id!r} is open or recorded")
        if run.state is RunState.LOST:
            raise RunLost("the run ended as lost before its runner completed it")
        if run.state is RunState.CANCELLED:
            raise RunCancelled("the run was cancelled before its runner completed it")
        return run.state
