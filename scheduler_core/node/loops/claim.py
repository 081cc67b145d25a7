"""Claims jobs and passes them to the starter: the first step of claim, deliver, settle.

The loop sleeps until the next known wake-up; an earlier one ends the sleep (``wakeups``).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.dispatch.dispatcher import NO_PUBLIC_URL
from scheduler_core.node.dispatch.limiter import SATURATED_WAIT_MS
from scheduler_core.node.dispatch.target_cache import TargetCache
from scheduler_core.node.loops.horizon import Horizon
from scheduler_core.node.loops.lease_check import LeaseCheck
from scheduler_core.node.loops.others import Others
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.settle import Settler
from scheduler_core.node.loops.start import Starter
from scheduler_core.node.loops.suspects import Suspects
from scheduler_core.node.loops.wakeups import Alarm
from scheduler_core.node.node import Node
from scheduler_core.store.loop import REPLY_BYTES, Claim, ClaimedJob, LoopStore

BATCH = 128
"""Jobs per claim: enough to share the round trip, few enough that the first jobs of a burst start at once."""
BATCH_AHEAD = 256
"""Jobs per claim of a lone node ahead of their wake-ups. It takes Redis about 5 ms, and the node as long to plan."""
RECENT_MS = 10_000
"""With a backlog, half of each batch is for jobs that became due within this time."""


class Claimer(Service):
    """Claims as many jobs as the node can start at once, and none while Redis does not accept what is to be settled."""

    name = "claim"

    def __init__(
        self,
        node: Node,
        store: LoopStore,
        starter: Starter,
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
        self.has_claimed = asyncio.Event()
        """Set when the first claim was answered."""
        self.warnings = suspects.warnings
        if node.settings.public_url is None:
            self.warnings["public_url"] = NO_PUBLIC_URL
        self.lease_check = LeaseCheck(node, store, settler, starter.queue, (self, *services), clock)
        self._node = node
        self._slots = node.slots
        self._store = store
        self._starter = starter
        self._limiter = starter.limiter
        self._horizon = Horizon()
        self._others = Others(node, store, self._horizon, clock)
        self._settler = settler
        self._alarm = alarm
        self._suspects = suspects
        self._targets = targets
        self._tokens = itertools.count(1)
        self._lost_token: int | None = None
        """The number of a claim whose reply was lost."""
        self._is_behind = False
        """Whether the last claim took as many jobs as it might, and all of them were due."""
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
        room = self._room_ahead()
        ahead_ms = self._horizon.ahead_ms if room > 0 else 0
        # A claimer in the queue for slots does not look: while it reads or sleeps, the other shards would get no slot.
        if self._is_in_order and self._others.may_have_taken_all(room) and not slots.is_waiting(alarm.wake):
            await self.lease_check.compare_if_due()
            head = await self._others.nothing_until(self.clock.now_ms() + ahead_ms)
            if head is not None:
                self.metrics.claims.add("spared")
                await self._sleep_until(head.wake_ms, room)
                return
        # While the Redis of this shard does not answer, use one slot only: the other shards need the rest.
        limit = slots.reserve(limit if self.fault is None else 1, alarm.wake)
        if limit == 0:
            await alarm.sleep(None)
            return
        try:
            if self._lost_token is None:
                await self.lease_check.compare_if_due()
            most = self._most(limit, room)
            began = self.clock.monotonic()
            claim = await self._claim(most, ahead_ms)
            self._starter.put(claim.jobs)
            self._starter.start_due(limit)
            self.has_claimed.set()
        finally:
            slots.release(limit)
        is_full = len(claim.jobs) == most
        self._is_behind = is_full and claim.jobs[-1].lease.wake_ms <= self._claimed_at_ms
        self.metrics.claims.add("full" if is_full else "short" if claim.jobs else "empty")
        self._horizon.claimed(claim, 1000 * (self.clock.monotonic() - began), full=is_full)
        if claim.suspects_waiting and not self._suspects.in_trial and self._begin_trial():
            return  # claim again at once: this claim reported the first waiting suspects
        if is_full:
            await self.clock.sleep(0)  # let the event loop write the requests that were just started
            return
        self._limiter.claimed(most, len(claim.jobs))
        await self._sleep_until(claim.next_wake_ms, room, claimed_until_ms=self._claimed_at_ms + ahead_ms)

    def _most(self, limit: int, room: int) -> int:
        """Return how many jobs to claim: ``limit`` that are due, or at most ``room`` ahead.

        With several nodes, ``room`` may be the share of this node. A claim cannot tell due jobs from others, so the
        share applies unless the last claim showed that more jobs are due than it could take.
        """
        if room <= 0 or (self._is_behind and room < limit):
            return limit
        return min(BATCH, room) if self._slots.live_nodes > 1 else max(limit, min(BATCH_AHEAD, room))

    async def _sleep_until(self, next_ms: int | None, room: int, *, claimed_until_ms: int = 0) -> None:
        """Sleep until it is time to claim for the wake-up ``next_ms``."""
        alarm = self._alarm
        alarm.lead_ms = self._horizon.lead_ms - self._others.delay_ms(next_ms) if room > 0 else 0
        if next_ms is not None and next_ms > claimed_until_ms:
            next_ms -= alarm.lead_ms  # else it may not be claimed ahead
        await alarm.sleep(next_ms)

    @property
    def _is_in_order(self) -> bool:
        """Whether a claim is for nothing but new jobs: no earlier claim failed, and no suspect waits."""
        suspects = self._suspects
        return self.fault is None and self._lost_token is None and not suspects.waiting and not suspects.in_trial

    def _room_ahead(self) -> int:
        """Return how many jobs to claim ahead of their wake-ups; 0 while clients could not ask for their release."""
        if self.fault is not None or not self._starter.may_hold_ahead:
            return 0
        return self._horizon.room(self._starter.room(), held=len(self._starter.queue), nodes=self._slots.live_nodes)

    # ---- claim --------------------------------------------------------------------------------------------------

    async def _claim(self, limit: int, ahead_ms: int = 0) -> Claim:
        """Claim once. If an earlier claim took jobs and its reply was lost, return those jobs instead."""
        if self._lost_token is not None:
            found = await self._recover(self._lost_token)
            if found:  # the lost reply may have contained a pause of everything
                self._node.pauses = await self._store.pauses()
            self._lost_token = None
            if found:
                self._targets.saw(None)
                usable = self._release_unusable(found)
                return Claim(usable, self.clock.now_ms(), None, self._node.downtime_count)
        suspects = self._suspects
        trial = suspects.waiting > 0 and self._begin_trial()
        token = next(self._tokens)
        self._others.claimed()
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
                ahead_ms=ahead_ms,
                pause_version=self._node.pauses.version,
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
        if claim.pauses is not None:
            self._node.pauses = claim.pauses
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
