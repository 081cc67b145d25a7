"""Subscribes to the messages of clients: earlier wake-ups, and requests to release jobs that were claimed ahead."""

from __future__ import annotations

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import Service
from scheduler_core.node.loops.start import Starter
from scheduler_core.node.loops.wakeups import Alarm
from scheduler_core.store.loop import LoopStore, Release


class WakeupSubscriber(Service):
    """Subscribes to wake-ups for as long as Redis is there. A wake-up that is missed while the subscription is lost
    costs at most the claim loop's longest sleep."""

    name = "wake"

    def __init__(self, store: LoopStore, alarm: Alarm, starter: Starter, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._alarm = alarm
        self._starter = starter

    async def run_once(self) -> None:
        try:
            async for one in self._store.wake_ups():
                if one is None:
                    self.works()
                    self._starter.listens(True)
                    self._alarm.wake()  # some may have been missed before the subscription
                elif isinstance(one, Release):
                    self._starter.release(one.claim_keys)
                else:
                    self._alarm.wake_at(one)
        finally:
            self._starter.listens(False)
        raise StoreUnavailable("the subscription ended")
