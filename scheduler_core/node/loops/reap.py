"""Reclaims the leases of dead nodes."""

from __future__ import annotations

from collections.abc import Callable

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.events import RUN_REAPED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.event import Change
from scheduler_core.node.loops.announce import announce_left
from scheduler_core.node.loops.service import Service
from scheduler_core.node.node import Node
from scheduler_core.store.loop import LoopStore, ReapTurn

log = get_logger(__name__)

PERIOD_SECONDS = 1.0
TURN_MS = 900
"""One node gets the turn in each interval. Shorter than the period of the loop, so that no turn is skipped."""
AUDIT_MS = 60_000
"""How often all leases are examined although no node has died: for leases of unknown nodes, and for claimed jobs
without a lease. Only faults cause either."""
LATE_CLAIM_MS = 2_000
"""For this long after a node's death its leases are examined again: one of its claims may arrive late."""
SHOWN = 20


class Reaper(Service):
    """Asks once a second for the turn, which one node gets, and whether a node has died.

    Leases are examined only if a node has died, and once a minute for an audit, so the work does not grow with the
    number of nodes. Any node claims the reclaimed jobs, like any due job.
    """

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
        self._announced: set[str] = set()
        """Dead nodes that the latest sweep announced."""

    async def reap(self, *, void_all: bool = False) -> int:
        """Reclaim the jobs of dead nodes, or, with ``void_all``, of every node; return how many."""
        reaped = await self._store.reap(
            now_ms=self.clock.now_ms(), dead_after_ms=self._node.dead_after_ms, void_all=void_all
        )
        if reaped:
            self.metrics.reaped.inc(len(reaped))
            log.warning(RUN_REAPED, count=len(reaped), jobs=reaped[:SHOWN], detail="their nodes send no heartbeats")
            self._wake()
        return len(reaped)

    async def run_once(self) -> None:
        if self.may_reclaim():
            await self._take_turn()
        await self.clock.sleep(PERIOD_SECONDS)

    async def _take_turn(self) -> None:
        """Sweep the leases if it is this node's turn and there is a reason to. A sweep is recorded only when it is
        complete: if this node dies during it, the next node sweeps again."""
        now_ms, dead_after_ms = self.clock.now_ms(), self._node.dead_after_ms
        turn = await self._store.take_reap_turn(
            now_ms=now_ms, dead_after_ms=dead_after_ms, interval_ms=TURN_MS, audit_ms=AUDIT_MS
        )
        if turn is ReapTurn.SWEEP and self._store.is_watched and not self.shard:
            await self._announce_dead(now_ms)
        if turn in (ReapTurn.SWEEP, ReapTurn.AUDIT):
            await self.reap()
            audited_at_ms = now_ms if turn is ReapTurn.AUDIT else None
            await self._store.swept(until_ms=now_ms - dead_after_ms - LATE_CLAIM_MS, audited_at_ms=audited_at_ms)

    async def _announce_dead(self, now_ms: int) -> None:
        """Append the events of nodes that have died. Each is swept several times, and announced once by this node."""
        dead = set(await self._store.dead_nodes(now_ms=now_ms, dead_after_ms=self._node.dead_after_ms))
        await announce_left(self._store, sorted(dead - self._announced), Change.DEAD)
        self._announced = dead

    def may_reclaim(self) -> bool:
        """Return whether this node may count another as dead because its heartbeats are missing."""
        return self._beats_can_be_judged() and self._node.may_reap

    def _beats_can_be_judged(self) -> bool:
        """Return whether the heartbeats of other nodes were written by the clock that this node reads.

        When Redis's clock jumps, the nodes accept it one after the other. Before any node is judged by the new clock,
        all get ``dead_after`` to send a heartbeat by it; otherwise the first node would reclaim the runs of the others.
        """
        if self._redis_clock.jumps != self._jumps:
            self._jumps = self._redis_clock.jumps
            self._jumped_at = self.clock.monotonic()
        if self._redis_clock.in_doubt:
            return False
        if self._jumped_at is None:
            return True
        return self.clock.monotonic() - self._jumped_at >= self._node.settings.dead_after_seconds
