"""Starts the runs of claimed jobs: at their wake-ups, in that order, as slots become free."""

from __future__ import annotations

import gc
from collections.abc import Iterable

from scheduler_core.base.clock import Clock
from scheduler_core.base.events import JOB_QUARANTINED, SERVICE_FAILED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import HoldReason
from scheduler_core.model.transition import Transition
from scheduler_core.node.dispatch.dispatcher import Dispatcher
from scheduler_core.node.dispatch.in_flight import InFlight
from scheduler_core.node.dispatch.limiter import SATURATED_WAIT_MS
from scheduler_core.node.loops.order import WRITES_AT_ONCE, Order
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.settle import Settler
from scheduler_core.node.loops.start_queue import StartQueue, Waiting
from scheduler_core.node.loops.wakeups import Alarm
from scheduler_core.node.node import Node
from scheduler_core.plan.claim import Work, is_spawned, plan_claim, plan_claim_tombstone, quarantine_unreadable
from scheduler_core.plan.held_back import without_slot
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.loop import ClaimedJob, Release

log = get_logger(__name__)

PATIENCE_MS = 500
"""A run that gets no slot for this long after its wake-up is held back: another node may have one."""
QUEUE_LIMIT = 50_000
QUEUE_BYTES = 64 << 20
"""The most jobs, and bytes of payloads, that a node claims ahead."""


