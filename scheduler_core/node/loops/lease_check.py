"""Compares the leases that Redis has of this node with the jobs that the node works on, and releases the rest.

A failover breaks the connections and can lose a settlement that was acknowledged. Then the lease exists again, and its
node is alive, so that no other node would ever reclaim it.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_core.base.clock import Clock
from scheduler_core.base.events import LEASES_FORGOTTEN, get_logger
from scheduler_core.model.lease import Lease, LostCause
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.settle import Settler
from scheduler_core.node.loops.start_queue import LeaseId, StartQueue
from scheduler_core.node.node import Node
from scheduler_core.store.loop import ClaimedJob, LoopStore

log = get_logger(__name__)

COMPARE_SECONDS = 60.0
"""How often a node compares its leases when Redis was never away."""
SHOWN = 20


class LeaseCheck:
    """Compares about once a minute, and soon after Redis failed one of ``services``."""

    def __init__(
        self,
        node: Node,
        store: LoopStore,
        settler: Settler,
        queue: StartQueue,
        services: Sequence[Service],
        clock: Clock,
    ) -> None:
        self._node = node
        self._store = store
        self._settler = settler
        self._queue = queue
        self._services = services
        self._clock = clock
        self._faults = 0
        self._due_at = clock.monotonic() + COMPARE_SECONDS

    async def compare_if_due(self) -> None:
        """Release the leases of this node that it does not work on, if it is time to look.

        Call it only while no claim is in flight: a claim adds leases that the node does not know yet. If one of the
        runs is settled at the same moment, the fence decides.
        """
        now = self._clock.monotonic()
        faults = 0
        for service in self._services:
            faults += service.store_faults
        if faults != self._faults:
            self._faults = faults
            self._due_at = min(self._due_at, now + self._node.settings.dead_after_seconds / 2)
        if now >= self._due_at:
            await self._compare()

    async def _compare(self) -> None:
        leases = await self._store.leases_of(self._node.id)
        self._due_at = self._clock.monotonic() + COMPARE_SECONDS
        known = self.known()
        strays = [lease for lease in leases if (lease.job_id, lease.fence) not in known]
        for lease in strays:
            stray = ClaimedJob(lease.job_id, None, None, Lease(lease.fence, self._node.id, lease.fence, 0), b"")
            if lease.first_claimed_at_ms > self._clock.now_ms():
                self._settler.release(stray)  # it was claimed ahead, so nothing was sent
            else:
                # Its request may have been sent: only the record of how it ended is lost.
                self._settler.release_lost(stray, LostCause.FORGOTTEN, lease.first_claimed_at_ms)
        if strays:
            jobs = [lease.job_id for lease in strays[:SHOWN]]
            log.warning(LEASES_FORGOTTEN, count=len(strays), jobs=jobs, detail="Redis has lost how they ended")

    def known(self) -> set[LeaseId]:
        """Return the leases of jobs that this node works on or has to settle."""
        open_now = {attempt.lease_id for attempt in self._node.in_flight}
        return self._settler.lease_ids() | self._queue.lease_ids | open_now
