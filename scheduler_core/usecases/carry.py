"""Carries an operation under a lease: works through its jobs or runs, and stores how far it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import (
    AlreadyReplayed,
    AlreadySucceeded,
    CronpostError,
    DefinitionChanged,
    JobNotFound,
    RunConflict,
    RunNotFound,
    StoreError,
    StoreRefused,
    TooManyReplays,
)
from scheduler_core.base.events import OPERATION_ENDED, OPERATION_ERROR, get_logger
from scheduler_core.model.run import Run
from scheduler_core.store.operations import OperationState, OperationStore, Saved, TakenOperation
from scheduler_core.store.shards import PerShard, Shards, ShardStore
from scheduler_core.usecases.bulk_replay import UNFINISHED, BulkReplay
from scheduler_core.usecases.bulk_verbs import BulkVerbs
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.operation_spec import (
    ERRORS_KEPT,
    OperationError,
    OperationVerb,
    Progress,
    decode_progress,
    decode_spec,
    encode,
)
from scheduler_core.usecases.selection import page_of_ids, page_of_selected

log = get_logger(__name__)

PAGE = 32
"""Jobs that are read at once; after as many, the position is stored."""
SAVE_SECONDS = 0.5
"""The position is stored at least this often while jobs are handled. A process that takes over repeats at most the jobs
since then."""
POLL_SECONDS = 0.5
"""Pause between two visits of the jobs of a replay, if none of them had room for a further run."""
HISTORIES_AT_ONCE = 8
"""Jobs whose histories are read together for a replay; bounds the records in memory."""
REST_FROM_SECONDS = 0.02
TRIES_OF_ONE = 8
"""How often one job may fail in a row although its shard accepts writes, before this counts as an error of the job."""
DETAIL_CHARACTERS = 500
SKIPPED_ERRORS = (RunConflict, AlreadyReplayed, AlreadySucceeded, DefinitionChanged)
"""Errors that say that the job or run is in a state in which the verb does not apply: it is skipped."""


class LeaseLost(Exception):
    """Another process carries the operation, or it has ended."""


class _Pause(Exception):
    """The time of this call is over, or the process stops."""


class _Cancelled(Exception):
    """A client cancelled the operation."""


class Turns:
    """Lets all operations of a process handle one job at a time, and with ``rests`` only half of the time: they share
    the event loop and Redis with the jobs that fire."""

    def __init__(self, clock: Clock, *, rests: bool) -> None:
        self._clock = clock
        self._rests = rests
        self._lock = asyncio.Lock()
        self._busy = 0.0

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn; rest after it if enough work was done since the last rest."""
        async with self._lock:
            began = self._clock.monotonic()
            try:
                yield
            finally:
                self._busy += self._clock.monotonic() - began
            if self._rests and self._busy >= REST_FROM_SECONDS:
                busy, self._busy = self._busy, 0.0
                await self._clock.sleep(min(busy, 1.0))


