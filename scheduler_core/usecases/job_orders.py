"""Yields the ids of jobs to examine, batch by batch, in one of the orders of lists.

A batch holds what one read of the store returned. Its cursor names the last place that was looked at, so that a page
can end anywhere, and the next one continues there although jobs have changed in between.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Sequence
from enum import StrEnum
from itertools import chain

import msgspec

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.policies import Overlap
from scheduler_core.store.find import Kind, Order, Ranked, Source
from scheduler_core.store.history import Place, Query
from scheduler_core.store.shards import Shards, ShardStore

BATCH = 250
SORTED_AT_ONCE = 2_000
"""A source with at most this many jobs is listed as a whole and sorted here."""
READ_FOR_LAST_RUNS = 500
"""The same for the order of last runs, for which every one of these jobs is read."""
_SEPARATOR = "\x1f"
"""Separates the parts of a cursor. Job ids do not contain it."""


class Sort(StrEnum):
    """The order of a list. Jobs of equal rank come in the order of the bytes of their ids."""

    ID = "id"
    NEXT_FIRE = "next_fire"
    """By next wake-up; claimed, completed, idle, paused and quarantined jobs come last."""
    LAST_RUN = "-last_run"
    """By the start of the last run, latest first; only jobs whose last run is kept."""
    FAILURES = "-consecutive_failures"
    """Most failures in a row first; only jobs that have any."""


class Batch(msgspec.Struct, frozen=True):
    """Jobs to examine, in the order of the list."""

    ids: Sequence[str]
    cursors: Sequence[str]
    """The cursor after each job."""
    places: int
    """How many places of the order were looked at to find these jobs."""
    cursor: str
    """The cursor after the last of these places."""
    runs: Sequence[str] = ()
    """For each job the run by which it was found; empty in other orders than that of last runs."""


class JobOrders:
    """Lists the jobs of all shards from a source. ``size``: how many entries it has on all shards."""

    def __init__(self, shards: Shards[ShardStore], source: Source, size: int) -> None:
        self._shards = shards
        self._finders = shards.each(lambda store: store.find_store())
        self._source = source
        self._size = size

    def batches(self, sort: Sort, cursor: str, *, first: int = BATCH) -> AsyncIterator[Batch]:
        """List after ``cursor``; ``first``: the size of a batch by id. Raises InvalidInput for a wrong cursor."""
        if sort is Sort.ID:
            if _SEPARATOR in cursor:
                raise _wrong_cursor()
            return self._by_id(cursor, first)
        after = _place_of(sort, cursor)
        is_part = self._source.kind is not Kind.ALL or self._source.prefix != ""
        if sort is Sort.LAST_RUN:
            few = is_part and self._size <= READ_FOR_LAST_RUNS
            return self._few_by_last_run(after) if few else self._by_last_run(after)
        few = is_part and self._size <= SORTED_AT_ONCE
        return self._few_ranked(sort, after) if few else self._ranked(sort, after)

    async def _by_id(self, after: str, first: int) -> AsyncIterator[Batch]:
        """List by id: a source in this order page by page, another one as a whole if it is small, or else all jobs."""
        if not self._source.is_by_id and self._size <= SORTED_AT_ONCE:
            ids = sorted(await self._members(SORTED_AT_ONCE), key=str.encode)
            for at in range(bisect_right(ids, after.encode(), key=str.encode), len(ids), BATCH):
                part = ids[at : at + BATCH]
                yield Batch(part, part, len(part), part[-1])
            return
        source = self._source if self._source.is_by_id else Source(prefix=self._source.prefix)
        while True:
            pages = await asyncio.gather(*(one.page(source, after=after, limit=first) for one in self._finders.all))
            ids = pages[0] if len(pages) == 1 else sorted(chain(*pages), key=str.encode)[:first]
            if not ids:
                return
            after = ids[-1]
            kept = ids if source is self._source else await self._among(ids)
            yield Batch(kept, kept, len(ids), after)
            if len(ids) < first:
                return

    async def _ranked(self, sort: Sort, after: Ranked | None) -> AsyncIterator[Batch]:
        """List by an order that the store keeps."""
        order = _ORDERS[sort]
        while True:
            pages = await asyncio.gather(*(one.ranked(order, after=after, limit=BATCH) for one in self._finders.all))
            ranked = sorted(chain(*pages), reverse=order is Order.FAILURES)[:BATCH]
            if not ranked:
                return
            after = ranked[-1]
            of_jobs = {one.member.decode(errors="replace"): one for one in ranked}
            kept = await self._among([job_id for job_id in of_jobs if _SEPARATOR not in job_id])
            yield Batch(kept, [_cursor(sort, of_jobs[job_id]) for job_id in kept], len(ranked), _cursor(sort, after))
            if len(ranked) < BATCH:
                return

    async def _few_ranked(self, sort: Sort, after: Ranked | None) -> AsyncIterator[Batch]:
        """List a small source by an order that the store keeps."""
        ids = await self._members(SORTED_AT_ONCE)
        ranked: list[Ranked] = []
        for shard, places in self._shards.places(ids).items():
            own = [ids[place] for place in places]
            ranks = await self._finders.all[shard].ranks(_ORDERS[sort], own)
            ranked += [Ranked(rank, one.encode()) for one, rank in zip(own, ranks, strict=True) if rank is not None]
        for part in _parts_after(ranked, after, reverse=sort is Sort.FAILURES):
            yield Batch(
                [one.member.decode() for one in part],
                [_cursor(sort, one) for one in part],
                len(part),
                _cursor(sort, part[-1]),
            )

    async def _by_last_run(self, after: Ranked | None) -> AsyncIterator[Batch]:
        """List the jobs of settled runs, latest start first. The reader keeps a job where the run is its last one."""
        before = None if after is None else Place(after.score, after.member)
        histories = [store.history_store() for store in self._shards.all]
        while True:
            query = Query(is_settled=True)
            pages = await asyncio.gather(*(one.candidates(query, before=before, count=BATCH) for one in histories))
            found = [(one.place, number) for number, page in enumerate(pages) for one in page]
            found = sorted(found, reverse=True)[:BATCH]
            if not found:
                return
            before = found[-1][0]
            jobs: dict[Place, str] = {}
            for number, history in enumerate(histories):
                own = [place for place, shard in found if shard == number]
                records = await history.records([place.member.decode() for place in own]) if own else []
                jobs |= {place: one.job_id for place, one in zip(own, records, strict=True) if one is not None}
            wanted = set(await self._among(list(dict.fromkeys(jobs.values()))))
            kept = [Ranked(place.at_ms, place.member) for place, _ in found if jobs.get(place) in wanted]
            yield Batch(
                [jobs[Place(one.score, one.member)] for one in kept],
                [_cursor(Sort.LAST_RUN, one) for one in kept],
                len(found),
                _cursor(Sort.LAST_RUN, Ranked(before.at_ms, before.member)),
                [one.member.decode() for one in kept],
            )
            if len(found) < BATCH:
                return

    async def _few_by_last_run(self, after: Ranked | None) -> AsyncIterator[Batch]:
        """List a small source by the starts of the last runs that its jobs have."""
        ids = await self._members(READ_FOR_LAST_RUNS)
        ranked: list[Ranked] = []
        job_of: dict[bytes, str] = {}
        for shard, places in self._shards.places(ids).items():
            own = [ids[place] for place in places]
            runs = await last_runs(self._shards.all[shard], own)
            starts = await self._finders.all[shard].starts([run or "" for run in runs])
            for job_id, run, start_ms in zip(own, runs, starts, strict=True):
                if run is not None and start_ms is not None:
                    ranked.append(Ranked(start_ms, run.encode()))
                    job_of[run.encode()] = job_id
        for part in _parts_after(ranked, after, reverse=True):
            yield Batch(
                [job_of[one.member] for one in part],
                [_cursor(Sort.LAST_RUN, one) for one in part],
                len(part),
                _cursor(Sort.LAST_RUN, part[-1]),
                [one.member.decode() for one in part],
            )

    async def _members(self, limit: int) -> list[str]:
        pages = await asyncio.gather(*(one.members(self._source, limit=limit) for one in self._finders.all))
        return list(chain(*pages))

    async def _among(self, ids: list[str]) -> list[str]:
        """Return those of these jobs that the source contains."""
        if self._source.kind is Kind.ALL:
            return [job_id for job_id in ids if job_id.startswith(self._source.prefix)]
        contained: set[str] = set()
        for shard, places in self._shards.places(ids).items():
            own = [ids[place] for place in places]
            found = await self._finders.all[shard].contains(self._source, own)
            contained |= {job_id for job_id, is_in in zip(own, found, strict=True) if is_in}
        return [job_id for job_id in ids if job_id in contained]


_ORDERS = {Sort.NEXT_FIRE: Order.NEXT_FIRE, Sort.FAILURES: Order.FAILURES}


async def last_runs(store: ShardStore, job_ids: Sequence[str]) -> list[str | None]:
    """Return the id of the last settled run of each job; None: it has none.

    The state of a job with ``overlap: allow`` does not have it, so its history is read.
    """
    found: list[str | None] = []
    from_history: list[int] = []
    for place, stored in enumerate(await store.read_many(job_ids)):
        state, job = stored.snapshot.state, stored.snapshot.job
        found.append(None if state is None or state.last is None else state.last.id)
        if job is not None and job.overlap is Overlap.ALLOW:
            from_history.append(place)
    latest = await store.find_store().latest_runs([job_ids[place] for place in from_history])
    for place, run_id in zip(from_history, latest, strict=True):
        found[place] = run_id
    return found


def _parts_after(ranked: Iterable[Ranked], after: Ranked | None, *, reverse: bool) -> Iterable[list[Ranked]]:
    """Sort places, and return those after ``after`` in batches."""
    left = [one for one in ranked if after is None or (one < after if reverse else one > after)]
    left.sort(reverse=reverse)
    return (left[at : at + BATCH] for at in range(0, len(left), BATCH))


def _cursor(sort: Sort, place: Ranked) -> str:
    return _SEPARATOR.join((sort.value, str(place.score), place.member.decode("latin-1")))


def _place_of(sort: Sort, cursor: str) -> Ranked | None:
    """Return the place that a cursor names; None: the beginning. Raises InvalidInput."""
    if not cursor:
        return None
    kind, _, rest = cursor.partition(_SEPARATOR)
    score, _, member = rest.partition(_SEPARATOR)
    if kind != sort.value or not score.isdecimal() or len(score) > 16:
        raise _wrong_cursor()
    try:
        return Ranked(int(score), member.encode("latin-1"))
    except UnicodeEncodeError:
        raise _wrong_cursor() from None


def _wrong_cursor() -> InvalidInput:
    return InvalidInput("not a cursor of a list in this order; use next of an earlier page, or none", field="cursor")
