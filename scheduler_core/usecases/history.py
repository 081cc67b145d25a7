"""Lists the runs of all jobs: settled runs from their records, unsettled ones from their jobs.

An unsettled run has no record. A run that waits for a retry or a completion is in its job's state. A run in flight is
computed from the claim of its job; every process that repeats this decision gets the same run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from itertools import chain

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import RunNotFound
from scheduler_core.model.index import label_index
from scheduler_core.model.job import has_labels
from scheduler_core.model.request import with_query
from scheduler_core.model.run import Run, RunDetail, RunState, run_id_ms
from scheduler_core.plan.claim import Work, is_spawned, plan_claim
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.find import Kind, Source
from scheduler_core.store.history import Candidate, Place, Query, RunTotals, place_of, sum_of
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import Shards, ShardStore

LOOKED_AT = 5_000
"""A page filtered by state, reason or labels examines at most this many runs; it may be short, and its cursor continues
there."""
LOOK_AT = 250
EXAMINED = 1000
"""The search for an unsettled run reads this many claim keys of each kind at once."""
PARTS_EXAMINED = 10
"""The search reads at most this many such parts, the earliest ones since the run was claimed or requested."""


class FoundRun(msgspec.Struct, frozen=True):
    """A run of the list."""

    job_id: str
    run: Run
    place: Place
    detail: RunDetail | None = None
    claim_key: str = ""
    """The claim key of an unsettled run; set by ``HistoryService.get``."""
    node: str = ""
    """The node that executes the run; set by ``HistoryService.get``. Empty: no node does."""
    raw: bytes = b""
    """The record of a settled run as it is stored; set by ``HistoryService.get``."""


class RunPage(msgspec.Struct, frozen=True):
    """Part of the list. ``after``: the place after which the next page begins; None at the end. ``skip``: the number
    of runs after that place that the next page leaves out."""

    runs: list[FoundRun]
    after: Place | None
    skip: int = 0


class HistoryService:
    """Lists and reads runs of all shards. Raises StoreUnavailable or StoreRefused if Redis fails."""

    def __init__(self, shards: Shards[ShardStore], clock: Clock) -> None:
        self._shards = shards
        self._parts = [_HistoryOfShard(store, clock) for store in shards.all]
        self._clock = clock

    async def find(
        self,
        query: Query,
        *,
        job_id: str | None = None,
        before: Place | None = None,
        skip: int = 0,
        limit: int = 100,
    ) -> RunPage:
        """Return runs by their start, newest first; with ``job_id``, of one job. A filter by status leaves out
        unsettled runs, which have no status. A filter by labels leaves out runs of deleted jobs.

        Read page by page with ``before``, the list contains exactly once every run that was settled before the first
        page was read, unless it is trimmed in between. Until a first attempt ends, its run is listed at the instant of
        the claim, and after that at its start.
        """
        if job_id is not None:
            part = self._parts[self._shards.number_of(job_id)]
            if query.labels and not await part.labelled({job_id}, query.labels):
                return RunPage([], None)
            return await part.of_job(job_id, query, before, skip, limit)
        if query.looks_at_runs:
            return await self._find_among(query, before, skip, limit)
        found: list[FoundRun] = []
        seen: set[str] = set()
        while True:
            wanted = skip + limit + 1 - len(found)
            candidates = await self._candidates(query, before, wanted)
            exhausted = len(candidates) < wanted
            candidates = candidates[skip:]
            skip = 0
            for one in await self._resolved(candidates):
                if one.run.id not in seen:
                    seen.add(one.run.id)
                    found.append(one)
            if len(found) > limit:
                return RunPage(found[:limit], found[limit - 1].place)
            if exhausted:
                return RunPage(found, None)
            # Some runs were settled or trimmed between two reads: fill the page from the following places.
            before = candidates[-1][1].place

    async def _find_among(self, query: Query, before: Place | None, skip: int, limit: int) -> RunPage:
        """Filter by state, reason or labels, which have no index: a page examines a bounded number of runs."""
        found: list[FoundRun] = []
        seen: set[str] = set()
        for _ in range(LOOKED_AT // LOOK_AT):
            candidates = await self._candidates(query, before, LOOK_AT)
            runs = [one for one in await self._resolved(candidates) if query.takes(one.run)]
            labelled = await self._labelled({one.job_id for one in runs}, query.labels) if query.labels else None
            for one in runs:
                if one.run.id in seen or (labelled is not None and one.job_id not in labelled):
                    continue
                seen.add(one.run.id)
                if skip:
                    skip -= 1
                elif len(found) == limit:
                    return RunPage(found, found[-1].place)
                else:
                    found.append(one)
            if len(candidates) < LOOK_AT:
                return RunPage(found, None)
            before = candidates[-1][1].place
        return RunPage(found, before, skip)

    async def _labelled(self, job_ids: Iterable[str], labels: Sequence[tuple[str, str | None]]) -> set[str]:
        """Return the jobs, of all shards, that have all labels."""
        of_shards: dict[int, set[str]] = {}
        for job_id in job_ids:
            of_shards.setdefault(self._shards.number_of(job_id), set()).add(job_id)
        found = await asyncio.gather(*(self._parts[shard].labelled(own, labels) for shard, own in of_shards.items()))
        return set().union(*found)

    async def get(self, run_id: str) -> FoundRun:
        """Return one run, settled or not; a requested run that has not started is ``open`` without a start. Raises
        RunNotFound.

        Reads all shards, because a run id does not always contain its shard.
        """
        answers = await asyncio.gather(*(one.get(run_id) for one in self._parts), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, FoundRun):
                return answer
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        raise RunNotFound(f"no run {run_id[:100]!r}")

    async def totals(self) -> RunTotals:
        """Return the totals over all runs."""
        now_ms = self._clock.now_ms()
        found = await asyncio.gather(*(one.history.totals(now_ms=now_ms) for one in self._parts))
        return found[0] if len(found) == 1 else sum_of(found)

    async def _candidates(self, query: Query, before: Place | None, count: int) -> list[tuple[int, Candidate]]:
        """Return the first places of the list of all shards, each with the number of its shard."""
        pages = await asyncio.gather(
            *(one.history.candidates(query, before=before, count=count) for one in self._parts)
        )
        found = [(shard, one) for shard, page in enumerate(pages) for one in page]
        if len(pages) > 1:
            found.sort(key=lambda one: one[1].place, reverse=True)
        return found[:count]

    async def _resolved(self, candidates: Sequence[tuple[int, Candidate]]) -> list[FoundRun]:
        """Return the runs at these places, in their order."""
        of_shards: dict[int, list[Candidate]] = {}
        for shard, one in candidates:
            of_shards.setdefault(shard, []).append(one)
        parts = await asyncio.gather(*(self._parts[shard].resolved(own) for shard, own in of_shards.items()))
        if len(parts) == 1:
            return parts[0]
        return sorted(chain(*parts), key=lambda one: one.place, reverse=True)


class _HistoryOfShard:
    """Lists and reads the runs of one shard."""

    def __init__(self, store: ShardStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.history = store.history_store()

    async def labelled(self, job_ids: Collection[str], labels: Sequence[tuple[str, str | None]]) -> set[str]:
        """Return the jobs that have all labels."""
        finder, left = self._store.find_store(), sorted(job_ids)
        if not await finder.is_indexed():
            # Until the index is complete, after an upgrade from a version without it, the jobs are read.
            stored = await self._read(left)
            return {job_id for job_id, one in zip(left, stored, strict=True) if has_labels(one.snapshot.job, labels)}
        for key, value in labels:
            listed = await finder.contains(Source(Kind.INDEX, label_index(key, value)), left)
            left = [job_id for job_id, is_listed in zip(left, listed, strict=True) if is_listed]
        return set(left)

    async def get(self, run_id: str) -> FoundRun | None:
        found = await self._settled(run_id)
        if found is not None:
            return found
        # The id contains the instant of the claim or request. The run did not start before it.
        at_ms = run_id_ms(run_id)
        for _ in range(PARTS_EXAMINED):
            if at_ms is None:
                break
            candidates, at_ms = await self.history.claim_keys_from(at_ms, limit=EXAMINED)
            claim_keys = list(dict.fromkeys(one.name for one in candidates))
            for claim_key, stored in zip(claim_keys, await self._read(claim_keys), strict=True):
                # Look at all of its runs: since the claim key was found, one may have started or be waiting again.
                in_flight = _in_flight(claim_key, stored)
                for run in (*_waiting(stored), *in_flight, *_requested(stored)):
                    if run.id == run_id:
                        place = Place(run.started_at_ms or 0, run.id.encode())
                        lease = stored.snapshot.lease
                        node = lease.node if lease is not None and any(one.id == run_id for one in in_flight) else ""
                        return FoundRun(job_of_claim_key(claim_key), run, place, claim_key=claim_key, node=node)
        return await self._settled(run_id)  # it may have been settled in between

    async def _settled(self, run_id: str) -> FoundRun | None:
        stored = await self.history.record(run_id)
        if stored is None:
            return None
        return FoundRun(stored.job_id, stored.run, place_of(stored.run), stored.detail, raw=stored.raw)

    async def of_job(self, job_id: str, query: Query, before: Place | None, skip: int, limit: int) -> RunPage:
        open_: dict[str, FoundRun] = {}
        if query.status is None:
            claim_keys = [job_id, *await self._store.children(job_id)]
            for claim_key, stored in zip(claim_keys, await self._read(claim_keys), strict=True):
                for run in (*_waiting(stored), *_in_flight(claim_key, stored)):
                    place = Place(run.started_at_ms or 0, run.id.encode())
                    if query.covers(place):
                        open_[run.id] = FoundRun(job_id, run, place)
        # Settled runs last: a run that was settled between the two reads counts as settled.
        settled = await self.history.places_of_job(job_id, query)
        for place in settled:
            open_.pop(place.member.decode(errors="replace"), None)
        places = sorted([*settled, *(one.place for one in open_.values())], reverse=True)
        if before is not None:
            places = [place for place in places if place < before]
        at, looked_at = (0 if query.looks_at_runs else skip), 0
        found: list[FoundRun] = []
        while len(found) < limit and at < len(places) and looked_at < LOOKED_AT:
            # Replace trimmed and unreadable records by the following ones.
            part = places[at : at + (LOOK_AT if query.looks_at_runs else limit - len(found))]
            looked_at += len(part)
            names = [place.member.decode(errors="replace") for place in part]
            records = iter(await self.history.records([name for name in names if name not in open_]))
            for place, name in zip(part, names, strict=True):
                if len(found) == limit:
                    break
                at += 1
                one = open_.get(name)
                if one is None and (record := next(records)) is not None:
                    one = FoundRun(record.job_id, record.run, place)
                if one is None or not query.takes(one.run):
                    continue
                if query.looks_at_runs and skip:
                    skip -= 1
                else:
                    found.append(one)
        if not looked_at or at >= len(places):
            return RunPage(found, None)
        return RunPage(found, places[at - 1], skip if query.looks_at_runs else 0)

    async def resolved(self, candidates: Sequence[Candidate]) -> list[FoundRun]:
        """Return the runs at these places, in their order."""
        settled = [one for one in candidates if one.is_settled]
        records = await self.history.records([one.name for one in settled])
        at: dict[Place, list[FoundRun]] = {
            one.place: [FoundRun(record.job_id, record.run, one.place)]
            for one, record in zip(settled, records, strict=True)
            if record is not None
        }
        settled_ids = {runs[0].run.id for runs in at.values()}
        for one in await self._open([one for one in candidates if not one.is_settled]):
            if one.run.id not in settled_ids:
                at.setdefault(one.place, []).append(one)
        return [found for place in dict.fromkeys(one.place for one in candidates) for found in at.get(place, [])]

    async def _open(self, candidates: Sequence[Candidate]) -> list[FoundRun]:
        """Return the unsettled runs of these claim keys."""
        found: list[FoundRun] = []
        claim_keys = [one.name for one in candidates]
        for one, stored in zip(candidates, await self._read(claim_keys), strict=True):
            runs = _waiting(stored)
            if not one.waits:
                # A retry in flight is listed as its waiting run, at the start of the run.
                waiting = {run.id for run in runs}
                runs = [run for run in _in_flight(one.name, stored) if run.id not in waiting]
            found += [FoundRun(job_of_claim_key(one.name), run, one.place, claim_key=one.name) for run in runs]
        return found

    async def _read(self, claim_keys: Sequence[str]) -> list[StoredJob]:
        found: list[StoredJob] = []
        for start in range(0, len(claim_keys), EXAMINED):
            found += await self._store.read_many(claim_keys[start : start + EXAMINED])
        now_ms = self._clock.now_ms()
        return [one.as_of(now_ms) for one in found]


def _requested(stored: StoredJob) -> list[Run]:
    """Return the requested runs of a job that have not started. They wait in its pending list."""
    job, state = stored.snapshot.job, stored.snapshot.state
    if job is None or state is None:
        return []
    return [
        Run(
            entry.run_id,
            entry.fire_time_ms,
            entry.reason,
            job_version=job.version,
            payload=entry.payload,
            replay_of=entry.replay_of,
            method="",
        )
        for entry in state.pending
        if entry.run is None and entry.failed is None
    ]


def _waiting(stored: StoredJob) -> list[Run]:
    """Return the runs of a claim key that wait for a retry or a completion, latest first; a run whose retry is in
    flight too."""
    state = stored.snapshot.state
    if state is None:
        return []
    lease, first = stored.snapshot.lease, state.open
    if first is not None and first.state is RunState.RETRYING and lease is not None and lease.node != "-":
        first = msgspec.structs.replace(first, state=RunState.OPEN, retry_at_ms=None)
    runs = [first, *(entry.run for entry in state.pending)]
    waiting = [run for run in runs if run is not None and not run.in_flight and not run.is_settled and run.attempt > 0]
    return sorted(waiting, key=lambda run: run.started_at_ms or 0, reverse=True)


def _in_flight(claim_key: str, stored: StoredJob) -> list[Run]:
    """Return the run that a node executes now. The claim counts as the start of a first attempt."""
    job, state, lease = stored.snapshot.job, stored.snapshot.state, stored.snapshot.lease
    if state is None or lease is None or stored.fault is not None:
        return []
    run: Run | None = None
    if state.open is not None and state.open.in_flight:
        run = state.open
    elif job is not None:
        planned = plan_claim(
            job,
            state,
            lease,
            downtimes=stored.downtimes,
            store_id=stored.store_id,
            pauses=stored.snapshot.pauses,
        )
        run = planned.run if isinstance(planned, Work) and not is_spawned(planned) else None
    if run is None:
        return []
    if not run.url and job is not None:
        # Only the planned request of an open attempt is known; for a named target, not even that.
        method, url = ("", "") if job.target_id is not None else ("POST", job.url)
        if job.request is not None and url:
            method, url = job.request.method or method, with_query(url, job.request.query)
        run = msgspec.structs.replace(run, url=url, method=method)
    started_at_ms = run.started_at_ms if run.started_at_ms is not None else lease.first_claimed_at_ms
    return [msgspec.structs.replace(run, state=RunState.OPEN, started_at_ms=started_at_ms)]
