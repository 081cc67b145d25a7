"""Lists what needs a person: failed and quarantined jobs, entries set aside, stale tasks, refused settlements.

Nothing is stored for a healthy job. The list is read from sorted sets that the steps of jobs and tasks keep, a bounded
number of members for each page; the states of jobs and the documents of tasks decide what is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import (
    AttentionNotFound,
    JobNotFound,
    RunConflict,
    StoreError,
    StoreUnavailable,
    TaskNotFound,
)
from scheduler_core.base.events import FAILURE_DISMISSED, get_logger
from scheduler_core.model.attention import AttentionKind, AttentionReason, entries_set_aside
from scheduler_core.model.health import FAILED
from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import Run, RunState
from scheduler_core.model.task import task_id, task_number
from scheduler_core.model.transition import Transition
from scheduler_core.plan.dismiss import plan_dismiss
from scheduler_core.plan.failures import how_it_failed, reason_of
from scheduler_core.store.attention import AttentionCounts, SetAside, Source, Spot, decode_set_aside
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import PerShard, Shards, ShardStore
from scheduler_core.store.tasks import StoredTask, TaskStore
from scheduler_core.usecases.job_reads import exists, overlaps
from scheduler_core.usecases.jobs import JobService

log = get_logger(__name__)

MOST = 10_000
"""At most this many jobs, tasks and settlements are listed."""
EXAMINED = 2_000
"""A page examines at most this many members; it may be short or empty and still have a next page."""
READ_AT_ONCE = 100
PAGE_BYTES = 8 << 20
"""A page reads at most this many bytes of payloads, although it does not show them."""
RECORDS_LOOKED_AT = 100
"""The search for the latest failure among overlapping runs examines this many entries of the history."""
TRIES = 32
"""Maximum tries of a dismissal. A try fails when the task changes in between."""

SECTIONS = ((Source.SETTLEMENTS,), (Source.QUARANTINED,), (Source.TASKS, Source.JOBS))
"""The parts of the list: the worst first. In each the newest first; at the same instant, the last source first."""


class AttentionEntry(msgspec.Struct, frozen=True):
    """An entry of the list."""

    kind: AttentionKind
    job_id: str
    """The id of the job, or of the one-off task."""
    why: AttentionReason
    since_ms: int | None
    """None: unknown; an earlier version of Cronpost quarantined the job."""
    run_id: str | None = None
    """The run that failed last."""
    detail: str = ""
    labels: dict[str, str] = {}
    unreadable: bool = False
    """The stored job cannot be read, so it can only be put again or deleted."""

    @property
    def id(self) -> str:
        """The id under which it can be dismissed."""
        if self.kind is AttentionKind.PENDING:
            return f"{self.kind.value}:{self.run_id}:{self.job_id}"
        if self.kind is AttentionKind.SETTLEMENT:
            return f"{self.kind.value}:{self.run_id or '-'}:{self.job_id}"
        return f"{self.kind.value}:{self.job_id}"


class AttentionCursor(msgspec.Struct, frozen=True, array_like=True):
    """Where the next page begins."""

    listed: int
    """How many members the pages before it have listed."""
    section: int
    source: Source | None = None
    """With ``score`` and ``member``: the last member of the page before; None: the section begins."""
    score: int = 0
    member: bytes = b""
    shown: int = 0
    """How many entries of that member were shown; 0: all."""


class AttentionPage(msgspec.Struct, frozen=True):
    """A page of the list."""

    entries: list[AttentionEntry]
    cursor: AttentionCursor | None
    """None: this is the last page."""
    total: int
    """How many jobs, tasks and settlements need a person."""
    dropped: int
    """How many of them the list leaves out, because it ends after ``MOST``."""


class _Found(msgspec.Struct, frozen=True):
    """A member of a source on one shard."""

    shard: int
    source: Source
    spot: Spot


class AttentionService:
    """Lists and dismisses what needs a person. Raises StoreError as ``JobService`` does."""

    def __init__(self, shards: Shards[ShardStore], jobs: PerShard[JobService], tasks: TaskStore, clock: Clock) -> None:
        self._shards = shards
        self._stores = [one.attention_store() for one in shards.all]
        self._jobs = jobs
        self._tasks = tasks
        self._clock = clock

    async def counts(self) -> AttentionCounts:
        """Count what needs a person, over all shards."""
        found = await asyncio.gather(*(store.counts() for store in self._stores))
        return AttentionCounts(
            sum(one.settlements for one in found),
            sum(one.quarantined for one in found),
            sum(one.jobs for one in found),
            sum(one.tasks for one in found),
        )

    async def page(self, cursor: AttentionCursor | None, limit: int) -> AttentionPage:
        """Return the next entries: refused settlements, then quarantined jobs, then all others, each newest first.

        An entry that appears or is resolved between two pages may be left out; no other entry is, and none is shown
        twice unless it fails anew.
        """
        total = _total(await self.counts())
        dropped = max(0, total - MOST)
        at = AttentionCursor(0, 0) if cursor is None else cursor
        entries: list[AttentionEntry] = []
        examined = size = 0
        while examined < EXAMINED and size < PAGE_BYTES:
            found = await self._members(at, READ_AT_ONCE)
            if not found:
                if at.section + 1 == len(SECTIONS):
                    return AttentionPage(entries, None, total, dropped)
                at = AttentionCursor(at.listed, at.section + 1)
                continue
            examined += len(found)
            described, read = await self._described(found)
            size += read
            for one, its in zip(found, described, strict=True):
                again = at.shown if (at.source, at.member) == (one.source, one.spot.member) else 0
                left = its[again:]
                room = limit - len(entries)
                listed = at.listed + bool(its and not again)
                entries += left[:room]
                shown = again + room if len(left) > room else 0
                at = AttentionCursor(listed, at.section, one.source, one.spot.score, one.spot.member, shown)
                if len(entries) == limit or at.listed == MOST:
                    return AttentionPage(entries, at if at.listed < MOST or shown else None, total, dropped)
        return AttentionPage(entries, at, total, dropped)

    async def _members(self, at: AttentionCursor, limit: int) -> list[_Found]:
        """Return the next members of a section from all shards; first the member that still has entries."""
        sources = SECTIONS[at.section]
        reads = [
            (shard, source)
            for source in sources
            for shard in range(len(self._stores))
            if source is not Source.TASKS or shard == 0
        ]
        pages = await asyncio.gather(
            *(self._stores[shard].page(source, _before(at, source, sources), limit=limit) for shard, source in reads)
        )
        found = [
            _Found(shard, source, spot) for (shard, source), page in zip(reads, pages, strict=True) for spot in page
        ]
        found.sort(key=lambda one: (one.spot.score, sources.index(one.source), one.spot.member), reverse=True)
        return found[:limit]

    # ---- what is shown ------------------------------------------------------------------------------------------

    async def _described(self, found: Sequence[_Found]) -> tuple[list[list[AttentionEntry]], int]:
        """Return the entries of each member, and how many bytes of payloads were read.

        A member that needs no person any more has none.
        """
        described: list[list[AttentionEntry]] = [[] for _ in found]
        size = 0
        places = {place: one for place, one in enumerate(found) if one.source in (Source.JOBS, Source.QUARANTINED)}
        names = {place: one.spot.member.decode(errors="replace") for place, one in places.items()}
        stored = await self._shards.read_many(list(names.values())) if names else []
        for (place, job_id), job in zip(names.items(), stored, strict=True):
            size += 0 if job.snapshot.job is None else len(job.snapshot.job.payload)
            described[place] = await self._of_job(job_id, job, found[place])
        if found[0].source is Source.SETTLEMENTS:
            described = await self._of_settlements(found)
        tasks = [place for place, one in enumerate(found) if one.source is Source.TASKS]
        for place, its in zip(tasks, await self._of_tasks([found[place].spot for place in tasks]), strict=True):
            described[place] = its
        return await self._with_runs(described), size

    async def _of_job(self, job_id: str, stored: StoredJob, found: _Found) -> list[AttentionEntry]:
        entries = _of_state(job_id, stored, found.source)
        if entries or found.source is not Source.JOBS:
            return entries
        run = await self._latest_failure(found.shard, job_id) if overlaps(stored) else None
        if run is not None and stored.snapshot.job is not None:
            labels = stored.snapshot.job.labels
            return [
                AttentionEntry(AttentionKind.JOB, job_id, AttentionReason.FAILED, found.spot.score, run.id, "", labels)
            ]
        # The job is gone or resolved since. If it has failed again, the score is another one and nothing is removed.
        with contextlib.suppress(StoreError):
            await self._stores[found.shard].drop_job(job_id, found.spot.score)
        return []

    async def _latest_failure(self, shard: int, job_id: str) -> Run | None:
        for record in await self._shards.all[shard].history(job_id, limit=RECORDS_LOOKED_AT):
            if isinstance(record, Run) and record.state is RunState.SUCCEEDED:
                return None
            if isinstance(record, Run) and record.state in FAILED:
                return record
        return None

    async def _of_settlements(self, found: Sequence[_Found]) -> list[list[AttentionEntry]]:
        """Return the entries of settlements whose nodes still have the leases; remove the notes of others."""
        notes = [decode_set_aside(one.spot.member) for one in found]
        keys: dict[int, list[str]] = {}
        for one, note in zip(found, notes, strict=True):
            keys.setdefault(one.shard, []).append("" if note is None else note.claim_key)
        fences = {shard: iter(await self._stores[shard].fences_of(its)) for shard, its in keys.items()}
        described: list[list[AttentionEntry]] = []
        for one, note in zip(found, notes, strict=True):
            fence = next(fences[one.shard])
            if note is not None and fence == note.fence:
                described.append([_of_settlement(note, one.spot)])
                continue
            described.append([])
            with contextlib.suppress(StoreError):
                await self._stores[one.shard].drop_set_aside(one.spot.member)
        return described

    async def _of_tasks(self, spots: Sequence[Spot]) -> list[list[AttentionEntry]]:
        numbers = [int(spot.member) if spot.member.isdigit() else 0 for spot in spots]
        stale = await self._tasks.stale(numbers) if numbers else []
        return [[] if one is None else [_of_task(one)] for one in stale]

    async def _with_runs(self, described: list[list[AttentionEntry]]) -> list[list[AttentionEntry]]:
        """Add to the entries of failed jobs how their runs ended."""
        wanted: dict[int, list[str]] = {}
        for entry in (one for its in described for one in its):
            if entry.why is AttentionReason.FAILED and entry.run_id is not None:
                wanted.setdefault(self._shards.number_of(entry.job_id), []).append(entry.run_id)
        read = await asyncio.gather(*(self._shards.all[shard].settled_runs(ids) for shard, ids in wanted.items()))
        runs = {run_id: run for part in read for run_id, run in part.items()}
        return [[_with_run(one, runs) for one in its] for its in described]

    # ---- dismiss ------------------------------------------------------------------------------------------------

    async def dismiss(self, entry_id: str) -> bool:
        """Dismiss an entry, which comes back only with a newer failure; return whether it was listed.

        Raises AttentionNotFound, JobNotFound and TaskNotFound.
        """
        kind, _, rest = entry_id.partition(":")
        run_id, _, job_id = rest.partition(":")
        if kind == AttentionKind.JOB and rest:
            dismissed = await self._dismiss_job(rest, None)
        elif kind == AttentionKind.PENDING and job_id:
            dismissed = await self._dismiss_job(job_id, run_id)
        elif kind == AttentionKind.TASK and rest:
            dismissed = await self._dismiss_task(rest)
        elif kind == AttentionKind.SETTLEMENT and job_id:
            dismissed = await self._dismiss_settlement(entry_id, job_id)
        else:
            raise AttentionNotFound(entry_id)
        if dismissed:
            log.info(FAILURE_DISMISSED, entry=entry_id)
        return dismissed

    async def _dismiss_job(self, job_id: str, run_id: str | None) -> bool:
        def plan(stored: StoredJob, _now_ms: int) -> Transition | None:
            if not exists(stored):
                raise JobNotFound(job_id)
            if stored.fault is not None:
                raise RunConflict(f"the stored job cannot be read ({stored.fault}): put it again or delete it")
            return plan_dismiss(stored.snapshot, run_id, downtimes=stored.downtimes, store_id=stored.store_id)

        stored, step = await self._jobs.of(job_id).change(job_id, plan)
        if step is None and run_id is None and overlaps(stored):
            store = self._stores[self._shards.number_of(job_id)]
            since_ms = await store.job_since_ms(job_id)
            return since_ms is not None and await store.drop_job(job_id, since_ms)
        return step is not None

    async def _dismiss_task(self, public_id: str) -> bool:
        number = task_number(public_id)
        for _ in range(TRIES):
            stored = None if number is None else await self._tasks.read(number)
            if stored is None:
                raise TaskNotFound(public_id)
            result = await self._tasks.dismiss(stored, now_ms=self._clock.now_ms())
            if result == "missing":
                raise TaskNotFound(public_id)
            if result != "changed":
                return result == "ok"
        raise StoreUnavailable(f"{public_id} changes too often to be changed now; try again")

    async def _dismiss_settlement(self, entry_id: str, job_id: str) -> bool:
        store = self._stores[self._shards.number_of(job_id)]
        before: Spot | None = None
        while spots := await store.page(Source.SETTLEMENTS, before, limit=READ_AT_ONCE):
            for spot in spots:
                note = decode_set_aside(spot.member)
                if note is not None and _of_settlement(note, spot).id == entry_id:
                    return await store.drop_set_aside(spot.member)
            before = spots[-1]
        raise AttentionNotFound(entry_id)


def _total(counts: AttentionCounts) -> int:
    return counts.settlements + counts.quarantined + counts.jobs + counts.tasks


def _before(at: AttentionCursor, source: Source, sources: Sequence[Source]) -> Spot | None:
    """Return the spot below which a source continues."""
    if at.source is None:
        return None
    own, last = sources.index(source), sources.index(at.source)
    if own == last:
        # With entries left, read the member itself once more.
        return Spot(at.score, at.member + b"\0" if at.shown else at.member)
    return Spot(at.score, b"") if own > last else Spot(at.score + 1, b"")


def _of_state(job_id: str, stored: StoredJob, source: Source) -> list[AttentionEntry]:
    """Return the entries that the state of a job shows: of the job, then of its pending entries."""
    state, job = stored.snapshot.state or JobState(), stored.snapshot.job
    is_quarantined = stored.fault is not None or state.quarantine is not None
    if not exists(stored) or is_quarantined is not (source is Source.QUARANTINED):
        return []  # deleted, quarantined or resumed since; then another section has it
    labels = {} if job is None else job.labels
    failure = state.unresolved
    if failure is not None and failure.dismissed:
        of_job = None
    elif source is Source.QUARANTINED:
        since_ms, run_id = (None, None) if failure is None else (failure.at_ms, failure.run_id or None)
        why, unreadable = stored.fault or state.quarantine or "", stored.fault is not None
        of_job = AttentionEntry(
            AttentionKind.JOB, job_id, AttentionReason.QUARANTINED, since_ms, run_id, why, labels, unreadable
        )
    elif failure is not None:
        of_job = AttentionEntry(
            AttentionKind.JOB, job_id, AttentionReason.FAILED, failure.since_ms, failure.run_id or None, "", labels
        )
    else:
        of_job = None
    aside = [
        AttentionEntry(
            AttentionKind.PENDING,
            job_id,
            AttentionReason.SET_ASIDE,
            one.not_before_ms,
            one.run_id,
            one.failed or "",
            labels,
        )
        for one in entries_set_aside(state)
    ]
    return aside if of_job is None else [of_job, *aside]


def _of_settlement(note: SetAside, spot: Spot) -> AttentionEntry:
    job_id = job_of_claim_key(note.claim_key)
    return AttentionEntry(
        AttentionKind.SETTLEMENT, job_id, AttentionReason.NOT_STORED, spot.score, note.run_id or None, note.detail
    )


def _of_task(stored: StoredTask) -> AttentionEntry:
    run = None if stored.task is None else stored.task.run
    detail = stored.fault or ("" if run is None else how_it_failed(run))
    run_id = None if stored.task is None else stored.task.run_id
    return AttentionEntry(
        AttentionKind.TASK, task_id(stored.number), AttentionReason.STALE, stored.settled_at_ms, run_id, detail
    )


def _with_run(entry: AttentionEntry, runs: dict[str, Run]) -> AttentionEntry:
    run = runs.get(entry.run_id or "")
    if entry.why is not AttentionReason.FAILED:
        return entry
    if run is None:
        return msgspec.structs.replace(entry, detail="its record was trimmed")
    why = {RunState.LOST: AttentionReason.LOST, RunState.CONFLICT: AttentionReason.CONFLICT}.get(
        run.state, AttentionReason.FAILED
    )
    return msgspec.structs.replace(entry, why=why, detail=reason_of(run))
