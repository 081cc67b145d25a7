"""The forecast of fire times, as the API answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from scheduler_api.wire.fields import Described, Instant, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.triggers.per_minute import MINUTE_MS
from scheduler_core.usecases.forecast import ForecastState, ForecastView

if TYPE_CHECKING:
    from scheduler_core.plan import forecast as plan


class ForecastTotal(Described):
    """All fire times of the span."""

    fires: float
    standard_error: Annotated[float, Meta(description="0: all jobs were read.")]


class ForecastJobs(Described):
    """The jobs behind a forecast."""

    total: Annotated[int, Meta(description="Stored jobs, also those that do not fire by themselves.")]
    sampled: Annotated[int, Meta(description="How many of them were drawn at random and read.")]
    firing: Annotated[float, Meta(description="Jobs that fire at least once in the span, estimated.")]
    unreadable: Annotated[int, Meta(description="Jobs of the sample whose definition or state cannot be read.")]


class PeakInstant(Described):
    """A second with many fire times."""

    at: Instant
    fires: float


class PeakTarget(Described):
    """A target that gets many of the requests of a peak."""

    target: Annotated[str, Meta(description="Scheme, host and port; or `target` and the id of a named target.")]
    share: Annotated[float, Meta(description="Of the requests of the minute, 0 to 1.")]


class SpreadGroup(Described):
    """Jobs that fire at the same instant of a peak with the same trigger, and that could be spread."""

    at: Instant
    cron: Annotated[str | None, Meta(description="Their expression; null: they have an interval.")]
    timezone: str | None
    every_seconds: float | None
    jobs: Annotated[float, Meta(description="How many jobs, estimated for all stored jobs.")]
    job_ids: Annotated[list[str], Meta(description="Up to ten of them.")]
    suggested_cron: Annotated[
        str | None, Meta(description="The expression with `H`, which gives each job a time of its own; null: none.")
    ]
    hint: str


class ForecastPeak(Described):
    """A minute with many fire times."""

    at: Annotated[Instant, Meta(description="The start of the minute.")]
    fires: float
    standard_error: float
    jobs: Annotated[float, Meta(description="Jobs that fire in it.")]
    instants: Annotated[list[PeakInstant], Meta(description="Its busiest seconds, busiest first.")]
    targets: Annotated[list[PeakTarget], Meta(description="Largest share first.")]
    groups: Annotated[list[SpreadGroup], Meta(description="Largest first. Jobs with `H` or jitter are left out.")]


class ForecastNumbers(Described):
    """Fire times in each minute of a span."""

    start: Annotated[Instant, Meta(description="A full minute, shortly after the forecast was computed.")]
    end: Instant
    step_seconds: int
    fires: Annotated[list[float], Meta(description="One number for each minute, estimated from the sample.")]
    standard_errors: Annotated[list[float], Meta(description="Of each minute; 0 if all jobs were read.")]
    total: ForecastTotal
    jobs: ForecastJobs
    peaks: Annotated[list[ForecastPeak], Meta(description="Up to five, in the order of time; none if load is even.")]


class Forecast(Described):
    """The latest forecast of this process."""

    state: Annotated[
        ForecastState,
        Meta(
            description="`computing`: a new forecast is under way, ask again in a second; `forecast` is the earlier "
            "one or null. `failed`: `error` says why; the next request after ten seconds tries again."
        ),
    ]
    computed_at: Instant | None
    age_ms: int | None
    error: str | None
    forecast: ForecastNumbers | None


def show_forecast(view: ForecastView, *, now_ms: int) -> Forecast:
    """Show the forecast of this process."""
    at_ms = view.computed_at_ms
    return Forecast(
        view.state,
        instant(at_ms),
        None if at_ms is None else max(0, now_ms - at_ms),
        view.error,
        None if view.forecast is None else _numbers(view.forecast),
    )


def _numbers(found: plan.Forecast) -> ForecastNumbers:
    return ForecastNumbers(
        rfc3339(found.start_ms),
        rfc3339(found.start_ms + MINUTE_MS * len(found.fires)),
        MINUTE_MS // 1000,
        found.fires,
        found.errors,
        ForecastTotal(found.total, found.total_error),
        ForecastJobs(found.jobs, found.sampled, found.firing, found.unreadable),
        [_peak(one) for one in found.peaks],
    )


def _peak(peak: plan.Peak) -> ForecastPeak:
    return ForecastPeak(
        rfc3339(peak.at_ms),
        peak.fires,
        peak.error,
        peak.jobs,
        [PeakInstant(rfc3339(at_ms), fires) for at_ms, fires in peak.instants],
        [PeakTarget(target, share) for target, share in peak.targets],
        [_group(one) for one in peak.groups],
    )


def _group(group: plan.SpreadGroup) -> SpreadGroup:
    at = rfc3339(group.at_ms)
    every = None if group.every_ms is None else group.every_ms / 1000
    trigger = f"`{group.expression}`" if every is None else f"an interval of {every:g} s"
    remedy = (
        "give them jitter_seconds" if every is None else "start them at different times, or give them jitter_seconds"
    )
    if group.suggestion is not None:
        remedy = f"write `{group.suggestion}`, or {remedy}"
    hint = f"{group.jobs:,.0f} jobs fire at {at[11:]} with {trigger}: {remedy}"
    return SpreadGroup(at, group.expression, group.timezone, every, group.jobs, group.job_ids, group.suggestion, hint)
