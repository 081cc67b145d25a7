"""Computes the success rate and the durations of the kept runs of a job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from scheduler_core.model.health import FAILED
from scheduler_core.model.run import Run, RunState

PERCENTILES = (50, 95, 99)

T = TypeVar("T", int, float)


class RunStatistics(msgspec.Struct, frozen=True):
    """Facts about a number of settled runs."""

    runs: int
    """All of them, those that were cancelled or superseded included."""
    succeeded: int
    failed: int
    begins_ms: int | None
    """The fire time of the oldest; None: no runs."""
    durations_ms: dict[int, int]
    """From the start of the first attempt to the end of the run: the percentiles of the runs that succeeded; empty if
    none did."""
    longest_ms: int | None

    @property
    def success_rate(self) -> float | None:
        """The part of the runs that succeeded, among those that succeeded or failed; None: no such run."""
        judged = self.succeeded + self.failed
        return self.succeeded / judged if judged else None


def statistics_of(runs: Sequence[Run]) -> RunStatistics:
    """Return the statistics of these settled runs."""
    succeeded = [run for run in runs if run.state is RunState.SUCCEEDED]
    durations = sorted(
        run.ended_at_ms - run.started_at_ms
        for run in succeeded
        if run.ended_at_ms is not None and run.started_at_ms is not None
    )
    return RunStatistics(
        runs=len(runs),
        succeeded=len(succeeded),
        failed=sum(run.state in FAILED for run in runs),
        begins_ms=min((run.fire_time_ms for run in runs), default=None),
        durations_ms={percent: percentile(durations, percent) for percent in PERCENTILES} if durations else {},
        longest_ms=durations[-1] if durations else None,
    )


def mean_run_ms(runs: Sequence[Run]) -> float | None:
    """Return the mean duration of the runs that succeeded; None: none succeeded."""
    durations = [
        run.ended_at_ms - run.started_at_ms
        for run in runs
        if run.state is RunState.SUCCEEDED and run.ended_at_ms is not None and run.started_at_ms is not None
    ]
    return sum(durations) / len(durations) if durations else None


def percentile(ordered: Sequence[T], percent: int) -> T:
    """Return the nearest-rank percentile of rising numbers: the least of them that ``percent`` % do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
