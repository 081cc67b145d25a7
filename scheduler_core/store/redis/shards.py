"""The store in shards: which shard a job belongs to, and a store for each.

A job's id decides its shard, and all keys of a shard lie on one server, so that a step of one job, and a claim of many,
is one script on one server. What there is once for all (one-off tasks, targets, names) lies on the first shard.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

from redis.crc import key_slot

from scheduler_core.base.errors import StoreError, StoreRefused, StoreUnavailable
from scheduler_core.base.redis_url import Topology, parse_redis_url
from scheduler_core.model.task import task_number
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.jobs import Counts, Retention, StoredJob
from scheduler_core.store.redis.client import UncancelledRedis, connect
from scheduler_core.store.redis.cluster import Address, Cluster, ClusterClient
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.sentinel import connect_to_master
from scheduler_core.store.redis.store import RedisStore

SHARDS_OF_A_CLUSTER = 16
"""How many shards a store on a Cluster begins with: enough to spread over a dozen masters, few enough that an idle node
has little to look at."""
BEAT_CONNECTIONS = 4
"""For the heartbeats of a shard: one beat is under way at a time, and after faults some that nobody waits for."""
CONNECTIONS_OF_A_SHARD = 8
"""What the services of a further shard use at most on the same server, beyond the connections of the first."""

T = TypeVar("T")
U = TypeVar("U")


def shard_of(job_id: str, shards: int) -> int:
    """The shard of a job, or of the job that a unit belongs to: 0 to ``shards`` - 1.

    CRC-16 of the id, as Redis Cluster has it for keys: fixed for ever, and the same in any language. The runs of
    one-off tasks, and so the jobs that are named like them, are those of the first shard.
    """
    if shards == 1 or task_number(job_id) is not None:
        return 0
    return binascii.crc_hqx(job_of_claim_key(job_id).encode(), 0) % shards


class PerShard(Generic[T]):
    """One thing for each shard."""

    def __init__(self, all_: Sequence[T]) -> None:
        self.all = tuple(all_)

    def __len__(self) -> int:
        return len(self.all)

    @property
    def lead(self) -> T:
        """That of the first shard, which also holds what there is only once."""
        return self.all[0]

    def number_of(self, job_id: str) -> int:
        """The shard of a job or unit."""
        return shard_of(job_id, len(self.all))

    def of(self, job_id: str) -> T:
        """That of the shard of a job or unit."""
        return self.all[shard_of(job_id, len(self.all))]

    def each(self, make: Callable[[T], U]) -> PerShard[U]:
        """Something made of each."""
        return PerShard([make(one) for one in self.all])

    def places(self, job_ids: Iterable[str]) -> dict[int, list[int]]:
        """For each shard of one of these ids or units, at which places of the list its own stand."""
        found: dict[int, list[int]] = {}
        for place, job_id in enumerate(job_ids):
            found.setdefault(shard_of(job_id, len(self.all)), []).append(place)
        return found


class Shards(PerShard[RedisStore]):
    """The stores of all shards."""

    def __init__(self, stores: Sequence[RedisStore], *, topology: Topology = Topology.SINGLE) -> None:
        super().__init__(stores)
        self.topology = topology
        self.is_confirmed = False
        """Whether the store is known to have as many shards as there are stores here."""

    @classmethod
    def of_one(cls, store: RedisStore) -> Shards:
        """A single shard whose number need not be checked."""
        shards = cls([store])
        shards.is_confirmed = True
        return shards

    async def stored_number(self) -> int:
        """How many shards the store has; on the very first start, as many as there are here."""
        return await self.lead.number_of_shards(len(self))

    async def confirm(self) -> None:
        """See to it once that nothing is looked for, or put, on a wrong shard. Raises StoreRefused."""
        if not self.is_confirmed:
            stored = await self.stored_number()
            if stored != len(self):
                raise StoreRefused(wrong_number(stored, len(self)))
            self.is_confirmed = True

    async def time_ms(self) -> float:
        """Redis's clock, in epoch milliseconds: of the first shard that answers."""
        fault = StoreUnavailable("there is no shard")
        for store in self.all:
            try:
                return await store.time_ms()
            except StoreUnavailable as error:
                fault = error
        raise fault

    async def faults(self) -> list[str]:
        """Which shards do not answer now, and why."""
        answers = await asyncio.gather(*(store.time_ms() for store in self.all), return_exceptions=True)
        return self._told(answers)

    def _told(self, answers: Sequence[object]) -> list[str]:
        """The faults among the answers of all shards; raises what is no StoreError."""
        faults: list[str] = []
        for number, answer in enumerate(answers):
            if isinstance(answer, StoreError):
                faults.append(f"store: {f'shard {number}: ' if len(self) > 1 else ''}{answer}")
            elif isinstance(answer, BaseException):
                raise answer
        return faults

    async def write_faults(self) -> list[str]:
        """Which shards take no writes now, and why."""
        answers = await asyncio.gather(*(store.try_write() for store in self.all), return_exceptions=True)
        return self._told(answers)

    async def counts(self, *, now_ms: int) -> Counts:
        """What the shards hold together. A node that beats on several is one node."""
        found = await asyncio.gather(*(store.counts(now_ms=now_ms) for store in self.all))
        return Counts(
            sum(one.jobs for one in found),
            sum(one.due for one in found),
            sum(one.claimed for one in found),
            max(one.nodes for one in found),
            sum(one.suspects for one in found),
        )

    async def server_infos(self) -> list[Mapping[str, Any]]:
        """The INFO of every server that holds a shard. Raises StoreError for that of the first; others that are away
        are left out."""
        if self.topology is not Topology.CLUSTER:
            return [await self.lead.server_info()]
        answers = await asyncio.gather(*(store.server_info() for store in self.all), return_exceptions=True)
        if isinstance(answers[0], BaseException):
            raise answers[0]
        found = [one for one in answers if not isinstance(one, BaseException)]
        return list({str(one.get("run_id", number)): one for number, one in enumerate(found)}.values())

    async def page_ids(self, *, after: str, prefix: str, limit: int) -> list[str]:
        """Up to ``limit`` job ids that start with ``prefix`` and come after ``after``, in the order of their bytes."""
        pages = await asyncio.gather(*(store.page_ids(after=after, prefix=prefix, limit=limit) for store in self.all))
        return pages[0] if len(pages) == 1 else sorted(chain(*pages), key=str.encode)[:limit]

    async def read_many(self, job_ids: Sequence[str]) -> list[StoredJob]:
        """The jobs with these ids, at most 1000; those of one shard all of one moment."""
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
    """What to tell where the numbers of shards differ."""
    return (
        f"the store has {stored} shard{'s' if stored > 1 else ''}, and this process was started for {configured}. "
        f"Set CRONPOST_SHARDS={stored}, or leave it out; the number of a store changes only by exporting the jobs and "
        "importing them into a new one (another CRONPOST_KEY_PREFIX, or another Redis)"
    )


