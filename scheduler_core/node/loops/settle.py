"""Records what came of each attempt. Results that arrive while a batch is on its way to Redis make the next batch.

Nothing is dropped: what Redis cannot take is kept and tried again, and the node claims nothing new meanwhile. The lease
of a kept result lives as long as the node's heartbeat does; should another node take the run over, the fence tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreRefused
from scheduler_core.base.events import (
    JOB_QUARANTINED,
    RUN_HANDED_BACK,
    RUN_HELD_BACK,
    RUN_RETRYING,
    RUN_TAKEN,
    SETTLE_PUT_ASIDE,
    SETTLE_REFUSED,
    get_logger,
    instant,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job import HeldBack, JobState, LostCause
from scheduler_core.model.run import Reason, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.node.loops.service import Service
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.claim import Work, plan_full, plan_spawn, quarantine_unreadable
from scheduler_core.plan.held_back import may_release, plan_hold_back, plan_hold_back_changed
from scheduler_core.plan.settle import Ended, plan_settle, plan_settle_changed
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.loop import ClaimedJob, LoopStore, Settled, Settlement
from scheduler_core.usecases.report import report_record

log = get_logger(__name__)

BATCH = 256
REFUSALS = 5
"""So often one settlement is refused alone, in two seconds and a half, before it is put aside for the others' sake."""
REJECTED_SECONDS = 10.0
STATUS_CLASSES = tuple(f"{first}xx" for first in range(10))


class Unsettled(msgspec.Struct):
    """Something to settle, until Redis has taken it."""

    claimed: ClaimedJob
    transition: Transition | None
    """None: hand the job back unfinished."""
    settlement: Settlement
    work: Work | None = None
    ended: Ended | None = None
    refused: int = 0
    """How often in a row Redis has refused it when it was sent alone."""


