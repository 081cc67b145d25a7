"""Makes the name of every key that Cronpost writes.

All keys of a shard share a hash tag, so that a Redis Cluster keeps them on one master and a script can use them
together.
``docs/redis-keys.md`` describes the content of each key.
"""

from __future__ import annotations

import msgspec

from scheduler_core.model.index import CHANGED

CLAIMED = 1_000_000_000_000_000
"""Due set, scores from here on: a node has held the job since (score - CLAIMED)."""
SUSPECTED = 2_000_000_000_000_000
"""Due set, scores from here on: a suspect that has waited for its trial since (score - SUSPECTED)."""
COMPLETED = 3_000_000_000_000_000
"""Due set, scores from here on: a job that completed at (score - COMPLETED)."""
REMEMBERED = 3_500_000_000_000_000
"""Due set, scores from here to IDLE: the id of a job that completed at (score - REMEMBERED) and was deleted then."""
IDLE = 4_000_000_000_000_000
PAUSED = 5_000_000_000_000_000
QUARANTINED = 6_000_000_000_000_000
"""Due set: scores of jobs that only a client can wake. Every job has exactly one entry in the due set."""

JOB_KEYS = {
    "due": "sorted set",
    "jobs": "hash",
    "states": "hash",
    "leases": "hash",
    "ids": "sorted set",
    "nodes": "sorted set",
    "claims": "hash",
    "facts": "hash",
    "suspects": "sorted set",
    "meta": "hash",
    "pauses": "list",
    "children": "sorted set",
    "retrying": "sorted set",
    "answers": "hash",
    "answered": "sorted set",
    "records": "hash",
    "details": "hash",
    "runs_s": "sorted set",
    "runs_f": "sorted set",
    "runs_t": "sorted set",
    "runs_d": "sorted set",
    "runs_c": "sorted set",
    "counts": "hash",
    "operations": "sorted set",
    "open_operations": "sorted set",
    "events": "stream",
    "listening": "string",
    "health": "hash",
    "set_aside": "sorted set",
    "changed": "sorted set",
    "alert_book": "hash",
    "alert_jobs": "hash",
    "alert_alarming": "sorted set",
    "alert_sweep": "hash",
    "alert_findings": "sorted set",
    "alert_outbox": "hash",
    "alert_messages": "hash",
    "alert_waiting": "sorted set",
    "alert_sent": "sorted set",
}
"""The Redis types of the keys of jobs, runs and operations, by the names that the scripts use."""
TASK_PARTS = {
    "fresh": "sorted set",
    "failed": "sorted set",
    "running": "sorted set",
    "stale": "sorted set",
    "delivered": "sorted set",
    "dismissed": "sorted set",
    "tasks": "hash",
    "batch": "hash",
    "settings": "hash",
    "wake": "",
}
"""The Redis types of the keys of one-off tasks; empty: a channel."""
CATALOGUE_PARTS = {
    "targets": "hash",
    "target_ids": "sorted set",
    "target_names": "hash",
    "schedules": "hash",
    "schedule_ids": "sorted set",
    "schedule_names": "hash",
    "reserved": "sorted set",
    "ends": "sorted set",
    "paused": "sorted set",
    "deleting": "hash",
    "copying": "sorted set",
    "copies": "hash",
    "counters": "hash",
    "of:": "",
    "jobs_of:": "",
}
"""The Redis types of the keys of targets and schedules; empty: the first part of one key per target."""
KEY_TYPES = JOB_KEYS | TASK_PARTS | CATALOGUE_PARTS


