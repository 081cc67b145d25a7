"""Finds the jobs of a shard that may be late or stuck, and stores what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_core.model.health import Health
from scheduler_core.model.index import FAILING
from scheduler_core.store.health import MOST_KNOWN, Bounds, Source
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.node import TAKE_HEALTH_TURN, TakeHealthTurnArgs
from scheduler_core.store.redis.shard import RedisShard, is_text

KNOWN = (Health.LATE, Health.STUCK)


class RedisHealth:
    """A ``HealthStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = beside.keys

    async def take_turn(self, *, now_ms: int, interval_ms: int) -> bytes | None:
        answer: bytes | None = await self._shard.run(
            TAKE_HEALTH_TURN, TakeHealthTurnArgs(now=now_ms, interval=interval_ms)
        )
        return answer

    async def keep(self, progress: bytes, counts: bytes | None) -> None:
        fields: dict[Any, Any] = {"progress": progress}
        if counts is not None:
            fields["counts"] = counts
        with translated_faults():
            await self._client.hset(self._keys.health, mapping=fields)

    async def counts(self) -> bytes | None:
        with translated_faults():
            found: Any = await self._client.hget(self._keys.health, "counts")
        return None if found is None else bytes(found)

    async def candidates(self, source: Source, bounds: Bounds, *, skip: int, limit: int) -> list[str]:
        k = self._keys
        sets: dict[Source, tuple[str, int | str, int | str]] = {
            Source.DUE: (k.due, 0, bounds.due_ms),
            Source.CLAIMED: (k.due, scores.CLAIMED, scores.CLAIMED + bounds.claimed_ms),
            Source.WAITING: (k.retrying, 0, bounds.waiting_ms),
            Source.FAILING: (k.index(FAILING), "-inf", "+inf"),
            Source.LATE: (k.index(Health.LATE), "-inf", "+inf"),
            Source.STUCK: (k.index(Health.STUCK), "-inf", "+inf"),
        }
        key, low, high = sets[source]
        with translated_faults():
            found: list[Any] = await self._client.zrangebyscore(key, low, high, skip, limit)
        return [one.decode() if is_text(one) else "" for one in found]

    async def known(self, job_ids: Sequence[str]) -> list[Health | None]:
        if not job_ids:
            return []
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for health in KNOWN:
                    pipe.zmscore(self._keys.index(health), list(job_ids))
                late, stuck = await pipe.execute()
        return [
            Health.STUCK if is_stuck is not None else Health.LATE if is_late is not None else None
            for is_late, is_stuck in zip(late, stuck, strict=True)
        ]

    async def remember(self, found: Mapping[str, Health | None], *, now_ms: int) -> None:
        if not found:
            return
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for health in KNOWN:
                    key = self._keys.index(health)
                    added = {job_id: now_ms for job_id, now in found.items() if now is health}
                    gone = [job_id for job_id, now in found.items() if now is not health]
                    if added:
                        pipe.zadd(key, added)
                    if gone:
                        pipe.zrem(key, *gone)
                await pipe.execute()

    async def room(self, health: Health) -> int:
        with translated_faults():
            return MOST_KNOWN - int(await self._client.zcard(self._keys.index(health)))

    async def not_failing(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            with translated_faults():
                await self._client.zrem(self._keys.index(FAILING), *job_ids)
