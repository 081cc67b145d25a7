"""Lists the runs of all jobs of a shard, reads their totals, and trims their records.

A page of the list reads from each index at most its own size plus the number of skipped runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.index import PENDING
from scheduler_core.model.run import RunDetail
from scheduler_core.model.status import LETTERS, RunStatus
from scheduler_core.store.history import Bounds, Candidate, Place, Query, RunTotals, Stored
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import decode_detail, decode_record
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.history import (
    SWEEP_LISTS,
    SWEEP_RUNS,
    SweepListsArgs,
    SweepListsItem,
    SweepRunsArgs,
)
from scheduler_core.store.redis.scripts.script import Item
from scheduler_core.store.redis.shard import RedisShard, is_text

MINUTE_MS = 60_000
MINUTES_KEPT = 120
PAGE = 500
"""Records read in one round trip."""
LIST_LIMIT = 20_000
"""The most entries of a job's lists that are examined."""
TIES = 16
"""Extra entries per read, for runs with the same instant as the last entry of the previous page."""
_COUNT = re.compile(rb"[A-Za-z]+|m:[0-9]{1,15}")
"""The names of fields in the counts."""
FOREVER_MS = scores.COMPLETED - scores.CLAIMED - 1


class RedisHistory:
    """A ``HistoryStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = beside.keys

    async def candidates(self, query: Query, *, before: Place | None, count: int) -> list[Candidate]:
        high = query.end_ms if query.end_ms is not None else FOREVER_MS
        high = min(high, FOREVER_MS) if before is None else min(high, before.at_ms)
        low = query.start_ms if query.start_ms is not None else 0
        if high < low:
            return []
        sources: list[tuple[str, int, bool, bool]] = []
        if query.status is None and not query.is_settled:
            sources += [(self._keys.due, scores.CLAIMED, False, False), (self._keys.retrying, 0, False, True)]
        letters = LETTERS if query.status is None else query.status.letter
        sources += [(self._keys.runs(letter), 0, True, False) for letter in letters]
        found: list[Candidate] = []
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for key, shift, _, _ in sources:
                    pipe.zrevrangebyscore(key, shift + high, shift + low, 0, count + TIES, withscores=True)
                pages = await pipe.execute()
            for (key, shift, is_settled, waits), page in zip(sources, pages, strict=True):
                rows, read = page, len(page)
                kept = 0
                while True:
                    for member, score in rows:
                        place = Place(int(score) - shift, member)
                        if (before is None or place < before) and is_text(member):
                            kept += 1
                            found.append(Candidate(place, is_settled, waits))
                    if kept >= count or len(rows) < count + TIES:
                        break
                    # More runs than ``TIES`` started in the millisecond at which the page before this one ended.
                    rows = await self._client.zrevrangebyscore(
                        key, shift + high, shift + low, read, count + TIES, withscores=True
                    )
                    read += len(rows)
        found.sort(key=lambda one: one.place, reverse=True)
        return found[:count]

    async def records(self, run_ids: Sequence[str]) -> list[Stored | None]:
        found: list[Stored | None] = []
        with translated_faults():
            for start in range(0, len(run_ids), PAGE):
                page = run_ids[start : start + PAGE]
                rows: list[Any] = await self._client.hmget(self._keys.records, list(page))
                found += [_stored(row) for row in rows]
        return found

    async def places_of_job(self, job_id: str, query: Query) -> list[Place]:
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.lrange(k.history(job_id), -LIST_LIMIT, -1)
                pipe.lrange(k.failures(job_id), -LIST_LIMIT, -1)
                latest, older = await pipe.execute()
            ids: dict[str, dict[bytes, None]] = {}
            for row in (*latest, *older):
                letter = chr(row[0]) if row else ""
                parts = row.split(b" ")
                wanted = LETTERS if query.status is None else query.status.letter
                if letter and letter in wanted and len(parts) == 3 and is_text(parts[1]):
                    ids.setdefault(letter, {})[parts[1]] = None
            found: list[Place] = []
            for letter, members in ids.items():
                names = list(members)
                for start in range(0, len(names), PAGE):
                    part = names[start : start + PAGE]
                    scores_: list[Any] = await self._client.zmscore(k.runs(letter), part)  # type: ignore[arg-type]
                    found += [
                        Place(int(score), name)
                        for name, score in zip(part, scores_, strict=True)
                        if score is not None and 0 <= score <= FOREVER_MS
                    ]
        return [place for place in found if query.covers(place)]

    async def record(self, run_id: str) -> Stored | None:
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hget(k.records, run_id)
                pipe.hget(k.details, run_id)
                record, detail = await pipe.execute()
        found = _stored(record)
        if found is None:
            return None
        found = replace(found, raw=record)
        try:
            kept = None if detail is None else decode_detail(detail)
        except CorruptDocument:
            return found
        if kept is not None and kept.payload is not None:
            found = replace(found, run=replace(found.run, payload=kept.payload))
            kept = replace(kept, payload=None)
        return found if kept is None or kept == RunDetail() else replace(found, detail=kept)

    async def claim_keys_from(self, at_ms: int, *, limit: int) -> tuple[list[Candidate], int | None]:
        k = self._keys
        sources = (
            (k.due, scores.CLAIMED, scores.SUSPECTED - 1),
            (k.due, scores.SUSPECTED, scores.COMPLETED - 1),
            (k.retrying, 0, FOREVER_MS),
            (k.index(PENDING), 0, FOREVER_MS),
        )
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for key, shift, high in sources:
                    pipe.zrangebyscore(key, shift + at_ms, high, 0, limit, withscores=True)
                pages = await pipe.execute()
        found: list[Candidate] = []
        following: int | None = None
        for (_, shift, _), page in zip(sources, pages, strict=True):
            places = [Place(int(score) - shift, claim_key) for claim_key, score in page]
            found += [Candidate(one, False, waits=shift == 0) for one in places if is_text(one.member)]
            if len(page) == limit:
                end_ms = max(at_ms + 1, places[-1].at_ms)
                following = end_ms if following is None else min(following, end_ms)
        return found, following

    async def totals(self, *, now_ms: int) -> RunTotals:
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(k.counts)
                for letter in LETTERS:
                    pipe.zcard(k.runs(letter))
                raw, *sizes = await pipe.execute()
        counts = {
            name.decode(): int(value)
            for name, value in raw.items()
            if _COUNT.fullmatch(name) and len(value) < 20 and value.removeprefix(b"-").isdigit()
        }
        by_status = {status: counts.get(status.letter, 0) for status in RunStatus}
        first = now_ms // MINUTE_MS - 59
        minutes = ((int(name[2:]), runs) for name, runs in counts.items() if name.startswith("m:"))
        return RunTotals(
            by_status=by_status,
            latency_ms=counts.get("latency", 0) / 1000,
            timed=sum(by_status.values()) - counts.get("untimed", 0),
            last_hour=sum(runs for minute, runs in minutes if minute >= first),
            stored=sum(sizes),
            stored_bytes=counts.get("bytes", 0),
        )

    async def sweep(self, bounds: Bounds, *, now_ms: int, page: int = PAGE) -> tuple[int, bool]:
        args = SweepRunsArgs(
            successes_since=now_ms - bounds.success_age_ms,
            failures_since=now_ms - bounds.failure_age_ms,
            most_successes=bounds.successes,
            most_failures=bounds.failures,
            most_bytes=bounds.bytes,
            minutes_since=now_ms // MINUTE_MS - MINUTES_KEPT,
            page=page,
        )
        more, *rows = await self._shard.run(SWEEP_RUNS, args)
        # The lists of a deleted job are dropped with its last record.
        jobs = sorted({one.job_id for one in map(_stored, rows) if one is not None})
        for start in range(0, len(jobs), PAGE):
            items = [self._lists_of(job_id) for job_id in jobs[start : start + PAGE]]
            await self._shard.run_batch(SWEEP_LISTS, SweepListsArgs(), items)
        return len(rows), more == b"1"

    def _lists_of(self, job_id: str) -> Item[SweepListsItem]:
        return Item(SweepListsItem(job_id=job_id), self._shard.lists_of(job_id))


def _stored(row: bytes | None) -> Stored | None:
    try:
        return None if row is None else Stored(*decode_record(row))
    except CorruptDocument:
        return None
