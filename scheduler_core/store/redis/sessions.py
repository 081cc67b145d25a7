"""Stores sessions: one string each, which expires. One command per method."""

from __future__ import annotations

from typing import Any

from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.shard import RedisShard


class RedisSessions:
    """A ``SessionStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._client = beside.client
        self._keys = beside.keys

    async def add(self, digest: str, session: bytes, *, lifetime_ms: int) -> None:
        with translated_faults():
            await self._client.set(self._keys.session(digest), session, px=lifetime_ms)

    async def get(self, digest: str) -> bytes | None:
        with translated_faults():
            found: Any = await self._client.get(self._keys.session(digest))
        return None if found is None else bytes(found)

    async def remove(self, digest: str) -> None:
        with translated_faults():
            await self._client.delete(self._keys.session(digest))
