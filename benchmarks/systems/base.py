"""The interface of a system under test."""

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
    """A scheduler with its store, on its own core. Used once: start, add, measure, stop."""

    name: str
    """The name in tables."""
    redis_core: int
    """The core of its Redis."""
    grain_ms: int
    """Fire times are multiples of this: 1, or 1000 for systems with whole seconds only."""
    daily_grain_ms: int
    """The same for jobs that fire once a day."""
    first_rate: int
    """The rate, in fires per second, at which the search for the highest rate begins."""
    loads_per_second: int
    """The lowest rate at which jobs can be added; used to choose an instant after all are stored."""

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
        """What the scheduler and its Redis have used so far."""
        ...

    def explain_missing(self, from_ms: int, until_ms: int, count: int) -> int | None:
        """Count the fire times of this range that the system records as not delivered; None without an account."""
        ...
