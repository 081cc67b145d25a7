"""Settled runs across all jobs, and where those are that are not settled; totals; trimming.

Nothing here reads more than was asked for: a page of the list costs each index what the page and what is skipped take.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.status import LETTERS, RunStatus
from scheduler_core.store.history import Bounds, Candidate, Place, Query, RunTotals, Stored
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import decode_detail, decode_record
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.history import (
    SWEEP_LISTS,
    SWEEP_RUNS,
    SweepListsArgs,
    SweepListsUnit,
    SweepRunsArgs,
)
from scheduler_core.store.redis.scripts.script import HistoryKeys, Unit
from scheduler_core.store.redis.shard import RedisShard, is_text

MINUTE_MS = 60_000
MINUTES_KEPT = 120
PAGE = 500
"""Records read in one round trip."""
LIST_LIMIT = 20_000
"""How many entries of one job's lists are looked at."""
TIES = 16
"""How many more are read than wanted, for those that share their instant with the one before the page."""
_COUNT = re.compile(rb"[A-Za-z]+|m:[0-9]{1,15}")
"""The fields of the counts."""
FOREVER_MS = scores.IDLE - scores.CLAIMED - 1


class RedisHistory:
    """Works on the connections of the store that it is ``beside``. Raises StoreUnavailable or StoreRefused."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = beside.keys

    async def candidates(self, query: Query, *, before: Place | None, count: int) -> list[Candidate]:
        """The first ``count`` places of the list that ``query`` asks for, those from ``before`` on left out.

        What is not settled is read first: a run that is settled meanwhile is found twice rather than never.
        """
        high = query.end_ms if query.end_ms is not None else FOREVER_MS
        high = min(high, FOREVER_MS) if before is None else min(high, before.at_ms)
        low = query.start_ms if query.start_ms is not None else 0
        if high < low:
            return []
        sources: list[tuple[str, int, bool, bool]] = []
        if query.status is None:
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
                    # Many started in the very millisecond at which the page before this one ended.
                    rows = await self._client.zrevrangebyscore(
                        key, shift + high, shift + low, read, count + TIES, withscores=True
                    )
                    read += len(rows)
        found.sort(key=lambda one: one.place, reverse=True)
        return found[:count]

    async def records(self, run_ids: Sequence[str]) -> list[Stored | None]:
        """The settled runs with these ids; None for one that is gone or cannot be read."""
        found: list[Stored | None] = []
        with translated_faults():
            for start in range(0, len(run_ids), PAGE):
                page = run_ids[start : start + PAGE]
                rows: list[Any] = await self._client.hmget(self._keys.records, list(page))
                found += [_stored(row) for row in rows]
        return found

    async def places_of_job(self, job_id: str, query: Query) -> list[Place]:
        """The places of all settled runs of a job that are stored and asked for, in no order.

        Reads ids and scores only: what a page shows is read afterwards, by ``records``.
        """
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
        """One settled run with what its last attempt sent and was answered, as far as that was kept."""
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hget(k.records, run_id)
                pipe.hget(k.details, run_id)
                record, detail = await pipe.execute()
        found = _stored(record)
        if found is None or detail is None:
            return found
        try:
            return msgspec.structs.replace(found, detail=decode_detail(detail))
        except CorruptDocument:
            return found

    async def units_from(self, at_ms: int, *, limit: int) -> list[Candidate]:
        """Units with a run that is not settled and started at ``at_ms`` or later, from then on, ``limit`` of a kind."""
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrangebyscore(k.due, scores.CLAIMED + at_ms, scores.SUSPECTED - 1, 0, limit, withscores=True)
                pipe.zrangebyscore(k.retrying, at_ms, FOREVER_MS, 0, limit, withscores=True)
                claimed, waiting = await pipe.execute()
        found = [Candidate(Place(int(score) - scores.CLAIMED, claim_key), False) for claim_key, score in claimed]
        found += [Candidate(Place(int(score), claim_key), False, waits=True) for claim_key, score in waiting]
        return [one for one in found if is_text(one.place.member)]

    async def totals(self, *, now_ms: int) -> RunTotals:
        """Totals of all runs ever settled, right whatever was trimmed since."""
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
        """Trim one page of what is beyond ``bounds``; how many runs went, and whether more may have to.

        The lists of a job that is gone go with its last record.
        """
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
        jobs = sorted({one.job_id for one in map(_stored, rows) if one is not None})
        for start in range(0, len(jobs), PAGE):
            units = [self._lists_of(job_id) for job_id in jobs[start : start + PAGE]]
            await self._shard.run_batch(SWEEP_LISTS, SweepListsArgs(), units)
        return len(rows), more == b"1"

    def _lists_of(self, job_id: str) -> Unit[SweepListsUnit]:
        k = self._keys
        return Unit(SweepListsUnit(job_id=job_id), HistoryKeys(history=k.history(job_id), failures=k.failures(job_id)))


def _stored(row: bytes | None) -> Stored | None:
    try:
        return None if row is None else Stored(*decode_record(row))
    except CorruptDocument:
        return None
