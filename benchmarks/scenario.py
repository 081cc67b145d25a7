"""The description of a scenario."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from benchmarks.bench import Bench, Result
from benchmarks.systems.base import System


class Scenario(msgspec.Struct, kw_only=True):
    """One row of the plan. ``run`` measures once, with a fresh system."""

    group: str
    """The name that selects it on the command line."""
    title: str
    size: str
    """What varies within the group, as text: ``1000 jobs``."""
    run: Callable[[Bench, System], Result]
    seconds: float
    """The estimated duration."""
    peer_seconds: float | None = None
    """The same for a peer, if it takes longer or shorter."""
    peers: bool = True
    """Whether other systems than Cronpost are measured too."""
    one_core: bool = False
    """Whether it is also measured with Cronpost's Redis on Cronpost's core."""
    once: bool = False
    """Whether it is not repeated, because it takes long or no goal depends on it."""
    defaults: bool = False
    """Whether it is also measured with Cronpost's default settings."""
    spare: bool = False
    """Whether it is left out if the call would take too long; no goal depends on it."""
