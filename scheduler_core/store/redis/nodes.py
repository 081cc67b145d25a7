"""Heartbeats of nodes, and what dead ones held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler_core.store.loop import Beat, ReapTurn
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import (
    decode_downtimes,
)
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts import Arg
from scheduler_core.store.redis.shard import RedisShard

DOWNTIMES_KEPT = 64
"""How many downtimes are kept apart. A job that was not claimed through so many is judged by their sum."""


class Nodes(RedisShard):
    """Heartbeats and leases of nodes; part of ``RedisStore``."""

    async def beat(
        self,
        *,
        node: str,
        now_ms: int,
        starting: bool,
        sole: bool,
        start_gap_ms: int,
        lived_gap_ms: int,
        forget_ms: int,
        store_id: str,
    ) -> Beat:
        """Say that ``node`` is alive. ``store_id`` becomes the store's if it has none."""
        keys = (self._keys.nodes, self._keys.meta, self._keys.claims)
        times = (start_gap_ms, lived_gap_ms, forget_ms)
        args = (node, now_ms, int(starting), int(sole), *times, store_id, DOWNTIMES_KEPT)
        async with self._of_master(self._beats):
            answer, redis_ms = await self._beat.run_with_time(self._beats, keys, args)
        count = int(answer[0])
        return Beat(
            count,
            decode_downtimes(answer[1], count),
            int(answer[2]),
            answer[3].decode("ascii", errors="replace"),
            redis_ms,
        )

    async def leave(self, *, node: str, now_ms: int) -> int:
        """Take the node's entry out; the number of nodes left."""
        return int(await self._run(self._leave, (self._keys.nodes, self._keys.meta, self._keys.claims), (node, now_ms)))

    async def take_reap_turn(self, *, now_ms: int, dead_after_ms: int, interval_ms: int, audit_ms: int) -> ReapTurn:
        """Ask whether the leases have to be looked at now. One node of the fleet has the turn in each interval."""
        answer = await self._run(
            self._turn, (self._keys.nodes, self._keys.meta), (now_ms, dead_after_ms, interval_ms, audit_ms)
        )
        return ReapTurn(int(answer))

    async def swept(self, *, until_ms: int, audited_at_ms: int | None = None) -> None:
        """Note that all leases were looked at, those of nodes whose last beat came before ``until_ms`` for good."""
        facts: dict[Any, Any] = {"swept_until": until_ms}
        if audited_at_ms is not None:
            facts["audited_at"] = audited_at_ms
        with translated_faults():
            await self._client.hset(self._keys.meta, mapping=facts)

    async def reap(self, *, now_ms: int, dead_after_ms: int, void_all: bool = False, page: int = 500) -> list[str]:
        """Give back the jobs of dead nodes (or, with ``void_all``, of all); their ids. Looks at every claimed job, in
        pages, in the order in which they were claimed."""
        k = self._keys
        reaped: list[str] = []
        place: Sequence[Arg] = (scores.CLAIMED, 0)
        while True:
            examined, score, skip, *ids = await self._run(
                self._reap, (k.due, k.leases, k.nodes), (now_ms, dead_after_ms, int(void_all), *place, page)
            )
            reaped += [job_id.decode(errors="replace") for job_id in ids]
            place = (score, skip)
            self.examined += int(examined)
            if int(examined) < page:
                return reaped
