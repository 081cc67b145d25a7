"""Computes how the requests to a named target ended lately, over the jobs and schedules that use it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec

from scheduler_core.model.catalogue import Target
from scheduler_core.model.health import FAILED
from scheduler_core.model.index import target_index
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Run
from scheduler_core.model.status import error_type_of
from scheduler_core.plan.run_statistics import RunStatistics, percentile, statistics_of
from scheduler_core.store.find import Kind, Source
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.catalogue_steps import read_target

USERS_EXAMINED = 100
RUNS_EXAMINED = 1_000
LEAST_OF_EACH = 10
"""With many users, at most this many of the latest runs of each are read."""
FAILURES_SHOWN = 10


class Latencies(msgspec.Struct, frozen=True):
    """How long the last requests of the examined runs took that were answered, in milliseconds."""

    p50: float
    p95: float
    longest: float


class TargetStatistics(msgspec.Struct, frozen=True):
    """What the latest runs show about a target."""

    target: Target
    jobs: int
    """The jobs that use it, without schedules."""
    schedules: int
    users_examined: int
    runs: RunStatistics
    latency: Latencies | None
    errors: dict[str, int]
    """The runs that failed, by the kind of error of the last request."""
    failures: list[tuple[str, Run]]
    """The latest runs that failed with the ids of their jobs, newest first."""


class TargetStatisticsReader:
    """Reads the statistics of targets. Raises StoreUnavailable or StoreRefused if Redis fails."""

    def __init__(self, shards: Shards[ShardStore]) -> None:
        self._shards = shards
        self._catalogue = shards.lead.catalogue_store()
        self._finders = [(store, store.find_store()) for store in shards.all]

    async def read(self, target_id: int) -> TargetStatistics:
        """Return the statistics of a target.

        Reads at most ``RUNS_EXAMINED`` runs: the latest of the first ``USERS_EXAMINED`` jobs and schedules that use the
        target, in the order of their ids. Raises TargetNotFound.
        """
        target = (await read_target(self._catalogue, target_id)).target
        source = Source(Kind.INDEX, target_index(target_id))
        parts = await asyncio.gather(
            *(
                asyncio.gather(finder.sizes([source]), finder.page(source, after="", limit=USERS_EXAMINED))
                for _, finder in self._finders
            )
        )
        schedules = await self._catalogue.count_schedules(target_id)
        users = sum(sizes[0] for sizes, _ in parts)
        ids = sorted((job_id for _, page in parts for job_id in page), key=str.encode)[:USERS_EXAMINED]
        found = await self._latest(ids)
        runs = [run for _, run in found]
        failed = [(job_id, run) for job_id, run in found if run.state in FAILED]
        return TargetStatistics(
            target=target,
            jobs=max(0, users - schedules),
            schedules=schedules,
            users_examined=len(ids),
            runs=statistics_of(runs),
            latency=_latencies(runs),
            errors=dict(Counter(error_type_of(run) or "unknown" for _, run in failed).most_common()),
            failures=failed[:FAILURES_SHOWN],
        )

    async def _latest(self, ids: Sequence[str]) -> list[tuple[str, Run]]:
        """Return the latest runs of these jobs, newest first."""
        if not ids:
            return []
        limit = max(LEAST_OF_EACH, RUNS_EXAMINED // len(ids))
        places = self._shards.places(ids)
        parts = await asyncio.gather(
            *(
                self._shards.all[shard].latest_runs([ids[place] for place in own], limit=limit)
                for shard, own in places.items()
            )
        )
        found = [
            (ids[place], run)
            for own, part in zip(places.values(), parts, strict=True)
            for place, runs in zip(own, part, strict=True)
            for run in runs
        ]
        found.sort(key=lambda one: one[1].ended_at_ms or 0, reverse=True)
        return found[:RUNS_EXAMINED]


def _latencies(runs: Sequence[Run]) -> Latencies | None:
    answered = sorted(
        run.attempts[-1].latency_ms for run in runs if run.attempts and run.attempts[-1].outcome is OutcomeKind.RESPONSE
    )
    if not answered:
        return None
    return Latencies(percentile(answered, 50), percentile(answered, 95), answered[-1])
