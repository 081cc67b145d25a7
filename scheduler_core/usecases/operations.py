"""Starts, shows, lists and cancels operations. Needs no node: this process carries an operation for its first second,
and a node carries it from then on."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from bisect import bisect_right
from datetime import timedelta

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import CorruptDocument, OperationEnded, OperationNotFound, StoreError, TooManyOperations
from scheduler_core.base.events import OPERATION_CANCELLED, OPERATION_STARTED, get_logger
from scheduler_core.model.run import random_run_id
from scheduler_core.store.operations import OpenOperations, OperationState, StoredOperation, TakenOperation
from scheduler_core.store.shards import PerShard, Shards, ShardStore
from scheduler_core.usecases.carry import Carrier, LeaseLost, Turns, encoded_start
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.operation_spec import (
    OperationSpec,
    OperationVerb,
    Progress,
    decode_progress,
    decode_spec,
    encode,
)
from scheduler_core.usecases.selection import page_of_selected

log = get_logger(__name__)

FIRST_SECONDS = 0.8
"""For how long the process that creates an operation works on it before it answers, so that the answer comes within
about a second."""
FIRST_LEASE = timedelta(seconds=5)
"""The lease of that process. If it dies, a node takes the operation after this time."""


class OperationView(msgspec.Struct, frozen=True):
    """An operation as clients see it."""

    id: str
    spec: OperationSpec
    progress: Progress
    state: str
    """``running``, ``waiting`` (no process carries it now), ``cancelling``, ``done``, ``cancelled`` or ``failed``."""
    carrier: str | None = None
    """The node that carries it now."""
    ended_at_ms: int | None = None
    left_ms: int | None = None
    """About how long it still takes; None: unknown, or it has ended."""

    @property
    def is_over(self) -> bool:
        return self.state in list(OperationState) and self.state != OperationState.RUNNING


class OperationService:
    """Operations of clients. Every method raises StoreUnavailable or StoreRefused if Redis fails."""

    def __init__(
        self, shards: Shards[ShardStore], jobs: PerShard[JobService], history: HistoryService, clock: Clock
    ) -> None:
        self._shards = shards
        self._store = shards.lead.operation_store()
        self._jobs = jobs
        self._history = history
        self._clock = clock
        self._turns = Turns(clock, rests=False)
        self._name = f"api-{secrets.token_hex(4)}"

    async def start(self, spec: OperationSpec, *, seconds: float = FIRST_SECONDS) -> OperationView:
        """Store an operation and work on it for at most ``seconds``; returns how far it is then.

        If Redis fails after it is stored, a node continues it. Raises TooManyOperations, and InvalidInput if the
        selection names an unknown target.
        """
        until = self._clock.monotonic() + seconds
        if spec.selection.target is not None:  # refuse an unknown one before anything is stored
            await page_of_selected(self._shards, self._clock, spec.selection, limit=1)
        now_ms = self._clock.now_ms()
        lease_ms = FIRST_LEASE // timedelta(milliseconds=1)
        taken = TakenOperation(random_run_id(now_ms), 1, encode(spec), encoded_start(now_ms))
        stored = await self._store.create(
            taken.id,
            spec=taken.spec,
            progress=taken.progress,
            carrier=self._name,
            now_ms=now_ms,
            until_ms=now_ms + lease_ms,
        )
        if not stored:
            raise TooManyOperations
        log.info(OPERATION_STARTED, operation=taken.id, verb=spec.verb.value, dry_run=spec.dry_run)
        carrier = Carrier(
            taken,
            self._store,
            self._shards,
            self._jobs,
            self._history,
            self._clock,
            lease_ms=lease_ms,
            turns=self._turns,
        )
        state = "waiting"
        try:
            if await carrier.work(until):
                found = await self._store.read(taken.id)
                state = OperationState.DONE.value if found is None else found.state.value
        except StoreError:
            with contextlib.suppress(StoreError, LeaseLost):  # else a node continues when the lease is over
                await carrier.release()
        except LeaseLost:
            pass
        return OperationView(taken.id, spec, carrier.progress, state)

    async def get(self, operation_id: str) -> OperationView:
        """Return the operation. Raises OperationNotFound and CorruptDocument."""
        stored = await self._store.read(operation_id)
        if stored is None:
            raise OperationNotFound(operation_id)
        view = self._view(stored)
        return view if view.is_over else msgspec.structs.replace(view, left_ms=await self._left_ms(view))

    async def count_open(self) -> OpenOperations:
        """Count the open operations."""
        return await self._store.count_open(now_ms=self._clock.now_ms())

    async def page(self, *, after: str, limit: int) -> tuple[list[OperationView], str | None]:
        """Return operations with smaller ids than ``after`` (empty: all), newest first, and the id after which the
        next page begins; None at the end."""
        ids = [one for one in await self._store.ids() if not after or one < after]
        some = ids[:limit]
        views: list[OperationView] = []
        for stored in await self._store.read_many(some):
            try:
                views.append(self._view(stored))
            except CorruptDocument:
                continue
        return views, some[-1] if len(ids) > limit else None

    async def cancel(self, operation_id: str) -> OperationView:
        """Cancel the operation: no further job or run is handled after the one in hand. Cancelling it again changes
        nothing. Raises OperationNotFound, and OperationEnded for one that ended otherwise."""
        answer = await self._store.cancel(operation_id, now_ms=self._clock.now_ms())
        if answer == "missing":
            raise OperationNotFound(operation_id)
        view = await self.get(operation_id)
        if answer == "ended" and view.state != OperationState.CANCELLED:
            raise OperationEnded(operation_id, view.state)
        if answer == "ok":
            log.info(OPERATION_CANCELLED, operation=operation_id)
        return view

    def _view(self, stored: StoredOperation) -> OperationView:
        spec, progress = decode_spec(stored.spec), decode_progress(stored.progress)
        is_carried = stored.leased_until_ms > self._clock.now_ms()
        state = stored.state.value
        if stored.state is OperationState.RUNNING:
            state = "cancelling" if stored.cancelled_at_ms is not None else "running" if is_carried else "waiting"
        return OperationView(
            stored.id, spec, progress, state, stored.carrier if is_carried else None, stored.ended_at_ms
        )

    async def _left_ms(self, view: OperationView) -> int | None:
        """Estimate the rest from the share of all ids that the work has passed; for a replay it is unknown."""
        spec, progress = view.spec, view.progress
        if spec.verb is OperationVerb.REPLAY or not progress.position or not progress.worked_ms:
            return None
        if spec.job_ids:
            passed = bisect_right(spec.job_ids, progress.position.encode(), key=str.encode)
            return round(progress.worked_ms * (len(spec.job_ids) - passed) / passed) if passed else None
        prefix = spec.selection.prefix or ""
        counts = await asyncio.gather(
            *(
                store.count_ids(after=after, prefix=prefix)
                for after in (progress.position, "")
                for store in self._shards.all
            )
        )
        left, all_ids = sum(counts[: len(self._shards)]), sum(counts[len(self._shards) :])
        passed = all_ids - left
        return round(progress.worked_ms * left / passed) if passed > 0 else None
