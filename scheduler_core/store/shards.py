"""Divides the store into shards: selects the shard of a job, and declares the methods of every shard.

A job's id decides its shard, and all keys of a shard are on one server. So each step of a job, and each claim of many
jobs, is one script on one server. One-off tasks, targets and names exist once and are on the first shard.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import TaskSettings
from scheduler_core.base.errors import StoreError, StoreRefused, StoreUnavailable
from scheduler_core.base.redis_url import Topology
from scheduler_core.model.task import task_number
from scheduler_core.store.alerts import AlertBook, Outbox, SweepStore
from scheduler_core.store.attention import AttentionStore
from scheduler_core.store.catalogue import CatalogueStore, TargetCopies
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.find import FindStore
from scheduler_core.store.health import HealthStore
from scheduler_core.store.history import HistoryStore
from scheduler_core.store.jobs import Counts, JobStore, StoredJob
from scheduler_core.store.loop import LoopStore
from scheduler_core.store.operations import OperationStore
from scheduler_core.store.sessions import SessionStore
from scheduler_core.store.statistics import StatisticsStore
from scheduler_core.store.tasks import TaskStore

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


class Finding(msgspec.Struct, frozen=True):
    """A wrong setting of a server, with the remedy. ``fatal``: jobs could be lost or never run."""

    text: str
    fatal: bool


class ServerMemory(msgspec.Struct, frozen=True):
    """The memory of one Redis server."""

    used_bytes: int
    limit_bytes: int
    """Its maxmemory; 0: none, or unknown."""


class ShardStore(LoopStore, JobStore, Protocol):
    """One shard: the stores of the loop and of the jobs, access to the other stores on it, and its condition."""

    clock: RedisClock | None
    """The server's clock, for changes by clients; None: they have no deadline."""

    @property
    def number(self) -> int:
        """The number of the shard, from 0."""
        ...

    @property
    def essential_keys(self) -> frozenset[str]:
        """The keys without which no job of the shard fires."""
        ...

    def find_store(self) -> FindStore:
        """Return what finds jobs of this shard without reading them."""
        ...

    def history_store(self) -> HistoryStore:
        """Return the runs of all jobs of this shard."""
        ...

    def health_store(self) -> HealthStore:
        """Return what the search for late and stuck jobs of this shard reads and writes."""
        ...

    def alert_book(self) -> AlertBook:
        """Return the alert rules and channels, which are on the first shard."""
        ...

    def sweep_store(self) -> SweepStore:
        """Return what the alert rules read and write of the jobs of this shard."""
        ...

    def outbox(self) -> Outbox:
        """Return the messages of alerts, which are on the first shard."""
        ...

    def attention_store(self) -> AttentionStore:
        """Return the lists of what needs a person on this shard."""
        ...

    def statistics_store(self) -> StatisticsStore:
        """Return the statistics, which are on the first shard."""
        ...

    def task_store(self, settings: TaskSettings | None = None) -> TaskStore:
        """Return the one-off tasks, which are on the first shard. ``settings``: how many settled tasks are kept, and
        the initial settings of the store."""
        ...

    def operation_store(self) -> OperationStore:
        """Return the store of operations, which are on the first shard."""
        ...

    def session_store(self) -> SessionStore:
        """Return the store of sessions, which are on the first shard."""
        ...

    def catalogue_store(self) -> CatalogueStore:
        """Return the store of targets and schedules, which are on the first shard."""
        ...

    def target_copies(self, originals: CatalogueStore) -> TargetCopies:
        """Return the copies of targets on this further shard; a target without a copy is read from ``originals``."""
        ...

    async def counts(self, *, now_ms: int) -> Counts:
        """Count jobs (all, due, claimed), nodes and suspects."""
        ...

    async def repair_due(self, *, now_ms: int, first: int, page: int = 500) -> tuple[int, int]:
        """Correct entries of the due set whose score is impossible, and add missing entries for the ids from rank
        ``first`` on; return how many, and the rank to continue from (0: from the beginning)."""
        ...

    async def number_of_shards(self, number: int) -> int:
        """Read how many shards the store has; on the very first start, store ``number``. Ask the first shard."""
        ...

    async def try_write(self) -> None:
        """Write a small key that expires. Raises StoreError where an upsert would fail: out of memory, read-only,
        disk full."""
        ...

    async def wrong_keys(self, job_id: str | None = None) -> dict[str, str]:
        """Return the keys of the shard that hold a wrong Redis type, each with what is wrong; with ``job_id`` also
        those of that job."""
        ...

    def server(self) -> str | None:
        """Return the server of the shard, as host and port or the path of a socket; None: not known yet."""
        ...

    async def server_info(self) -> Mapping[str, Any]:
        """Read the server's INFO."""
        ...

    def memory(self, infos: Sequence[Mapping[str, Any]]) -> ServerMemory:
        """Return the memory of the fullest of the servers that returned these INFOs."""
        ...

    def findings(self, infos: Sequence[Mapping[str, Any]], topology: Topology) -> list[Finding]:
        """Judge the INFO of the servers; fatal findings first."""
        ...

    async def aclose(self) -> None:
        """Close all connections, after commands whose callers were cancelled have ended."""
        ...


