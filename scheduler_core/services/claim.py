"""Takes due jobs and starts their runs. The head of the loop: claim, then deliver, then settle.

It sleeps until the next wake-up it knows of, and is woken by what comes earlier. Each sleep is capped, so that a
stepped clock or a lost message cannot strand it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from scheduler_core.clock import Clock
from scheduler_core.errors import StoreUnavailable
from scheduler_core.events import JOB_QUARANTINED, RUN_CLAIMED, get_logger
from scheduler_core.metrics import Metrics
from scheduler_core.node import Node
from scheduler_core.plan.claim import Work, is_spawned, plan_claim, plan_claim_tombstone, quarantine_unreadable
from scheduler_core.services.base import Service
from scheduler_core.services.deliver import Courier
from scheduler_core.services.settle import Settler
from scheduler_core.store.keys import job_of_unit
from scheduler_core.store.redis_store import Claim, ClaimedJob, RedisStore
from scheduler_core.transition import Transition

log = get_logger(__name__)

LONGEST_SLEEP = 1.0
BATCH = 128
"""Jobs per claim: enough to pay the round trip for many, few enough that the first of a herd starts at once."""
RECENT_MS = 10_000
"""With a backlog, half of each batch goes to what became due in this time."""


class Claimer(Service):
    """Claims what this node can start at once, and nothing while Redis does not take what it has to settle."""

    name = "claim"

    def __init__(
        self, node: Node, store: RedisStore, courier: Courier, settler: Settler, clock: Clock, metrics: Metrics
    ) -> None:
        super().__init__(clock, metrics)
        self._node = node
        self._store = store
        self._courier = courier
        self._settler = settler
        self._tokens = itertools.count(1)
        self._lost_token: int | None = None
        self._woken = asyncio.Event()
        self._sleeping_until_ms: int | None = None
        self._heard_ms: int | None = None
        """The earliest wake-up told while it was not asleep; what a claim under way answers may not know of it."""
        self._starved = False
        node.slot_freed = self._slot_freed

    def wake(self) -> None:
        """Look for due jobs now."""
        self._woken.set()

    def wake_at(self, wake_ms: int) -> None:
        """A job becomes due at ``wake_ms``; wake up then if not earlier."""
        if self._sleeping_until_ms is None:
            self._heard_ms = wake_ms if self._heard_ms is None else min(self._heard_ms, wake_ms)
        elif wake_ms < self._sleeping_until_ms:
            self._woken.set()

    def _slot_freed(self) -> None:
        if self._starved:
            self._woken.set()

    async def run_once(self) -> None:
        self._woken.clear()
        self._heard_ms = None
        free = self._node.settings.max_in_flight - len(self._node.in_flight)
        self._starved = free <= 0
        if self._starved or self._settler.is_behind:
            await self._sleep(None)
            return
        limit = min(free, BATCH)
        claim = await self._claim(limit)
        for claimed in claim.jobs:
            self._start(claimed)
        if len(claim.jobs) == limit:
            await self.clock.sleep(0)  # lets the requests just started get going
            return
        await self._sleep(claim.next_wake_ms)

    async def _claim(self, limit: int) -> Claim:
        """One claim. If the reply of an earlier one was lost, what that one took is looked up first."""
        if self._lost_token is not None:
            found = await self._store.recover(node=self._node.id, token=self._lost_token)
            self._lost_token = None
            if found:
                self._courier.targets.saw(None)
                return Claim(found, self.clock.now_ms(), None, self._node.downtime_count)
        token = next(self._tokens)
        try:
            claim = await self._store.claim(
                now_ms=self.clock.now_ms(),
                limit=limit,
                node=self._node.id,
                token=token,
                recent_ms=RECENT_MS,
                dead_after_ms=self._node.dead_after_ms,
                downtime_count=self._node.downtime_count,
            )
        except StoreUnavailable as error:
            if error.effect_unknown:
                self._lost_token = token
            raise
        except asyncio.CancelledError:
            self._lost_token = token
            raise
        self._courier.targets.saw(claim.targets_version)
        if claim.downtimes is not None:
            self._node.downtimes = claim.downtimes
            self._node.downtime_count = claim.downtime_count
        return claim

    async def give_back_lost(self) -> None:
        """When the node stops: hand back what a claim took whose reply never came."""
        if self._lost_token is not None:
            for claimed in await self._store.recover(node=self._node.id, token=self._lost_token):
                self._settler.hand_back(claimed)
            self._lost_token = None

    def _start(self, claimed: ClaimedJob) -> None:
        """Begin what this job has to do; a fault of one job stays with it."""
        try:
            planned = self._plan(claimed)
        except Exception as error:  # noqa: BLE001 - one job that cannot be planned must not stop the others
            planned = self._set_aside(claimed, f"it cannot be planned: {type(error).__name__}: {error}")
        if isinstance(planned, Work):
            if is_spawned(planned):
                self._settler.spawn(claimed, planned)
                return
            log.debug(RUN_CLAIMED, job_id=claimed.id, run_id=planned.run.id, fence=claimed.lease.fence)
            self._courier.send(claimed, planned)
            return
        if planned.state is not None and planned.state.quarantine is not None:
            self.metrics.quarantined.inc()
            log.error(JOB_QUARANTINED, job_id=claimed.id, detail=planned.state.quarantine)
        self._settler.put_transition(claimed, planned)

    def _plan(self, claimed: ClaimedJob) -> Work | Transition:
        if claimed.fault is not None:
            return self._set_aside(claimed, claimed.fault)
        if claimed.job is None:
            if claimed.state is not None and claimed.state.deleted:
                return plan_claim_tombstone(claimed.state, now_ms=self.clock.now_ms(), downtimes=self._node.downtimes)
            if claimed.state is None:
                return Transition(None, remove=True)
            return self._set_aside(claimed, "its definition is gone")
        if claimed.state is None:
            return self._set_aside(claimed, "its state is gone")
        return plan_claim(
            claimed.job,
            claimed.state,
            claimed.lease,
            downtimes=self._node.downtimes,
            store_id=self._node.store_id,
            now_ms=self.clock.now_ms(),
        )

    def _set_aside(self, claimed: ClaimedJob, reason: str) -> Transition:
        child = job_of_unit(claimed.id) != claimed.id
        return quarantine_unreadable(claimed.state, reason, child=child, now_ms=self.clock.now_ms())

    async def _sleep(self, next_wake_ms: int | None) -> None:
        """Sleep until ``next_wake_ms``, until woken, or for the longest sleep, whichever comes first."""
        seconds = LONGEST_SLEEP
        for wake_ms in (next_wake_ms, self._heard_ms):
            if wake_ms is not None:
                seconds = min(seconds, (wake_ms - self.clock.now_ms()) / 1000)
        self._sleeping_until_ms = self.clock.now_ms() + int(seconds * 1000)
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
        self._sleeping_until_ms = None
