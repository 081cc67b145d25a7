"""Appends events that belong to no change of a job: starts of runs, and nodes that join or leave. Best effort."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.event import Change, Event, EventType
from scheduler_core.model.events_of import event_of_health
from scheduler_core.node.loops.health_sweep import HealthChange
from scheduler_core.node.loops.service import Service
from scheduler_core.store.events import EventStore

GATHER_SECONDS = 0.2
"""Starts of this time are appended together."""


class Announcer(Service):
    """Appends the starts of runs in batches while a client listens. Waits without a timer while none does."""

    name = "announce"

    def __init__(self, store: EventStore, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._store = store

    async def run_once(self) -> None:
        await self._store.started()
        await self.clock.sleep(GATHER_SECONDS)
        # Dropped if Redis does not answer: a fault of this service must not make the node unready.
        with contextlib.suppress(StoreError):
            await self._store.append_started()


async def announce_joined(store: EventStore, node: str) -> None:
    """Append the event of a node that has started."""
    await _announce(store, [Event(EventType.NODE_JOINED, node=node)])


async def announce_left(store: EventStore, nodes: Iterable[str], reason: Change) -> None:
    """Append the events of nodes that were stopped or have died."""
    await _announce(store, [Event(EventType.NODE_LEFT, node=node, reason=reason) for node in nodes])


async def announce_health(store: EventStore, changes: Sequence[HealthChange]) -> None:
    """Append the events of jobs that became late or stuck, or no longer are. Raises StoreError: the sweep tries again,
    so that they are sent at least once."""
    if store.is_watched:
        await store.append_events(
            [event_of_health(one.job_id, one.labels, one.after, one.before, one.at_ms) for one in changes]
        )


async def _announce(store: EventStore, events: list[Event]) -> None:
    if store.is_watched:
        with contextlib.suppress(StoreError):
            await store.append_events(events)
