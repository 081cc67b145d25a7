"""Reads what the health of a job needs beyond its own documents: the latest runs in its history, and its child runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import JobNotFound
from scheduler_core.base.health_metrics import JobSample
from scheduler_core.model.health import HealthRules
from scheduler_core.model.job_state import Failures
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Run
from scheduler_core.plan.failures import failures_in
from scheduler_core.plan.run_statistics import RunStatistics, mean_run_ms, statistics_of
from scheduler_core.store.jobs import JobStore
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.job_reads import ChildFacts, JobView, exists, view_of

STATISTICS_RUNS = 1_000
"""Statistics cover at most this many of the latest entries of a job's history."""
RUNS_EXAMINED = 100
"""For the failures in a row of a job with ``overlap: allow``, at most this many of its latest entries are read."""
RUNS_EXAMINED_IN_LISTS = 20
CHILDREN_READ = 100
SAMPLES_READ = 200
LABEL_VALUES = 50
"""A metric has at most this many values of a label for each health; further ones share ``OTHER``."""
OTHER = "(other)"


class HealthReport(msgspec.Struct, frozen=True):
    """The health of a job, and what its kept history shows."""

    view: JobView
    statistics: RunStatistics


async def read_health(store: JobStore, clock: Clock, job_id: str) -> HealthReport:
    """Return the health of a job with the statistics of its kept runs. Raises JobNotFound."""
    stored = await store.read(job_id)
    if not exists(stored):
        raise JobNotFound(job_id)
    view = view_of(job_id, stored, clock.now_ms())
    (runs,) = await store.latest_runs([job_id], limit=STATISTICS_RUNS)
    if overlaps(view):
        view = await _with_children(store, clock, view, runs[:RUNS_EXAMINED])
    return HealthReport(view, statistics_of(runs))


async def with_child_facts(store: JobStore, clock: Clock, view: JobView) -> JobView:
    """Return the view of a job with ``overlap: allow`` with what its history and its child runs say; any other view
    as it is."""
    if not overlaps(view):
        return view
    (runs,) = await store.latest_runs([view.id], limit=RUNS_EXAMINED)
    return await _with_children(store, clock, view, runs)


async def with_facts_of_lists(shards: Shards[ShardStore], views: Sequence[JobView]) -> list[JobView]:
    """Return the views of a list, those of jobs with ``overlap: allow`` with what their latest runs say. Their child
    runs are not read: a job of a list is not stuck because of one."""
    ids = [view.id for view in views if overlaps(view)]
    if not ids:
        return list(views)
    places = shards.places(ids)
    parts = await asyncio.gather(
        *(
            shards.all[shard].latest_runs([ids[place] for place in own], limit=RUNS_EXAMINED_IN_LISTS)
            for shard, own in places.items()
        )
    )
    counts = await asyncio.gather(
        *(shards.all[shard].failing([ids[place] for place in own]) for shard, own in places.items())
    )
    facts = {
        ids[place]: facts_of(runs, count=count)
        for own, part, their in zip(places.values(), parts, counts, strict=True)
        for place, runs, count in zip(own, part, their, strict=True)
    }
    return [replace(view, child_facts=facts[view.id]) if view.id in facts else view for view in views]


def overlaps(view: JobView) -> bool:
    """Return whether the runs of the job end beside it."""
    return view.job is not None and view.job.policies.overlap is Overlap.ALLOW


def facts_of(runs: Sequence[Run], children: Sequence[JobView] = (), *, count: int) -> ChildFacts:
    """Return what the latest runs of a job (newest first) and its child runs say. ``count``: the failures in a row as
    the index has them, which may be more than ``runs`` shows."""
    failures: Failures = failures_in(runs)
    if failures.count and count > failures.count:
        failures = replace(failures, count=count)
    return ChildFacts(failures, mean_run_ms(runs), tuple(children))


async def _with_children(store: JobStore, clock: Clock, view: JobView, runs: Sequence[Run]) -> JobView:
    claim_keys = await store.children(view.id, limit=CHILDREN_READ)
    now_ms = clock.now_ms()
    children = [
        view_of(claim_key, stored, now_ms)
        for claim_key, stored in zip(claim_keys, await store.read_many(claim_keys), strict=True)
        if exists(stored)
    ]
    (count,) = await store.failing([view.id])
    return replace(view, child_facts=facts_of(runs, children, count=count))


class HealthCounts(msgspec.Struct, array_like=True):
    """How many jobs are stuck, late or failing: by health, then by the value of a label (empty: none)."""

    at_ms: int
    by_health: dict[str, dict[str, int]]


def add_count(by_health: dict[str, dict[str, int]], health: str, value: str, count: int = 1) -> None:
    """Add ``count`` jobs with this health and label value; values beyond ``LABEL_VALUES`` share one."""
    values = by_health.setdefault(health, {})
    if value not in values and len(values) >= LABEL_VALUES:
        value = OTHER
    values[value] = values.get(value, 0) + count


async def read_counts(shards: Shards[ShardStore]) -> dict[str, dict[str, int]] | None:
    """Return how many jobs of all shards are unhealthy, as the latest pass of each counted them; None: there was no
    pass."""
    total: dict[str, dict[str, int]] = {}
    known = False
    for stored in await asyncio.gather(*(store.health_store().counts() for store in shards.all)):
        try:
            found = None if stored is None else msgspec.msgpack.decode(stored, type=HealthCounts)
        except msgspec.MsgspecError:
            continue
        if found is None:
            continue
        known = True
        for health, values in found.by_health.items():
            for value, count in values.items():
                add_count(total, health, value, count)
    return total if known else None


async def job_samples(shards: Shards[ShardStore], clock: Clock, rules: HealthRules, *, limit: int) -> list[JobSample]:
    """Return the values of the first ``limit`` jobs in the order of their ids."""
    samples: list[JobSample] = []
    cursor = ""
    while len(samples) < limit:
        wanted = min(SAMPLES_READ, limit - len(samples))
        ids = await shards.page_ids(after=cursor, prefix="", limit=wanted)
        now_ms = clock.now_ms()
        found = zip(ids, await shards.read_many(ids), strict=True)
        views = [view_of(job_id, stored, now_ms) for job_id, stored in found if exists(stored)]
        for view in await with_facts_of_lists(shards, views):
            failures = view.failures
            count = 0 if failures is None else failures.count
            samples.append(JobSample(view.id, view.health(rules).value, count, view.last_success_ms))
        if len(ids) < wanted:
            break
        cursor = ids[-1]
    return samples


def rules_of(settings: EngineSettings) -> HealthRules:
    """Return the rules of health under these settings."""
    return HealthRules(
        late_after_ms=round(settings.late_after_seconds * 1000),
        attempt_timeout_ms=round(settings.attempt_timeout_seconds * 1000),
    )
