"""Computes numbers from the requests that the sink received. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec


class Arrival(msgspec.Struct, frozen=True):
    """One request at the sink."""

    arrived_ns: int
    """When its last segment arrived at the socket of the sink."""
    fire_ms: int
    job: str
    read_ns: int = 0
    """When the sink read it."""

    @property
    def lateness_ms(self) -> float:
        return self.arrived_ns / 1e6 - self.fire_ms


class Fires(msgspec.Struct, kw_only=True):
    """How a set of fire times was delivered."""

    expected: int
    delivered: int
    """Fire times that arrived at least once."""
    duplicates: int
    """Requests after the first for the same fire time."""
    early: int
    """Requests that arrived before their fire time."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    read_p99_ms: float | None = None
    """The p99 of the instants at which the sink read the requests; its own queue is in it."""


def parse_arrivals(text: bytes) -> list[Arrival]:
    """Parse the sink's list of requests."""
    arrivals = []
    for line in text.decode().splitlines():
        arrived_ns, read_ns, fire_ms, job = line.split(" ", 3)
        arrivals.append(Arrival(int(arrived_ns), int(fire_ms), job, int(read_ns)))
    return arrivals


def judge(arrivals: Iterable[Arrival], *, from_ms: int, until_ms: int, expected: int) -> Fires:
    """Judge the fire times in ``[from_ms, until_ms)``. The lateness of a fire time is that of its first request."""
    first: dict[tuple[str, int], float] = {}
    read: list[float] = []
    duplicates = early = 0
    for arrival in arrivals:
        if not from_ms <= arrival.fire_ms < until_ms:
            continue
        lateness = arrival.lateness_ms
        if arrival.read_ns:
            read.append(arrival.read_ns / 1e6 - arrival.fire_ms)
        early += lateness < 0
        key = (arrival.job, arrival.fire_ms)
        if key in first:
            duplicates += 1
            first[key] = min(first[key], lateness)
        else:
            first[key] = lateness
    ordered = sorted(first.values())
    return Fires(
        expected=expected,
        delivered=len(ordered),
        duplicates=duplicates,
        early=early,
        p50_ms=quantile(ordered, 0.5),
        p99_ms=quantile(ordered, 0.99),
        max_ms=quantile(ordered, 1.0),
        read_p99_ms=quantile(sorted(read), 0.99) if read else None,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed (nearest rank); NaN if there is none."""
    if not ordered:
        return float("nan")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the least value, the median and the greatest."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return (float("nan"),) * 3
    return min(known), statistics.median(known), max(known)