class Carrier:
    """Works on one operation. An error of one job is counted; a fault of Redis ends ``work``, which continues with the
    same job when it is called again."""

    def __init__(
        self,
        taken: TakenOperation,
        store: OperationStore,
        shards: Shards[ShardStore],
        jobs: PerShard[JobService],
        history: HistoryService,
        clock: Clock,
        *,
        lease_ms: int,
        turns: Turns,
    ) -> None:
        """Raises CorruptDocument if the operation cannot be read."""
        self.operation_id = taken.id
        self.spec = decode_spec(taken.spec)
        self.progress: Progress = decode_progress(taken.progress)
        self.stopping = False
        """Set by the process when it stops: ``work`` returns after the job in hand."""
        self._fence = taken.fence
        self._store = store
        self._shards = shards
        self._jobs = jobs
        self._clock = clock
        self._lease_ms = lease_ms
        self._turns = turns
        self._verbs = BulkVerbs(self.spec, taken.id, jobs, clock)
        self._replay = BulkReplay(self.spec, taken.id, shards, jobs, history, clock)
        self._cancelled = taken.cancelled
        self._until: float | None = None
        self._saved_at = self._next_start = clock.monotonic()
        self._since_save = 0
        self._in_hand: JobView | None = None
        """The job that is handled now. If Redis fails meanwhile, it is the first one that the next ``work`` handles."""
        self._unsure = False
        """Whether the verb may have been carried out on it although Redis did not answer."""
        self._tried = ("", 0)
        """The last job that failed because of Redis, and how often in a row."""

    async def work(self, until: float | None = None) -> bool:
        """Work until the operation has ended (True), or until ``until`` on the monotonic clock (False; the lease is
        released).

        Raises LeaseLost, and StoreError if Redis fails: call it again later.
        """
        self._until = until
        self._saved_at = self._clock.monotonic()  # a time without Redis is no work
        try:
            await self._save()  # the lease may be over after a fault: work only if no other process has it
            self._stop_if_asked()
            await self._go_on()
        except _Pause:
            await self._save(release=True)
            return False
        except _Cancelled:
            await self._end(OperationState.CANCELLED)
        else:
            await self._end(OperationState.DONE)
        return True

    async def give_up(self, error: Exception) -> None:
        """End the operation as failed, with ``error`` as its last one. Raises LeaseLost and StoreError."""
        last = self._error("", error)
        self.progress.errors = [*self.progress.errors[: ERRORS_KEPT - 1], last]
        await self._end(OperationState.FAILED)

    async def release(self) -> None:
        """Store the position and release the lease, so that another process can continue at once."""
        await self._save(release=True)

    # ---- jobs ---------------------------------------------------------------------------------------------------

    async def _go_on(self) -> None:
        if self.spec.verb is OperationVerb.REPLAY:
            await self._replay_all()
        else:
            await self._reach(self._apply)

    async def _reach(
        self, handle: Callable[[JobView], Awaitable[None]], *, full: Callable[[], bool] = lambda: False
    ) -> None:
        """Handle each job of the selection from the stored position on, in the order of ids, until all were reached or
        ``full`` is true."""
        progress = self.progress
        if self._in_hand is not None:
            await self._handle(handle, self._in_hand)
        while not progress.reached_all and not full():
            async with self._turns.one():
                views, following = await self._page()
            for view in views:
                if view.id.encode() <= progress.position.encode():
                    continue
                await self._handle(handle, view)
                if full():
                    return
            if following is None:
                progress.reached_all = True
            else:
                progress.cursor = following
            await self._check()

    async def _page(self) -> tuple[list[JobView], str | None]:
        job_id = self.spec.job_id
        if job_id is not None:
            with contextlib.suppress(JobNotFound):
                return [await self._jobs.of(job_id).get(job_id)], None
            return [], None
        if self.spec.job_ids:
            return await self._page_of_ids()
        page = await page_of_selected(
            self._shards, self._clock, self.spec.selection, sort="id", cursor=self.progress.cursor, limit=PAGE
        )
        return page.jobs, page.cursor

    async def _page_of_ids(self) -> tuple[list[JobView], str | None]:
        after = self.progress.cursor.encode()
        left = [job_id for job_id in self.spec.job_ids if job_id.encode() > after]
        page = await page_of_ids(self._shards, self._clock, left[:PAGE])
        return page.jobs, left[PAGE - 1] if len(left) > PAGE else None

    async def _handle(self, handle: Callable[[JobView], Awaitable[None]], view: JobView) -> None:
        self._in_hand = view
        await handle(view)
        self._in_hand, self._unsure = None, False
        self.progress.position = view.id
        await self._check()

    async def _apply(self, view: JobView) -> None:
        """Apply the verb to one job, and count the result."""
        try:
            why = self._verbs.skipped(view)
        except CronpostError as error:
            self._fail(view.id, error)
            return
        if why is not None:
            self.progress.skip(why)
        elif self.spec.dry_run:
            self.progress.change()
        else:
            if self.spec.verb is OperationVerb.RUN:
                await self._pace()
            await self._try(view.id, partial(self._verbs.apply, view))

    async def _try(self, job_id: str, action: Callable[[], Awaitable[str | None]], run_id: str | None = None) -> None:
        """Carry out ``action``, which returns why it changed nothing, and count the result. Raises StoreError and
        TooManyReplays."""
        try:
            async with self._turns.one():
                why = await action()
        except StoreError as error:
            if not await self._is_of_one(job_id, error):
                raise
            self._fail(job_id, error, run_id)
            return
        except TooManyReplays:
            raise
        except (JobNotFound, RunNotFound):
            why = "gone"
        except CronpostError as error:
            if not isinstance(error, SKIPPED_ERRORS):
                self._fail(job_id, error, run_id)
                return
            why = error.code
        except Exception as error:
            # Catch everything: an operation that ends because of one job would leave out all others.
            log.exception(OPERATION_ERROR, operation=self.operation_id, job_id=job_id)
            self._fail(job_id, error, run_id)
            return
        self._tried = ("", 0)
        if why is None or (self._unsure and why in {"gone", "unchanged"}):
            self.progress.change()
        else:
            self.progress.skip(why)

    async def _is_of_one(self, job_id: str, error: StoreError) -> bool:
        """Return whether a fault of Redis concerns this job alone: its shard accepts other writes."""
        name, count = self._tried
        count = count + 1 if name == job_id else 1
        self._tried = (job_id, count)
        self._unsure = self._unsure or getattr(error, "effect_unknown", False)
        if count < (1 if isinstance(error, StoreRefused) else TRIES_OF_ONE):
            return False
        try:
            await self._shards.of(job_id).try_write()
        except StoreError:
            return False
        return True

    def _fail(self, job_id: str, error: Exception, run_id: str | None = None) -> None:
        self.progress.fail(self._error(job_id, error, run_id))

    def _error(self, job_id: str, error: Exception, run_id: str | None = None) -> OperationError:
        known = isinstance(error, CronpostError)
        code = error.code if isinstance(error, CronpostError) else "internal"
        detail = str(error) if known else f"{type(error).__name__}: {error}"
        return OperationError(job_id, code, detail[:DETAIL_CHARACTERS], self._clock.now_ms(), run_id)

    # ---- runs ---------------------------------------------------------------------------------------------------

    async def _replay_all(self) -> None:
        """Visit the jobs of the selection again and again, a bounded number at a time, until no run is left."""
        progress = self.progress
        while True:
            await self._reach(self._begin_job, full=lambda: len(progress.unfinished) >= UNFINISHED)
            if not progress.unfinished and progress.reached_all:
                return
            handled = progress.matched
            for job_ids in self._replay.portions(progress):
                async with self._turns.one():
                    views = await self._replay.views_of(job_ids)
                for start in range(0, len(job_ids), HISTORIES_AT_ONCE):
                    part = job_ids[start : start + HISTORIES_AT_ONCE]
                    await self._replay_some(dict(zip(part, views[start : start + HISTORIES_AT_ONCE], strict=True)))
            if progress.matched == handled and progress.unfinished:
                await self._wait(POLL_SECONDS)

    async def _begin_job(self, view: JobView) -> None:
        self.progress.unfinished[view.id] = None

    async def _replay_some(self, views: Mapping[str, JobView | None]) -> None:
        """Replay runs of some jobs. Their histories are read together: one after another, most of the time is waiting
        for Redis."""
        async with self._turns.one():
            left = await asyncio.gather(*(self._left_of(job_id, view) for job_id, view in views.items()))
        for (job_id, view), (room, runs) in zip(views.items(), left, strict=True):
            if room:
                await self._replay_job(job_id, view, room, runs)
            else:
                await self._check()

    async def _left_of(self, job_id: str, view: JobView | None) -> tuple[int, list[Run]]:
        """Return how many runs of a job may be replayed now, and which are left; none if none may be."""
        position = self.progress.unfinished[job_id]
        room = await self._replay.room_of(view, is_first=position is None)
        return room, await self._replay.rest_of(job_id, position) if room else []

    async def _replay_job(self, job_id: str, view: JobView | None, room: int, runs: Sequence[Run]) -> None:
        """Replay runs of one job, at most ``room`` now, and count the results."""
        progress = self.progress
        for run in runs:
            why = self._replay.skipped(run, view)
            if why is not None:
                progress.skip(why)
            elif self.spec.dry_run:
                progress.change()
            elif not room:
                return
            else:
                await self._pace()
                try:
                    await self._try(job_id, partial(self._replay.apply, job_id, run), run.id)
                except TooManyReplays:
                    return  # clients replay runs of this job, too
                self._unsure = False
                room -= 1
            progress.unfinished[job_id] = (run.fire_time_ms, run.id)
            await self._check()
        del progress.unfinished[job_id]
        await self._check()

    # ---- time, position, lease ----------------------------------------------------------------------------------

    async def _pace(self) -> None:
        """Wait until the next run may start, at most ``per_second`` of them."""
        now = self._clock.monotonic()
        at = max(self._next_start, now)
        if self._until is not None and at > self._until:
            raise _Pause
        if at > now:
            await self._clock.sleep(at - now)
        self._next_start = at + 1 / self.spec.per_second

    async def _wait(self, seconds: float) -> None:
        if self._until is not None and self._clock.monotonic() + seconds > self._until:
            raise _Pause
        await self._clock.sleep(seconds)
        await self._check()

    async def _check(self) -> None:
        """Store the position if it is time to, and stop if a client or the process asks for it."""
        self._since_save += 1
        now = self._clock.monotonic()
        if self._since_save >= PAGE or now - self._saved_at >= SAVE_SECONDS:
            await self._save()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._cancelled:
            raise _Cancelled
        if self.stopping or (self._until is not None and self._clock.monotonic() >= self._until):
            raise _Pause

    async def _save(self, *, release: bool = False) -> None:
        raw = self._worked()
        until_ms = 0 if release else self._clock.now_ms() + self._lease_ms
        saved = await self._store.save(self.operation_id, fence=self._fence, progress=raw, until_ms=until_ms)
        self._since_save = 0
        self._noted(saved)

    async def _end(self, state: OperationState) -> None:
        raw = self._worked()
        saved = await self._store.end(
            self.operation_id, fence=self._fence, progress=raw, state=state, now_ms=self._clock.now_ms()
        )
        self._noted(saved)
        progress = self.progress
        log.info(
            OPERATION_ENDED,
            operation=self.operation_id,
            verb=self.spec.verb.value,
            state=state.value,
            matched=progress.matched,
            changed=progress.changed,
            failed=progress.failed,
        )

    def _worked(self) -> bytes:
        """Add the time since the last save to the progress, and encode it."""
        now = self._clock.monotonic()
        self.progress.worked_ms += round((now - self._saved_at) * 1000)
        self.progress.updated_at_ms = self._clock.now_ms()
        self._saved_at = now
        return encode(self.progress)

    def _noted(self, saved: Saved) -> None:
        if saved is Saved.LOST:
            raise LeaseLost
        self._cancelled = self._cancelled or saved is Saved.CANCELLED


def encoded_start(now_ms: int) -> bytes:
    """Return the progress of an operation that begins now."""
    return encode(Progress(updated_at_ms=now_ms))
