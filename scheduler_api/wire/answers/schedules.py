"""Schedules and their totals as the API answers them."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from scheduler_api.wire.answers.jobs import next_fire_times
from scheduler_api.wire.answers.runs import MetInFlight, show_in_flight
from scheduler_api.wire.bodies import Duration, Name, Seconds, TypeOfSchedule
from scheduler_api.wire.fields import Described, Instant, Maybe, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.catalogue import ScheduleStatus, end_of, stopped_at, timing_of
from scheduler_core.triggers.trigger import IntervalSpec
from scheduler_core.usecases import schedules as usecases


class Schedule(Described):
    """Calls of a target at a fixed interval. A schedule that cannot be read has only `id`, `job_id`, `status` and
    `detail`."""

    id: Annotated[int, Meta(description="Never reused.")]
    job_id: Annotated[str, Meta(description="The id of the schedule as a job: GET /jobs/{job_id}.")]
    status: ScheduleStatus
    name: Maybe[Name] = UNSET
    target_id: Maybe[int] = UNSET
    schedule_type: Maybe[TypeOfSchedule] = UNSET
    interval_seconds: Maybe[Seconds] = UNSET
    duration_seconds: Maybe[Duration] = UNSET
    started_at: Maybe[Instant] = UNSET
    ends_at: Maybe[Instant | None] = UNSET
    stopped_at: Maybe[Instant | None] = UNSET
    next_fire_time: Maybe[Instant | None] = UNSET
    created_at: Maybe[Instant] = UNSET
    updated_at: Maybe[Instant] = UNSET
    detail: Annotated[Maybe[str], Meta(description="Why it cannot be read.")] = UNSET
    in_flight: MetInFlight = UNSET


class ScheduleDeleted(Described):
    """A schedule that was deleted."""

    message: str
    in_flight: MetInFlight = UNSET


class ScheduleMetrics(Described):
    """All runs since the schedule was created, trimmed ones included."""

    schedule_id: int
    schedule_name: str | None
    total_runs: int
    successful_runs: int
    failed_runs: int
    avg_latency_ms: float | None
    last_run_at: Annotated[Instant | None, Meta(description="When the latest run ended.")]


def show_schedule(schedule: usecases.Schedule) -> Schedule:
    """Show a schedule. If its document cannot be read, only its ids, status and the reason are shown."""
    job = schedule.view.job
    if job is None or not isinstance(job.trigger, IntervalSpec):
        fault = schedule.view.fault or "the job with its id is not a schedule"
        return Schedule(schedule.id, schedule.view.id, ScheduleStatus.PAUSED, detail=fault)
    timing = timing_of(job)
    stopped = stopped_at(job, schedule.now_ms)
    upcoming = next_fire_times(job, schedule.view.state, 1)
    return Schedule(
        schedule.id,
        schedule.view.id,
        schedule.status,
        UNSET if job.name is None else job.name,
        UNSET if job.target_id is None else job.target_id,
        timing.type,
        timing.interval_seconds,
        timing.duration_seconds,
        rfc3339(job.created_at_ms),
        instant(end_of(job)),
        instant(stopped),
        upcoming[0] if upcoming and stopped is None else None,
        rfc3339(job.created_at_ms),
        rfc3339(job.updated_at_ms),
    )


def show_changed(schedule: usecases.Schedule) -> Schedule:
    """Show a schedule as the answer to a change of it."""
    shown = show_schedule(schedule)
    shown.in_flight = show_in_flight(schedule.view.in_flight)
    return shown


def show_schedule_metrics(schedule: usecases.Schedule) -> ScheduleMetrics:
    """The totals of a schedule's runs since it was created."""
    state, job = schedule.view.state, schedule.view.job
    totals = state.totals
    return ScheduleMetrics(
        schedule_id=schedule.id,
        schedule_name=None if job is None else job.name,
        total_runs=totals.runs,
        successful_runs=totals.succeeded,
        failed_runs=totals.runs - totals.succeeded,
        avg_latency_ms=round(totals.latency_ms / totals.runs, 3) if totals.runs else None,
        last_run_at=None if state.last is None else instant(state.last.ended_at_ms),
    )