def default_number(url: str) -> int:
    """How many shards a new store at ``url`` has."""
    return SHARDS_OF_A_CLUSTER if parse_redis_url(url).topology is Topology.CLUSTER else 1


def open_shards(
    url: str,
    *,
    number: int,
    prefix: str = "cronpost",
    retention: Retention | None = None,
    timeout_seconds: float = 3.0,
    connections: int = 64,
    beat_timeout_seconds: float | None = None,
) -> Shards:
    """The stores of ``number`` shards at ``url`` (see ``redis_url``). Connects when it is used.

    ``connections``: at most so many to one server, and some more for further shards. ``beat_timeout_seconds``: for a
    node, which needs connections of its own for its heartbeats; one command on these may take so long.
    """
    topology = parse_redis_url(url).topology
    keys = [Keys(prefix=prefix, shard=shard) for shard in range(number)]
    further = CONNECTIONS_OF_A_SHARD * (number - 1)
    clients = _open_clients(url, keys, timeout_seconds=timeout_seconds, connections=connections + further)
    beats: Sequence[UncancelledRedis | None] = [None] * number
    if beat_timeout_seconds is not None:
        most = BEAT_CONNECTIONS * number
        beats = _open_clients(url, keys, timeout_seconds=beat_timeout_seconds, connections=most)
    stores = [
        RedisStore(client, keys=one, retention=retention, beats=own)
        for client, one, own in zip(clients, keys, beats, strict=True)
    ]
    return Shards(stores, topology=topology)


def _open_clients(
    url: str, keys: Sequence[Keys], *, timeout_seconds: float, connections: int
) -> list[UncancelledRedis]:
    """A client for each shard; they share the connections to a server."""
    parsed = parse_redis_url(url)
    if parsed.topology is Topology.CLUSTER:

        def at(address: Address) -> UncancelledRedis:
            client = connect(parsed.plain, timeout_seconds=timeout_seconds, connections=connections)
            client.connection_pool.connection_kwargs.update(host=address[0], port=address[1])
            return client

        cluster = Cluster(parsed.hosts, at)
        return [ClusterClient(cluster, key_slot(one.due.encode()), parsed.hosts[0]) for one in keys]
    if parsed.topology is Topology.SENTINEL:
        return [connect_to_master(parsed, timeout_seconds=timeout_seconds, connections=connections)] * len(keys)
    return [connect(url, timeout_seconds=timeout_seconds, connections=connections)] * len(keys)
