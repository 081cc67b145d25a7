"""``EventStore``: the protocol with which a shard stores events while a client listens, and returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from scheduler_core.model.event import Event
from scheduler_core.model.job import Job
from scheduler_core.model.run import Run

KEEP_MS = 70_000
"""How long a stream of events is kept after the latest ``listen``. Listeners call it every few seconds, so at least a
minute remains after the last one has left."""


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in the events of a shard."""

    epoch: int
    """Changes when the stream begins anew: no client listened for a minute, or the server failed over or restarted."""
    number: int
    """Numbers the events of an epoch without gaps, from 1; 0: its beginning."""


class StoredEvent(msgspec.Struct, frozen=True):
    """An event with its place and the instant at which it happened, or at which Redis stored it."""

    position: Position
    at_ms: int
    event: Event


class EventStore(Protocol):
    """The events of one shard."""

    is_watched: bool
    """Whether a client listens, as this process last read. If not, no event is made."""

    async def listen(self, *, keep_ms: int = KEEP_MS) -> Position:
        """Keep the stream for ``keep_ms``, and begin it if it does not exist; returns the place of its latest event.

        If another server answers than at the last call of any listener, or one that has restarted, a new epoch begins.
        """
        ...

    async def read_events(self, after: Position, *, limit: int, block_ms: int = 0) -> list[StoredEvent]:
        """Return up to ``limit`` events after a place, oldest first. Without any, wait up to ``block_ms``.

        Events that were trimmed are missing: compare the numbers. An event that cannot be read has no type.
        """
        ...

    async def append_events(self, events: Sequence[Event]) -> None:
        """Append events that belong to no change of a job. Does nothing while no client listens."""
        ...

    def run_started(self, job: Job, run: Run, at_ms: int) -> None:
        """Note that the first attempt of a run starts. ``append_started``, or the settlement of the run if it comes
        first, appends the event. Beyond a bound, events are dropped."""
        ...

    async def started(self) -> None:
        """Wait until ``run_started`` was called since the last ``append_started``."""
        ...

    async def append_started(self) -> None:
        """Append the events of runs that have started."""
        ...
