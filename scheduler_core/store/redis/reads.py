"""Reads jobs and the histories of their runs."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import Any

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.base.events import ENTRY_REMOVED, get_logger
from scheduler_core.model.index import FAILING
from scheduler_core.model.run import Miss, Record, Run
from scheduler_core.store.claim_keys import CHILD
from scheduler_core.store.jobs import Beside, CompletedBounds, Counts, Entry, StoredJob
from scheduler_core.store.loop import REPLY_BYTES
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import (
    decode_entry,
    decode_job,
    decode_record,
    is_mark,
)
from scheduler_core.store.redis.documents import read_stored
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.job import (
    READ,
    READ_BESIDE,
    REPAIR_DUE,
    HistoryKey,
    ReadArgs,
    ReadBesideArgs,
    ReadItem,
    RepairDueArgs,
)
from scheduler_core.store.redis.scripts.script import Item
from scheduler_core.store.redis.shard import RedisShard, is_text

log = get_logger(__name__)
RECORDS_AT_ONCE = 500
SUCCESSES_PART = 100
SUCCESSES_PARTS = 10
"""The search for the latest success examines a history in parts of ``SUCCESSES_PART`` entries, at most this many parts.
Of overlapping runs (at most 100), an earlier one may be recorded after a later one, so a part is no smaller."""


class Reads(RedisShard):
    """Part of ``RedisStore``; ``JobStore`` and ``ShardStore`` document the methods."""

    async def read(self, job_id: str) -> StoredJob:
        return (await self.read_many([job_id]))[0]

    async def page_ids(self, *, after: str, prefix: str, limit: int) -> list[str]:
        low, high = _bounds(after, prefix)
        with translated_faults():
            found: list[Any] = await self._client.zrange(self._keys.ids, low, high, bylex=True, offset=0, num=limit)
            for foreign in [one for one in found if not is_text(one)]:
                log.warning(ENTRY_REMOVED, key=self._keys.ids, entry=foreign[:100].decode(errors="replace"))
                await self._client.zrem(self._keys.ids, foreign)
        if not all(map(is_text, found)):
            return await self.page_ids(after=after, prefix=prefix, limit=limit)
        return [job_id.decode() for job_id in found]

    async def count_ids(self, *, after: str, prefix: str) -> int:
        low, high = _bounds(after, prefix)
        with translated_faults():
            return int(await self._client.zlexcount(self._keys.ids, low, high))

    async def read_many(self, job_ids: Sequence[str]) -> list[StoredJob]:
        found: list[StoredJob] = []
        while len(found) < len(job_ids):
            found += await self.read_some(job_ids[len(found) :])
        return found

    async def read_some(self, job_ids: Sequence[str], *, reply_bytes: int = REPLY_BYTES) -> list[StoredJob]:
        """Read the first of these jobs that fit into ``reply_bytes``, at least one, in one step."""
        items = [Item(ReadItem(claim_key=job_id)) for job_id in job_ids]
        downtimes, store_id, pauses, *rows = await self.run_batch(READ, ReadArgs(reply_bytes=reply_bytes), items)
        return [
            read_stored(job_id, definition, state, lease, downtimes, store_id, pauses, int(children))
            for job_id, (definition, state, lease, children) in zip(job_ids, rows, strict=False)
        ]

    async def history(self, job_id: str, *, skip: int = 0, limit: int = 100) -> list[Record]:
        return [one for one in await self.history_entries(job_id, skip=skip, limit=limit) if one is not None]

    async def history_entries(self, job_id: str, *, skip: int = 0, limit: int = 100) -> list[Record | None]:
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.lrange(k.history(job_id), -(skip + limit), -(skip + 1))
                pipe.llen(k.history(job_id))
                pipe.lindex(k.history(job_id), 0)
                rows, length, first = await pipe.execute()
            rows.reverse()
            if is_mark(first):
                length -= 1
                rows = [row for row in rows if row != first]
            if len(rows) < limit:
                skip = max(0, skip - length)
                older: list[Any] = await self._client.lrange(
                    k.failures(job_id), -(skip + limit - len(rows)), -(skip + 1)
                )
                rows += reversed(older)
            return await self._resolved(rows)

    async def latest_runs(self, job_ids: Sequence[str], *, limit: int) -> list[list[Run]]:
        ids: list[list[str]] = []
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.lrange(self._keys.history(job_id), -limit, -1)
                lists = await pipe.execute()
            for rows in lists:
                found: list[str] = []
                for row in reversed(rows):
                    with contextlib.suppress(CorruptDocument):
                        entry = decode_entry(row)
                        if isinstance(entry, Entry):
                            found.append(entry.run_id)
                ids.append(found)
            wanted = [run_id for found in ids for run_id in found]
            records: dict[str, Any] = {}
            for start in range(0, len(wanted), RECORDS_AT_ONCE):
                part = wanted[start : start + RECORDS_AT_ONCE]
                stored: list[Any] = await self._client.hmget(self._keys.records, part)
                records.update(zip(part, stored, strict=True))
        return [[run for run_id in found if (run := _run_of(records[run_id])) is not None] for found in ids]

    async def failing(self, job_ids: Sequence[str]) -> list[int]:
        with translated_faults():
            found: list[Any] = await self._client.zmscore(self._keys.index(FAILING), list(job_ids))
        return [0 if count is None else int(count) for count in found]

    async def _resolved(self, rows: Sequence[bytes]) -> list[Record | None]:
        """Read the records of list entries; None for an entry that cannot be read."""
        found: list[Record | None] = []
        places: list[int] = []
        ids: list[str] = []
        for row in rows:
            try:
                entry = decode_entry(row)
            except CorruptDocument:
                found.append(None)
                continue
            if isinstance(entry, Miss):
                found.append(entry)
            else:
                places.append(len(found))
                ids.append(entry.run_id)
                found.append(entry.bare())
        stored: list[Any] = await self._client.hmget(self._keys.records, ids) if ids else []
        for place, record in zip(places, stored, strict=True):
            try:
                if record is not None:
                    found[place] = decode_record(record)[1]
            except CorruptDocument:
                found[place] = None
        return found

    async def latest_success(self, job_id: str) -> Run | None:
        latest = (await self.beside(job_id, job_id)).latest_success
        return None if latest is None else await self.settled_run(latest.run_id)

    async def beside(self, job_id: str, claim_key: str) -> Beside:
        answer = await self.run(
            READ_BESIDE,
            ReadBesideArgs(job_id=job_id, claim_key=claim_key, part=SUCCESSES_PART, parts=SUCCESSES_PARTS),
            HistoryKey(history=self._keys.history(job_id)),
        )
        latest: Entry | None = None
        job, definition, copy, *entries = answer
        for row in entries:
            with contextlib.suppress(CorruptDocument):
                entry = decode_entry(row)
                if isinstance(entry, Entry) and (latest is None or entry.fire_time_ms >= latest.fire_time_ms):
                    latest = entry
        if job == b"changed":
            with contextlib.suppress(CorruptDocument):
                now, its = decode_job(job_id, definition), decode_job(job_id, copy)
                if now.created_at_ms == its.created_at_ms and now.same_runs(its):
                    return Beside("same", latest)
        return Beside(job.decode(), latest)

    async def settled_run(self, run_id: str) -> Run | None:
        with translated_faults():
            stored: Any = await self._client.hget(self._keys.records, run_id)
        return None if stored is None else decode_record(stored)[1]

    async def children(self, job_id: str, *, limit: int = 1000) -> list[str]:
        low, high = f"[{job_id}{CHILD}", f"({job_id}{chr(ord(CHILD) + 1)}"
        with translated_faults():
            found: list[Any] = await self._client.zrange(
                self._keys.children, low, high, bylex=True, offset=0, num=limit
            )
        return [claim_key.decode() for claim_key in found if is_text(claim_key)]

    async def secret(self) -> bytes:
        with translated_faults():
            found: Any = await self._client.hget(self._keys.meta, "secret")
            if found is None:
                await self._client.hsetnx(self._keys.meta, "secret", secrets.token_bytes(32))
                found = await self._client.hget(self._keys.meta, "secret")
        return bytes(found)

    async def counts(self, *, now_ms: int) -> Counts:
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zcard(k.ids)
                pipe.zcount(k.due, "-inf", now_ms)
                pipe.zcount(k.due, scores.CLAIMED, scores.SUSPECTED - 1)
                pipe.zcount(k.nodes, now_ms - 10_000, "+inf")
                pipe.zcard(k.suspects)
                jobs, due, claimed, nodes, suspects = await pipe.execute()
        return Counts(jobs, due, claimed, nodes, suspects)

    async def beyond(self, bounds: CompletedBounds, *, now_ms: int, limit: int) -> list[str]:
        due = self._keys.due
        kinds = (
            (scores.COMPLETED, scores.REMEMBERED - 1, bounds.age_ms),
            (scores.REMEMBERED, scores.IDLE - 1, bounds.id_age_ms),
        )
        found: list[Any] = []
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for first, last, age_ms in kinds:
                    pipe.zrangebyscore(due, first, min(last, first + max(0, now_ms - age_ms) - 1), 0, limit)
                    pipe.zcount(due, first, last)
                answers = await pipe.execute()
            for (first, last, _), aged, count in zip(kinds, answers[::2], answers[1::2], strict=True):
                wanted = min(count - bounds.most, limit)
                more = wanted > len(aged)
                found += (await self._client.zrangebyscore(due, first, last, 0, wanted)) if more else aged
        return [job_id.decode() for job_id in found if is_text(job_id)]

    async def repair_due(self, *, now_ms: int, first: int, page: int = 500) -> tuple[int, int]:
        following, *claim_keys = await self.run(REPAIR_DUE, RepairDueArgs(now=now_ms, first=first, page=page))
        return len(claim_keys), int(following)


def _bounds(after: str, prefix: str) -> tuple[bytes, bytes]:
    """Return the bounds of the ids that start with ``prefix`` and follow ``after``, in the syntax of Redis."""
    low = b"(" + after.encode() if after > prefix else b"[" + prefix.encode()
    if not after and not prefix:
        low = b"-"
    return low, b"(" + prefix.encode() + b"\xff" if prefix else b"+"


def _run_of(record: bytes | None) -> Run | None:
    try:
        return None if record is None else decode_record(record)[1]
    except CorruptDocument:
        return None
