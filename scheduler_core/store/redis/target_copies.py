"""Stores copies of targets on a further shard, so that its runs need no other shard. The first shard has the
targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler_core.store.catalogue import CatalogueStore, StoredTarget
from scheduler_core.store.redis.catalogue import decode_target
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.catalogue import COPY_TARGET, CopyTargetArgs
from scheduler_core.store.redis.shard import RedisShard


class RedisTargetCopies:
    """The copies on one shard. ``originals``: read for a target that has no copy yet."""

    def __init__(self, beside: RedisShard, originals: CatalogueStore) -> None:
        self._shard = beside
        self._client = beside.client
        self._copies = beside.keys.catalogue("copies")
        self._originals = originals

    async def read_targets(self, target_ids: Sequence[int]) -> list[StoredTarget | None]:
        found = [
            None if row is None else decode_target(one, row.partition(b" ")[2])
            for one, row in zip(target_ids, await self._rows(target_ids), strict=True)
        ]
        # A copy that cannot be read counts as missing.
        found = [None if one is None or one.fault is not None else one for one in found]
        missing = [one for one, stored in zip(target_ids, found, strict=True) if stored is None]
        originals = dict(zip(missing, await self._originals.read_targets(missing), strict=True))
        return [originals[one] if stored is None else stored for one, stored in zip(target_ids, found, strict=True)]

    async def revisions(self, target_ids: Sequence[int]) -> list[int | None]:
        heads = [None if row is None else row.partition(b" ")[0] for row in await self._rows(target_ids)]
        return [int(head) if head is not None and head.isdigit() and len(head) <= 15 else None for head in heads]

    async def put(self, stored: StoredTarget) -> None:
        target = stored.target
        args = CopyTargetArgs(target_id=str(target.id), revision=target.updated_at_ms, definition=stored.raw)
        await self._shard.run(COPY_TARGET, args)

    async def drop(self, target_id: int) -> None:
        await self._shard.run(COPY_TARGET, CopyTargetArgs(target_id=str(target_id), revision="", definition=b""))

    async def _rows(self, target_ids: Sequence[int]) -> list[bytes | None]:
        if not target_ids:
            return []
        with translated_faults():
            rows: list[Any] = await self._client.hmget(self._copies, [str(one) for one in target_ids])
        return rows
