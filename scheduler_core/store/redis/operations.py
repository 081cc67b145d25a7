"""Stores operations: one method per step, each one script or one round trip. They are on the first shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.base.events import ENTRY_REMOVED, get_logger
from scheduler_core.store.operations import OpenOperations, OperationState, Saved, StoredOperation, TakenOperation
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.operation import (
    CANCEL_OPERATION,
    CREATE_OPERATION,
    SAVE_OPERATION,
    TAKE_OPERATION,
    CancelOperationArgs,
    CreateOperationArgs,
    OperationKey,
    SaveOperationArgs,
    TakeOperationArgs,
)
from scheduler_core.store.redis.shard import RedisShard, is_text

log = get_logger(__name__)

MOST_OPEN = 100
"""How many operations may be open at the same time."""
MOST_KEPT = 1_000
"""How many operations that have ended are listed."""
KEPT_MS = 86_400_000
"""How long the document of an operation is kept after its end."""

_FIELDS = ("spec", "progress", "state", "carrier", "cancelled_at", "ended_at")


class RedisOperations:
    """An ``OperationStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = beside.keys

    async def create(
        self, operation_id: str, *, spec: bytes, progress: bytes, carrier: str, now_ms: int, until_ms: int
    ) -> bool:
        args = CreateOperationArgs(
            id=operation_id,
            spec=spec,
            progress=progress,
            carrier=carrier,
            now=now_ms,
            until=until_ms,
            most_open=MOST_OPEN,
            most_kept=MOST_KEPT,
        )
        return bool(await self._shard.write(CREATE_OPERATION, args, self._key(operation_id)) == b"ok")

    async def without_carrier(self, *, now_ms: int, limit: int) -> list[str]:
        with translated_faults():
            found: list[Any] = await self._client.zrange(
                self._keys.open_operations, "-inf", now_ms, byscore=True, offset=0, num=limit
            )
            for foreign in [one for one in found if not is_text(one)]:
                log.warning(ENTRY_REMOVED, key=self._keys.open_operations, entry=foreign[:100].decode(errors="replace"))
                await self._client.zrem(self._keys.open_operations, foreign)
        return [one.decode() for one in found if is_text(one)]

    async def count_open(self, *, now_ms: int) -> OpenOperations:
        leases = self._keys.open_operations
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zcount(leases, f"({now_ms}", "+inf")
                pipe.zcount(leases, "-inf", now_ms)
                carried, waiting = await pipe.execute()
        return OpenOperations(carried, waiting)

    async def take(self, operation_id: str, *, carrier: str, now_ms: int, until_ms: int) -> TakenOperation | None:
        args = TakeOperationArgs(id=operation_id, carrier=carrier, now=now_ms, until=until_ms)
        answer = await self._shard.run(TAKE_OPERATION, args, self._key(operation_id))
        if not answer:
            return None
        fence, spec, progress, cancelled_at = answer
        return TakenOperation(operation_id, int(fence), spec, progress, cancelled_at != b"")

    async def save(self, operation_id: str, *, fence: int, progress: bytes, until_ms: int) -> Saved:
        return await self._save(operation_id, fence, progress, OperationState.RUNNING, until_ms=until_ms)

    async def end(self, operation_id: str, *, fence: int, progress: bytes, state: OperationState, now_ms: int) -> Saved:
        return await self._save(operation_id, fence, progress, state, now_ms=now_ms)

    async def _save(
        self,
        operation_id: str,
        fence: int,
        progress: bytes,
        state: OperationState,
        *,
        until_ms: int = 0,
        now_ms: int = 0,
    ) -> Saved:
        args = SaveOperationArgs(
            id=operation_id,
            fence=fence,
            progress=progress,
            state=state.value,
            until=until_ms,
            ended=now_ms,
            kept_until=now_ms + KEPT_MS,
        )
        answer: bytes = await self._shard.run(SAVE_OPERATION, args, self._key(operation_id))
        return Saved(answer.decode())

    async def cancel(self, operation_id: str, *, now_ms: int) -> str:
        args = CancelOperationArgs(id=operation_id, now=now_ms, kept_until=now_ms + KEPT_MS)
        answer: bytes = await self._shard.write(CANCEL_OPERATION, args, self._key(operation_id))
        return answer.decode()

    async def read(self, operation_id: str) -> StoredOperation | None:
        with translated_faults():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hmget(self._keys.operation(operation_id), _FIELDS)
                pipe.zscore(self._keys.open_operations, operation_id)
                fields, until = await pipe.execute()
        return None if not any(fields) else _stored(operation_id, fields, until)

    async def ids(self) -> list[str]:
        with translated_faults():
            found: list[Any] = await self._client.zrange(self._keys.operations, 0, -1)
        return sorted((one.decode(errors="replace") for one in found), reverse=True)

    async def read_many(self, operation_ids: Sequence[str]) -> list[StoredOperation]:
        if not operation_ids:
            return []
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for operation_id in operation_ids:
                    pipe.hmget(self._keys.operation(operation_id), _FIELDS)
                    pipe.zscore(self._keys.open_operations, operation_id)
                rows = await pipe.execute()
        found: list[StoredOperation] = []
        for place, operation_id in enumerate(operation_ids):
            fields, until = rows[2 * place], rows[2 * place + 1]
            try:
                if any(fields):
                    found.append(_stored(operation_id, fields, until))
            except CorruptDocument:
                continue
        return found

    def _key(self, operation_id: str) -> OperationKey:
        return OperationKey(operation=self._keys.operation(operation_id))


def _stored(operation_id: str, fields: Sequence[bytes | None], until: float | None) -> StoredOperation:
    spec, progress, state, carrier, cancelled_at, ended_at = fields
    try:
        return StoredOperation(
            operation_id,
            spec or b"",
            progress or b"",
            OperationState((state or b"").decode()),
            (carrier or b"").decode(),
            0 if until is None else int(until),
            None if cancelled_at is None else int(cancelled_at),
            None if ended_at is None else int(ended_at),
        )
    except (ValueError, OverflowError) as error:  # UnicodeDecodeError is a ValueError
        raise CorruptDocument(f"the operation {operation_id} cannot be read: {error}") from error
