"""The store on Redis: one method per transition, each one script or one round trip.

Raises StoreUnavailable or StoreRefused (see ``faults``), never an exception of redis-py.
"""

from __future__ import annotations

from scheduler_core.store.redis.changes import Changes
from scheduler_core.store.redis.claims import Claims
from scheduler_core.store.redis.nodes import Nodes
from scheduler_core.store.redis.reads import Reads
from scheduler_core.store.redis.settlements import Settlements
from scheduler_core.store.redis.signals import Signals


class RedisStore(Claims, Settlements, Nodes, Signals, Changes, Reads):
    """Jobs, their leases and their history, on one shard of Redis."""
