"""Calls one-off tasks in batches: one batch at a time across all nodes, all its calls at once, then a pause.

Every node asks for the next batch when it may be due, and one node gets it. The batch is a lease for all nodes
together: while a node holds it, no node gets another, and the pause begins when its last task is settled. So order and
spacing do not depend on the number of nodes. Tasks that a dead node has not settled return to their place in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError, StoreUnavailable
from scheduler_core.base.events import (
    RUN_RELEASED,
    RUN_RETRYING,
    SETTLEMENT_REFUSED,
    TASK_BATCH_LOST,
    TASK_UNREADABLE,
    TASKS_REMOVED,
    get_logger,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import Deliverer, attempt
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.run import Run
from scheduler_core.model.task import Task, TaskRules, task_id
from scheduler_core.model.trace import EndedAttempt, Traces
from scheduler_core.node.loops.service import Service
from scheduler_core.node.node import Node
from scheduler_core.plan.settle import Ended
from scheduler_core.plan.task import TaskOperation, TaskStep, current_run, plan_called, plan_deleted
from scheduler_core.store.tasks import SETTLE_LIMIT, Row, Taken, TaskSettlement, TaskStore
from scheduler_core.usecases.report import report_record

log = get_logger(__name__)

LONGEST_SLEEP = 1.0
"""Seconds after which the sleeping loop asks the store although nothing woke it."""


class Unsettled(msgspec.Struct):
    """A task of the batch that Redis has not accepted as settled yet."""

    row: Row
    step: TaskStep
    settlement: TaskSettlement
    called: Task | None = None
    """The task after the call; None: it was not called."""
    attempt: tuple[Run, Ended] | None = None
    """The call and its run before it, for its trace; None: it has none."""


class Batch:
    """The batch that this node holds. Each call refers to its batch, so a call that ends late cannot settle a task of
    another batch."""

    def __init__(self, fence: int, rules: TaskRules) -> None:
        self.fence = fence
        self.rules = rules
        self.calls: set[asyncio.Task[None]] = set()
        self.ended: list[Unsettled] = []
        """The tasks to settle, in the order in which their calls ended."""


class TaskBatcher(Service):
    """Takes, calls and settles the batches of this node.

    ``sole``: no other node can be alive, so a batch that is held at the start is reclaimed at once. ``may_reclaim()``:
    whether a node whose heartbeats are missing counts as dead now.

    Calls of tasks have their own limit, as large as that of attempts of jobs: a batch of slow webhooks does not delay
    jobs, and jobs do not delay it. A batch is never larger than this limit, so all its calls can start at once.
    """

    name = "task batches"

    def __init__(
        self,
        node: Node,
        store: TaskStore,
        deliverer: Deliverer,
        clock: Clock,
        metrics: Metrics,
        *,
        may_reclaim: Callable[[], bool],
        sole: bool = False,
        traces: Traces | None = None,
    ) -> None:
        super().__init__(clock, metrics)
        self._traces = traces
        self._node = node
        self._store = store
        self._deliverer = deliverer
        self._may_reclaim = may_reclaim
        self._sole = sole
        self._batch: Batch | None = None
        self._tokens = itertools.count(1)
        self._token: int | None = None
        """The number of a take that Redis has not answered; None: all are answered."""
        self._stopping = False
        self._arrived = asyncio.Event()
        self._batch_over = asyncio.Event()
        self._woken = asyncio.Event()
        self._is_idle = False
        """True: the last take found no due task. False: the loop waits for the end of a batch or of a pause."""
        self._sleeping_until_ms: int | None = None
        self._earliest_ms: int | None = None
        """The earliest wake-up that arrived while the loop was awake."""
        metrics.task_calls_in_flight.set_function(lambda: 0 if self._batch is None else len(self._batch.calls))

    # ---- when to look -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Ask for a batch now."""
        self._woken.set()

    def wake_at(self, wake_ms: int) -> None:
        """Ask for a batch at ``wake_ms``, when a task is due, if not earlier. 0: something else changed, ask now."""
        if self._sleeping_until_ms is None:
            self._earliest_ms = wake_ms if self._earliest_ms is None else min(self._earliest_ms, wake_ms)
        elif wake_ms == 0 or (self._is_idle and wake_ms < self._sleeping_until_ms):
            self._woken.set()

    async def run_once(self) -> None:
        if self._batch is not None:
            await self.settle_ended()
            return
        self._woken.clear()
        self._earliest_ms = None
        if self._stopping:
            await self._woken.wait()
            return
        taken = await self.take()
        self._is_idle = taken.result == "empty"
        if taken.result in {"wait", "empty", "beat", "busy"}:
            await self._sleep(taken.until_ms)

    async def _sleep(self, until_ms: int | None) -> None:
        """Sleep until ``until_ms``, until woken, or for the longest sleep, whichever comes first."""
        # A wake-up that arrived during the take may not be in its answer.
        heard_ms = self._earliest_ms if self._is_idle or self._earliest_ms == 0 else None
        seconds = LONGEST_SLEEP
        for wake_ms in (until_ms, heard_ms):
            if wake_ms is not None:
                seconds = min(seconds, (wake_ms - self.clock.now_ms()) / 1000)
        if seconds <= 0:
            return
        self._sleeping_until_ms = self.clock.now_ms() + int(seconds * 1000)
        try:
            await self.clock.wait_for(self._woken, seconds)
        finally:
            self._sleeping_until_ms = None

    # ---- take ---------------------------------------------------------------------------------------------------

    async def take(self) -> Taken:
        """Ask for the next batch once, and start its calls if this node gets it.

        A take without an answer is repeated under its token, so that the batch that it may have taken is not lost. If
        a dead node holds a batch, the batch is reclaimed, and the next take can get one.
        """
        if self._token is None:
            self._token = next(self._tokens)
        taken = await self._store.take(
            now_ms=self.clock.now_ms(),
            node=self._node.id,
            token=self._token,
            dead_after_ms=self._node.dead_after_ms,
            slots=self._node.settings.max_in_flight,
        )
        if taken.result in {"ok", "void"}:
            self._token = None
        if taken.result == "ok":
            self._begin(taken)
        elif taken.result == "busy" and await self._reclaimed(taken):
            return Taken("void")
        self._sole = self._sole and taken.result in {"beat", "void"}
        return taken

    async def _reclaimed(self, taken: Taken) -> bool:
        """Reclaim the batch that is held if no node works on it; return whether it is reclaimed."""
        if taken.holder == self._node.id:
            # A take of this node reached Redis after the node stopped waiting for it: none of its tasks was called.
            ended_at_ms = None
        elif self._sole or (not taken.holder_beats and self._may_reclaim()):
            ended_at_ms = self.clock.now_ms()
        else:
            return False
        count = await self._store.release(node=taken.holder, fence=taken.fence, ended_at_ms=ended_at_ms)
        if count >= 0:
            self.metrics.reaped.inc(count)
            log.warning(TASK_BATCH_LOST, count=count, holder=taken.holder, fence=taken.fence)
        return True

    def _begin(self, taken: Taken) -> None:
        assert taken.rules is not None
        batch = self._batch = Batch(taken.fence, taken.rules)
        self.metrics.task_batches.inc()
        self._arrived.set()  # for tasks that are settled without a call, and for a batch of deleted tasks only
        for row in taken.rows:
            if row.task is None:
                self._put_without_call(batch, row)
            elif self._stopping:
                self._put(batch, row, TaskStep(TaskOperation.BACK))
            else:
                call = asyncio.create_task(self._call(batch, row, row.task))
                batch.calls.add(call)
                call.add_done_callback(batch.calls.discard)

    def _put_without_call(self, batch: Batch, row: Row) -> None:
        if row.fault is None:
            self._put(batch, row, TaskStep(TaskOperation.DROP))
        else:
            log.error(TASK_UNREADABLE, job_id=task_id(row.number), detail=row.fault)
            self._put(batch, row, TaskStep(TaskOperation.STALE))

    # ---- call ---------------------------------------------------------------------------------------------------

    async def _call(self, batch: Batch, row: Row, task: Task) -> None:
        if not self._node.holds_lease():
            # Another node may have reclaimed this batch by now, and call its tasks at the same time.
            self._put(batch, row, TaskStep(TaskOperation.BACK))
            return
        started_at_ms = self.clock.now_ms()
        call: Call | None = None
        try:
            call = call_of(task, row.number, batch.fence, batch.rules)
            outcome = await self._deliver(call)
        except asyncio.CancelledError:
            self._put(batch, row, TaskStep(TaskOperation.BACK))
            raise
        except Exception as error:  # noqa: BLE001 - a call that ends without a result would never end its batch
            outcome = Outcome(OutcomeKind.INTERNAL, 0.0, message=f"{type(error).__name__}: {error}")
        if outcome.kind is OutcomeKind.NOT_SENT:
            self._put(batch, row, TaskStep(TaskOperation.BACK))
            return
        ended = Ended(outcome, batch.fence, started_at_ms, self.clock.now_ms(), call=call)
        status = f"{outcome.status // 100}xx" if outcome.status else ""
        self.metrics.attempts.add(str(outcome.kind), status)
        self.metrics.duration.observe(outcome.latency_ms / 1000)
        if task.run is None:
            due_at_ms = current_run(task).fire_time_ms
            self.metrics.task_lateness.observe(max(0, started_at_ms - due_at_ms) / 1000)
        step = plan_called(task, ended, batch.rules)
        self._put(batch, row, step, step.task)
        if self._traces is not None:
            batch.ended[-1].attempt = (current_run(task), ended)

    async def _deliver(self, call: Call) -> Outcome:
        return await attempt(lambda done: self._deliverer.start(call, done, self._may_call))

    def _may_call(self) -> bool:
        return self._node.holds_lease()

    def _put(self, batch: Batch, row: Row, step: TaskStep, called: Task | None = None) -> None:
        settlement = self._store.settlement(row.number, step.operation, step.task, step.record, step.detail)
        batch.ended.append(Unsettled(row, step, settlement, called))
        self._arrived.set()

    # ---- settle -------------------------------------------------------------------------------------------------

    async def settle_ended(self) -> None:
        """Wait until calls have ended, and settle their tasks in one round trip. The last one ends the batch.

        Tasks that Redis does not accept are kept, and no other batch is taken until they are settled.
        """
        batch = self._batch
        if batch is None:
            return
        if not batch.ended and batch.calls:
            self._arrived.clear()
            await self._arrived.wait()
        part = batch.ended[:SETTLE_LIMIT]
        answer = await self._store.settle(
            [one.settlement for one in part], now_ms=self.clock.now_ms(), node=self._node.id, fence=batch.fence
        )
        if not part and not answer.over:
            await self._store.release(node=self._node.id, fence=batch.fence, ended_at_ms=self.clock.now_ms())
            self._end_batch(batch)
            return
        del batch.ended[: len(part)]
        for one, result in zip(part, answer.answers, strict=True):
            self._answered(batch, one, result)
        if answer.removed:
            self.metrics.tasks_removed.inc(answer.removed)
            log.warning(TASKS_REMOVED, count=answer.removed, detail="stale tasks beyond the number that is kept")
        if answer.over:
            self._end_batch(batch)

    def _end_batch(self, batch: Batch) -> None:
        """End the batch. If it was reclaimed, another node may be calling its tasks: cancel our calls."""
        for call in list(batch.calls):
            call.cancel()
        self._batch = None
        self._batch_over.set()

    def _answered(self, batch: Batch, one: Unsettled, result: str) -> None:
        public_id = task_id(one.row.number)
        if self._traces is not None and one.attempt is not None:
            self._trace(self._traces, one, *one.attempt, fence=batch.fence, is_stored=result != "refused")
        if result == "refused":
            self.metrics.refused.inc()
            log.warning(SETTLEMENT_REFUSED, job_id=public_id, fence=batch.fence)
        elif result == "deleted" and one.called is not None:
            self._put(batch, one.row, plan_deleted(one.called, now_ms=self.clock.now_ms()))
        elif one.step.operation is TaskOperation.BACK:
            log.info(RUN_RELEASED, job_id=public_id, fence=batch.fence)
        elif one.step.record is not None:
            report_record(self.metrics, public_id, one.step.record)
        elif one.step.operation is TaskOperation.FAILED and one.called is not None and one.called.run is not None:
            self.metrics.retries.inc()
            _log_retry(public_id, one.called.run)

    def _trace(self, traces: Traces, one: Unsettled, run: Run, ended: Ended, *, fence: int, is_stored: bool) -> None:
        """Record the spans of a call whose result was sent."""
        traces.attempt_ended(
            EndedAttempt(
                task_id(one.row.number),
                run,
                self._node.id,
                fence,
                False,
                max(run.fire_time_ms, ended.started_at_ms) if run.attempt else run.fire_time_ms,
                ended.started_at_ms,
                ended.ended_at_ms,
                self.clock.now_ms(),
                is_stored,
                ended.outcome,
                ended.call,
            )
        )

    # ---- stop ---------------------------------------------------------------------------------------------------

    def stop_taking(self) -> None:
        """Take no further batch; the current one continues."""
        self._stopping = True

    async def finish(self, *, grace_seconds: float, settle_seconds: float) -> bool:
        """Finish after ``stop_taking``: wait for open calls, release the other tasks, settle, stop.

        Returns whether everything is settled; if not, another node reclaims the batch.
        """
        batch = self._batch
        if batch is not None and batch.calls:
            await asyncio.wait(set(batch.calls), timeout=grace_seconds)
            for call in list(batch.calls):
                call.cancel()
        if self._batch is not None:
            self._batch_over.clear()
            await self.clock.wait_for(self._batch_over, settle_seconds)
        await self.stop()
        if self._batch is None and self._token is None:
            return True
        with contextlib.suppress(StoreError):
            # The batch of a take without an answer, and tasks that could not be settled.
            fence, ended_at_ms = (None, None) if self._batch is None else (self._batch.fence, self.clock.now_ms())
            await self._store.release(node=self._node.id, fence=fence, ended_at_ms=ended_at_ms)
        return self._batch is None


