"""The counts of one minute, as nodes store them and charts read them.

Counts are named, so that versions with other counts can add to the same minute and read it: a reader leaves out the
names that it does not know. The bounds of a histogram are in the names of its buckets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

NODES = "nodes"
"""How many nodes reported the minute."""
RUNS = "runs:"
"""Settled runs of jobs, schedules and one-off tasks, by state."""
MISSES = "misses:"
"""Missed fire times, by reason."""
LATENESS = "lateness:"
"""Scheduled runs of jobs and schedules, by the upper bound of their lateness in ms (``inf``: no bound)."""
TASK_LATENESS = "task_lateness:"
"""The same of one-off tasks."""

MINUTE_MS = 60_000

Counts: TypeAlias = Mapping[str, int]


class Minute(msgspec.Struct, frozen=True):
    """What one process counted in one minute."""

    number: int
    """The minute, counted from the epoch."""
    sequence: int
    """Numbers the minutes of the process, so that a minute that is sent again is not added twice."""
    counts: dict[str, int]


def bound_name(seconds: float) -> str:
    """Return the upper bound of a bucket as it is named: in ms, ``inf`` if it has none."""
    return f"{1000 * seconds:g}"


def bound_ms(name: str) -> float | None:
    """Return the bound that ``bound_name`` named; None: it is no number."""
    try:
        return float(name)
    except ValueError:
        return None


def added(one: Counts, other: Counts) -> dict[str, int]:
    """Return the sums of two sets of counts."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def grown(before: Counts, now: Counts) -> dict[str, int]:
    """Return by how much each count has grown, without those that have not."""
    return {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}
