"""Counters and histograms for events that occur at every fire.

Not prometheus_client's own, which take a lock, look up labels and walk over all buckets each time: four of them were an
eighth of the cost of a fire. These are a dictionary and a list, for one thread. A scrape converts them to
prometheus_client's families.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class FastCounter(Collector):
    """A counter with labels. Its name is given without ``_total``, which a scrape adds."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}
        registry.register(self)

    def add(self, *labels: str) -> None:
        """Add one to the counter with these label values."""
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def start(self, *labels: str) -> None:
        """Show the counter with these label values from the beginning, with 0: Prometheus does not see the increase of
        a series that begins with 1."""
        self._counts.setdefault(labels, 0)

    def add_many(self, count: int, *labels: str) -> None:
        """Add ``count`` to the counter with these label values."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def counts(self) -> dict[tuple[str, ...], int]:
        """Return the counts by label values."""
        return dict(self._counts)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count)
        yield family


class FastHistogram(Collector):
    """A histogram without labels. ``bounds`` are the upper ends of its buckets, rising."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """Count ``value`` in its bucket."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def counts(self) -> dict[float, int]:
        """Return the counts of the buckets, by their upper ends; the last one is infinite."""
        return dict(zip((*self._bounds, float("inf")), self._counts, strict=True))

    def collect(self) -> Iterable[Metric]:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], buckets, self._sum)
        yield family
