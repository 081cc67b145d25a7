"""``StatisticsStore``: the protocol for the counts of each minute, which nodes write and charts read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scheduler_core.model.statistics import Minute

KEPT_DAYS = 8
"""How long the counts of a minute are kept at least."""


class StatisticsStore(Protocol):
    """Stores the counts of minutes on the first shard. Every method raises StoreUnavailable or StoreRefused."""

    async def add(self, process: str, minute: Minute) -> bool:
        """Add the counts of one process to a minute; return False if they were added before.

        The minutes of a process are added in the order of their ``sequence``.
        """
        ...

    async def read(self, hours: Sequence[int]) -> list[dict[int, dict[str, int]]]:
        """Read a few hours, numbered from the epoch: for each, the counts of its minutes (0 to 59).

        A minute that nobody reported, or that cannot be read, is left out.
        """
        ...
