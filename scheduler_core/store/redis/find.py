"""Finds jobs in the index, in the due set and in the other sets of a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.base.events import ENTRY_REMOVED, get_logger
from scheduler_core.model.index import FAILING, UNREADABLE, IndexWrite
from scheduler_core.model.status import LETTERS
from scheduler_core.store.claim_keys import CHILD
from scheduler_core.store.find import Kind, Order, Ranked, Source
from scheduler_core.store.jobs import Entry
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import decode_entry
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.index import pack_index
from scheduler_core.store.redis.scripts.find import (
    ADD_TO_INDEX,
    PAGE_BY_SCORE,
    AddToIndexArgs,
    AddToIndexItem,
    PageByScoreArgs,
    SetKey,
)
from scheduler_core.store.redis.scripts.script import Item
from scheduler_core.store.redis.shard import RedisShard, is_text

log = get_logger(__name__)

INDEXED = "indexed"
INDEX_VERSION = 1
"""Raise it when ``index_entries`` lists more for jobs that are stored already: then all jobs are checked again."""
NEVER_MS = scores.CLAIMED - 1
LATEST = 20
"""The entries of a history in which its latest run is looked for; of misses, a range is one entry."""
_CLAIMED = (scores.CLAIMED, scores.SUSPECTED - 1)
_CHILD = CHILD.encode()

Range = tuple[int | str, int | str]
EVERY: Range = ("-inf", "+inf")


class RedisFinder:
    """A ``FindStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = beside.keys

    async def is_indexed(self) -> bool:
        with translated_faults():
            found: Any = await self._client.hget(self._keys.meta, INDEXED)
        return found is not None and found.isdigit() and int(found[:9]) >= INDEX_VERSION

    async def mark_indexed(self) -> None:
        with translated_faults():
            await self._client.hset(self._keys.meta, INDEXED, INDEX_VERSION)

    async def sizes(self, sources: Sequence[Source]) -> list[int]:
        counts: list[int] = []
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for source in sources:
                    if source.prefix and source.is_by_id:
                        pipe.zlexcount(self._key(source), *_ids_from("", source.prefix))
                    elif source.is_by_id:
                        pipe.zcard(self._key(source))
                    else:
                        for key, (low, high) in self._parts(source):
                            pipe.zcount(key, low, high)
                answers = iter(await pipe.execute())
            for source in sources:
                parts = 1 if source.is_by_id else len(self._parts(source))
                counts.append(sum(next(answers) for _ in range(parts)))
        return counts

    async def page(self, source: Source, *, after: str, limit: int) -> list[str]:
        key, (low, high) = self._key(source), _ids_from(after, source.prefix)
        with translated_faults():
            found: list[Any] = await self._client.zrange(key, low, high, bylex=True, offset=0, num=limit)
            foreign = [one for one in found if not is_text(one)]
            if foreign:
                log.warning(ENTRY_REMOVED, key=key, entry=foreign[0][:100].decode(errors="replace"))
                await self._client.zrem(key, *foreign)
        return await self.page(source, after=after, limit=limit) if foreign else [one.decode() for one in found]

    async def random_ids(self, *, limit: int) -> list[str]:
        with translated_faults():
            found: Any = await self._client.zrandmember(self._keys.ids, limit)
        return [one.decode() for one in found or () if is_text(one)]

    async def at_ranks(self, ranks: Sequence[int]) -> list[str]:
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for rank in ranks:
                    pipe.zrange(self._keys.ids, rank, rank)
                rows = await pipe.execute()
        return [row[0].decode() for row in rows if row and is_text(row[0])]

    async def members(self, source: Source, *, limit: int) -> list[str]:
        if source.is_by_id:
            return await self.page(source, after="", limit=limit)
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for key, (low, high) in self._parts(source):
                    pipe.zrangebyscore(key, low, high, 0, limit)
                answers = await pipe.execute()
        ids = dict.fromkeys(one for answer in answers for one in answer if _CHILD not in one and is_text(one))
        return [one.decode() for one in ids][:limit]

    async def contains(self, source: Source, job_ids: Sequence[str]) -> list[bool]:
        if not job_ids:
            return []
        if source.kind is Kind.ALL:
            return [job_id.startswith(source.prefix) for job_id in job_ids]
        parts = [(self._key(source), EVERY)] if source.is_by_id else self._parts(source)
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for key, _ in parts:
                    pipe.zmscore(key, list(job_ids))
                answers = await pipe.execute()
        found = [False] * len(job_ids)
        for (_, (low, high)), answer in zip(parts, answers, strict=True):
            for place, score in enumerate(answer):
                if score is not None and float(low) <= score <= float(high):
                    found[place] = True
        return found

    async def ranked(self, order: Order, *, after: Ranked | None, limit: int) -> list[Ranked]:
        reverse = order is Order.FAILURES
        start: Range = ("+inf" if reverse else "-inf", "")
        args = PageByScoreArgs(
            score=start[0] if after is None else after.score,
            member=b"" if after is None else after.member,
            reverse=int(reverse),
            limit=limit,
        )
        rows = await self._shard.run(PAGE_BY_SCORE, args, SetKey(set=self._order_key(order)))
        found = [Ranked(int(float(score)), member) for member, score in zip(rows[::2], rows[1::2], strict=True)]
        # Jobs that never succeeded are listed as failing too, without failures in a row: at the end.
        return [one for one in found if one.score > 0] if reverse else found

    async def ranks(self, order: Order, job_ids: Sequence[str]) -> list[int | None]:
        if not job_ids:
            return []
        with translated_faults():
            found: list[Any] = await self._client.zmscore(self._order_key(order), list(job_ids))
        least = 1 if order is Order.FAILURES else 0
        return [None if score is None or score < least else int(score) for score in found]

    async def starts(self, run_ids: Sequence[str]) -> list[int | None]:
        if not run_ids:
            return []
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for letter in LETTERS:
                    pipe.zmscore(self._keys.runs(letter), list(run_ids))
                answers = await pipe.execute()
        return [
            next((int(score) for score in found if score is not None), None) for found in zip(*answers, strict=True)
        ]

    async def latest_runs(self, job_ids: Sequence[str]) -> list[str | None]:
        if not job_ids:
            return []
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.lrange(self._keys.history(job_id), -LATEST, -1)
                answers = await pipe.execute()
        return [next((run for row in reversed(rows) if (run := _run_of(row)) is not None), None) for rows in answers]

    async def add_missing(self, page: Sequence[tuple[str, bytes, Mapping[str, int]]]) -> tuple[int, bool]:
        jobs_of: dict[str, list[int]] = {}
        for place, (_, _, entries) in enumerate(page):
            for name in entries:
                jobs_of.setdefault(name, []).append(place)
        if not jobs_of:
            return 0, True
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for name, places in jobs_of.items():
                    pipe.zmscore(self._keys.index(name), [page[place][0] for place in places])
                answers = await pipe.execute()
        missing: dict[int, list[str]] = {}
        for (name, places), found in zip(jobs_of.items(), answers, strict=True):
            for place, score in zip(places, found, strict=True):
                if score is None:
                    missing.setdefault(place, []).append(name)
        if not missing:
            return 0, True
        writes = [
            (number, IndexWrite(name, page[place][2][name]))
            for number, (place, names) in enumerate(missing.items(), 1)
            for name in names
        ]
        index, sets = pack_index(writes, self._keys)
        items = [Item(AddToIndexItem(job_id=page[place][0], expected_tag=page[place][1])) for place in missing]
        answers = await self._shard.run_batch(ADD_TO_INDEX, AddToIndexArgs(index_writes=index), items, last_keys=sets)
        return len(writes), all(answer == b"ok" for answer in answers)

    def _key(self, source: Source) -> str:
        return self._keys.ids if source.kind is Kind.ALL else self._keys.index(source.name)

    def _order_key(self, order: Order) -> str:
        return self._keys.due if order is Order.NEXT_FIRE else self._keys.index(FAILING)

    def _parts(self, source: Source) -> list[tuple[str, Range]]:
        """Return the keys of a source that is not listed by id, each with the range of scores that belongs to it."""
        k = self._keys
        if source.kind is Kind.INDEX:
            return [(k.index(source.name), EVERY)]
        if source.kind is Kind.WAITING:
            return [(k.retrying, EVERY), (k.due, (0, min(source.high_ms, NEVER_MS)))]
        if source.kind is Kind.UNSETTLED:
            return [(k.retrying, EVERY), (k.due, _CLAIMED)]
        if source.kind is Kind.QUARANTINED:
            return [(k.due, (scores.QUARANTINED, "+inf")), (k.index(UNREADABLE), EVERY)]
        if source.kind is Kind.COMPLETED:
            return [(k.due, (scores.COMPLETED, scores.REMEMBERED - 1))]
        if source.kind is Kind.WAKE:
            return [(k.due, (max(0, source.low_ms), min(source.high_ms, NEVER_MS))), (k.due, _CLAIMED)]
        return [(k.due, _CLAIMED)]


def _ids_from(after: str, prefix: str) -> tuple[bytes, bytes]:
    """Return the bounds of the ids that start with ``prefix`` and follow ``after``, in the order of their bytes."""
    high = b"(" + prefix.encode() + b"\xff" if prefix else b"+"
    if after > prefix:
        return b"(" + after.encode(), high
    return (b"[" + prefix.encode() if prefix else b"-"), high


def _run_of(row: bytes) -> str | None:
    """Return the run of a history's entry; None: it is a miss or cannot be read."""
    try:
        entry = decode_entry(row)
    except CorruptDocument:
        return None
    return entry.run_id if isinstance(entry, Entry) else None
