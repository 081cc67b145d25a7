"""Finds jobs that become late or stuck without a write, and counts the unhealthy jobs for the metrics.

One node has the turn in each interval. It examines a bounded number of jobs and stores how far it came; the next turn,
of this node or another, continues from there. Only jobs that can be unhealthy are read: those that are due, claimed or
waiting for long, and those whose last run failed. A late run that is held back because of its target is found only if
its job is failing: the due set has its next try. Reading its job shows that it is late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.events import JOBS_HEALTH_CHANGED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.health import LATE_AFTER_MS, LEASE_MARGIN_MS, STUCK_AFTER_MS, Health, HealthRules
from scheduler_core.model.index import FAILING, index_entries
from scheduler_core.model.transition import next_wake_ms
from scheduler_core.node.loops.service import Service
from scheduler_core.store.claim_keys import CHILD, job_of_claim_key
from scheduler_core.store.health import Bounds, Source
from scheduler_core.store.shards import ShardStore
from scheduler_core.usecases.job_health import HealthCounts, add_count, overlaps, with_child_facts
from scheduler_core.usecases.job_reads import JobView, exists, view_of

log = get_logger(__name__)

PERIOD_SECONDS = 5.0
TURN_MS = 4_500
"""Shorter than the period of the loop, so that no turn is skipped."""
PAGE = 200
PAGES = 10
"""The maximum number of pages per turn."""
SHOWN = 20
FOUND = (Health.LATE, Health.STUCK)
"""What a pass looks for: all other changes of health come with the end of a run, which is a write."""


class HealthChange(msgspec.Struct, frozen=True):
    """A job that became late or stuck, or no longer is. Reported at least once."""

    job_id: str
    labels: Mapping[str, str]
    before: Health | None
    """None: neither late nor stuck when it was examined last."""
    after: Health
    at_ms: int


HealthChanged = Callable[[Sequence[HealthChange]], Awaitable[None]]
"""Receives the changes of one page, at most ``PAGE``."""


class _Progress(msgspec.Struct, array_like=True):
    """How far a pass came."""

    source: int = 0
    skip: int = 0
    counts: dict[str, dict[str, int]] = {}
    children: list[str] = []
    """Jobs that were counted because of a child run; a job is counted once."""


class HealthSweeper(Service):
    """Examines the jobs of a shard that can be late, stuck or failing."""

    name = "health"

    def __init__(
        self,
        store: ShardStore,
        clock: RedisClock,
        metrics: Metrics,
        rules: HealthRules,
        *,
        label: str | None = None,
        changed: HealthChanged | None = None,
    ) -> None:
        super().__init__(clock, metrics)
        self._store = store
        self._health = store.health_store()
        self._redis_clock = clock
        self._rules = rules
        self._label = label
        self.changed = changed
        """Called with the changes that a page shows; None: they are not needed."""

    async def run_once(self) -> None:
        # After a jump of the clock every job may look late.
        if not self._redis_clock.in_doubt:
            await self.sweep()
        await self.clock.sleep(PERIOD_SECONDS)

    async def sweep(self) -> bool:
        """Take the turn, if it is free, and examine up to ``PAGES`` pages; return whether a pass is complete."""
        stored = await self._health.take_turn(now_ms=self.clock.now_ms(), interval_ms=TURN_MS)
        if stored is None:
            return False
        progress = _read_progress(stored)
        for _ in range(PAGES):
            await self._examine_page(progress)
            if progress.source == len(Source):
                counts = HealthCounts(self.clock.now_ms(), progress.counts)
                await self._health.keep(b"", msgspec.msgpack.encode(counts))
                return True
        await self._health.keep(msgspec.msgpack.encode(progress), None)
        return False

    async def _examine_page(self, progress: _Progress) -> None:
        source = Source(progress.source)
        now_ms = self.clock.now_ms()
        bounds = Bounds(
            due_ms=now_ms - max(LATE_AFTER_MS, self._rules.late_after_ms) - 1,
            claimed_ms=now_ms - LEASE_MARGIN_MS,
            waiting_ms=now_ms - STUCK_AFTER_MS,
        )
        claim_keys = await self._health.candidates(source, bounds, skip=progress.skip, limit=PAGE)
        left = await self._examine(source, [one for one in claim_keys if one], progress, now_ms)
        if len(claim_keys) < PAGE:
            progress.source, progress.skip = progress.source + 1, 0
        else:
            progress.skip += PAGE - left

    async def _examine(self, source: Source, claim_keys: Sequence[str], progress: _Progress, now_ms: int) -> int:
        """Count and report these jobs; return how many of them left the source."""
        if not claim_keys:
            return 0
        stored = await self._store.read_many(claim_keys)
        views = {
            claim_key: view_of(claim_key, one, now_ms)
            for claim_key, one in zip(claim_keys, stored, strict=True)
            if exists(one)
        }
        if source is Source.FAILING:
            return await self._examine_failing(claim_keys, views, progress, now_ms)
        if source in (Source.LATE, Source.STUCK):
            return await self._examine_known(Health[source.name], claim_keys, views, now_ms)
        found: dict[str, tuple[JobView, Health]] = {}
        for claim_key, view in views.items():
            health = view.health(self._rules)
            held = view.lease is not None and view.lease.node != "-"
            wanted = health is Health.LATE if source is Source.DUE else health is Health.STUCK
            if not wanted or (source is Source.WAITING and held):
                continue
            job_id = job_of_claim_key(claim_key)
            if CHILD not in claim_key or job_id not in progress.children:
                self._count(health, view, progress)
            if CHILD in claim_key and job_id not in progress.children and len(progress.children) < PAGE:
                progress.children.append(job_id)
            found[job_id] = view, health
        await self._report(found, now_ms)
        return 0

    async def _examine_failing(
        self, job_ids: Sequence[str], views: Mapping[str, JobView], progress: _Progress, now_ms: int
    ) -> int:
        """Count the failing jobs, and remove those that are not: a child run of a deleted job may have added it."""
        gone: list[str] = []
        held_back: dict[str, tuple[JobView, Health]] = {}
        for job_id in job_ids:
            view = views.get(job_id)
            if view is None or (not overlaps(view) and FAILING not in index_entries(view.job, view.state)):
                gone.append(job_id)
                continue
            health = view.health(self._rules)
            if health not in FOUND:
                # The state of a job with overlap allow does not know the failures of its child runs.
                self._count(Health.FAILING if overlaps(view) else health, view, progress)
            elif health is Health.LATE and (next_wake_ms(view.state) or 0) >= now_ms - LATE_AFTER_MS:
                self._count(health, view, progress)  # its next try lies ahead, so it is not among the due ones
                held_back[job_id] = view, health
        await self._report(held_back, now_ms)
        await self._health.not_failing(gone)
        return len(gone)

    async def _examine_known(
        self, was: Health, job_ids: Sequence[str], views: Mapping[str, JobView], now_ms: int
    ) -> int:
        """Report the jobs that are no longer late or stuck, as they were; return how many."""
        changes: list[HealthChange] = []
        now: dict[str, Health | None] = {}
        for job_id in job_ids:
            view = views.get(job_id)
            if view is None:
                now[job_id] = None  # deleted
                continue
            health = (await with_child_facts(self._store, self.clock, view)).health(self._rules)
            if health is not was:
                now[job_id] = health if health in FOUND else None
                changes.append(HealthChange(job_id, _labels(view), was, health, now_ms))
        await self._tell(changes)
        await self._health.remember(now, now_ms=now_ms)
        return len(now)

    async def _report(self, found: Mapping[str, tuple[JobView, Health]], now_ms: int) -> None:
        """Report the jobs that an earlier pass did not find in this health, as far as they can be remembered."""
        before = dict(zip(found, await self._health.known(list(found)), strict=True))
        new = {job_id: one for job_id, one in found.items() if before[job_id] is not one[1]}
        changes: list[HealthChange] = []
        for health in FOUND:
            ids = [job_id for job_id, (_, now) in new.items() if now is health]
            room = await self._health.room(health) if ids else 0
            changes += [
                HealthChange(job_id, _labels(new[job_id][0]), before[job_id], health, now_ms)
                for job_id in ids[: max(0, room)]
            ]
        await self._tell(changes)
        await self._health.remember({one.job_id: one.after for one in changes}, now_ms=now_ms)

    async def _tell(self, changes: Sequence[HealthChange]) -> None:
        if not changes:
            return
        for health in dict.fromkeys(one.after for one in changes):
            ids = [one.job_id for one in changes if one.after is health]
            log.info(JOBS_HEALTH_CHANGED, health=health.value, count=len(ids), jobs=ids[:SHOWN])
        if self.changed is not None:
            await self.changed(changes)

    def _count(self, health: Health, view: JobView, progress: _Progress) -> None:
        if health in (Health.OK, Health.UNKNOWN):
            return
        value = "" if self._label is None else _labels(view).get(self._label, "")
        add_count(progress.counts, health.value, value)


def _labels(view: JobView) -> Mapping[str, str]:
    return {} if view.job is None else view.job.labels


def _read_progress(stored: bytes) -> _Progress:
    """Decode the progress of a pass. One that cannot be read, or that another version wrote, begins again."""
    if not stored:
        return _Progress()
    try:
        progress = msgspec.msgpack.decode(stored, type=_Progress)
    except msgspec.MsgspecError:
        return _Progress()
    return progress if 0 <= progress.source < len(Source) else _Progress()
