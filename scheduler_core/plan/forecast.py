"""Forecasts how many jobs fire in each minute, from a sample of the stored triggers.

Only triggers count: not retries, requested runs, continuations and backfills. If a run lasts longer than the
interval of its job, fire times are missed; the forecast counts them too.

The sample is drawn without replacement, so each estimate is the mean of the sample times the number of jobs, and its
standard error is that of a finite population: 0 for a complete sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import sqrt

import msgspec

from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.urls import origin_of
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.transition import is_finished
from scheduler_core.plan.fire_times import BoundedTrigger, jitter_offset_ms
from scheduler_core.plan.spread import spread_expression, uses_hash_field
from scheduler_core.triggers.cron import CronTrigger
from scheduler_core.triggers.interval import LAST_INSTANT_MS
from scheduler_core.triggers.per_minute import MINUTE_MS, cron_per_minute, fires_in, interval_per_minute
from scheduler_core.triggers.trigger import (
    AtSpec,
    CronSpec,
    EverySpec,
    IntervalSpec,
    OnRequestSpec,
    Trigger,
    TriggerSpec,
    compile_trigger,
)

PEAKS = 5
PEAK_FACTOR = 1.5
"""A minute is a peak if it is this many times as far above the lowest minute as the mean of all minutes is."""
SHOWN = 5
"""Instants, targets and groups of a peak."""
EXAMPLES = 10
FAST_MS = 6_000
"""Intervals shorter than this have no instants in a peak: they fire evenly, and cannot be spread."""


Alike = tuple[int, str | None, str | None, int | None]
"""What the jobs of a group have in common: an instant, and an expression with its zone, or an interval."""


class ForecastJob(msgspec.Struct, frozen=True, array_like=True):
    """The fields of a job that the forecast uses."""

    id: str
    target: str
    """Scheme, host and port of its URL, or ``target <id>`` of a named target."""
    trigger: TriggerSpec
    from_ms: int = 0
    """It fires by itself from this instant on."""
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None
    jitter_ms: int = 0
    runs_left: int | None = None


class SpreadGroup(msgspec.Struct, frozen=True, array_like=True):
    """Jobs that fire at one instant of a peak with the same trigger, and that could be spread. Counts are estimates."""

    at_ms: int
    expression: str | None
    """None: an interval."""
    timezone: str | None
    every_ms: int | None
    jobs: float
    job_ids: list[str]
    suggestion: str | None
    """An expression with ``H`` that spreads them; None: use jitter."""


class Peak(msgspec.Struct, frozen=True, array_like=True):
    """A minute with many fire times. Counts are estimates."""

    at_ms: int
    fires: float
    error: float
    jobs: float
    instants: list[tuple[int, float]]
    """The seconds with the most fire times."""
    targets: list[tuple[str, float]]
    """The targets with the most requests, and their share of the minute."""
    groups: list[SpreadGroup]


class Forecast(msgspec.Struct, frozen=True, array_like=True):
    """Fire times in each minute."""

    start_ms: int
    fires: list[float]
    errors: list[float]
    total: float
    total_error: float
    jobs: int
    sampled: int
    firing: float
    """How many jobs fire at least once in the span."""
    unreadable: int
    """Jobs of the sample whose documents cannot be read: they count as jobs that do not fire."""
    peaks: list[Peak]


def forecast_job(job: Job, state: JobState) -> ForecastJob | None:
    """Return the fields of a job for the forecast; None: it does not fire by itself unless a client resumes it."""
    if state.deleted or state.quarantine is not None or is_finished(state) or isinstance(job.trigger, OnRequestSpec):
        return None
    policies, from_ms = job.policies, state.next_fire_ms
    if state.paused_at_ms is not None:
        if state.pause is None or state.pause.until_ms is None:
            return None
        from_ms = max(from_ms or 0, state.pause.until_ms)
    if from_ms is None:
        return None
    return ForecastJob(
        job.id,
        origin_of(job.url) if job.target_id is None else f"target {job.target_id}",
        job.trigger,
        from_ms,
        policies.starts_at_ms,
        policies.ends_at_ms,
        policies.jitter_ms,
        None if policies.max_runs is None else max(0, policies.max_runs - state.fired),
    )


class _Schedule:
    """The fire times of a job in the span, from ``low_ms`` on and before ``high_ms``."""

    def __init__(self, job: ForecastJob, start_ms: int, end_ms: int) -> None:
        self.job = job
        self.start_ms, self.end_ms = start_ms, end_ms
        self.compiled = compile_trigger(job.trigger, job.id)
        self.offset_ms = jitter_offset_ms(job.id, job.jitter_ms)
        low, high = start_ms, min(end_ms, LAST_INSTANT_MS)
        if job.from_ms > start_ms:
            # Usually its first fire time after the start, and then no bound: so equal triggers are counted together.
            first_ms = self.trigger.next_after(start_ms - 1)
            if first_ms is not None and first_ms < job.from_ms:
                low = job.from_ms
        if job.starts_at_ms is not None:
            low = max(low, job.starts_at_ms + self.offset_ms)
        if job.ends_at_ms is not None:
            high = min(high, job.ends_at_ms + self.offset_ms + 1)
        self.low_ms, self.high_ms = low, high

    @property
    def trigger(self) -> Trigger:
        """The trigger with the job's jitter; without its bounds, which ``low_ms`` and ``high_ms`` have."""
        return BoundedTrigger(self.compiled, offset_ms=self.offset_ms) if self.offset_ms else self.compiled

    @property
    def key(self) -> tuple[object, ...]:
        """Schedules with equal keys fire equally often in each minute."""
        bounds = (self.low_ms, self.high_ms, self.job.runs_left)
        if isinstance(self.compiled, CronTrigger):
            return (self.compiled.expression, self.compiled.timezone, self.offset_ms, *bounds)
        spec = self.job.trigger
        assert not isinstance(spec, CronSpec)
        if isinstance(spec, EverySpec | IntervalSpec) and bounds == (self.start_ms, self.end_ms, None):
            anchor_ms = (spec.anchor_ms or 0) + self.offset_ms
            is_bounded = isinstance(spec, IntervalSpec) and spec.end_ms is not None
            if anchor_ms < self.start_ms and not is_bounded:
                if MINUTE_MS % spec.every_ms == 0:
                    return (spec.every_ms,)
                if spec.every_ms % MINUTE_MS == 0:
                    distance = (anchor_ms - self.start_ms) // MINUTE_MS
                    return (spec.every_ms, distance % (spec.every_ms // MINUTE_MS))
        return (spec, self.offset_ms, *bounds)

    def per_minute(self) -> dict[int, int]:
        """Return how often it fires in each minute of the span."""
        if self.low_ms >= self.high_ms:
            return {}
        counts = self._unlimited()
        left = self.job.runs_left
        if left is None or sum(counts.values()) <= left:
            return counts
        limited: dict[int, int] = {}
        for index in sorted(counts):
            limited[index] = min(counts[index], left)
            left -= limited[index]
            if not left:
                break
        return {index: count for index, count in limited.items() if count}

    def _unlimited(self) -> dict[int, int]:
        spec = self.job.trigger
        if isinstance(self.compiled, CronTrigger):
            return self._of_cron(self.compiled)
        if isinstance(spec, EverySpec | IntervalSpec):
            first_ms = self.trigger.next_after(self.low_ms - 1)
            end_ms = self.high_ms
            if isinstance(spec, IntervalSpec) and spec.end_ms is not None:
                end_ms = min(end_ms, spec.end_ms + self.offset_ms + 1)
            return {} if first_ms is None else interval_per_minute(spec.every_ms, first_ms, end_ms, self.start_ms)
        fires = fires_in(self.trigger, self.low_ms, self.high_ms)
        return Counter((fire_ms - self.start_ms) // MINUTE_MS for fire_ms in fires)

    def _of_cron(self, cron: CronTrigger) -> dict[int, int]:
        minutes = (self.end_ms - self.start_ms) // MINUTE_MS
        counts = cron_per_minute(cron, self.start_ms, minutes, self.offset_ms)
        if (self.low_ms, self.high_ms) == (self.start_ms, self.end_ms):
            return counts
        first, last = ((at_ms - self.start_ms) // MINUTE_MS for at_ms in (self.low_ms, self.high_ms - 1))
        counts = {index: count for index, count in counts.items() if first < index < last}
        for index in {first, last}:
            begin_ms = self.start_ms + MINUTE_MS * index
            fires = fires_in(self.trigger, max(begin_ms, self.low_ms), min(begin_ms + MINUTE_MS, self.high_ms))
            count = sum(1 for _ in fires)
            if count:
                counts[index] = count
        return counts

    def fires_in(self, begin_ms: int, end_ms: int) -> Iterable[int]:
        """List its fire times in a part of the span, without the bound of its runs."""
        return fires_in(self.trigger, max(begin_ms, self.low_ms), min(end_ms, self.high_ms))


class _Group:
    """Jobs that fire equally often in each minute."""

    __slots__ = ("schedules",)

    def __init__(self) -> None:
        self.schedules: list[_Schedule] = []


def forecast(
    sample: Sequence[ForecastJob], *, sampled: int, jobs: int, start_ms: int, minutes: int, unreadable: int = 0
) -> Forecast:
    """Estimate the fire times of ``jobs`` jobs in each minute of a span that begins with a full minute.

    ``sample``: those of ``sampled`` jobs, drawn at random, that fire by themselves.
    """
    end_ms = start_ms + MINUTE_MS * minutes
    groups = _groups(sample, start_ms, end_ms)
    sums, squares = [0] * minutes, [0] * minutes
    total = total_squares = firing = 0
    for group in groups:
        weight = len(group.schedules)
        own = 0
        for index, count in group.schedules[0].per_minute().items():
            sums[index] += weight * count
            squares[index] += weight * count * count
            own += count
        total += weight * own
        total_squares += weight * own * own
        firing += weight if own else 0
    scale = jobs / sampled if sampled else 0.0
    errors = [_error(one, square, sampled, jobs) for one, square in zip(sums, squares, strict=True)]
    lowest = min(sums)
    bound = lowest + max(1, PEAK_FACTOR * (total / minutes - lowest))
    high = [index for index in range(minutes) if sums[index] > bound]
    high.sort(key=lambda index: -sums[index])
    return Forecast(
        start_ms,
        [_rounded(scale * one) for one in sums],
        errors,
        _rounded(scale * total),
        _error(total, total_squares, sampled, jobs),
        jobs,
        sampled,
        _rounded(scale * firing),
        unreadable,
        [
            _peak(groups, start_ms + MINUTE_MS * index, sums[index], errors[index], scale)
            for index in sorted(high[:PEAKS])
        ],
    )


def _groups(sample: Sequence[ForecastJob], start_ms: int, end_ms: int) -> list[_Group]:
    groups: dict[tuple[object, ...], _Group] = {}
    for job in sample:
        try:
            schedule = _Schedule(job, start_ms, end_ms)
        except InvalidInput:
            continue  # written by a newer version: its node quarantines it
        if schedule.low_ms < schedule.high_ms:
            groups.setdefault(schedule.key, _Group()).schedules.append(schedule)
    return list(groups.values())


def _error(total: int, squares: int, sampled: int, jobs: int) -> float:
    """Return the standard error of the estimate of a total: sums of the values and of their squares in the sample."""
    if sampled >= jobs or sampled < 2:
        return 0.0
    variance = max(0.0, (squares - total * total / sampled) / (sampled - 1))
    return _rounded(jobs * sqrt(variance / sampled * (1 - sampled / jobs)))


def _rounded(value: float) -> float:
    return round(value, 1)


def _peak(groups: Sequence[_Group], at_ms: int, fires: int, error: float, scale: float) -> Peak:
    end_ms = at_ms + MINUTE_MS
    seconds: Counter[int] = Counter()
    targets: Counter[str] = Counter()
    alike: dict[Alike, list[str]] = {}
    jobs = 0
    for group in groups:
        # The jobs of a cron group fire at the same instants; those of an interval have phases of their own.
        same = isinstance(group.schedules[0].compiled, CronTrigger)
        shared = list(group.schedules[0].fires_in(at_ms, end_ms)) if same else []
        for schedule in group.schedules:
            job, spec = schedule.job, schedule.job.trigger
            is_fast = isinstance(spec, EverySpec | IntervalSpec) and spec.every_ms < FAST_MS
            times = shared if same else list(schedule.fires_in(at_ms, end_ms))
            if not times:
                continue
            jobs += 1
            targets[job.target] += len(times)
            if is_fast:
                continue
            for fire_ms in times:
                seconds[fire_ms // 1000 * 1000] += 1
            if not job.jitter_ms and not isinstance(spec, AtSpec | OnRequestSpec):
                key = _alike(spec, times[0])
                if key is not None:
                    alike.setdefault(key, []).append(job.id)
    ordered = sorted(alike.items(), key=lambda item: (-len(item[1]), item[0][0]))
    return Peak(
        at_ms,
        _rounded(scale * fires),
        error,
        _rounded(scale * jobs),
        [(second, _rounded(scale * count)) for second, count in seconds.most_common(SHOWN)],
        [(target, round(count / max(1, sum(targets.values())), 4)) for target, count in targets.most_common(SHOWN)],
        [_spread_group(key, ids, scale) for key, ids in ordered[:SHOWN] if len(ids) > 1],
    )


def _alike(spec: CronSpec | EverySpec | IntervalSpec, at_ms: int) -> Alike | None:
    """Return what jobs have in common that one hint spreads; None: they are spread already."""
    if isinstance(spec, CronSpec):
        return None if uses_hash_field(spec.expression) else (at_ms, spec.expression, spec.timezone, None)
    return (at_ms, None, None, spec.every_ms)


def _spread_group(key: Alike, ids: Sequence[str], scale: float) -> SpreadGroup:
    at_ms, expression, timezone, every_ms = key
    suggestion = None if expression is None else spread_expression(expression)
    return SpreadGroup(
        at_ms, expression, timezone, every_ms, _rounded(scale * len(ids)), sorted(ids)[:EXAMPLES], suggestion
    )
