"""Records heartbeats of nodes, and reclaims the jobs of dead ones."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.exceptions import NoScriptError, RedisError

from scheduler_core.model.node import NodeFacts, StoredNode
from scheduler_core.store.loop import Beat, ReapTurn
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import (
    decode_downtimes,
)
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.node import (
    BEAT,
    LEAVE,
    REAP_LEASES,
    TAKE_REAP_TURN,
    BeatArgs,
    LeaveArgs,
    ReapLeasesArgs,
    TakeReapTurnArgs,
)
from scheduler_core.store.redis.scripts.script import epoch_ms
from scheduler_core.store.redis.shard import RedisShard

_facts_encoder = msgspec.msgpack.Encoder()
_facts_decoder = msgspec.msgpack.Decoder(NodeFacts)

DOWNTIMES_KEPT = 64
"""How many downtimes are kept separately. Older ones are merged into one. A job that was not claimed for more downtimes
than this is planned with the merged one."""


class Nodes(RedisShard):
    """Part of ``RedisStore``; ``LoopStore`` documents the methods."""

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
        facts: NodeFacts | None = None,
    ) -> Beat:
        args = BeatArgs(
            node=node,
            now=now_ms,
            starting=int(starting),
            sole=int(sole),
            start_gap=start_gap_ms,
            lived_gap=lived_gap_ms,
            forget=forget_ms,
            store_id=store_id,
            downtimes_kept=DOWNTIMES_KEPT,
            facts=b"" if facts is None else _facts_encoder.encode(facts),
        )
        try:
            answer, redis_ms = await self._beat_and_time(args)
        except (RedisError, OSError) as error:
            raise await self._fault(error, self._beats) from error
        self.is_watched = answer[4] == 1
        count = int(answer[0])
        return Beat(
            count,
            decode_downtimes(answer[1], count),
            int(answer[2]),
            answer[3].decode("ascii", errors="replace"),
            redis_ms,
            answer[5],
        )

    async def _beat_and_time(self, args: BeatArgs) -> tuple[Any, float]:
        """Run the script and read Redis's time in the same round trip; return the answer and the time in epoch ms."""
        keys = tuple(map(self._keys.named, BEAT.keys))
        async with self._beats.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.evalsha(BEAT.sha, len(keys), *keys, *args)
            time, answer = await pipe.execute(raise_on_error=False)
        if isinstance(answer, NoScriptError):
            answer = await self._beats.eval(BEAT.text, len(keys), *keys, *args)
        for one in (time, answer):
            if isinstance(one, Exception):
                raise one
        return answer, epoch_ms(*time)

    async def stored_nodes(self) -> list[StoredNode]:
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrange(self._keys.nodes, 0, -1, withscores=True)
                pipe.hgetall(self._keys.facts)
                beats, facts = await pipe.execute()
        return [
            StoredNode(node.decode(errors="replace"), int(beat), _facts_of(facts.get(node))) for node, beat in beats
        ]

    async def leave(self, *, node: str, now_ms: int) -> int:
        return int(await self.run(LEAVE, LeaveArgs(node=node, now=now_ms)))

    async def take_reap_turn(self, *, now_ms: int, dead_after_ms: int, interval_ms: int, audit_ms: int) -> ReapTurn:
        answer = await self.run(
            TAKE_REAP_TURN,
            TakeReapTurnArgs(now=now_ms, dead_after=dead_after_ms, interval=interval_ms, audit=audit_ms),
        )
        return ReapTurn(int(answer))

    async def dead_nodes(self, *, now_ms: int, dead_after_ms: int) -> list[str]:
        with translated_faults():
            swept: Any = await self._client.hget(self._keys.meta, "swept_until")
            lowest = swept.decode() if swept is not None and swept.isdigit() else "-inf"
            found: Any = await self._client.zrangebyscore(self._keys.nodes, lowest, f"({now_ms - dead_after_ms}")
        return [node.decode(errors="replace") for node in found]

    async def swept(self, *, until_ms: int, audited_at_ms: int | None = None) -> None:
        facts: dict[Any, Any] = {"swept_until": until_ms}
        if audited_at_ms is not None:
            facts["audited_at"] = audited_at_ms
        with translated_faults():
            await self._client.hset(self._keys.meta, mapping=facts)

    async def reap(self, *, now_ms: int, dead_after_ms: int, void_all: bool = False, page: int = 500) -> list[str]:
        reaped: list[str] = []
        lowest, skip = scores.CLAIMED, 0
        while True:
            args = ReapLeasesArgs(
                now=now_ms, dead_after=dead_after_ms, void_all=int(void_all), lowest=lowest, skip=skip, limit=page
            )
            examined, lowest, skip, *ids = await self.run(REAP_LEASES, args)
            reaped += [job_id.decode(errors="replace") for job_id in ids]
            self.examined += int(examined)
            if int(examined) < page:
                return reaped


def _facts_of(stored: bytes | None) -> NodeFacts | None:
    try:
        return None if stored is None else _facts_decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # of a version that writes them in another way