S = TypeVar("S", bound=ShardStore)
S_co = TypeVar("S_co", bound=ShardStore, covariant=True)


def shard_of(job_id: str, shards: int) -> int:
    """Return the shard of a job or claim key: 0 to ``shards`` - 1.

    CRC-16 of the job id, as Redis Cluster uses it for keys: it never changes, and is the same in any language. Runs of
    one-off tasks are on the first shard, and so are jobs with ids like theirs.
    """
    if shards == 1 or task_number(job_id) is not None:
        return 0
    return binascii.crc_hqx(job_of_claim_key(job_id).encode(), 0) % shards


class PerShard(Generic[T_co]):
    """Holds one object for each shard, such as its store."""

    def __init__(self, all_: Sequence[T_co]) -> None:
        self.all = tuple(all_)

    def __len__(self) -> int:
        return len(self.all)

    @property
    def lead(self) -> T_co:
        """The object of the first shard, which also has one-off tasks, targets and names."""
        return self.all[0]

    def number_of(self, job_id: str) -> int:
        """Return the shard of a job or claim key."""
        return shard_of(job_id, len(self.all))

    def of(self, job_id: str) -> T_co:
        """Return the object of the shard of a job or claim key."""
        return self.all[shard_of(job_id, len(self.all))]

    def each(self, make: Callable[[T_co], U]) -> PerShard[U]:
        """Return the results of ``make`` for each object."""
        return PerShard([make(one) for one in self.all])

    def places(self, job_ids: Iterable[str]) -> dict[int, list[int]]:
        """Group ids or claim keys by shard: return, for each shard, their positions in the list."""
        found: dict[int, list[int]] = {}
        for place, job_id in enumerate(job_ids):
            found.setdefault(shard_of(job_id, len(self.all)), []).append(place)
        return found


