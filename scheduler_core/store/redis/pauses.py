"""Stores the pauses of everything, on each shard."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler_core.model.pause import PAUSES_KEPT, PauseEntry, Pauses
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import decode_pauses
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.pause import CHANGE, CLAIMED, ChangeArgs, ClaimedArgs
from scheduler_core.store.redis.shard import RedisShard

EXAMINED = 1000
"""Leases that one count examines, bounded by Lua's stack."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PauseEntry)


class PausesOfAll(RedisShard):
    """Part of ``RedisStore``; ``LoopStore`` and ``JobStore`` document the methods."""

    async def pauses(self) -> Pauses:
        with translated_faults():
            stored: Any = await self._client.hget(self._keys.meta, "pauses")
        return decode_pauses(stored or b"")

    async def logged_pauses(self) -> Pauses:
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hget(k.meta, "pauses")
                pipe.lrange(k.pauses, 0, -1)
                stored, rows = await pipe.execute()
        found = decode_pauses(stored or b"")
        # Without a lost write, both have the same length.
        rows = [b""] * (len(found.ranges) - len(rows)) + rows[max(0, len(rows) - len(found.ranges)) :]
        return msgspec.structs.replace(found, entries=tuple(map(_entry, rows)))

    async def change_pauses(
        self, known: Pauses, *, now_ms: int, begin: PauseEntry | None, until_ms: int | None = None, by: str = ""
    ) -> int | None:
        running = known.running(now_ms)
        last = b""
        if running is not None:
            last = _encoder.encode(msgspec.structs.replace(running[1], ended_by=by))
        answer = await self.write(
            CHANGE,
            ChangeArgs(
                now=now_ms,
                expected=known.version,
                begin=int(begin is not None),
                until="" if until_ms is None else until_ms,
                last=last,
                entry=b"" if begin is None else _encoder.encode(begin),
                kept=PAUSES_KEPT,
            ),
        )
        return int(answer[1]) if answer[0] == b"ok" else None

    async def held_jobs(self, *, now_ms: int, since_ms: int) -> tuple[int, int]:
        held, ahead = await self.run(
            CLAIMED,
            ClaimedArgs(now=now_ms, first=scores.CLAIMED + since_ms, last=scores.SUSPECTED - 1, limit=EXAMINED),
        )
        return int(held), int(ahead)


def _entry(row: bytes) -> PauseEntry:
    try:
        return _decoder.decode(row)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return PauseEntry()  # the pause is in force without its entry
