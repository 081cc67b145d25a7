"""Reads what needs a person from the sorted sets of a shard, a page of each at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler_core.model.index import ATTENTION
from scheduler_core.store.attention import AttentionCounts, SetAside, Source, Spot, encode_set_aside
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.attention import DROP_ENTRY, DropEntryArgs, ScoredSet
from scheduler_core.store.redis.scripts.find import PAGE_BY_SCORE, PageByScoreArgs, SetKey
from scheduler_core.store.redis.shard import RedisShard


class RedisAttention:
    """An ``AttentionStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = keys = beside.keys
        self._sets = {
            Source.SETTLEMENTS: keys.set_aside,
            Source.QUARANTINED: keys.due,
            Source.JOBS: keys.index(ATTENTION),
            Source.TASKS: keys.tasks("stale"),
        }

    async def counts(self) -> AttentionCounts:
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zcard(k.set_aside)
                pipe.zcount(k.due, scores.QUARANTINED, "+inf")
                pipe.zcard(k.index(ATTENTION))
                pipe.zcard(k.tasks("stale"))
                pipe.zcard(k.tasks("dismissed"))
                settlements, quarantined, jobs, stale, dismissed = await pipe.execute()
        return AttentionCounts(settlements, quarantined, jobs, max(0, stale - dismissed))

    async def page(self, source: Source, before: Spot | None, *, limit: int) -> list[Spot]:
        args = PageByScoreArgs(
            score="+inf" if before is None else before.score,
            member=b"" if before is None else before.member,
            reverse=1,
            limit=limit,
        )
        rows = await self._shard.run(PAGE_BY_SCORE, args, SetKey(set=self._sets[source]))
        found = [Spot(int(float(score)), member) for member, score in zip(rows[::2], rows[1::2], strict=True)]
        if source is Source.QUARANTINED:  # they are at the end of the due set
            return [spot for spot in found if spot.score >= scores.QUARANTINED]
        return found

    async def fences_of(self, claim_keys: Sequence[str]) -> list[int | None]:
        with translated_faults():
            rows: list[Any] = await self._client.hmget(self._keys.leases, list(claim_keys))
        return [None if row is None else _fence(row) for row in rows]

    async def set_aside(self, one: SetAside, *, at_ms: int) -> None:
        with translated_faults():
            await self._client.zadd(self._keys.set_aside, {encode_set_aside(one): at_ms}, nx=True)

    async def drop_set_aside(self, member: bytes) -> bool:
        with translated_faults():
            return bool(await self._client.zrem(self._keys.set_aside, member))

    async def job_since_ms(self, job_id: str) -> int | None:
        with translated_faults():
            score: Any = await self._client.zscore(self._keys.index(ATTENTION), job_id)
        return None if score is None else int(score)

    async def drop_job(self, job_id: str, since_ms: int) -> bool:
        args = DropEntryArgs(member=job_id.encode(), score=since_ms)
        return bool(await self._shard.write(DROP_ENTRY, args, ScoredSet(of_scores=self._keys.index(ATTENTION))))


def _fence(row: bytes) -> int | None:
    """Return the fence of a lease; None if the row is none."""
    fence = row.split(b" ", 1)[0]
    return int(fence) if fence.isdigit() else None
