"""Writes attempt results to Redis in batches. Results that arrive during a write form the next batch.

No result is dropped: results that Redis does not accept are kept and sent again, and until then the node claims nothing
new. The lease of a kept result is valid while the node's heartbeat is. If another node takes the run over, Redis
refuses the result because of its fence. ``settle_queue`` decides what is sent next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sized
from functools import partial

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError, StoreRefused
from scheduler_core.base.events import (
    JOB_QUARANTINED,
    RUN_HELD_BACK,
    RUN_RELEASED,
    RUN_RETRYING,
    RUN_TAKEN,
    SETTLEMENT_REFUSED,
    SETTLEMENT_SET_ASIDE,
    get_logger,
    instant,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import HeldBack, JobState
from scheduler_core.model.lease import LostCause
from scheduler_core.model.run import Reason, Run, RunState
from scheduler_core.model.trace import EndedAttempt, Traces
from scheduler_core.model.transition import Transition
from scheduler_core.node.loops.order import BURST, MORE_SECONDS, Order
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.settle_queue import Mode, Refusal, SettleQueue, Unsettled
from scheduler_core.node.loops.start_queue import LeaseId
from scheduler_core.node.loops.suspects import Suspects
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.claim import Work, quarantine_unreadable
from scheduler_core.plan.held_back import may_release, plan_hold_back, plan_hold_back_changed
from scheduler_core.plan.overlapping import plan_full, plan_spawn
from scheduler_core.plan.settle import Ended, plan_settle, plan_settle_changed
from scheduler_core.store.attention import AttentionStore, SetAside, encode_set_aside
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.loop import ClaimedJob, LoopStore, Settled, Settlement
from scheduler_core.usecases.report import report_record

log = get_logger(__name__)

STATUS_CLASSES = tuple(f"{first}xx" for first in range(10))
DETAIL_LENGTH = 300
"""How many characters of an answer of Redis are noted for a settlement that it refuses."""


class Settler(Service):
    """Settles in batches, in the order in which attempts end.

    ``wake_at`` receives the next wake-up of each settled job. ``in_flight``: the attempts in flight.
    ``takes_writes`` returns whether Redis accepts other writes (the heartbeat): if not, the fault is not in the refused
    job. ``attention`` lists settlements that Redis refuses; None: only the log does. ``traces`` records spans; None: no
    traces.
    """

    name = "settle"

    def __init__(
        self,
        store: LoopStore,
        policy: RetryPolicy,
        clock: Clock,
        metrics: Metrics,
        *,
        wake_at: Callable[[int], None],
        suspects: Suspects,
        order: Order,
        in_flight: Sized = (),
        takes_writes: Callable[[], bool] = lambda: True,
        attention: AttentionStore | None = None,
        traces: Traces | None = None,
    ) -> None:
        super().__init__(clock, metrics)
        self._traces = traces
        self._store = store
        self._policy = policy
        self._wake_at = wake_at
        self._suspects = suspects
        self._order = order
        self._waited = 0.0
        """Seconds that settlements have waited for writes since none was left."""
        self._in_flight = in_flight
        self._takes_writes = takes_writes
        self._attention = attention
        self._queue = SettleQueue()
        self._progress = asyncio.Event()
        """Set after each round, for ``flush``."""

    @property
    def unsettled(self) -> int:
        """How many settlements Redis has not accepted yet."""
        return len(self._queue)

    def lease_ids(self) -> set[LeaseId]:
        """Return the leases of all jobs whose settlement Redis has not accepted yet."""
        return self._queue.lease_ids()

    @property
    def is_idle(self) -> bool:
        """Whether everything is settled that Redis accepts."""
        return self._queue.is_idle

    # ---- results (``dispatch.in_flight.Results``) ---------------------------------------------------------------

    def put(self, claimed: ClaimedJob, work: Work, ended: Ended) -> None:
        """Settle an attempt that has an outcome."""
        metrics, outcome = self.metrics, ended.outcome
        metrics.duration.observe(outcome.latency_ms / 1000)
        status = outcome.status
        # A target kind may return any number as a status.
        metrics.attempts.add(str(outcome.kind), STATUS_CLASSES[status // 100] if status and 0 < status < 1000 else "")
        if work.run.started_at_ms is None and work.run.reason is Reason.SCHEDULED:
            metrics.lateness.observe(max(0, ended.started_at_ms - work.run.fire_time_ms) / 1000)
        # Planned when its batch is sent: until then answers are read, and their slots become free.
        self._queue.append(Unsettled(claimed, None, None, work, ended))

    def put_transition(self, claimed: ClaimedJob, transition: Transition) -> None:
        """Settle a job that needed no attempt."""
        self._put(claimed, transition)

    def spawn(self, claimed: ClaimedJob, work: Work) -> None:
        """Make a run that may overlap others a child run, which the next claim takes."""
        self._put(claimed, plan_spawn(work, now_ms=self.clock.now_ms()), work)

    def hold_back(self, claimed: ClaimedJob, work: Work, held: HeldBack) -> None:
        """Requeue a due run because of its target or for want of a slot, with the same fire time."""
        log.debug(
            RUN_HELD_BACK,
            job_id=claimed.id,
            reason=held.shown_reason.value,
            target=held.target,
            until=instant(held.until_ms),
        )
        if claimed.state is not None and may_release(claimed.lease):
            self._put(claimed, plan_hold_back(claimed.state, held), work)
        else:
            self.requeue(claimed, held.until_ms)

    def requeue(self, claimed: ClaimedJob, wake_ms: int) -> None:
        """Release the lease; a claim at ``wake_ms`` continues the same run."""
        self._queue.append(Unsettled(claimed, None, self._store.requeue(claimed, wake_ms)))

    def release(self, claimed: ClaimedJob) -> None:
        """Release the lease; another claim continues the same run."""
        self._put(claimed, None)

    def release_lost(self, claimed: ClaimedJob, cause: LostCause, at_ms: int) -> None:
        """Release the lease, and count the request that was started at ``at_ms`` as a lost attempt."""
        self._queue.append(Unsettled(claimed, None, self._store.lost(claimed, cause, at_ms)))

    def _put_planned(
        self,
        claimed: ClaimedJob,
        plan: Callable[[], Transition | None],
        work: Work | None = None,
        ended: Ended | None = None,
    ) -> None:
        """Queue the transition that ``plan`` returns. A job that cannot be planned or encoded must not stop the
        others."""
        try:
            transition = plan()
            settlement = self._store.settlement(claimed, transition)
        except Exception as error:  # noqa: BLE001 - see above
            reason = f"it cannot be planned: {type(error).__name__}: {error}"
            self._put(claimed, self._quarantine(claimed, reason), work, ended)
        else:
            self._queue.append(Unsettled(claimed, transition, settlement, work, ended))

    def _put(
        self, claimed: ClaimedJob, transition: Transition | None, work: Work | None = None, ended: Ended | None = None
    ) -> None:
        self._queue.append(Unsettled(claimed, transition, self._store.settlement(claimed, transition), work, ended))

    def _quarantine(self, claimed: ClaimedJob, reason: str) -> Transition:
        self.metrics.quarantined.inc()
        log.error(JOB_QUARANTINED, job_id=claimed.id, detail=reason)
        child = job_of_claim_key(claimed.id) != claimed.id
        return quarantine_unreadable(claimed.state, reason, child=child, now_ms=self.clock.now_ms())

    # ---- send ---------------------------------------------------------------------------------------------------

    async def run_once(self) -> None:
        queue = self._queue
        if self._order.has_writes:
            self._waited = await self._order.settle_turn(self._waited)
        if len(self._in_flight) >= BURST:
            await self._wait_for_more()
        while not queue.advance(self.clock.monotonic):
            queue.arrived.clear()
            retry_at = queue.retry_rejected_at
            await self.clock.wait_for(queue.arrived, None if retry_at is None else retry_at - self.clock.monotonic())
            self._waited = 0.0
            if self._order.has_writes:
                self._waited = await self._order.settle_turn(0.0)
            if len(self._in_flight) >= BURST:
                await self._wait_for_more()
        settlements = [one.settlement or self._planned(one) for one in queue.part]
        try:
            answers = await self._store.settle(settlements)
        except StoreRefused as error:
            one = queue.part[0]
            if queue.refused(self.clock.monotonic(), takes_writes=self._takes_writes()) is not Refusal.REJECTED:
                raise
            if not one.was_rejected:
                one.was_rejected = True
                log.error(SETTLEMENT_SET_ASIDE, job_id=one.claimed.id, fence=one.claimed.lease.fence, detail=str(error))
                await self._note(one, str(error))
        else:
            part = queue.accepted()
            for one, answer in zip(part, answers, strict=True):
                self._answered(one, answer)
            if queue.mode is Mode.ONE_BY_ONE:
                await self._drop_notes(part)
        self._progress.set()

    async def _note(self, one: Unsettled, detail: str) -> None:
        """Note in the store that Redis refuses this settlement, for the list of what needs a person."""
        if self._attention is None:
            return
        run_id = "" if one.work is None else one.work.run.id
        note = SetAside(one.claimed.id, one.claimed.lease.fence, run_id, detail[:DETAIL_LENGTH])
        with contextlib.suppress(StoreError):  # the log has it
            await self._attention.set_aside(note, at_ms=self.clock.now_ms())
            one.note = encode_set_aside(note)

    async def _drop_notes(self, part: list[Unsettled]) -> None:
        """Remove the notes of settlements that Redis has answered after all."""
        for one in part:
            if one.note is not None and self._attention is not None:
                with contextlib.suppress(StoreError):  # the list leaves it out, because the lease is gone
                    await self._attention.drop_set_aside(one.note)

    async def _wait_for_more(self) -> None:
        if self._order.waits_for_more(self._queue.waiting, len(self._in_flight)):
            await self.clock.sleep(MORE_SECONDS)

    def _planned(self, one: Unsettled) -> Settlement:
        """Plan and encode the end of an attempt. A job for which that fails must not stop the others."""
        assert one.work is not None  # only ``put`` leaves out the settlement
        assert one.ended is not None
        try:
            one.transition = plan_settle(one.work, one.ended, self._policy)
            one.settlement = self._store.settlement(one.claimed, one.transition)
        except Exception as error:  # noqa: BLE001 - see above
            one.transition = self._quarantine(one.claimed, f"it cannot be planned: {type(error).__name__}: {error}")
            one.settlement = self._store.settlement(one.claimed, one.transition)
        return one.settlement

    async def flush(self, seconds: float) -> bool:
        """Wait until everything is settled, at most ``seconds``; return whether it is."""
        deadline = self.clock.monotonic() + seconds
        while not self.is_idle and (left := deadline - self.clock.monotonic()) > 0:
            self._progress.clear()
            await self.clock.wait_for(self._progress, left)
        return self.is_idle

    # ---- answers ------------------------------------------------------------------------------------------------

    def _answered(self, one: Unsettled, answer: Settled) -> None:
        result = answer.result
        if result == "changed" and answer.stored is not None:
            self._plan_again(one, answer.stored)
        elif result == "full" and one.work is not None and one.claimed.state is not None:
            now_ms = one.claimed.lease.first_claimed_at_ms
            self._put_planned(one.claimed, partial(plan_full, one.work, one.claimed.state, now_ms=now_ms))
        elif result == "later":
            self._queue.append(one)
        elif result == "stale":
            self.metrics.refused.inc()
            log.warning(SETTLEMENT_REFUSED, job_id=one.claimed.id, fence=one.claimed.lease.fence)
            if self._traces is not None:
                self._trace(self._traces, one, is_stored=False)
        else:
            self._report(one)
            if self._traces is not None:
                self._trace(self._traces, one, is_stored=True)
        if one.claimed.lease.group:
            self._suspects.settled(self.lease_ids())

    def _plan_again(self, one: Unsettled, stored: ClaimedJob) -> None:
        """Plan from the stored job: it was changed while this node held it."""
        claimed = msgspec.structs.replace(stored, lease=one.claimed.lease)
        if stored.fault is not None:
            self._put(claimed, self._quarantine(claimed, stored.fault), one.work, one.ended)
        else:
            plan = partial(planned_again, one, stored, self._policy, self.clock.now_ms())
            self._put_planned(claimed, plan, one.work, one.ended)

    def _trace(self, traces: Traces, one: Unsettled, *, is_stored: bool) -> None:
        """Record the spans of an attempt whose result was sent."""
        if one.work is None or one.ended is None:
            return
        lease, ended = one.claimed.lease, one.ended
        traces.attempt_ended(
            EndedAttempt(
                job_of_claim_key(one.claimed.id),
                one.work.run,
                lease.node,
                lease.fence,
                lease.fence != lease.first_fence,
                lease.wake_ms or ended.started_at_ms,
                ended.started_at_ms,
                ended.ended_at_ms,
                self.clock.now_ms(),
                is_stored,
                ended.outcome,
                ended.call,
            )
        )

    def _report(self, one: Unsettled) -> None:
        """Count and log what Redis accepted, and wake the claimer when the job is due again."""
        settlement = one.settlement
        assert settlement is not None  # it was sent
        wake_ms = settlement.wake_ms
        if wake_ms is not None:
            self._wake_at(wake_ms)
        transition = one.transition
        if transition is None:
            log.info(RUN_RELEASED, job_id=one.claimed.id, fence=one.claimed.lease.fence)
            return
        job_id = settlement.job_id
        for record in transition.records:
            report_record(self.metrics, job_id, record)
        state = transition.state
        if one.ended is not None and one.work is not None and state is not None and (state.open or state.pending):
            waiting = waiting_run(state, one.work.run.id)
            if waiting is not None and waiting.state is RunState.RETRYING:
                self.metrics.retries.inc()
                log_retry(job_id, waiting)
            elif waiting is not None:
                log.info(RUN_TAKEN, job_id=job_id, run_id=waiting.id, lost_at=instant(waiting.retry_at_ms))
        if transition.spawn is not None:
            self._wake_at(transition.spawn.run.fire_time_ms)


def planned_again(one: Unsettled, stored: ClaimedJob, policy: RetryPolicy, now_ms: int) -> Transition | None:
    """Return the transition of a job that was changed since its claim; None: release the lease."""
    if one.work is None:
        return None  # nothing was delivered; the next claim plans from the changed job
    if one.ended is not None:
        return plan_settle_changed(stored.job, stored.state, one.work, one.ended, policy)
    # A run that was to be held back: the change may have written it into the state as one in flight.
    if stored.state is None:
        return None
    return plan_hold_back_changed(stored.job, stored.state, one.work, now_ms=now_ms)


def waiting_run(state: JobState, run_id: str) -> Run | None:
    """Return the run from the job's state or its pending entries if it waits there."""
    if state.open is not None:
        return state.open if state.open.id == run_id else None
    return next((entry.run for entry in state.pending if entry.run is not None and entry.run.id == run_id), None)


def log_retry(job_id: str, run: Run) -> None:
    """Log that the run waits for its next attempt."""
    last = run.attempts[-1] if run.attempts else None
    log.info(
        RUN_RETRYING,
        job_id=job_id,
        run_id=run.id,
        attempt=run.attempt,
        status=run.last_status,
        outcome=None if last is None else last.outcome.value,
        detail="" if last is None else last.message,
        retry_at=instant(run.retry_at_ms),
    )
