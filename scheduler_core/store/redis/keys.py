"""Every key that Cronpost writes, in one place.

All keys of a shard share a hash tag, so that a Redis Cluster keeps them on one master and a script can touch them
together. ``docs/redis-keys.md`` describes each for people.
"""

from __future__ import annotations

import msgspec

CLAIMED = 1_000_000_000_000_000
"""Scores from here on in the due set: a node holds the job since (score - CLAIMED)."""
SUSPECTED = 2_000_000_000_000_000
"""From here on: the run was lost with several nodes, and waits for its trial since (score - SUSPECTED)."""
IDLE = 4_000_000_000_000_000
PAUSED = 5_000_000_000_000_000
QUARANTINED = 6_000_000_000_000_000
"""Scores of jobs that only a client can wake. Every job has exactly one entry in the due set."""


TASK_PARTS = {
    "fresh": "zset",
    "failed": "zset",
    "running": "zset",
    "stale": "zset",
    "delivered": "zset",
    "tasks": "hash",
    "batch": "hash",
    "settings": "hash",
    "wake": "",
}
"""What the lane of one-off tasks keeps, and the Redis type of each; empty for a channel."""
CATALOGUE_PARTS = {
    "targets": "hash",
    "target_ids": "zset",
    "target_names": "hash",
    "schedules": "hash",
    "schedule_ids": "zset",
    "schedule_names": "hash",
    "reserved": "zset",
    "ends": "zset",
    "paused": "zset",
    "deleting": "hash",
    "copying": "zset",
    "copies": "hash",
    "counters": "hash",
    "of:": "",
}
"""The same of targets and schedules; empty for the first part of a key of each target."""


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
    def probe(self) -> str:
        """String that lasts some seconds: written to find out whether this shard takes writes."""
        return f"{self.root}:probe"

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
    def suspects(self) -> str:
        """Sorted set: job id by losses, of runs lost with several nodes in a row; 10^6 more while one is tried."""
        return f"{self.root}:suspects"

    @property
    def meta(self) -> str:
        """Hash: fence counter, store id, last beat, downtimes; of the first shard also the number of shards."""
        return f"{self.root}:meta"

    @property
    def wake(self) -> str:
        """Channel: wake-ups that come before all others."""
        return f"{self.root}:wake"

    @property
    def children(self) -> str:
        """Sorted set at score 0: the runs of jobs that allow overlap, each a unit of its own (see ``child_id``)."""
        return f"{self.root}:children"

    @property
    def answers(self) -> str:
        """Hash: digest of a job id and an ``Idempotency-Key`` to the answer that was given."""
        return f"{self.root}:answers"

    @property
    def answered(self) -> str:
        """Sorted set: the digests of ``answers`` by the instant at which each may be forgotten."""
        return f"{self.root}:answered"

    @property
    def cut(self) -> str:
        """Channel: runs that a client cancelled while their request was open."""
        return f"{self.root}:cut"

    @property
    def was_cut(self) -> str:
        """Channel: runs whose request a node has cut."""
        return f"{self.root}:was_cut"

    @property
    def retrying(self) -> str:
        """Sorted set: job id by start of its run, for runs that wait for a retry or a completion."""
        return f"{self.root}:waiting"

    # ---- history ------------------------------------------------------------------------------------------------

    def history(self, job_id: str) -> str:
        """List: runs (by id) and misses of one job, oldest first."""
        return f"{self.root}:history:{job_id}"

    def failures(self, job_id: str) -> str:
        """List: runs that did not succeed and have left ``history``, oldest first."""
        return f"{self.root}:failures:{job_id}"

    @property
    def records(self) -> str:
        """Hash: run id to the record of a settled run."""
        return f"{self.root}:records"

    @property
    def details(self) -> str:
        """Hash: run id to what its last attempt sent and was answered."""
        return f"{self.root}:details"

    def runs(self, letter: str) -> str:
        """Sorted set: settled run ids by start, one set for each status (its first letter)."""
        return f"{self.root}:runs:{letter}"

    @property
    def counts(self) -> str:
        """Hash: totals over all runs ever settled, and those of each of the last minutes."""
        return f"{self.root}:counts"

    @property
    def record_keys(self) -> tuple[str, ...]:
        """What ``lua/lib/record.lua`` writes, in its order."""
        return (self.records, self.details, *(self.runs(letter) for letter in "SFTDC"), self.counts)

    # ---- one-off tasks ------------------------------------------------------------------------------------------

    def tasks(self, part: str) -> str:
        """What the lane of one-off tasks keeps; one of ``TASK_PARTS``."""
        assert part in TASK_PARTS or not part, part
        return f"{self.root}:lane:{part}"

    # ---- targets and schedules ----------------------------------------------------------------------------------

    def catalogue(self, part: str) -> str:
        """Targets, and the names and ids of targets and schedules; one of ``CATALOGUE_PARTS``."""
        assert part in CATALOGUE_PARTS or not part, part
        return f"{self.root}:catalogue:{part}"

    # ---- what each holds ----------------------------------------------------------------------------------------

    def types(self) -> dict[str, str]:
        """The Redis type of every key that does not belong to one job or one target."""
        sets = [self.due, self.ids, self.nodes, self.children, self.retrying, self.suspects, self.answered]
        sets += [self.runs(letter) for letter in "SFTDC"]
        hashes = [self.jobs, self.states, self.leases, self.claims, self.meta, self.records, self.details, self.counts]
        hashes.append(self.answers)
        found = dict.fromkeys(sets, "zset") | dict.fromkeys(hashes, "hash")
        found |= {self.tasks(part): kind for part, kind in TASK_PARTS.items() if kind}
        return found | {self.catalogue(part): kind for part, kind in CATALOGUE_PARTS.items() if kind}

    @property
    def of_the_loop(self) -> frozenset[str]:
        """The keys without which no job of the shard fires."""
        return frozenset((self.due, self.jobs, self.states, self.leases, self.nodes, self.claims, self.meta))