class Settler(Service):
    """Settles in batches, in the order in which attempts end."""

    name = "settle"

    def __init__(self, store: LoopStore, policy: RetryPolicy, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._policy = policy
        self._queue: list[Unsettled] = []
        self._batch: list[Unsettled] = []
        self._arrived = asyncio.Event()
        self._progress = asyncio.Event()
        """Set after each round; for those that wait until all is settled."""
        self._singly = False
        self._rejected: list[Unsettled] = []
        """What Redis refuses although it takes other writes: something is wrong with that job's keys. It is tried again
        now and then, and as long as its node lives nobody else takes the job."""
        self._rejected_until = 0.0
        self.takes_writes: Callable[[], bool] = lambda: True
        """Whether Redis takes writes of others; the node's heartbeat knows."""
        self.woken: Callable[[int], None] = lambda wake_ms: None
        """Told the next wake-up of each settled job; the engine puts the claimer's ``wake_at`` here."""
        self.suspect_left: Callable[[], None] = lambda: None
        """Called when a suspect was settled; the engine puts the claimer's method here."""

    @property
    def unsettled(self) -> int:
        """How much Redis was not told yet."""
        return len(self._queue) + len(self._batch) + len(self._rejected)

    def holds(self) -> set[tuple[str, int]]:
        """Id and fence of each job whose result Redis was not told yet."""
        return {(one.claimed.id, one.claimed.lease.fence) for one in (*self._queue, *self._batch, *self._rejected)}

    @property
    def is_behind(self) -> bool:
        """Whether Redis did not take the last batch."""
        return self.fault is not None

    @property
    def is_idle(self) -> bool:
        """Whether everything is settled that Redis takes."""
        return not self._queue and not self._batch

    def put(self, claimed: ClaimedJob, work: Work, ended: Ended) -> None:
        """An attempt has ended."""
        self.metrics.duration.observe(ended.outcome.latency_ms / 1000)
        status = ended.outcome.status
        self.metrics.attempts.add(str(ended.outcome.kind), STATUS_CLASSES[status // 100] if status else "")
        if work.run.started_at_ms is None and work.run.reason is Reason.SCHEDULED:
            self.metrics.lateness.observe(max(0, ended.started_at_ms - work.run.fire_time_ms) / 1000)
        self._put_planned(claimed, lambda: plan_settle(work, ended, self._policy), work, ended)

    def put_transition(self, claimed: ClaimedJob, transition: Transition) -> None:
        """A claimed job needed no attempt."""
        self._put(claimed, transition)

    def spawn(self, claimed: ClaimedJob, work: Work) -> None:
        """A run of a job that allows overlap becomes a unit of its own, which the next claim takes."""
        self._put(claimed, plan_spawn(work), work)

    def hold_back(self, claimed: ClaimedJob, work: Work, held: HeldBack) -> None:
        """A run that is due is not sent now, for its target's sake: its job is put back with the same fire time."""
        log.debug(
            RUN_HELD_BACK, job_id=claimed.id, reason=held.reason.value, target=held.target, until=instant(held.until_ms)
        )
        if claimed.state is not None and may_release(claimed.lease):
            self._put(claimed, plan_hold_back(claimed.state, held), work)
        else:
            self.requeue(claimed, held.until_ms)

    def requeue(self, claimed: ClaimedJob, wake_ms: int) -> None:
        """A claimed job is not finished here; at ``wake_ms`` a claim goes on with the same run."""
        self._queue.append(Unsettled(claimed, None, self._store.requeue(claimed, wake_ms)))
        self._arrived.set()

    def release(self, claimed: ClaimedJob) -> None:
        """A claimed job is not finished here; another claim goes on with the same run."""
        self._put(claimed, None)

    def release_lost(self, claimed: ClaimedJob, cause: LostCause, at_ms: int) -> None:
        """A claimed job is not finished here, but its request, begun at ``at_ms``, may have been sent."""
        self._queue.append(Unsettled(claimed, None, self._store.lost(claimed, cause, at_ms)))
        self._arrived.set()

    async def flush(self, seconds: float) -> bool:
        """Wait until everything is settled, at most ``seconds``; whether it is."""
        deadline = self.clock.monotonic() + seconds
        while not self.is_idle and (left := deadline - self.clock.monotonic()) > 0:
            self._progress.clear()
            await self.clock.wait_for(self._progress, left)
        return self.is_idle

    async def run_once(self) -> None:
        if not self._batch:
            await self._next_batch()
        size = 1 if self._singly else len(self._batch)
        part = self._batch[:size]
        try:
            answers = await self._store.settle([one.settlement for one in part])
        except StoreRefused as error:
            # One job's keys may be unusable: settled one by one, it holds up no other. What was applied before the
            # script failed answers «done» the second time.
            if self._singly and self._reject(part[0], str(error)):
                self._progress.set()
                return
            self._singly = True
            raise
        self._batch = self._batch[size:]
        if not self._batch:
            self._singly = False
        for one, answer in zip(part, answers, strict=True):
            self._answered(one, answer)
        self._progress.set()

    async def _next_batch(self) -> None:
        """Take from the queue when there is something, or what was put aside when it is time to try that again."""
        while True:
            left = self._rejected_until - self.clock.monotonic() if self._rejected else None
            if left is not None and left <= 0:
                self._batch, self._rejected, self._singly = self._rejected, [], True
                return
            if self._queue:
                self._batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
                return
            self._arrived.clear()
            await self.clock.wait_for(self._arrived, left)

    def _reject(self, one: Unsettled, reason: str) -> bool:
        """Let the others go first; whether it was refused so often that it is put aside."""
        self._batch = self._batch[1:]
        one.refused += 1
        if one.refused < REFUSALS or not self.takes_writes():
            self._batch.append(one)
            return False
        if one.refused == REFUSALS:
            log.error(SETTLE_PUT_ASIDE, job_id=one.claimed.id, fence=one.claimed.lease.fence, detail=reason)
        self._rejected.append(one)
        self._rejected_until = self.clock.monotonic() + REJECTED_SECONDS
        self._singly = bool(self._batch)
        return True

    def _put(
        self, claimed: ClaimedJob, transition: Transition | None, work: Work | None = None, ended: Ended | None = None
    ) -> None:
        self._queue.append(Unsettled(claimed, transition, self._store.settlement(claimed, transition), work, ended))
        self._arrived.set()

    def _answered(self, one: Unsettled, answer: Settled) -> None:
        if answer.result == "changed" and answer.stored is not None:
            self._plan_again(one, answer.stored)
        elif answer.result == "full" and one.work is not None and one.claimed.state is not None:
            claimed, work, state = one.claimed, one.work, one.claimed.state
            self._put_planned(claimed, lambda: plan_full(work, state, now_ms=claimed.lease.first_claimed_at_ms))
        elif answer.result == "later":
            self._queue.append(one)
        elif answer.result == "stale":
            self.metrics.refused.inc()
            log.warning(SETTLE_REFUSED, job_id=one.claimed.id, fence=one.claimed.lease.fence)
        else:
            self._report(one)
        if one.claimed.lease.group:
            self.suspect_left()

    def _plan_again(self, one: Unsettled, stored: ClaimedJob) -> None:
        """The job was changed while this node held it: plan from what is stored now."""
        claimed = msgspec.structs.replace(stored, lease=one.claimed.lease)
        if stored.fault is not None:
            self._put(claimed, self._quarantine(claimed, stored.fault), one.work, one.ended)
        else:
            self._put_planned(claimed, lambda: self._planned_again(one, stored), one.work, one.ended)

    def _planned_again(self, one: Unsettled, stored: ClaimedJob) -> Transition | None:
        if one.work is None:
            return None  # there was nothing to deliver; the next claim plans from what is stored then
        if one.ended is not None:
            return plan_settle_changed(stored.job, stored.state, one.work, one.ended, self._policy)
        # A run that was to be held back: the change may have written it into the state as one in flight.
        if stored.state is None:
            return None
        return plan_hold_back_changed(stored.job, stored.state, one.work, now_ms=self.clock.now_ms())

    def _put_planned(
        self,
        claimed: ClaimedJob,
        plan: Callable[[], Transition | None],
        work: Work | None = None,
        ended: Ended | None = None,
    ) -> None:
        """Put what ``plan`` decides. One job that cannot be planned, or not be written, must not stop the others."""
        try:
            self._put(claimed, plan(), work, ended)
        except Exception as error:  # noqa: BLE001 - see above
            reason = f"it cannot be planned: {type(error).__name__}: {error}"
            self._put(claimed, self._quarantine(claimed, reason), work, ended)

    def _quarantine(self, claimed: ClaimedJob, reason: str) -> Transition:
        self.metrics.quarantined.inc()
        log.error(JOB_QUARANTINED, job_id=claimed.id, detail=reason)
        child = job_of_claim_key(claimed.id) != claimed.id
        return quarantine_unreadable(claimed.state, reason, child=child, now_ms=self.clock.now_ms())

    def _report(self, one: Unsettled) -> None:
        """Count and log what Redis has taken; tell the claimer when the job is due again."""
        wake_ms = one.settlement.wake_ms
        if wake_ms is not None:
            self.woken(wake_ms)
        if one.transition is None:
            log.info(RUN_HANDED_BACK, job_id=one.claimed.id, fence=one.claimed.lease.fence)
            return
        job_id = job_of_claim_key(one.claimed.id)
        for record in one.transition.records:
            report_record(self.metrics, job_id, record)
        state = one.transition.state
        if one.ended is not None and one.work is not None and state is not None and (state.open or state.pending):
            waiting = waiting_run(state, one.work.run.id)
            if waiting is not None and waiting.state is RunState.RETRYING:
                self.metrics.retries.inc()
                self._log_retry(job_id, waiting)
            elif waiting is not None:
                log.info(RUN_TAKEN, job_id=job_id, run_id=waiting.id, lost_at=instant(waiting.retry_at_ms))
        if one.transition.spawn is not None:
            self.woken(one.transition.spawn.run.fire_time_ms)

    def _log_retry(self, job_id: str, run: Run) -> None:
        log.info(
            RUN_RETRYING,
            job_id=job_id,
            run_id=run.id,
            attempt=run.attempt,
            status=run.last_status,
            outcome=run.attempts[-1].outcome.value if run.attempts else None,
            detail=run.attempts[-1].message if run.attempts else "",
            retry_at=instant(run.retry_at_ms),
        )


def waiting_run(state: JobState, run_id: str) -> Run | None:
    """The run as it waits in the job's state, or among its pending entries; None: it does not."""
    if state.open is not None:
        return state.open if state.open.id == run_id else None
    return next((entry.run for entry in state.pending if entry.run is not None and entry.run.id == run_id), None)
