"""Every key that Cronpost writes, in one place.

All keys of a shard share a hash tag, so that a Redis Cluster keeps them on one master and a script can touch them
together. ``docs/redis-keys.md`` describes each for people.
"""

from __future__ import annotations

import msgspec

CLAIMED = 1_000_000_000_000_000
"""Scores from here on in the due set: a node holds the job since (score - CLAIMED)."""
IDLE = 4_000_000_000_000_000
PAUSED = 5_000_000_000_000_000
QUARANTINED = 6_000_000_000_000_000
"""Scores of jobs that only a client can wake. Every job has exactly one entry in the due set."""


class Keys(msgspec.Struct, frozen=True):
    """The keys of one shard."""

    prefix: str = "cronpost"
    shard: int = 0

    @property
    def root(self) -> str:
        return f"{self.prefix}:{{{self.shard}}}"

    @property
    def due(self) -> str:
        """Sorted set: job id by next wake-up in epoch ms, or a score from the parts above."""
        return f"{self.root}:due"

    @property
    def jobs(self) -> str:
        """Hash: job id to definition."""
        return f"{self.root}:jobs"

    @property
    def states(self) -> str:
        """Hash: job id to state, led by an 8-byte tag that changes with every write."""
        return f"{self.root}:states"

    @property
    def leases(self) -> str:
        """Hash: job id to lease."""
        return f"{self.root}:leases"

    @property
    def ids(self) -> str:
        """Sorted set: all job ids at score 0, for lists in the order of ids."""
        return f"{self.root}:ids"

    @property
    def nodes(self) -> str:
        """Sorted set: node id by last beat."""
        return f"{self.root}:nodes"

    @property
    def claims(self) -> str:
        """Hash: node id to number of its latest claim."""
        return f"{self.root}:claims"

    @property
    def meta(self) -> str:
        """Hash: fence counter, store id, schema, last beat, downtimes."""
        return f"{self.root}:meta"

    @property
    def wake(self) -> str:
        """Channel: wake-ups that come before all others."""
        return f"{self.root}:wake"

    def history(self, job_id: str) -> str:
        """List: runs and misses of one job, oldest first."""
        return f"{self.root}:history:{job_id}"
