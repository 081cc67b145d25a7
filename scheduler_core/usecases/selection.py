"""Selects jobs by labels, status, target and other conditions, page by page.

A page reads the jobs of the smallest source that contains every job it may return, and checks all conditions against
the stored jobs. So an index entry that is out of date never shows a wrong job. A page examines a bounded number of
jobs: it may be short or empty and still have a next page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.health import DEFAULT_RULES, Health, HealthRules
from scheduler_core.model.index import FAILING, PAUSED, label_index, target_index
from scheduler_core.model.job import Job, has_labels
from scheduler_core.model.kept_secrets import mask_password
from scheduler_core.model.policies import Overlap
from scheduler_core.model.transition import next_wake_ms
from scheduler_core.store.find import Kind, Source
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.job_health import with_facts_of_lists
from scheduler_core.usecases.job_orders import BATCH, Batch, JobOrders, Sort
from scheduler_core.usecases.job_reads import JobView, exists, view_of

EXAMINED = 500
"""A page with conditions examines at most this many jobs; it may be short, and its cursor continues there. They take
8 to 20 ms of CPU, in which the same process can be late for fires."""
FIRST_READ = 16
PAGE_BYTES = 8 << 20
"""A page reads at most this many bytes of payloads, even if it does not show them. With large payloads it is short."""
HELD_BACK_MS = 3_600_000
"""A late job that is held back wakes at its next try, which is closer than this."""
FAR_MS = 10**15 - 1
"""Later than every wake-up."""
_INDEXED = (Kind.INDEX, Kind.QUARANTINED)


class Selection(msgspec.Struct, frozen=True):
    """Conditions on jobs; a job must match all of them. Without any, it selects every job."""

    labels: tuple[tuple[str, str | None], ...] = ()
    """Keys, each with its value; None: any value."""
    prefix: str = ""
    status: str | None = None
    health: str | None = None
    target: str | None = None
    """The name of a target."""
    q: str = ""
    """Text in the id, the description or the URL, in upper or lower case."""
    next_fire_before_ms: int | None = None
    next_fire_after_ms: int | None = None
    everything: bool = False
    """The client asked for all jobs. Changes of many jobs require this or a condition."""

    @property
    def is_empty(self) -> bool:
        """Whether it has no condition."""
        return self == Selection(everything=self.everything)

    @property
    def indexed(self) -> list[str]:
        """The names of the conditions that have an index."""
        given = {"prefix": self.prefix, "status": self.status, "target": self.target}
        return ["label"] * len(self.labels) + [name for name, value in given.items() if value]


class SelectedPage(msgspec.Struct, frozen=True):
    """Part of a list. ``cursor``: where the next page begins; None at the end."""

    jobs: list[JobView]
    cursor: str | None
    examined: int = 0
    """How many jobs were looked at."""


async def page_of_selected(
    shards: Shards[ShardStore],
    clock: Clock,
    selection: Selection,
    *,
    sort: str = Sort.ID,
    cursor: str | None = None,
    limit: int = 100,
    rules: HealthRules = DEFAULT_RULES,
) -> SelectedPage:
    """Return the next jobs after ``cursor`` that match. ``rules``: those of health, if it is selected.

    Raises InvalidInput for an unknown target, a cursor of another order, and an order that is not possible with these
    conditions.
    """
    if sort != Sort.ID and len(selection.indexed) > 1:
        raise InvalidInput(
            f"sort={sort} goes with at most one of prefix, label, status and target, and this request has "
            f"{len(selection.indexed)} ({', '.join(selection.indexed)}): leave out all but one, or sort by id",
            field="sort",
        )
    conditions = Conditions(selection, await _target_id(shards, selection), clock.now_ms(), rules)
    source, entries = await _smallest(shards, conditions, sort)
    is_filtered = not selection.is_empty
    batches = JobOrders(shards, source, entries).batches(
        Sort(sort), cursor or "", first=BATCH if is_filtered else min(limit, BATCH)
    )
    found: list[JobView] = []
    examined = size = 0
    read_at_once = FIRST_READ
    async for batch in batches:
        at = 0
        while at < len(batch.ids):
            views = await _read(shards, batch, at, read_at_once, conditions.now_ms)
            if selection.health is not None:
                facts = iter(await with_facts_of_lists(shards, [view for view in views if view is not None]))
                views = [None if view is None else next(facts) for view in views]
            for place, view in enumerate(views, at):
                examined += 1
                if view is None:
                    continue
                size += 0 if view.job is None else len(view.job.payload)
                if conditions.match(view):
                    found.append(view)
                if len(found) >= limit:
                    return SelectedPage(found, batch.cursors[place], examined)
            at += len(views)
            if size >= PAGE_BYTES:
                return SelectedPage(found, batch.cursors[at - 1], examined)
            read_at_once = min(BATCH, max(1, (PAGE_BYTES - size) // max(1, size // examined)))
        examined += batch.places - len(batch.ids)
        if examined >= EXAMINED and is_filtered:
            return SelectedPage(found, batch.cursor, examined)
    return SelectedPage(found, None, examined)


async def page_of_ids(shards: Shards[ShardStore], clock: Clock, ids: Sequence[str]) -> SelectedPage:
    """Return these jobs as one page, in the order of the bytes of their ids; those that are not stored are left out."""
    wanted = sorted(set(ids), key=str.encode)
    stored = await shards.read_many(wanted)
    now_ms = clock.now_ms()
    found = zip(wanted, stored, strict=True)
    return SelectedPage([view_of(job_id, one, now_ms) for job_id, one in found if exists(one)], None, len(wanted))


async def _read(shards: Shards[ShardStore], batch: Batch, first: int, count: int, now_ms: int) -> list[JobView | None]:
    """Read jobs of a batch; None for a job that was deleted, or whose last run is another than the batch's."""
    ids = batch.ids[first : first + count]
    stored = await shards.read_many(ids)
    views = [view_of(job_id, one, now_ms) if exists(one) else None for job_id, one in zip(ids, stored, strict=True)]
    if not batch.runs:
        return views
    last = [None if view is None or view.state.last is None else view.state.last.id for view in views]
    overlapping = [job_id for job_id, view in zip(ids, views, strict=True) if view is not None and _overlaps(view.job)]
    latest: dict[str, str | None] = {}
    for shard, places in shards.places(overlapping).items():
        own = [overlapping[place] for place in places]
        latest |= zip(own, await shards.all[shard].find_store().latest_runs(own), strict=True)
    return [
        view if latest.get(job_id, run) == batch.runs[place] else None
        for place, (job_id, view, run) in enumerate(zip(ids, views, last, strict=True), first)
    ]


