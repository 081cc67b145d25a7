"""Adds up the metrics of several processes.

Own code, because the multiprocess mode of ``prometheus_client`` needs a directory of files that each update writes to,
and supports no collectors of our own, such as those of ``scheduler_core.base.fast_metrics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client import Metric
from prometheus_client.registry import Collector

SMALLEST = frozenset({"process_start_time_seconds", "process_max_fds"})
LARGEST = frozenset(
    {
        "process_open_fds",
        "cronpost_store_round_trip_seconds",
        "cronpost_store_memory_bytes",
        "cronpost_store_memory_limit_bytes",
        "cronpost_history_limit_runs",
        "cronpost_history_limit_bytes",
    }
)
"""The earliest start, and the most open and the fewest allowed file descriptors, as each process has its own limit. CPU
time and memory are added up. All processes use the same Redis and the same limits of the history."""

Sample = tuple[str, dict[str, str], float]
"""Name, labels, value."""


class Family(msgspec.Struct, array_like=True, frozen=True):
    """One metric with all its series."""

    name: str
    type: str
    meaning: str
    samples: list[Sample]


def families_of(registry: Collector) -> list[Family]:
    """Read all metrics of a registry."""
    return [
        Family(one.name, one.type, one.documentation, [(s.name, dict(s.labels), s.value) for s in one.samples])
        for one in registry.collect()
    ]


def merge_families(groups: Iterable[Iterable[Family]], *, counters_only: bool = False) -> list[Family]:
    """Add up counters, histograms and gauges of several processes.

    Metrics whose sum has no meaning are the exceptions (``_combine``). ``counters_only`` leaves gauges out: for a
    process that has ended, whose counts remain and whose gauges no longer apply.
    """
    merged: dict[str, tuple[Family, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
    for families in groups:
        for family in families:
            if counters_only and family.type not in {"counter", "histogram"}:
                continue
            _, values = merged.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                key = (name, tuple(sorted(labels.items())))
                before = values.get(key)
                values[key] = value if before is None else _combine(name, before, value)
    return [
        Family(
            family.name, family.type, family.meaning, [(name, dict(labels), v) for (name, labels), v in values.items()]
        )
        for family, values in merged.values()
    ]


def _combine(name: str, one: float, other: float) -> float:
    if name in SMALLEST:
        return min(one, other)
    if name in LARGEST or name.endswith(("_offset_seconds", "_jump_seconds", "_state")):
        return max(one, other, key=abs)
    return one + other


class MergedMetrics(Collector):
    """The metrics of several processes, for an encoder of ``prometheus_client``."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        for family in self._families:
            metric = Metric(family.name, family.meaning, family.type)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric
