"""Stores the counts of each minute: one hash for each hour, to which all nodes add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from scheduler_core.model.statistics import Minute
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.statistics import ADD_STATISTICS, AddStatisticsArgs, HourKey
from scheduler_core.store.redis.shard import RedisShard
from scheduler_core.store.statistics import KEPT_DAYS

KEPT_MS = KEPT_DAYS * 86_400_000 + 2 * 3_600_000
"""Counted from the last write to an hour, with a margin of two hours."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, int])


class RedisStatistics:
    """A ``StatisticsStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = beside.keys

    async def add(self, process: str, minute: Minute) -> bool:
        hour, within = divmod(minute.number, 60)
        args = AddStatisticsArgs(
            minute=within,
            process=process,
            sequence=minute.sequence,
            counts=_encoder.encode(minute.counts),
            kept=KEPT_MS,
        )
        return bool(await self._shard.run(ADD_STATISTICS, args, HourKey(hour=self._keys.statistics(hour))) == 1)

    async def read(self, hours: Sequence[int]) -> list[dict[int, dict[str, int]]]:
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for hour in hours:
                    pipe.hgetall(self._keys.statistics(hour))
                rows: list[Any] = await pipe.execute()
        return list(map(_minutes, rows))


def _minutes(fields: Mapping[bytes, bytes]) -> dict[int, dict[str, int]]:
    minutes: dict[int, dict[str, int]] = {}
    for name, packed in fields.items():
        if name.isdigit() and len(name) <= 2:
            try:
                minutes[int(name)] = _decoder.decode(packed)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # only a foreign write makes such an entry
    return minutes