class Conditions:
    """A selection at one moment: which jobs match, and which sources contain them all."""

    def __init__(
        self, selection: Selection, target_id: int | None, now_ms: int, rules: HealthRules = DEFAULT_RULES
    ) -> None:
        self._wanted = selection
        self._rules = rules
        self._target_id = target_id
        self._text = selection.q.casefold()
        self.now_ms = now_ms

    def match(self, view: JobView) -> bool:
        """Return whether the job as it is stored matches every condition."""
        wanted, job = self._wanted, view.job
        if wanted.prefix and not view.id.startswith(wanted.prefix):
            return False
        if wanted.labels and not has_labels(job, wanted.labels):
            return False
        if wanted.status is not None and view.status != wanted.status:
            return False
        if self._target_id is not None and (job is None or job.target_id != self._target_id):
            return False
        if self._text and self._text not in _text_of(view):
            return False
        if wanted.health is not None and view.health(self._rules) != wanted.health:
            return False
        return self._wakes_in_time(view)

    def _wakes_in_time(self, view: JobView) -> bool:
        before_ms, after_ms = self._wanted.next_fire_before_ms, self._wanted.next_fire_after_ms
        if before_ms is None and after_ms is None:
            return True
        is_claimed = view.lease is not None and view.lease.node != "-"
        wake_ms = None if is_claimed or view.fault is not None else next_wake_ms(view.state)
        if wake_ms is None:
            return False
        return (before_ms is None or wake_ms < before_ms) and (after_ms is None or wake_ms > after_ms)

    def sources(self) -> list[Source]:
        """Return sources that each contain every job that matches; the last one contains all jobs."""
        wanted = self._wanted
        found = [Source(Kind.INDEX, label_index(*label), prefix=wanted.prefix) for label in wanted.labels]
        if self._target_id is not None:
            found.append(Source(Kind.INDEX, target_index(self._target_id), prefix=wanted.prefix))
        if wanted.status == "paused":
            found.append(Source(Kind.INDEX, PAUSED, prefix=wanted.prefix))
        elif wanted.status in ("retrying", "taken"):
            found.append(Source(Kind.WAITING, prefix=wanted.prefix, high_ms=self.now_ms))
        elif wanted.status in ("running", "completed", "quarantined"):
            found.append(Source(Kind(wanted.status), prefix=wanted.prefix))
        if wanted.health in (Health.FAILING, Health.NEVER_SUCCEEDED):
            found.append(Source(Kind.INDEX, FAILING, prefix=wanted.prefix))
        elif wanted.health == Health.STUCK:
            found.append(Source(Kind.UNSETTLED, prefix=wanted.prefix))
        elif wanted.health == Health.LATE:
            found.append(Source(Kind.WAKE, prefix=wanted.prefix, high_ms=self.now_ms + HELD_BACK_MS))
        if wanted.next_fire_before_ms is not None or wanted.next_fire_after_ms is not None:
            before_ms = FAR_MS if wanted.next_fire_before_ms is None else wanted.next_fire_before_ms
            found.append(
                Source(Kind.WAKE, prefix=wanted.prefix, low_ms=wanted.next_fire_after_ms or 0, high_ms=before_ms)
            )
        return [*found, Source(prefix=wanted.prefix)]


async def _smallest(shards: Shards[ShardStore], conditions: Conditions, sort: str) -> tuple[Source, int]:
    """Return the smallest source, and how many entries it has on all shards. While the index is not complete, it is not
    used."""
    sources = conditions.sources()
    finders = [store.find_store() for store in shards.all]
    uses_index = any(one.kind in _INDEXED for one in sources)
    if uses_index and not all(await asyncio.gather(*(one.is_indexed() for one in finders))):
        sources = [one for one in sources if one.kind not in _INDEXED]
    if len(sources) == 1 and (sort == Sort.ID or not sources[0].prefix):
        return sources[0], 0
    of_shards = await asyncio.gather(*(one.sizes(sources) for one in finders))
    sizes = [sum(one) for one in zip(*of_shards, strict=True)]
    smallest = min(range(len(sizes)), key=sizes.__getitem__)
    return sources[smallest], sizes[smallest]


async def _target_id(shards: Shards[ShardStore], selection: Selection) -> int | None:
    if selection.target is None:
        return None
    target_id = await shards.lead.catalogue_store().find_target(selection.target)
    if target_id is None:
        raise InvalidInput(
            f"no target has the name {selection.target[:255]!r}; GET /targets lists them", field="target"
        )
    return target_id


def _overlaps(job: Job | None) -> bool:
    return job is not None and job.overlap is Overlap.ALLOW


def _text_of(view: JobView) -> str:
    """Return the text that ``q`` is searched in. Passwords in the URL are left out."""
    if view.job is None:
        return view.id.casefold()
    return "\n".join((view.id, view.job.description, mask_password(view.job.url))).casefold()
