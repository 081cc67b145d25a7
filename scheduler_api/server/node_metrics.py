"""The metrics of several node processes as those of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client import Metric
from prometheus_client.registry import Collector

SMALLEST = frozenset({"process_start_time_seconds", "process_max_fds"})
LARGEST = frozenset({"process_open_fds"})
"""Of the start the first, and of file descriptors those of the process that comes closest to its limit: each process
has a limit of its own. CPU time and memory add up."""

Sample = tuple[str, dict[str, str], float]
"""Name, labels, value."""


class Family(msgspec.Struct, array_like=True, frozen=True):
    """One metric with all its series."""

    name: str
    type: str
    meaning: str
    samples: list[Sample]


def families_of(registry: Collector) -> list[Family]:
    """All metrics of a registry as they are now."""
    return [
        Family(one.name, one.type, one.documentation, [(s.name, dict(s.labels), s.value) for s in one.samples])
        for one in registry.collect()
    ]


def merge_families(groups: Iterable[Iterable[Family]], *, counters_only: bool = False) -> list[Family]:
    """Metrics of several processes as one: counters, histograms and gauges add up.

    The exceptions are those of which a sum would say nothing (``_combine``). ``counters_only`` leaves gauges out: what
    a process that is gone has counted stays counted, and nothing of it is open any more.
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
    """Metrics of several processes, for an encoder of ``prometheus_client``."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """As a registry does."""
        for family in self._families:
            metric = Metric(family.name, family.meaning, family.type)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric
