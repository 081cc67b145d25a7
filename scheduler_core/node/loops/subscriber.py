"""Subscribes to the messages of clients: earlier wake-ups, and requests to release jobs that were claimed ahead."""

from __future__ import annotations

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.dispatch.target_cache import TargetCache
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.start import Starter
from scheduler_core.node.loops.wakeups import Alarm
from scheduler_core.store.loop import LoopStore, Release, Sign


class WakeupSubscriber(Service):
    """Subscribes to the messages of clients while Redis is reachable.

    A wake-up that is missed while the subscription is lost delays its job by at most the claim loop's longest sleep. A
    request to release a job must not be missed: while it could be, this node holds no job ahead of its wake-up.
    """

    name = "wake"

    def __init__(
        self,
        store: LoopStore,
        alarm: Alarm,
        starter: Starter,
        targets: TargetCache,
        clock: Clock,
        metrics: Metrics,
        *,
        heartbeat_seconds: float = 1.0,
    ) -> None:
        """A connection that is silent for ``heartbeat_seconds`` counts as lost for what is held ahead."""
        super().__init__(clock, metrics)
        self._store = store
        self._alarm = alarm
        self._starter = starter
        self._targets = targets
        self._ping_seconds = heartbeat_seconds / 2

    async def run_once(self) -> None:
        try:
            async for one in self._store.wake_ups(ping_seconds=self._ping_seconds):
                if one is None:
                    self.works()
                    self._starter.listens(True)
                    self._alarm.wake()  # wake-ups may have been missed before the subscription
                elif one is Sign.SILENT:
                    self._starter.listens(False)
                elif one is Sign.TARGETS_CHANGED:
                    self._targets.saw(None)
                elif isinstance(one, Release):
                    self._starter.release(one)
                elif isinstance(one, int):
                    self._alarm.wake_at(one)
        finally:
            self._starter.listens(False)
        raise StoreUnavailable("the subscription ended")
