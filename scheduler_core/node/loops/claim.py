"""Claims due jobs and starts their runs: the first step of claim, deliver, settle.

The loop sleeps until the next known wake-up; an earlier one ends the sleep (``wakeups``).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.events import JOB_QUARANTINED, SERVICE_FAILED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.transition import Transition
from scheduler_core.node.dispatch.dispatcher import NO_PUBLIC_URL, Dispatcher
from scheduler_core.node.dispatch.limiter import SATURATED_WAIT_MS
from scheduler_core.node.dispatch.target_cache import TargetCache
from scheduler_core.node.loops.lease_check import LeaseCheck
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.settle import Settler
from scheduler_core.node.loops.suspects import Suspects
from scheduler_core.node.loops.wakeups import Alarm
from scheduler_core.node.node import Node
from scheduler_core.plan.claim import Work, plan_claim, plan_claim_tombstone, quarantine_unreadable
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.loop import REPLY_BYTES, Claim, ClaimedJob, LoopStore

log = get_logger(__name__)

BATCH = 128
"""Jobs per claim: enough to share the round trip, few enough that the first jobs of a burst start at once."""
RECENT_MS = 10_000
"""With a backlog, half of each batch is for jobs that became due within this time."""


class Claimer(Service):
    """Claims as many jobs as the node can start at once, and none while Redis does not accept what is to be settled."""

    name = "claim"

    def __init__(
        self,
        node: Node,
        store: LoopStore,
        dispatcher: Dispatcher,
        settler: Settler,
        alarm: Alarm,
        suspects: Suspects,
        targets: TargetCache,
        clock: Clock,
        metrics: Metrics,
        *,
        services: Sequence[Service] = (),
    ) -> None:
        """``services``: the other services of this shard. After Redis failed one of them, leases are compared soon."""
        super().__init__(clock, metrics)
        self.warnings = suspects.warnings
        if node.settings.public_url is None:
            self.warnings["public_url"] = NO_PUBLIC_URL
        self.lease_check = LeaseCheck(node, store, settler, (self, *services), clock)
        self._node = node
        self._slots = node.slots
        self._store = store
        self._dispatcher = dispatcher
        self._limiter = dispatcher.limiter
        self._settler = settler
        self._alarm = alarm
        self._suspects = suspects
        self._targets = targets
        self._tokens = itertools.count(1)
        self._lost_token: int | None = None
        """The number of a claim whose reply was lost."""
        self._claimed_at_ms = 0
        """The time that the latest claim was made with."""
        self._recover_bytes = REPLY_BYTES

    async def run_once(self) -> None:
        alarm, slots = self._alarm, self._slots
        alarm.reset()
        if self._settler.fault is not None:  # Redis did not accept its last batch
            self._suspects.end_trial()
            slots.cancel_wait(alarm.wake)
            await alarm.sleep(None)
            return
        limit = self._limiter.batch(BATCH, alarm.wake)
        if limit == 0:
            slots.cancel_wait(alarm.wake)
            await alarm.sleep(self.clock.now_ms() + SATURATED_WAIT_MS)
            return
        # While the Redis of this shard does not answer, use one slot only: the other shards need the rest.
        limit = slots.reserve(limit if self.fault is None else 1, alarm.wake)
        if limit == 0:
            await alarm.sleep(None)
            return
        try:
            if self._lost_token is None:
                await self.lease_check.compare_if_due()
            claim = await self._claim(limit)
            self._limiter.claimed(limit, len(claim.jobs))
            for claimed in claim.jobs:
                self._start(claimed)
        finally:
            slots.release(limit)
        if claim.suspects_waiting and not self._suspects.in_trial and self._begin_trial():
            return  # claim again at once: this claim reported the first waiting suspects
        if len(claim.jobs) == limit:
            await self.clock.sleep(0)  # let the event loop write the requests that were just started
            return
        await alarm.sleep(claim.next_wake_ms)

    # ---- claim --------------------------------------------------------------------------------------------------

    async def _claim(self, limit: int) -> Claim:
        """Claim once. If an earlier claim took jobs and its reply was lost, return those jobs instead."""
        if self._lost_token is not None:
            found = await self._recover(self._lost_token)
            self._lost_token = None
            if found:
                self._targets.saw(None)
                usable = self._release_unusable(found)
                return Claim(usable, self.clock.now_ms(), None, self._node.downtime_count)
        suspects = self._suspects
        trial = suspects.waiting > 0 and self._begin_trial()
        token = next(self._tokens)
        self._claimed_at_ms = self.clock.now_ms()
        try:
            claim = await self._store.claim(
                now_ms=self._claimed_at_ms,
                limit=limit,
                node=self._node.id,
                token=token,
                recent_ms=RECENT_MS,
                dead_after_ms=self._node.dead_after_ms,
                downtime_count=self._node.downtime_count,
                trial=trial,
            )
        except (StoreUnavailable, asyncio.CancelledError) as error:
            if not isinstance(error, StoreUnavailable) or error.effect_unknown:
                self._lost_token = token
            suspects.end_trial()
            raise
        self._targets.saw(claim.targets_version)
        if claim.downtimes is not None:
            self._node.downtimes = claim.downtimes
            self._node.downtime_count = claim.downtime_count
        if claim.suspects or suspects.waiting or suspects.in_trial:
            suspects.took(claim)
        return claim

    async def _recover(self, token: int) -> list[ClaimedJob]:
        """Return the jobs that were taken by a claim whose reply was lost.

        If this reply is lost too, the next try releases all of them, so that documents that are too large for a slow
        link are not requested again and again.
        """
        reply_bytes, self._recover_bytes = self._recover_bytes, 0
        found = await self._store.recover(
            node=self._node.id, token=token, claimed_at_ms=self._claimed_at_ms, reply_bytes=reply_bytes
        )
        self._recover_bytes = REPLY_BYTES
        return found

    def _release_unusable(self, found: list[ClaimedJob]) -> list[ClaimedJob]:
        """Release the jobs of a lost reply that cannot be started without the rest of it; return the others.

        The reply may have contained downtimes that are new to this node: the next claim returns them again. By now,
        another claimer of this process may have the right to hold suspects.
        """
        known = self._node.downtime_count
        usable: list[ClaimedJob] = []
        for one in found:
            if one.lease.group or (one.lease.downtimes or 0) > known:
                self._settler.release(one)
            else:
                usable.append(one)
        return usable

    def _begin_trial(self) -> bool:
        return self._suspects.begin_trial(self._settler.lease_ids())

    # ---- start --------------------------------------------------------------------------------------------------

    def _start(self, claimed: ClaimedJob) -> None:
        """Start what this job has to do. A fault of one job ends only that job's attempt."""
        try:
            planned = self._plan(claimed)
        except Exception as error:  # noqa: BLE001 - one job that cannot be planned must not stop the others
            planned = self._quarantine(claimed, f"it cannot be planned: {type(error).__name__}: {error}")
        if isinstance(planned, Work):
            try:
                self._dispatcher.send(claimed, planned)
            except Exception as error:
                self.metrics.service_faults.labels(self.name).inc()
                log.exception(SERVICE_FAILED, service=self.name, job_id=claimed.id)
                self._dispatcher.fail(claimed, planned, error)
            return
        if planned.state is not None and planned.state.quarantine is not None:
            self.metrics.quarantined.inc()
            log.error(JOB_QUARANTINED, job_id=claimed.id, detail=planned.state.quarantine)
        self._settler.put_transition(claimed, planned)

    def _plan(self, claimed: ClaimedJob) -> Work | Transition:
        job, state, node = claimed.job, claimed.state, self._node
        if claimed.fault is not None:
            return self._quarantine(claimed, claimed.fault)
        if job is not None and state is not None:
            return plan_claim(
                job,
                state,
                claimed.lease,
                downtimes=node.downtimes,
                store_id=node.store_id,
                now_ms=self.clock.now_ms(),
            )
        if state is None:
            return Transition(None, remove=True) if job is None else self._quarantine(claimed, "its state is gone")
        if state.deleted:
            return plan_claim_tombstone(state, claimed.lease, now_ms=self.clock.now_ms(), downtimes=node.downtimes)
        return self._quarantine(claimed, "its definition is gone")

    def _quarantine(self, claimed: ClaimedJob, reason: str) -> Transition:
        child = job_of_claim_key(claimed.id) != claimed.id
        return quarantine_unreadable(claimed.state, reason, child=child, now_ms=self.clock.now_ms())

    # ---- stop ---------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        await super().stop()
        self._slots.cancel_wait(self._alarm.wake)
        self._suspects.end_trial()

    @property
    def may_hold_more(self) -> bool:
        """Whether a claim took jobs whose reply was lost."""
        return self._lost_token is not None

    async def release_lost_claim(self) -> None:
        """When the node stops, release the jobs of a claim whose reply was lost."""
        if self._lost_token is not None:
            await self._store.recover(
                node=self._node.id, token=self._lost_token, claimed_at_ms=self._claimed_at_ms, reply_bytes=0
            )
            self._lost_token = None
