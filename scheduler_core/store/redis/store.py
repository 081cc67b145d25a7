"""The store on Redis: one method per transition, each one script or one round trip.

Raises StoreUnavailable or StoreRefused (see ``faults``), never an exception of redis-py.
"""

from __future__ import annotations

from scheduler_core.base.config import TaskSettings
from scheduler_core.store.catalogue import CatalogueStore
from scheduler_core.store.history import Stored
from scheduler_core.store.redis.account import Accounts
from scheduler_core.store.redis.alerts import RedisAlertBook, RedisOutbox, RedisSweep
from scheduler_core.store.redis.attention import RedisAttention
from scheduler_core.store.redis.catalogue import RedisCatalogue
from scheduler_core.store.redis.changes import Changes
from scheduler_core.store.redis.claims import Claims
from scheduler_core.store.redis.client import UncancelledRedis
from scheduler_core.store.redis.events import Events
from scheduler_core.store.redis.find import RedisFinder
from scheduler_core.store.redis.health import RedisHealth
from scheduler_core.store.redis.history import RedisHistory
from scheduler_core.store.redis.nodes import Nodes
from scheduler_core.store.redis.operations import RedisOperations
from scheduler_core.store.redis.pauses import PausesOfAll
from scheduler_core.store.redis.reads import Reads
from scheduler_core.store.redis.sessions import RedisSessions
from scheduler_core.store.redis.settlements import Settlements
from scheduler_core.store.redis.signals import Signals
from scheduler_core.store.redis.statistics import RedisStatistics
from scheduler_core.store.redis.target_copies import RedisTargetCopies
from scheduler_core.store.redis.tasks import RedisTasks


class RedisStore(Claims, Settlements, Nodes, Signals, Changes, Reads, Accounts, PausesOfAll, Events):
    """One shard on Redis: a ``ShardStore``."""

    def servers(self) -> tuple[tuple[str, int], ...]:
        """Return the servers that the client has found: members of a Cluster, or the master behind Sentinels."""
        client = self._client
        return client.servers if isinstance(client, UncancelledRedis) else ()

    def server(self) -> str | None:
        client = self._client
        return client.master if isinstance(client, UncancelledRedis) else None

    def find_store(self) -> RedisFinder:
        return RedisFinder(self)

    async def settled_record(self, run_id: str) -> Stored | None:
        return await self.history_store().record(run_id)

    def history_store(self) -> RedisHistory:
        return RedisHistory(self)

    def health_store(self) -> RedisHealth:
        return RedisHealth(self)

    def alert_book(self) -> RedisAlertBook:
        return RedisAlertBook(self)

    def sweep_store(self) -> RedisSweep:
        return RedisSweep(self)

    def outbox(self) -> RedisOutbox:
        return RedisOutbox(self)

    def attention_store(self) -> RedisAttention:
        return RedisAttention(self)

    def statistics_store(self) -> RedisStatistics:
        return RedisStatistics(self)

    def task_store(self, settings: TaskSettings | None = None) -> RedisTasks:
        return RedisTasks(self, settings)

    def operation_store(self) -> RedisOperations:
        return RedisOperations(self)

    def session_store(self) -> RedisSessions:
        return RedisSessions(self)

    def catalogue_store(self) -> RedisCatalogue:
        return RedisCatalogue(self)

    def target_copies(self, originals: CatalogueStore) -> RedisTargetCopies:
        return RedisTargetCopies(self, originals)
