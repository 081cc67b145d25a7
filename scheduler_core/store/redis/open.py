"""Opens the store at a URL: one ``RedisStore`` for each shard, on one server, behind Sentinels or in a Cluster."""

from __future__ import annotations

from collections.abc import Sequence

from redis.crc import key_slot

from scheduler_core.base.redis_url import Topology, parse_redis_url
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.client import UncancelledRedis, connect
from scheduler_core.store.redis.cluster import Address, Cluster, ClusterClient
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.sentinel import connect_to_master
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards

SHARDS_OF_A_CLUSTER = 16
"""How many shards a store on a Cluster begins with: enough to spread over a dozen masters, few enough that an idle node
has little to look at."""
BEAT_CONNECTIONS = 4
"""For the heartbeats of a shard: one beat is under way at a time, and after faults some that nobody waits for."""
CONNECTIONS_OF_A_SHARD = 8
"""What the services of a further shard use at most on the same server, beyond the connections of the first."""


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
) -> Shards[RedisStore]:
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
