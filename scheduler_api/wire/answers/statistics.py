"""What nodes counted, in the buckets of a chart, as the API answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from scheduler_api.wire.fields import Described, Instant
from scheduler_core.base.instants import rfc3339

if TYPE_CHECKING:
    from scheduler_core.usecases.statistics import Bucket, Histogram
    from scheduler_core.usecases.statistics import Statistics as Read


class Lateness(Described):
    """How late runs started, from a histogram. A quantile is estimated within its bucket; beyond the last bound it is
    that bound: the true one is at least that."""

    count: Annotated[int, Meta(description="How many runs were measured.")]
    p50_ms: float
    p95_ms: float
    p99_ms: float
    counts: Annotated[
        list[int],
        Meta(description="Runs in each bucket of `lateness_bounds_ms`; one more for those beyond the last bound."),
    ]


class StatisticsCounts(Described):
    """What all nodes counted."""

    runs: Annotated[
        dict[str, int], Meta(description="Settled runs of jobs, schedules and one-off tasks by state. 0 is left out.")
    ]
    misses: Annotated[dict[str, int], Meta(description="Missed fire times by reason. 0 is left out.")]
    lateness: Annotated[
        Lateness | None, Meta(description="Of scheduled runs of jobs and schedules; null: none started.")
    ]
    task_lateness: Annotated[Lateness | None, Meta(description="Of the first calls of one-off tasks; null: none.")]
    nodes: Annotated[int, Meta(description="The most nodes that reported one minute.")]
    missing_minutes: Annotated[
        int,
        Meta(description="Minutes that are over and that no node reported: a gap. No node was alive, or it died."),
    ]


class StatisticsBucket(StatisticsCounts):
    """What all nodes counted from one instant to the next."""

    start: Instant
    complete: Annotated[bool, Meta(description="False: it is not over, or nodes have not written all of it yet.")]


class Statistics(Described):
    """Outcomes, misses and lateness over time."""

    start: Annotated[Instant, Meta(description="The start of the first bucket: `from`, rounded down to a step.")]
    end: Annotated[Instant, Meta(description="The end of the last bucket.")]
    step_seconds: int
    lateness_bounds_ms: Annotated[list[float], Meta(description="The upper bounds of the histograms' buckets.")]
    total: StatisticsCounts
    buckets: list[StatisticsBucket]


def show_statistics(read: Read) -> Statistics:
    """Show the counts of a span."""
    bounds = [bound for bound in read.bounds() if bound != float("inf")]
    span = read.span
    shown = []
    for start_ms, bucket in zip(span.starts, read.buckets, strict=True):
        end_ms = start_ms + span.step_ms
        runs, misses, lateness, task_lateness, nodes, missing = _counts(
            bucket, bounds, read.missing_minutes(start_ms, end_ms, bucket)
        )
        shown.append(
            StatisticsBucket(
                runs=runs,
                misses=misses,
                lateness=lateness,
                task_lateness=task_lateness,
                nodes=nodes,
                missing_minutes=missing,
                start=rfc3339(start_ms),
                complete=end_ms <= read.written_until_ms,
            )
        )
    missing = sum(one.missing_minutes for one in shown)
    total = StatisticsCounts(*_counts(read.total, bounds, missing))
    return Statistics(rfc3339(span.from_ms), rfc3339(span.to_ms), span.step_ms // 1000, bounds, total, shown)


def _counts(
    bucket: Bucket, bounds: list[float], missing: int
) -> tuple[dict[str, int], dict[str, int], Lateness | None, Lateness | None, int, int]:
    return (
        bucket.runs,
        bucket.misses,
        _lateness(bucket.lateness, bounds),
        _lateness(bucket.task_lateness, bounds),
        bucket.nodes,
        missing,
    )


def _lateness(histogram: Histogram, bounds: list[float]) -> Lateness | None:
    if not histogram.count:
        return None
    p50, p95, p99 = (round(histogram.quantile(part) or 0.0, 3) for part in (0.5, 0.95, 0.99))
    return Lateness(
        histogram.count, p50, p95, p99, [histogram.counts.get(bound, 0) for bound in (*bounds, float("inf"))]
    )
