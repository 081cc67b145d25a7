"""Cancels unsettled runs. The node that has the request of such a run open aborts it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec

from scheduler_core.base.errors import AlreadySettled, RunNotFound, StoreError
from scheduler_core.base.events import get_logger
from scheduler_core.model.run import RunState
from scheduler_core.model.transition import Transition
from scheduler_core.plan.cancel import plan_cancel_run
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import PerShard, Shards, ShardStore
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import JobService

log = get_logger(__name__)

CUT_SECONDS = 1.0
"""How long to wait for the node to confirm that it aborted the request."""
TRIES = 3
"""Maximum tries of one cancellation. A try fails when the run is settled or retried after it was found."""


class Cancelled(msgspec.Struct, frozen=True):
    """A run that is cancelled."""

    job_id: str
    run_id: str
    request_cut: bool | None = None
    """Whether the node confirmed that it aborted the open request; None: no request was open."""


class CancelService:
    """Cancels unsettled runs. Raises StoreError as JobService does."""

    def __init__(self, shards: Shards[ShardStore], jobs: PerShard[JobService], history: HistoryService) -> None:
        self._shards = shards
        self._jobs = jobs
        self._history = history

    async def cancel(self, run_id: str) -> Cancelled:
        """Cancel a run. On return its end is stored, and a late result of its request is refused.

        Cancelling it again changes nothing. Raises RunNotFound, and AlreadySettled for a run that ended otherwise.
        """
        for _ in range(TRIES):
            found = await self._history.get(run_id)
            if found.run.is_settled:
                if found.run.state is not RunState.CANCELLED:
                    raise AlreadySettled(run_id, found.run.state.value)
                return Cancelled(found.job_id, run_id)
            store = self._shards.of(found.claim_key)
            if found.run.state is not RunState.OPEN:
                was_open = await self._end(found.claim_key, run_id)
                if was_open is None:
                    continue
                if was_open:  # its retry began after the read
                    with contextlib.suppress(StoreError):
                        await store.ask_to_cut(run_id)
                return Cancelled(found.job_id, run_id, False if was_open else None)
            # Subscribe before the change: the node confirms at once.
            async with contextlib.aclosing(store.cut_runs()) as confirmed:
                listens = await _listen(confirmed)
                was_open = await self._end(found.claim_key, run_id)
                if was_open is None:
                    continue
                cut: bool | None = None
                if was_open:
                    with contextlib.suppress(StoreError):
                        await store.ask_to_cut(run_id)
                    cut = listens and await _confirmed(confirmed, run_id)
                return Cancelled(found.job_id, run_id, cut)
        raise RunNotFound(f"no run {run_id[:100]!r} is open or recorded")

    async def _end(self, claim_key: str, run_id: str) -> bool | None:
        """Store the cancellation; returns whether a request of the run may be open. None: the run is not open."""
        was_open = False

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            nonlocal was_open
            step = plan_cancel_run(
                stored.snapshot, run_id, now_ms=now_ms, downtimes=stored.downtimes, store_id=stored.store_id
            )
            was_open = step is not None and step.revoke
            return step

        step = (await self._jobs.of(claim_key).change(claim_key, plan))[1]
        return None if step is None else was_open


async def _listen(confirmed: AsyncGenerator[str | None]) -> bool:
    """Wait until the subscription is active; returns whether it is."""
    try:
        async with asyncio.timeout(CUT_SECONDS):
            await anext(confirmed)
    except (StoreError, TimeoutError, StopAsyncIteration):
        return False
    return True


async def _confirmed(confirmed: AsyncGenerator[str | None], run_id: str) -> bool:
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(CUT_SECONDS):
            async for one in confirmed:
                if one == run_id:
                    return True
    return False
