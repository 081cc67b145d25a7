"""Takes back what dead nodes held."""

from __future__ import annotations

from collections.abc import Callable

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.events import RUN_REAPED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import Service
from scheduler_core.node.node import Node
from scheduler_core.store.loop import LoopStore, ReapTurn

log = get_logger(__name__)

PERIOD_SECONDS = 1.0
TURN_MS = 900
"""One node of the fleet looks in each such interval; a little shorter than the period, so that no turn is left out."""
AUDIT_MS = 60_000
"""How often all leases are looked at although no node has died: for those whose node nobody knows, and for claimed jobs
without a lease. Neither comes about but by a fault."""
LATE_CLAIM_MS = 2_000
"""For so long after a node's death its leases are looked for again: a claim of it may have been on its way."""
SHOWN = 20


class Reaper(Service):
    """Looks once a second whether it has the turn, and whether a node has died. Only then, and once a minute for an
    audit, are the leases looked at: the work does not grow with the number of nodes. What it gives back is claimed like
    any due job, by whichever node comes first."""

    name = "reap"

    def __init__(
        self, node: Node, store: LoopStore, wake: Callable[[], None], clock: RedisClock, metrics: Metrics
    ) -> None:
        super().__init__(clock, metrics)
        self._node = node
        self._store = store
        self._wake = wake
        self._redis_clock = clock
        self._jumps = clock.jumps
        self._jumped_at: float | None = None

    async def reap(self, *, void_all: bool = False) -> int:
        """Give back the jobs of dead nodes, or, with ``void_all``, of every node; how many."""
        reaped = await self._store.reap(
            now_ms=self.clock.now_ms(), dead_after_ms=self._node.dead_after_ms, void_all=void_all
        )
        if reaped:
            self.metrics.reaped.inc(len(reaped))
            log.warning(RUN_REAPED, count=len(reaped), jobs=reaped[:SHOWN], detail="their nodes no longer beat")
            self._wake()
        return len(reaped)

    async def run_once(self) -> None:
        if self.may_reclaim():
            await self._take_turn()
        await self.clock.sleep(PERIOD_SECONDS)

    async def _take_turn(self) -> None:
        """Sweep the leases if it is this node's turn and there is a reason to. What the sweep of a node that dies
        meanwhile has left is swept by the next: it notes that it is complete at its end."""
        now_ms, dead_after_ms = self.clock.now_ms(), self._node.dead_after_ms
        turn = await self._store.take_reap_turn(
            now_ms=now_ms, dead_after_ms=dead_after_ms, interval_ms=TURN_MS, audit_ms=AUDIT_MS
        )
        if turn in (ReapTurn.SWEEP, ReapTurn.AUDIT):
            await self.reap()
            audited_at_ms = now_ms if turn is ReapTurn.AUDIT else None
            await self._store.swept(until_ms=now_ms - dead_after_ms - LATE_CLAIM_MS, audited_at_ms=audited_at_ms)

    def may_reclaim(self) -> bool:
        """Whether this node may take another for dead because it does not beat."""
        return self._beats_can_be_judged() and self._node.may_reap

    def _beats_can_be_judged(self) -> bool:
        """Whether the beats of other nodes were written by the clock that this node reads.

        When Redis's clock jumps, the nodes believe it one after the other. Each is given as long as it takes to be dead
        to beat by the new time; else the first would take back what the others are working on.
        """
        if self._redis_clock.jumps != self._jumps:
            self._jumps = self._redis_clock.jumps
            self._jumped_at = self.clock.monotonic()
        if self._redis_clock.in_doubt:
            return False
        if self._jumped_at is None:
            return True
        return self.clock.monotonic() - self._jumped_at >= self._node.settings.dead_after_seconds
