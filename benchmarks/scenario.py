"""What a scenario is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from benchmarks.bench import Bench, Result
from benchmarks.systems.base import System


class Scenario(msgspec.Struct, kw_only=True):
    """One row of the plan. ``run`` measures once; the system is fresh each time."""

    group: str
    """By which it is chosen on the command line."""
    title: str
    size: str
    """What varies within the group, in words: ``1000 jobs``."""
    run: Callable[[Bench, System], Result]
    seconds: float
    """Roughly how long it takes."""
    peers: bool = True
    """Whether it can be asked of other systems than Cronpost."""
    one_core: bool = False
    """Whether it is measured also with Cronpost's Redis on Cronpost's core."""
    once: bool = False
    """Whether it is not repeated: it takes long, or no target depends on it."""
