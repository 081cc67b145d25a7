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
"""Shards of a new store on a Cluster: enough to spread over a dozen masters, few enough that an idle node has little to
poll."""
BEAT_CONNECTIONS = 4
"""Connections for the heartbeats of a shard: one is in flight, and after faults some whose callers stopped waiting."""
CONNECTIONS_OF_A_SHARD = 8
"""The most connections that the loops of a further shard add on the same server."""


def default_number(url: str) -> int:
    """Return the number of shards of a new store at ``url``."""
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
    """Make the stores of ``number`` shards at ``url`` (see ``redis_url``). They connect at their first command.

    ``connections``: the most to one server, plus some for further shards. ``beat_timeout_seconds``: for a node, which
    needs separate connections for its heartbeats: the timeout of one command on these.
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
    """Make a client for each shard; they share the connections to a server."""
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
