"""Says that the node lives, and sets its clock by Redis's."""

from __future__ import annotations

from scheduler_core.clock import RedisClock
from scheduler_core.events import CLOCK_JUMPED, NODE_HELD_UP, get_logger
from scheduler_core.metrics import Metrics
from scheduler_core.node import Node
from scheduler_core.services.base import Service
from scheduler_core.store.redis_store import RedisStore

log = get_logger(__name__)

START_GAP_BEATS = 2
"""A starting node takes the time since the last beat for downtime if it is longer than so many beats: a living node
would have beaten meanwhile."""
FORGET_AFTER_MS = 3_600_000


async def set_clock(store: RedisStore, clock: RedisClock) -> None:
    """Take one sample of Redis's time."""
    redis_ms = await store.time_ms()
    clock.sample(redis_ms, received_at=clock.monotonic())


class Heartbeat(Service):
    """One beat every ``heartbeat_seconds``."""

    name = "heartbeat"

    def __init__(self, node: Node, store: RedisStore, clock: RedisClock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._node = node
        self._store = store
        self._redis_clock = clock

    async def beat(self, *, starting: bool = False, sole: bool = False) -> None:
        """Beat once. ``starting``: the node's first; ``sole``: no other node can live."""
        settings = self._node.settings
        jumps = self._redis_clock.jumps
        await set_clock(self._store, self._redis_clock)
        if self._redis_clock.jumps != jumps:
            log.warning(CLOCK_JUMPED, node=self._node.id, detail="Redis's clock was set; the node follows it")
        sent_at = self.clock.monotonic()
        beat = await self._store.beat(
            node=self._node.id,
            now_ms=self.clock.now_ms(),
            starting=starting,
            sole=sole,
            start_gap_ms=int(START_GAP_BEATS * settings.heartbeat_seconds * 1000),
            lived_gap_ms=int(settings.downtime_after_seconds * 1000),
            forget_ms=FORGET_AFTER_MS,
            store_id=self._node.store_id,
        )
        if not starting and not self._node.lease_holds:
            log.warning(NODE_HELD_UP, node=self._node.id, detail="others may have taken its runs")
        self._node.beat_taken(sent_at)
        self._node.store_id = beat.store_id
        self._node.downtimes = beat.downtimes
        self._node.downtime_count = beat.downtime_count
        self.metrics.clock_offset.set(self._redis_clock.wall_offset_ms() / 1000)

    async def run_once(self) -> None:
        began = self.clock.monotonic()
        await self.beat()
        spent = self.clock.monotonic() - began
        await self.clock.sleep(max(0.0, self._node.settings.heartbeat_seconds - spent))
