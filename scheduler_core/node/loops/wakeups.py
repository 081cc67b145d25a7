"""Hears of wake-ups that clients set and that come before all others."""

from __future__ import annotations

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.claim import Claimer
from scheduler_core.node.loops.service import Service
from scheduler_core.store.loop import LoopStore


class WakeupSubscriber(Service):
    """Subscribed for as long as Redis is there. What it misses meanwhile costs at most the cap of the loop's sleep."""

    name = "wake"

    def __init__(self, store: LoopStore, claimer: Claimer, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._claimer = claimer

    async def run_once(self) -> None:
        async for wake_ms in self._store.wake_ups():
            if wake_ms is None:
                self.works()
                self._claimer.wake()  # it may have missed some while it was not subscribed
            else:
                self._claimer.wake_at(wake_ms)
        raise StoreUnavailable("the subscription ended")
