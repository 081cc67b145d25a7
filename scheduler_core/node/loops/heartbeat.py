"""Sends the node's heartbeat and synchronises its clock with Redis, in one round trip."""

from __future__ import annotations

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.events import NODE_HELD_UP, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.clock_watch import ClockWatch
from scheduler_core.node.loops.service import Service
from scheduler_core.node.node import Node
from scheduler_core.store.loop import LoopStore
from scheduler_core.store.shards import Shards, ShardStore

log = get_logger(__name__)

START_GAP_BEATS = 2
"""A starting node records a downtime if the last heartbeat of any node is older than this many heartbeats."""
FORGET_AFTER_MS = 3_600_000
STALE_SECONDS = 5.0
"""If the clock got no sample for this long, another server sets it."""


async def set_clock(store: LoopStore | Shards[ShardStore], clock: RedisClock) -> None:
    """Take one sample of Redis's time; of several servers, use the first that answers."""
    redis_ms = await store.time_ms()
    clock.sample(redis_ms, received_at=clock.monotonic())


class ClockSync:
    """Sets the clock of the process by one server, and by another if that one is away.

    The clocks of servers differ slightly. The clock follows the first shard that answers, so that all nodes that reach
    the same servers follow the same one.
    """

    def __init__(self, clock: RedisClock, metrics: Metrics) -> None:
        self.watch = ClockWatch(clock, metrics)
        self._clock = clock
        self._by = 0
        """The shard by whose server the clock was last set."""
        self._set_at: float | None = None

    def take(self, shard: int, redis_ms: float) -> None:
        """Set the clock by the time that this shard's server has just answered, unless an earlier shard sets it."""
        at = self._clock.monotonic()
        if shard > self._by and self._set_at is not None and at - self._set_at < STALE_SECONDS:
            return
        self._clock.sample(redis_ms, received_at=at)
        self._by, self._set_at = shard, at


class Heartbeat(Service):
    """Sends a heartbeat every ``heartbeat_seconds``."""

    name = "heartbeat"

    def __init__(
        self,
        node: Node,
        store: LoopStore,
        clock: RedisClock,
        metrics: Metrics,
        *,
        shard: int = 0,
        timekeeper: ClockSync | None = None,
    ) -> None:
        super().__init__(clock, metrics)
        self._shard = shard
        self._timekeeper = timekeeper or ClockSync(clock, metrics)
        self.warnings = self._timekeeper.watch.warnings
        self._node = node
        self._store = store
        self._redis_clock = clock
        # After an outage every node has to send a heartbeat before the others may count it as dead.
        self.longest_pause = node.settings.heartbeat_seconds

    async def beat(self, *, starting: bool = False, sole: bool = False) -> None:
        """Send a heartbeat. ``starting``: the node's first; ``sole``: no other node can be alive."""
        if not self._redis_clock.is_set:
            self._timekeeper.take(self._shard, await self._store.time_ms())
        jumps = self._redis_clock.jumps
        await self._send(starting=starting, sole=sole)
        if self._redis_clock.jumps != jumps:
            # By the new clock, the heartbeat that was just sent may be too old, or in the future.
            await self._send(starting=False, sole=False)
        self._timekeeper.watch.look()

    async def _send(self, *, starting: bool, sole: bool) -> None:
        """Send the heartbeat and take a sample of Redis's clock, in one round trip."""
        settings = self._node.settings
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
            facts=None if self._node.facts is None else self._node.facts(),
        )
        self.metrics.store_round_trip.set(self.clock.monotonic() - sent_at)
        self._timekeeper.take(self._shard, beat.redis_ms)
        if not starting and not self._node.holds_lease():
            log.warning(NODE_HELD_UP, node=self._node.id, detail="others may have taken its runs")
        self._node.beat_taken(sent_at)
        self._node.store_id = beat.store_id
        self._node.downtimes = beat.downtimes
        self._node.downtime_count = beat.downtime_count
        self._node.alert_book = beat.alert_book
        self._node.slots.live_nodes = max(1, beat.nodes)

    async def run_once(self) -> None:
        began = self.clock.monotonic()
        await self.beat()
        spent = self.clock.monotonic() - began
        await self.clock.sleep(max(0.0, self._node.settings.heartbeat_seconds - spent))
