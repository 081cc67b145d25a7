"""What a scenario asks of a system under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks.machine import Usage


class FireAt(msgspec.Struct, frozen=True):
    """A job that fires once, at an instant that need not be a whole second."""

    job: str
    at_ms: int


class System(Protocol):
    """A scheduler with its store, on a core of its own. Used once: start, add, measure, stop."""

    name: str
    """How it is called in tables."""
    redis_core: int
    """Where its Redis runs."""
    grain_ms: int
    """Fire times are multiples of this: 1, or 1000 for what knows whole seconds only."""
    daily_grain_ms: int
    """The same for jobs that fire once a day."""
    first_rate: int
    """Fires per second from which on the highest rate is looked for."""
    loads_per_second: int
    """How fast jobs can be added at least, to choose an instant that lies after it."""

    def start(self, directory: Path, sink_port: int) -> None:
        """Start it with an empty store in ``directory`` and wait until it is ready."""
        ...

    def stop(self) -> None:
        """End every process that was started."""
        ...

    def add_every_second(self, first: int, count: int) -> None:
        """Add ``count`` jobs, numbered from ``first``, that fire on every whole second."""
        ...

    def add_daily(self, count: int, at_ms: int) -> None:
        """Add ``count`` jobs that fire every day, next at ``at_ms``, a whole second."""
        ...

    def add_once(self, fires: Sequence[FireAt]) -> None:
        """Add a job for each of ``fires``."""
        ...

    def usage(self) -> tuple[Usage, Usage]:
        """What the scheduler and what its Redis have used so far."""
        ...

    def explain_missing(self, from_ms: int, until_ms: int, count: int) -> int | None:
        """How many of the fire times in this range the system itself records as not delivered, if it keeps account."""
        ...