class Starter(Service):
    """Holds the jobs that this shard's claimer has claimed, and starts each at its wake-up.

    Slots, limits and breakers are applied then. The run is decided as of the wake-up, whenever the job was claimed.
    """

    name = "start"

    def __init__(
        self,
        node: Node,
        dispatcher: Dispatcher,
        settler: Settler,
        queue: StartQueue,
        order: Order,
        clock: Clock,
        metrics: Metrics,
        *,
        shards: int = 1,
    ) -> None:
        """``shards``: how many shards share the bounds of the node."""
        super().__init__(clock, metrics)
        self._node = node
        self._slots = node.slots
        self._dispatcher = dispatcher
        self.limiter = dispatcher.limiter
        self._settler = settler
        self.queue = queue
        self._order = order
        self._shards = shards
        self._alarm = Alarm(clock)
        self.may_hold_ahead = False
        """Whether clients can ask this node to release jobs: it subscribes to their requests."""

    async def run_once(self) -> None:
        alarm, order, now_ms = self._alarm, self._order, self.clock.now_ms()
        alarm.reset()
        wake_ms = self.queue.next_wake_ms
        if wake_ms is None or wake_ms > now_ms:
            order.writes_done(self, next_ms=wake_ms, count=self.queue.next_count)
            self._slots.cancel_wait(alarm.wake)
            await alarm.sleep(wake_ms)
            return
        wanted = self.limiter.batch(WRITES_AT_ONCE, alarm.wake)
        limit = self._slots.reserve(wanted, alarm.wake, first=True) if wanted else 0
        is_overdue = wake_ms <= now_ms - PATIENCE_MS
        if limit:
            order.writes_left(self)
            try:
                self.start_due(limit)
            finally:
                self._slots.release(limit)
        else:
            order.writes_done(self)
            if not is_overdue:
                await alarm.sleep(now_ms + (PATIENCE_MS if wanted else SATURATED_WAIT_MS))
                return
        if is_overdue and limit < WRITES_AT_ONCE:  # for those that are left, no slot is free
            self._hold_back_overdue(now_ms)
        await self.clock.sleep(0)  # so that answers are read

    async def stop(self) -> None:
        await super().stop()
        self._order.writes_done(self)

    # ---- queue --------------------------------------------------------------------------------------------------

    def put(self, jobs: Iterable[ClaimedJob]) -> None:
        """Start these claimed jobs at their wake-ups."""
        queue, now_ms = self.queue, self.clock.now_ms()
        for claimed in jobs:
            queue.add(self.planned(claimed, now_ms))
        if queue.next_wake_ms is not None:
            self._alarm.wake_at(queue.next_wake_ms)

    def start_due(self, limit: int) -> None:
        """Start up to ``limit`` jobs whose wake-ups have come. The caller has reserved their slots.

        Reads the clock, which may have been set back since the timer was set. Requests that were prepared are written
        together, before anything is done for the jobs that follow. Stops when a target becomes saturated: the limiter
        says how many to start next.
        """
        now_ms = self.clock.now_ms()
        if self.queue.next_wake_ms is None or self.queue.next_wake_ms > now_ms:
            return
        collects = gc.isenabled()
        gc.disable()  # a search for cycles among the objects of a burst takes 2 to 17 ms; it runs after the writes
        try:
            self._start_taken(self.queue.take_due(now_ms, limit), now_ms)
        finally:
            if collects:
                gc.enable()

    def _start_taken(self, due: list[Waiting], now_ms: int) -> None:
        limiter = self.limiter
        saturated = limiter.saturated
        together: list[InFlight] = []
        for place, one in enumerate(due):
            attempt = one.attempt
            if attempt is not None:
                try:
                    if limiter.grant(attempt.permit, attempt.work.job):
                        attempt.started_at_ms = now_ms  # if it fails before it may send: it was built ahead of this
                        together.append(attempt)
                        continue
                except Exception:  # noqa: BLE001 - ``start_run`` meets it again, and ends only this attempt
                    pass
            if together:
                self._dispatcher.send_all(together)
                together = []
            self.start_run(one)
            if limiter.saturated is not saturated:
                self.queue.put_back(due[place + 1 :])
                break
        if together:
            self._dispatcher.send_all(together)

    def room(self) -> int:
        """Return how many more jobs to claim ahead.

        As many as get a slot within the patience, judged by the duration of recent requests; none while a job waits for
        a slot.
        """
        queue = self.queue
        wake_ms = queue.next_wake_ms
        if queue.payload_bytes >= QUEUE_BYTES // self._shards or (
            wake_ms is not None and wake_ms <= self.clock.now_ms()
        ):
            return 0
        turns = 1 + PATIENCE_MS / max(1.0, self.limiter.service_ms)
        return min(QUEUE_LIMIT // self._shards, int(self._slots.free * turns)) - len(queue)

    def release(self, asked: Release) -> None:
        """Release those of these jobs whose wake-ups lie ahead, unless the client has given up waiting."""
        now_ms = self.clock.now_ms()
        if not asked.claim_keys:
            self._release(self.queue.remove_all(after_ms=now_ms))  # everything is paused: also if it arrives late
        elif now_ms < asked.until_ms:
            self._release(self.queue.remove(asked.claim_keys, after_ms=now_ms))

    def cut(self, run_id: str) -> bool:
        """Drop the job of a run that a client cancelled before it was sent; return whether there was one.

        The client has removed the lease, so nothing is left to release.
        """
        cut = [one.claimed.id for one in self.queue if isinstance(one.planned, Work) and one.planned.run.id == run_id]
        return bool(self.queue.remove(cut, after_ms=-1))

    def listens(self, active: bool) -> None:
        """Note whether requests to release jobs can arrive. While they cannot, no job is held ahead of its wake-up."""
        self.may_hold_ahead = active
        if not active:
            self._release(self.queue.remove_all(after_ms=self.clock.now_ms()))

    def release_all(self) -> None:
        """Release all jobs that were not started: the node stops."""
        self._release(self.queue.remove_all(after_ms=-1))

    def _hold_back_overdue(self, now_ms: int) -> None:
        """Hold back runs that got no slot within the patience, at most a batch.

        Each keeps its place in the due set. A job that needs no slot is started.
        """
        for one in self.queue.take_due(now_ms - PATIENCE_MS, WRITES_AT_ONCE):
            if isinstance(one.planned, Work) and not is_spawned(one.planned):
                self.metrics.held_back.labels(HoldReason.SLOTS.value).inc()
                self._settler.hold_back(one.claimed, one.planned, without_slot(now_ms, one.claimed.lease.wake_ms))
            else:
                self.start_run(one)

    def _release(self, jobs: Iterable[ClaimedJob]) -> None:
        for claimed in jobs:
            self._settler.release(claimed)

    # ---- start --------------------------------------------------------------------------------------------------

    def start_run(self, one: Waiting) -> None:
        """Start what this job has to do. A fault of one job ends only that job's attempt."""
        claimed, planned = one.claimed, one.planned
        if isinstance(planned, Work):
            try:
                self._dispatcher.send(claimed, planned, None if one.attempt is None else one.attempt.call)
            except Exception as error:
                self.metrics.service_faults.labels(self.name).inc()
                log.exception(SERVICE_FAILED, service=self.name, job_id=claimed.id)
                self._dispatcher.fail(claimed, planned, error)
            return
        if planned.state is not None and planned.state.quarantine is not None:
            self.metrics.quarantined.inc()
            log.error(JOB_QUARANTINED, job_id=claimed.id, detail=planned.state.quarantine)
        self._settler.put_transition(claimed, planned)

    def planned(self, claimed: ClaimedJob, now_ms: int) -> Waiting:
        """Plan what the job does at its wake-up; if that lies ahead, build its attempt too.

        The lease has all that the plan depends on, so it decides the same now and then.
        """
        planned = self._planned(claimed)
        if claimed.lease.wake_ms <= now_ms:
            return Waiting(claimed, planned)
        payload_bytes = 0 if claimed.job is None else len(claimed.job.payload)
        attempt = self._dispatcher.prepare(claimed, planned) if isinstance(planned, Work) else None
        return Waiting(claimed, planned, payload_bytes, attempt)

    def _planned(self, claimed: ClaimedJob) -> Work | Transition:
        try:
            return self._plan(claimed)
        except Exception as error:  # noqa: BLE001 - one job that cannot be planned must not stop the others
            return self._quarantine(claimed, f"it cannot be planned: {type(error).__name__}: {error}")

    def _plan(self, claimed: ClaimedJob) -> Work | Transition:
        job, state, node = claimed.job, claimed.state, self._node
        now_ms = max(self.clock.now_ms(), claimed.lease.wake_ms)
        if claimed.fault is not None:
            return self._quarantine(claimed, claimed.fault)
        if job is not None and state is not None:
            return plan_claim(
                job,
                state,
                claimed.lease,
                downtimes=node.downtimes,
                store_id=node.store_id,
                now_ms=now_ms,
                pauses=node.pauses.ranges,
            )
        if state is None:
            return Transition(None, remove=True) if job is None else self._quarantine(claimed, "its state is gone")
        if state.deleted:
            return plan_claim_tombstone(state, claimed.lease, now_ms=now_ms, downtimes=node.downtimes)
        return self._quarantine(claimed, "its definition is gone")

    def _quarantine(self, claimed: ClaimedJob, reason: str) -> Transition:
        child = job_of_claim_key(claimed.id) != claimed.id
        return quarantine_unreadable(claimed.state, reason, child=child, now_ms=self.clock.now_ms())