class Shards(PerShard[S_co]):
    """The stores of all shards."""

    def __init__(self, stores: Sequence[S_co], *, topology: Topology = Topology.SINGLE) -> None:
        super().__init__(stores)
        self.topology = topology
        self.is_confirmed = False
        """Whether the number of shards is confirmed to be ``len(stores)``."""

    @staticmethod
    def of_one(store: S) -> Shards[S]:
        """Make a single shard whose number need not be checked."""
        shards = Shards([store])
        shards.is_confirmed = True
        return shards

    async def stored_number(self) -> int:
        """Read the number of shards of the store; on the very first start, store the number of stores here."""
        return await self.lead.number_of_shards(len(self))

    async def confirm(self) -> None:
        """Check the number of shards once, so that no job is looked for or stored on a wrong shard. Raises
        StoreRefused."""
        if not self.is_confirmed:
            stored = await self.stored_number()
            if stored != len(self):
                raise StoreRefused(wrong_number(stored, len(self)))
            self.is_confirmed = True

    async def time_ms(self) -> float:
        """Read the clock of the first shard that answers, in epoch milliseconds."""
        fault = StoreUnavailable("the store has no shard")
        for store in self.all:
            try:
                return await store.time_ms()
            except StoreUnavailable as error:
                fault = error
        raise fault

    async def faults(self) -> list[str]:
        """Return which shards do not answer now, and why."""
        answers = await asyncio.gather(*(store.time_ms() for store in self.all), return_exceptions=True)
        return self._faults_of(answers)

    def _faults_of(self, answers: Sequence[object]) -> list[str]:
        """Return the faults among the answers of all shards; raise other exceptions."""
        faults: list[str] = []
        for number, answer in enumerate(answers):
            if isinstance(answer, StoreError):
                faults.append(f"store: {f'shard {number}: ' if len(self) > 1 else ''}{answer}")
            elif isinstance(answer, BaseException):
                raise answer
        return faults

    async def write_faults(self) -> list[str]:
        """Return which shards refuse writes now, and why."""
        answers = await asyncio.gather(*(store.try_write() for store in self.all), return_exceptions=True)
        return self._faults_of(answers)

    async def counts(self, *, now_ms: int) -> Counts:
        """Add up the counts of all shards. A node with heartbeats on several shards counts once."""
        found = await asyncio.gather(*(store.counts(now_ms=now_ms) for store in self.all))
        return Counts(
            sum(one.jobs for one in found),
            sum(one.due for one in found),
            sum(one.claimed for one in found),
            max(one.nodes for one in found),
            sum(one.suspects for one in found),
        )

    async def server_infos(self) -> list[Mapping[str, Any]]:
        """Read the INFO of every server that holds a shard. Raises StoreError for the first server; others that do not
        answer are left out."""
        if self.topology is not Topology.CLUSTER:
            return [await self.lead.server_info()]
        answers = await asyncio.gather(*(store.server_info() for store in self.all), return_exceptions=True)
        if isinstance(answers[0], BaseException):
            raise answers[0]
        found = [one for one in answers if not isinstance(one, BaseException)]
        return list({str(one.get("run_id", number)): one for number, one in enumerate(found)}.values())

    async def findings(self) -> list[Finding]:
        """Check the servers; fatal findings first. Raises StoreError as ``server_infos`` does."""
        return self.lead.findings(await self.server_infos(), self.topology)

    async def page_ids(self, *, after: str, prefix: str, limit: int) -> list[str]:
        """Return a page as ``JobStore.page_ids`` does, over all shards."""
        pages = await asyncio.gather(*(store.page_ids(after=after, prefix=prefix, limit=limit) for store in self.all))
        return pages[0] if len(pages) == 1 else sorted(chain(*pages), key=str.encode)[:limit]

    async def read_many(self, job_ids: Sequence[str]) -> list[StoredJob]:
        """Read as ``JobStore.read_many`` does, over all shards; each shard is read in its own steps."""
        if len(self) == 1:
            return await self.lead.read_many(job_ids)
        places = self.places(job_ids)
        parts = await asyncio.gather(
            *(self.all[shard].read_many([job_ids[place] for place in own]) for shard, own in places.items())
        )
        by_place = {
            place: stored
            for own, part in zip(places.values(), parts, strict=True)
            for place, stored in zip(own, part, strict=True)
        }
        return [by_place[place] for place in range(len(job_ids))]

    async def aclose(self) -> None:
        """Close all connections, after commands whose callers were cancelled have ended."""
        for store in self.all:
            await store.aclose()


def wrong_number(stored: int, configured: int) -> str:
    """Return the error text for a store with another number of shards."""
    return (
        f"the store has {stored} shard{'s' if stored > 1 else ''}, and this process was started for {configured}. "
        f"Set CRONPOST_SHARDS={stored}, or leave it out; the number of a store changes only by exporting the jobs and "
        "importing them into a new one (another CRONPOST_KEY_PREFIX, or another Redis)"
    )