class TaskWakeupSubscriber(Service):
    """Subscribes to the wake-ups of one-off tasks: earlier tasks, the end of a batch, changed settings."""

    name = "task wake-ups"

    def __init__(self, store: TaskStore, batcher: TaskBatcher, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._batcher = batcher

    async def run_once(self) -> None:
        async for wake_ms in self._store.wake_ups():
            if wake_ms is None:
                self.works()
                self._batcher.wake()  # wake-ups may have been missed before the subscription
            else:
                self._batcher.wake_at(wake_ms)
        raise StoreUnavailable("the subscription ended")


def call_of(task: Task, number: int, fence: int, rules: TaskRules) -> Call:
    """Return the next call of a task."""
    run = current_run(task)
    return Call(
        run.id,
        task_id(number),
        run.reason,
        run.fire_time_ms,
        run.attempt + 1,
        fence,
        task.url,
        b"{}" if task.auth is None else msgspec.json.encode({"token": task.auth}),
        rules.http_callback_timeout_ms,
        headers=() if task.auth is None else (("Authorization", task.auth),),
        is_last_attempt=task.retries >= rules.max_retries,
    )


def _log_retry(public_id: str, run: Run) -> None:
    last = run.attempts[-1]
    log.info(
        RUN_RETRYING,
        job_id=public_id,
        run_id=run.id,
        attempt=run.attempt,
        status=last.status,
        outcome=last.outcome.value,
        detail=last.message,
    )