class Keys(msgspec.Struct, frozen=True):
    """The keys of one shard."""

    prefix: str = "cronpost"
    shard: int = 0
    root: str = ""
    """The beginning of all key names, made from ``prefix`` and ``shard``."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "root", f"{self.prefix}:{{{self.shard}}}")

    @property
    def due(self) -> str:
        """Sorted set: claim key to next wake-up in epoch ms, or one of the scores above."""
        return f"{self.root}:due"

    @property
    def probe(self) -> str:
        """String that expires after some seconds: written to test whether this shard accepts writes."""
        return f"{self.root}:probe"

    @property
    def jobs(self) -> str:
        """Hash: claim key to definition."""
        return f"{self.root}:jobs"

    @property
    def states(self) -> str:
        """Hash: claim key to an 8-byte tag, which changes with every write, and the state."""
        return f"{self.root}:states"

    @property
    def leases(self) -> str:
        """Hash: claim key to lease."""
        return f"{self.root}:leases"

    @property
    def ids(self) -> str:
        """Sorted set: all job ids at score 0, for lists in the order of ids."""
        return f"{self.root}:ids"

    @property
    def nodes(self) -> str:
        """Sorted set: node id to last heartbeat in epoch ms."""
        return f"{self.root}:nodes"

    @property
    def claims(self) -> str:
        """Hash: node id to the number of its latest claim."""
        return f"{self.root}:claims"

    @property
    def facts(self) -> str:
        """Hash: node id to its facts for people. Only on the first shard."""
        return f"{self.root}:facts"

    @property
    def suspects(self) -> str:
        """Sorted set: claim key of a suspect to its losses; 10^6 is added while it is tried."""
        return f"{self.root}:suspects"

    @property
    def pauses(self) -> str:
        """List: who made each pause of everything, and why; the pauses themselves are in ``meta``."""
        return f"{self.root}:pauses"

    @property
    def meta(self) -> str:
        """Hash: fence counter, store id, last heartbeat, downtimes; of the first shard also the number of shards."""
        return f"{self.root}:meta"

    @property
    def wake(self) -> str:
        """Channel: wake-ups that come before all others, in epoch ms."""
        return f"{self.root}:wake"

    @property
    def events(self) -> str:
        """Stream: events of jobs, runs and nodes, while a client listens."""
        return f"{self.root}:events"

    @property
    def listening(self) -> str:
        """String: the server and the epoch of the stream of events."""
        return f"{self.root}:listening"

    @property
    def children(self) -> str:
        """Sorted set at score 0: the claim keys of child runs (see ``child_id``)."""
        return f"{self.root}:children"

    @property
    def answers(self) -> str:
        """Hash: digest of a job id and an ``Idempotency-Key`` to the answer that was sent."""
        return f"{self.root}:answers"

    @property
    def answered(self) -> str:
        """Sorted set: the digests of ``answers`` to the instant (epoch ms) at which each may be deleted."""
        return f"{self.root}:answered"

    @property
    def cut(self) -> str:
        """Channel: ids of runs that a client cancelled while their request was open."""
        return f"{self.root}:cut"

    @property
    def was_cut(self) -> str:
        """Channel: ids of runs whose request a node has cut."""
        return f"{self.root}:was_cut"

    @property
    def retrying(self) -> str:
        """Sorted set: claim key to the start (epoch ms) of its run that waits for a retry or a callback."""
        return f"{self.root}:waiting"

    @property
    def set_aside(self) -> str:
        """Sorted set: settlement that Redis refuses to the instant (epoch ms) at which its node set it aside."""
        return f"{self.root}:set_aside"

    def index(self, name: str) -> str:
        """Sorted set: the ids of the jobs that ``model.index`` lists under this name, with their scores."""
        return f"{self.root}:index:{name}"

    @property
    def health(self) -> str:
        """Hash: the search for late and stuck jobs: ``turn_at``, its ``progress``, and the ``counts`` of the last
        pass."""
        return f"{self.root}:health"

    def statistics(self, hour: int) -> str:
        """Hash: the statistics of one hour, numbered from the epoch. Only on the first shard."""
        return f"{self.root}:statistics:{hour}"

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
        """Hash: run id to what its last attempt sent and received."""
        return f"{self.root}:details"

    def runs(self, letter: str) -> str:
        """Sorted set: id of a settled run to its start; one set for each status, named by its letter."""
        return f"{self.root}:runs:{letter}"

    @property
    def counts(self) -> str:
        """Hash: totals of all runs ever settled, and the number of runs of each recent minute."""
        return f"{self.root}:counts"

    @property
    def record_keys(self) -> tuple[str, ...]:
        """The keys that ``lua/lib/record.lua`` writes, in its order."""
        return (self.records, self.details, *(self.runs(letter) for letter in "SFTDC"), self.counts)

    # ---- operations ---------------------------------------------------------------------------------------------

    @property
    def operations(self) -> str:
        """Sorted set: operation id to the instant (epoch ms) after which it is not listed; infinite while it is
        open."""
        return f"{self.root}:operations"

    @property
    def open_operations(self) -> str:
        """Sorted set: id of an open operation to the instant (epoch ms) until which a process carries it."""
        return f"{self.root}:operations:open"

    def operation(self, operation_id: str) -> str:
        """Hash: the document of one operation; expires a day after its end."""
        return f"{self.root}:operation:{operation_id}"

    # ---- sessions -----------------------------------------------------------------------------------------------

    def session(self, digest: str) -> str:
        """String: one session of the dashboard, by the SHA-256 of its id; expires with the session."""
        return f"{self.root}:session:{digest}"

    # ---- alerts -------------------------------------------------------------------------------------------------

    @property
    def changed(self) -> str:
        """Sorted set: job id to the instant of its latest change (epoch µs) or of its next examination (epoch ms);
        exists while an alert rule does. Its member with an empty name says so."""
        return self.index(CHANGED)

    @property
    def alert_book(self) -> str:
        """Hash, on the first shard: the rules and channels, their ``version``, and the latest id."""
        return f"{self.root}:alerts:book"

    @property
    def alert_jobs(self) -> str:
        """Hash: job id to how far it was examined, and its alarms."""
        return f"{self.root}:alerts:jobs"

    @property
    def alert_alarming(self) -> str:
        """Sorted set at score 0: the jobs with an alarm."""
        return f"{self.root}:alerts:alarming"

    @property
    def alert_sweep(self) -> str:
        """Hash: the ``version`` of the sweep, its ``progress``, and the number of the latest finding."""
        return f"{self.root}:alerts:sweep"

    @property
    def alert_findings(self) -> str:
        """Sorted set: finding to its number; those that are no message yet."""
        return f"{self.root}:alerts:findings"

    @property
    def alert_outbox(self) -> str:
        """Hash, on the first shard: the lease of the node that sends, the ``version`` of the messages, and for each
        shard the number of the latest finding that is in a message."""
        return f"{self.root}:alerts:outbox"

    @property
    def alert_messages(self) -> str:
        """Hash, on the first shard: message id to message."""
        return f"{self.root}:alerts:messages"

    @property
    def alert_waiting(self) -> str:
        """Sorted set, on the first shard: id of a message that is to be sent to the instant of its next attempt."""
        return f"{self.root}:alerts:waiting"

    @property
    def alert_sent(self) -> str:
        """Sorted set at score 0, on the first shard: the ids of all messages that are kept, in the order of time."""
        return f"{self.root}:alerts:sent"

    # ---- one-off tasks ------------------------------------------------------------------------------------------

    def tasks(self, part: str) -> str:
        """Return a key of one-off tasks, one of ``TASK_PARTS``. Its name contains ``lane``, the earlier name of the
        task queue."""
        assert part in TASK_PARTS or not part, part
        return f"{self.root}:lane:{part}"

    # ---- targets and schedules ----------------------------------------------------------------------------------

    def catalogue(self, part: str) -> str:
        """Return a key of targets and schedules, one of ``CATALOGUE_PARTS``."""
        assert part in CATALOGUE_PARTS or not part, part
        return f"{self.root}:catalogue:{part}"

    # ---- all ----------------------------------------------------------------------------------------------------

    def named(self, name: str) -> str:
        """Return the key that scripts call ``name``, one of ``KEY_TYPES``."""
        if name in TASK_PARTS:
            return self.tasks(name)
        if name in CATALOGUE_PARTS:
            return self.catalogue(name)
        return self.runs(name[-1].upper()) if name.startswith("runs_") else str(getattr(self, name))

    def types(self) -> dict[str, str]:
        """Return the Redis type (as ``TYPE`` answers it) of every key that does not belong to one job or one target."""
        return {self.named(name): "zset" if kind == "sorted set" else kind for name, kind in KEY_TYPES.items() if kind}

    @property
    def of_the_loop(self) -> frozenset[str]:
        """The keys without which no job of the shard fires."""
        return frozenset((self.due, self.jobs, self.states, self.leases, self.nodes, self.claims, self.meta))
