"""Reads the counts that nodes wrote for each minute, and adds them up to the buckets of a chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.metrics import LATENESS_BUCKETS
from scheduler_core.model.statistics import LATENESS, MINUTE_MS, MISSES, NODES, RUNS, TASK_LATENESS, bound_ms
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.store.statistics import KEPT_DAYS

HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
MOST_BUCKETS = 300
STEPS_MS = (MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)
"""The steps that are chosen if none is given: the first that makes at most ``MOST_BUCKETS`` buckets."""
DEFAULT_MS = HOUR_MS
WRITTEN_AFTER_MS = 20_000
"""Nodes have written a minute this long after its end (``node.loops.statistics``), unless Redis refuses."""
HOURS_AT_ONCE = 4
"""Hours in one round trip. Decoding them takes less than a millisecond, and fires of the same process wait for it."""


NO_COUNTS: dict[float, int] = {1000.0 * bound: 0 for bound in (*LATENESS_BUCKETS, float("inf"))}
"""The buckets of this version. Nodes of another one may report others."""


class Histogram:
    """Counts of values by the upper bounds of their buckets."""

    __slots__ = ("count", "counts")

    def __init__(self) -> None:
        self.count = 0
        self.counts = NO_COUNTS.copy()

    def add(self, bound: float, count: int) -> None:
        """Add values to the bucket that ends with ``bound``."""
        self.count += count
        self.counts[bound] = self.counts.get(bound, 0) + count

    def quantile(self, part: float) -> float | None:
        """Return an estimate of a quantile; None: no values.

        Values count as spread evenly over their bucket. In the bucket without an upper bound, the answer is its lower
        bound: the quantile is at least that.
        """
        wanted, passed, low = part * self.count, 0, 0.0
        for bound in sorted(self.counts):
            count = self.counts[bound]
            if count and passed + count >= wanted:
                if bound == float("inf"):
                    return low
                return low + (bound - low) * max(0.0, wanted - passed) / count
            passed, low = passed + count, bound
        return None


class Bucket:
    """What all nodes counted in a span of time."""

    __slots__ = ("lateness", "minutes", "misses", "nodes", "runs", "task_lateness")

    def __init__(self) -> None:
        self.minutes = 0
        """How many minutes a node reported."""
        self.nodes = 0
        """The most nodes that reported one minute."""
        self.runs: dict[str, int] = {}
        self.misses: dict[str, int] = {}
        self.lateness = Histogram()
        self.task_lateness = Histogram()

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the counts of one minute."""
        for name, count in counts.items():
            kind, colon, rest = name.partition(":")
            kind += colon
            if kind == NODES:
                self.minutes += 1
                self.nodes = max(self.nodes, count)
            elif kind in (RUNS, MISSES):
                sums = self.runs if kind == RUNS else self.misses
                sums[rest] = sums.get(rest, 0) + count
            elif kind in (LATENESS, TASK_LATENESS):
                bound = bound_ms(rest)
                if bound is not None:
                    (self.lateness if kind == LATENESS else self.task_lateness).add(bound, count)


class Span(msgspec.Struct, frozen=True):
    """The buckets that a client asked for: of ``step_ms`` each, aligned to whole steps since the epoch."""

    from_ms: int
    to_ms: int
    step_ms: int

    @property
    def starts(self) -> range:
        return range(self.from_ms, self.to_ms, self.step_ms)


class Statistics(msgspec.Struct, frozen=True):
    """The counts of a span."""

    span: Span
    written_until_ms: int
    """Nodes have written all minutes before this instant."""
    buckets: list[Bucket]
    total: Bucket

    def bounds(self) -> list[float]:
        """Return the bounds of all buckets of the histograms in milliseconds, rising."""
        return sorted({*self.total.lateness.counts, *self.total.task_lateness.counts})

    def missing_minutes(self, start_ms: int, end_ms: int, bucket: Bucket) -> int:
        """Return how many minutes of a bucket no node reported, of those that must be written."""
        expected = (min(end_ms, self.written_until_ms) - start_ms) // MINUTE_MS
        return max(0, expected - bucket.minutes)


def span_of(*, from_ms: int | None, to_ms: int | None, step_ms: int | None, now_ms: int) -> Span:
    """Choose the buckets: by default the last hour in minutes. Raises InvalidInput."""
    end = now_ms if to_ms is None else min(to_ms, now_ms)
    start = end - DEFAULT_MS if from_ms is None else from_ms
    if start >= end:
        raise InvalidInput("from must be earlier than to, and not in the future", field="from")
    length = end - start
    if step_ms is None:
        step_ms = next((step for step in STEPS_MS if _buckets(start, end, step) <= MOST_BUCKETS), None)
    if step_ms is None or _buckets(start, end, step_ms) > MOST_BUCKETS:
        least = -(-length // (MOST_BUCKETS - 1) // MINUTE_MS) * MINUTE_MS // 1000
        raise InvalidInput(
            f"the span would have more than {MOST_BUCKETS} buckets: use step_seconds={least} or more, or a later from",
            field="step_seconds",
        )
    first = start // step_ms * step_ms
    return Span(first, first + _buckets(start, end, step_ms) * step_ms, step_ms)


def _buckets(start: int, end: int, step_ms: int) -> int:
    return -(-end // step_ms) - start // step_ms


async def read_statistics(shards: Shards[ShardStore], clock: Clock, span: Span) -> Statistics:
    """Read and add up the counts of a span. They are on the first shard."""
    now_ms = clock.now_ms()
    store = shards.lead.statistics_store()
    buckets = [Bucket() for _ in span.starts]
    total = Bucket()
    oldest_ms = max(span.from_ms, now_ms - KEPT_DAYS * DAY_MS - HOUR_MS)
    hours = range(oldest_ms // HOUR_MS, -(-span.to_ms // HOUR_MS))
    for first in range(0, len(hours), HOURS_AT_ONCE):
        part = hours[first : first + HOURS_AT_ONCE]
        for at_ms, counts in _in_span(part, await store.read(part), span):
            buckets[(at_ms - span.from_ms) // span.step_ms].add(counts)
            total.add(counts)
    return Statistics(span, (now_ms - WRITTEN_AFTER_MS) // MINUTE_MS * MINUTE_MS, buckets, total)


def _in_span(
    hours: range, read: list[dict[int, dict[str, int]]], span: Span
) -> Iterator[tuple[int, Mapping[str, int]]]:
    for hour, minutes in zip(hours, read, strict=True):
        for minute, counts in minutes.items():
            at_ms = hour * HOUR_MS + minute * MINUTE_MS
            if minute < 60 and span.from_ms <= at_ms < span.to_ms:
                yield at_ms, counts
