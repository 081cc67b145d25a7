"""Takes due jobs and starts their runs. The head of the loop: claim, then deliver, then settle.

It sleeps until the next wake-up it knows of, and is woken by what comes earlier. Each sleep is capped, so that a
stepped clock or a lost message cannot strand it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.events import JOB_QUARANTINED, LEASES_FORGOTTEN, RUN_CLAIMED, SERVICE_FAILED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job import SUSPECT_LOSSES, HeldBack, Lease, LostCause
from scheduler_core.model.transition import Transition
from scheduler_core.node.dispatch.dispatcher import Dispatcher, Flight
from scheduler_core.node.dispatch.limiter import SATURATED_WAIT_MS
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.settle import Settler
from scheduler_core.node.node import Node
from scheduler_core.plan.claim import (
    Work,
    is_spawned,
    plan_claim,
    plan_claim_tombstone,
    quarantine_unreadable,
)
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.loop import REPLY_BYTES, Claim, ClaimedJob, LoopStore

log = get_logger(__name__)

LONGEST_SLEEP = 1.0
BATCH = 128
"""Jobs per claim: enough to pay the round trip for many, few enough that the first of a herd starts at once."""
COMPARE_SECONDS = 60.0
"""How often a node compares its leases although Redis was never away."""
SHOWN = 20
RECENT_MS = 10_000
"""With a backlog, half of each batch goes to what became due in this time."""


class Claimer(Service):
    """Claims what this node can start at once, and nothing while Redis does not take what it has to settle."""

    name = "claim"

    def __init__(
        self, node: Node, store: LoopStore, dispatcher: Dispatcher, settler: Settler, clock: Clock, metrics: Metrics
    ) -> None:
        super().__init__(clock, metrics)
        self._node = node
        self._store = store
        self._dispatcher = dispatcher
        self._limiter = dispatcher.limiter
        self._settler = settler
        self._tokens = itertools.count(1)
        self._lost_token: int | None = None
        """The number of a claim whose reply was lost."""
        self._claimed_at_ms = 0
        """The time that the latest claim was made with."""
        self._recover_bytes = REPLY_BYTES
        self.store_faults_seen: Callable[[], int] = lambda: self.store_faults
        """How often Redis failed any service of this shard; the engine puts the sum over all services here."""
        self._faults_known = 0
        self._compare_at = clock.monotonic() + COMPARE_SECONDS
        self._suspects: set[tuple[str, int]] = set()
        """Id and fence of the suspects that it took for a trial."""
        self._suspects_waiting = 0
        self._in_trial = False
        self._woken = asyncio.Event()
        self._sleeping_until_ms: int | None = None
        self._heard_ms: int | None = None
        """The earliest wake-up told while it was not asleep; what a claim under way answers may not know of it."""

    def wake(self) -> None:
        """Look for due jobs now."""
        self._woken.set()

    def wake_at(self, wake_ms: int) -> None:
        """A job becomes due at ``wake_ms``; wake up then if not earlier."""
        if self._sleeping_until_ms is None:
            self._heard_ms = wake_ms if self._heard_ms is None else min(self._heard_ms, wake_ms)
        elif wake_ms < self._sleeping_until_ms:
            self._woken.set()

    async def run_once(self) -> None:
        self._woken.clear()
        self._heard_ms = None
        if self._settler.is_behind:
            self._end_trial()
            self._node.slots.cancel_wait(self.wake)
            await self._sleep(None)
            return
        most = self._limiter.batch(BATCH, self.wake)
        if most == 0:
            self._node.slots.cancel_wait(self.wake)
            await self._sleep(self.clock.now_ms() + SATURATED_WAIT_MS)
            return
        # While its Redis does not answer, it tries with one place: the other shards need the rest.
        limit = self._node.slots.reserve(most if self.fault is None else 1, self.wake)
        if limit == 0:
            await self._sleep(None)
            return
        try:
            await self._compare_leases()
            claim = await self._claim(limit)
            self._limiter.claimed(limit, len(claim.jobs))
            for claimed in claim.jobs:
                self._start(claimed)
        finally:
            self._node.slots.release(limit)
        if claim.suspects_waiting and not self._suspects and not self._in_trial and self._begin_trial():
            return  # this claim did not know yet that there are any
        if len(claim.jobs) == limit:
            await self.clock.sleep(0)  # lets the requests just started get going
            return
        await self._sleep(claim.next_wake_ms)

    async def _claim(self, limit: int) -> Claim:
        """One claim. If the reply of an earlier one was lost, what that one took is looked up first."""
        if self._lost_token is not None:
            found = await self._recovered(self._lost_token)
            self._lost_token = None
            # The lost reply may have told of downtimes that this node does not know of yet: the next claim tells again.
            # Suspects may be another claimer's turn by now.
            known = self._node.downtime_count
            unfit = [one for one in found if one.lease.group or (one.lease.downtimes or 0) > known]
            for claimed in unfit:
                self._settler.release(claimed)
            if found:
                found = [one for one in found if one not in unfit]
                self._dispatcher.targets.saw(None)
                return Claim(found, self.clock.now_ms(), None, self._node.downtime_count)
        trial = self._suspects_waiting > 0 and self._begin_trial()
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
        except StoreUnavailable as error:
            if error.effect_unknown:
                self._lost_token = token
            self._end_trial()
            raise
        except asyncio.CancelledError:
            self._lost_token = token
            self._end_trial()
            raise
        self._dispatcher.targets.saw(claim.targets_version)
        if claim.downtimes is not None:
            self._node.downtimes = claim.downtimes
            self._node.downtime_count = claim.downtime_count
        if claim.suspects or self._suspects_waiting or self._in_trial:
            self._suspects_waiting = claim.suspects_waiting
            self._note_suspects(claim.jobs)
            self._warn(claim.suspects)
        return claim

    def _begin_trial(self) -> bool:
        """Whether the next claim may take suspects: neither this claimer nor another of the process holds any."""
        if self._suspects:
            self._suspects &= self._known()
        if self._suspects:
            return False
        self._in_trial = self._node.slots.begin_trial(self.wake)
        return self._in_trial

    def _note_suspects(self, jobs: list[ClaimedJob]) -> None:
        """Keep in mind which suspects a claim took. Without any, the turn for a trial passes to the next claimer."""
        self._suspects.update((claimed.id, claimed.lease.fence) for claimed in jobs if claimed.lease.group)
        self._end_trial()

    def _end_trial(self) -> None:
        """Unless it holds suspects, let another claimer of the process take some. One that cannot claim now must not
        stand in its way."""
        if not self._suspects:
            self._in_trial = False
            self._node.slots.end_trial(self.wake)

    def suspect_left(self) -> None:
        """A suspect was settled. After the last one of its group the next trial can begin."""
        self._suspects &= self._known()
        if not self._suspects:
            self._end_trial()
            self.wake()

    def _warn(self, suspects: int) -> None:
        if suspects:
            self.warnings["suspects"] = (
                f"{suspects} runs were lost with {SUSPECT_LOSSES} or more nodes in a row: they are tried in groups "
                "until it is known which of them kills nodes"
            )
        else:
            self.warnings.pop("suspects", None)

    async def _recovered(self, token: int) -> list[ClaimedJob]:
        """Find the jobs that a claim took whose reply was lost. If the reply to this is lost too, the next try gives
        the jobs back: documents that a slow link cannot pass in time are not asked for again and again."""
        reply_bytes, self._recover_bytes = self._recover_bytes, 0
        found = await self._store.recover(
            node=self._node.id, token=token, claimed_at_ms=self._claimed_at_ms, reply_bytes=reply_bytes
        )
        self._recover_bytes = REPLY_BYTES
        return found

    async def _compare_leases(self) -> None:
        """After Redis was away, and about once a minute: hand back what Redis says this node holds, and it knows
        nothing of.

        A failover can lose a settlement that was acknowledged, and cuts the connections. The lease is then there again,
        and its node lives, so nobody would ever take it back. Only here, where no claim is under way, is a lease that
        nobody works on known to be one. Should its run be settled at this very moment, the fence tells.
        """
        now, faults = self.clock.monotonic(), self.store_faults_seen()
        if faults != self._faults_known:
            self._faults_known = faults
            self._compare_at = min(self._compare_at, now + self._node.settings.dead_after_seconds / 2)
        if self._lost_token is not None or now < self._compare_at:
            return
        leases = await self._store.leases_of(self._node.id)
        self._compare_at = now + COMPARE_SECONDS
        known = self._known()
        strays = [lease for lease in leases if (lease.job_id, lease.fence) not in known]
        for lease in strays:
            # Its request may have been sent: only how it ended is not known any more.
            stray = ClaimedJob(lease.job_id, None, None, Lease(lease.fence, self._node.id, lease.fence, 0), b"")
            self._settler.release_lost(stray, LostCause.FORGOTTEN, lease.first_claimed_at_ms)
        if strays:
            jobs = [lease.job_id for lease in strays[:SHOWN]]
            log.warning(LEASES_FORGOTTEN, count=len(strays), jobs=jobs, detail="Redis has lost how they ended")

    def _known(self) -> set[tuple[str, int]]:
        """Id and fence of each job that this node works on or has to settle."""
        flights = {flight.holds for flight in self._node.in_flight if isinstance(flight, Flight)}
        return flights | self._settler.holds()

    async def stop(self) -> None:
        await super().stop()
        self._node.slots.cancel_wait(self.wake)
        self._end_trial()

    @property
    def may_hold_more(self) -> bool:
        """Whether a claim took jobs whose reply was lost."""
        return self._lost_token is not None

    async def release_lost_claim(self) -> None:
        """When the node stops: hand back what a claim took whose reply never came."""
        if self._lost_token is not None:
            await self._store.recover(
                node=self._node.id, token=self._lost_token, claimed_at_ms=self._claimed_at_ms, reply_bytes=0
            )
            self._lost_token = None

    def _start(self, claimed: ClaimedJob) -> None:
        """Begin what this job has to do; a fault of one job stays with it."""
        try:
            planned = self._plan(claimed)
        except Exception as error:  # noqa: BLE001 - one job that cannot be planned must not stop the others
            planned = self._quarantine(claimed, f"it cannot be planned: {type(error).__name__}: {error}")
        if isinstance(planned, Work):
            try:
                self._begin(claimed, planned)
            except Exception as error:
                self.metrics.service_faults.labels(self.name).inc()
                log.exception(SERVICE_FAILED, service=self.name, job_id=claimed.id)
                self._dispatcher.fail(claimed, planned, error)
            return
        if planned.state is not None and planned.state.quarantine is not None:
            self.metrics.quarantined.inc()
            log.error(JOB_QUARANTINED, job_id=claimed.id, detail=planned.state.quarantine)
        self._settler.put_transition(claimed, planned)

    def _begin(self, claimed: ClaimedJob, work: Work) -> None:
        """Send the next attempt of a run, hold it back, or let it become a unit of its own."""
        url, lease = self._dispatcher.url_of(work.job), claimed.lease
        if is_spawned(work):
            held = self._limiter.blocked_by(url)
            if held is None:
                self._settler.spawn(claimed, work)
            else:
                self._settler.hold_back(claimed, work, held)
            return
        hold = None if claimed.state is None else claimed.state.held_back
        permit = self._limiter.acquire(url, work, hold, taken_over=lease.fence != lease.first_fence)
        if isinstance(permit, HeldBack):
            self._settler.hold_back(claimed, work, permit)
            return
        try:
            log.debug(RUN_CLAIMED, job_id=claimed.id, run_id=work.run.id, fence=lease.fence)
            self._dispatcher.send(claimed, work, permit)
        except BaseException:
            # Without this, a fault between here and the attempt would cost the target a slot until the process ends.
            self._limiter.release(permit, None)
            raise

    def _plan(self, claimed: ClaimedJob) -> Work | Transition:
        if claimed.fault is not None:
            return self._quarantine(claimed, claimed.fault)
        if claimed.job is None:
            if claimed.state is not None and claimed.state.deleted:
                return plan_claim_tombstone(
                    claimed.state, claimed.lease, now_ms=self.clock.now_ms(), downtimes=self._node.downtimes
                )
            if claimed.state is None:
                return Transition(None, remove=True)
            return self._quarantine(claimed, "its definition is gone")
        if claimed.state is None:
            return self._quarantine(claimed, "its state is gone")
        return plan_claim(
            claimed.job,
            claimed.state,
            claimed.lease,
            downtimes=self._node.downtimes,
            store_id=self._node.store_id,
            now_ms=self.clock.now_ms(),
        )

    def _quarantine(self, claimed: ClaimedJob, reason: str) -> Transition:
        child = job_of_claim_key(claimed.id) != claimed.id
        return quarantine_unreadable(claimed.state, reason, child=child, now_ms=self.clock.now_ms())

    async def _sleep(self, next_wake_ms: int | None) -> None:
        """Sleep until ``next_wake_ms``, until woken, or for the longest sleep, whichever comes first."""
        seconds = LONGEST_SLEEP
        for wake_ms in (next_wake_ms, self._heard_ms):
            if wake_ms is not None:
                seconds = min(seconds, (wake_ms - self.clock.now_ms()) / 1000)
        self._sleeping_until_ms = self.clock.now_ms() + int(seconds * 1000)
        if seconds > 0:
            await self.clock.wait_for(self._woken, seconds)
        self._sleeping_until_ms = None
