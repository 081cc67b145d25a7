"""Claims due jobs, recovers lost claims, and reads the leases of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.base.events import ENTRY_REMOVED, get_logger
from scheduler_core.model.lease import SUSPECT_LOSSES
from scheduler_core.store.loop import REPLY_BYTES, Claim, ClaimedJob, Head, OwnLease
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import TAG_BYTES, decode_downtimes, decode_lease, decode_pauses
from scheduler_core.store.redis.documents import decode_rows
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.job import CLAIM, RECOVER, ClaimArgs, RecoverArgs
from scheduler_core.store.redis.scripts.node import OWN_LEASES, OwnLeasesArgs
from scheduler_core.store.redis.scripts.script import Arg
from scheduler_core.store.redis.shard import RedisShard, is_text

CLAIM_LIMIT = 1000
"""The most jobs per claim, bounded by Lua's stack."""
BURST_MS = 100
"""Jobs that become due within this time of the next wake-up belong to one burst."""
log = get_logger(__name__)


class Claims(RedisShard):
    """Part of ``RedisStore``; ``LoopStore`` documents the methods."""

    async def claim(
        self,
        *,
        now_ms: int,
        limit: int,
        node: str,
        token: int,
        recent_ms: int,
        dead_after_ms: int,
        downtime_count: int,
        trial: bool = True,
        ahead_ms: int = 0,
        pause_version: int = 0,
    ) -> Claim:
        answer = await self.run(
            CLAIM,
            ClaimArgs(
                now=now_ms,
                limit=min(limit, CLAIM_LIMIT),
                node=node,
                token=token,
                recent=recent_ms,
                dead_after=dead_after_ms,
                downtime_count=downtime_count,
                trial=int(trial),
                suspect_losses=SUSPECT_LOSSES,
                reply_bytes=REPLY_BYTES,
                horizon=now_ms + ahead_ms,
                burst=BURST_MS,
                pauses=pause_version,
            ),
        )
        if answer[0] == b"beat":
            return Claim([], None, None, downtime_count, must_beat=True)
        if answer[0] == b"void":
            return Claim([], now_ms, None, downtime_count)
        return Claim(
            jobs=await self._claimed_jobs(answer[9:]),
            next_wake_ms=int(float(answer[1])) if answer[1] else None,
            downtimes=None if answer[3] is None else decode_downtimes(answer[3], int(answer[2])),
            downtime_count=int(answer[2]),
            targets_version=int(answer[4]),
            suspects_waiting=int(answer[5]),
            suspects=int(answer[6]),
            burst=int(answer[7]),
            pauses=None if answer[8] is None else decode_pauses(answer[8]),
        )

    async def head(self) -> Head:
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrange(k.due, 0, 0, withscores=True)
                pipe.hexists(k.meta, "suspects")
                found, suspects = await pipe.execute()
        score = found[0][1] if found else scores.CLAIMED
        return Head(int(max(0.0, score)) if score < scores.CLAIMED else None, bool(suspects))

    async def recover(
        self, *, node: str, token: int, claimed_at_ms: int | None = None, reply_bytes: int = REPLY_BYTES
    ) -> list[ClaimedJob]:
        lowest, highest = scores.CLAIMED, scores.SUSPECTED - 1
        if claimed_at_ms is not None:
            lowest = highest = scores.CLAIMED + claimed_at_ms
        rows = await self.run(
            RECOVER,
            RecoverArgs(node=node, token=token, reply_bytes=reply_bytes, lowest=lowest, highest=highest),
        )
        return await self._claimed_jobs(rows)

    async def _claimed_jobs(self, rows: Sequence[Any]) -> list[ClaimedJob]:
        """Decode the rows of claimed jobs. Removes a member of the due set that cannot be an id."""
        found: list[ClaimedJob] = []
        for raw_id, definition, state, lease in rows:
            try:
                claim_key = raw_id.decode()
                job, position, fault = decode_rows(claim_key, definition, state)
                tag = b"" if state is None else state[:TAG_BYTES]
                found.append(ClaimedJob(claim_key, job, position, decode_lease(lease), tag, fault))
            except (UnicodeDecodeError, CorruptDocument):
                await self._remove_foreign(raw_id)
        return found

    async def _remove_foreign(self, member: bytes) -> None:
        k = self._keys
        log.warning(ENTRY_REMOVED, key=k.due, entry=member[:100].decode(errors="replace"))
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrem(k.due, member)
                pipe.hdel(k.leases, member)
                await pipe.execute()

    async def leases_of(self, node: str, *, page: int = 500) -> list[OwnLease]:
        leases: dict[bytes, OwnLease] = {}
        cursor: Arg = 0
        while True:
            cursor, *found = await self.run(OWN_LEASES, OwnLeasesArgs(node=node, cursor=cursor, limit=page))
            for job_id, fence, token, first in zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True):
                if not is_text(job_id) or max(len(fence), len(token), len(first)) > 16:
                    continue  # not written by Cronpost
                leases[job_id] = OwnLease(job_id.decode(), int(fence), int(token), int(first))
            if int(cursor) == 0:
                return list(leases.values())
