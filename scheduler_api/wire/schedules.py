"""Schedules: request bodies and queries read into values, values shown as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from scheduler_api.wire.answers.jobs import next_fire_times
from scheduler_api.wire.fields import instant
from scheduler_api.wire.json_body import Fields, is_given, required
from scheduler_api.wire.targets import MAX_DIGITS
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.catalogue import ScheduleStatus, ScheduleType, end_of, stopped_at, timing_of
from scheduler_core.triggers.trigger import IntervalSpec
from scheduler_core.usecases.schedules import Schedule

SCHEDULE_FIELDS = ("name", "target_id", "schedule_type", "interval_seconds", "duration_seconds")

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def status_filter(params: Mapping[str, str]) -> ScheduleStatus | None:
    """The status in the query; raises InvalidInput."""
    if "status_filter" not in params:
        return None
    return _one_of(ScheduleStatus, params["status_filter"], "status_filter")


def type_of(fields: Fields) -> ScheduleType:
    """INTERVAL or WINDOW."""
    expected = " or ".join(ScheduleType)
    return _one_of(ScheduleType, required(fields, "schedule_type", str, expected), "schedule_type")


def seconds_of(fields: Fields, name: str) -> int:
    """A whole number of seconds above 0. How large it may be is said by the model."""
    expected = "a whole number of seconds, at least 1"
    value = required(fields, name, int | float, expected)
    if value % 1 != 0:
        raise InvalidInput(f"{name} must be {expected}", field=name)
    return int(value)


def target_id_of(fields: Fields) -> int:
    """The id of a target; one that no id can be is 0, which is nobody's."""
    value = required(fields, "target_id", int, "the id of a target, an integer")
    assert isinstance(value, int)
    return value if 0 <= value < 10**MAX_DIGITS else 0


def if_given(fields: Fields, name: str, read: Callable[[Fields], T]) -> T | None:
    """What ``read`` makes of a field that is there and not null."""
    return read(fields) if is_given(fields, name) else None


def show_schedule(schedule: Schedule) -> dict[str, Any]:
    """A schedule. Of one whose document cannot be read only what is known."""
    job = schedule.view.job
    if job is None or not isinstance(job.trigger, IntervalSpec):
        fault = schedule.view.fault or "the job under its id is no schedule"
        return {"id": schedule.id, "job_id": schedule.view.id, "status": ScheduleStatus.PAUSED.value, "detail": fault}
    shown: dict[str, Any] = {"id": schedule.id, "job_id": schedule.view.id, "status": schedule.status.value}
    timing = timing_of(job)
    stopped = stopped_at(job, schedule.now_ms)
    upcoming = next_fire_times(job, schedule.view.state, 1)
    return shown | {
        "name": job.name,
        "target_id": job.target_id,
        "schedule_type": timing.type.value,
        "interval_seconds": timing.interval_seconds,
        "duration_seconds": timing.duration_seconds,
        "started_at": instant(job.created_at_ms),
        "ends_at": instant(end_of(job)),
        "stopped_at": instant(stopped),
        "next_fire_time": upcoming[0] if upcoming and stopped is None else None,
        "created_at": instant(job.created_at_ms),
        "updated_at": instant(job.updated_at_ms),
    }


def show_schedule_metrics(schedule: Schedule) -> dict[str, Any]:
    """What a schedule's runs came to since it was created, whatever of its history has been trimmed."""
    state, job = schedule.view.state, schedule.view.job
    totals = state.totals
    return {
        "schedule_id": schedule.id,
        "schedule_name": None if job is None else job.name,
        "total_runs": totals.runs,
        "successful_runs": totals.succeeded,
        "failed_runs": totals.runs - totals.succeeded,
        "avg_latency_ms": round(totals.latency_ms / totals.runs, 3) if totals.runs else None,
        "last_run_at": None if state.last is None else instant(state.last.ended_at_ms),
    }


def _one_of(kind: type[E], text: str, field: str) -> E:
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(f"{field} must be one of {', '.join(kind)}", field=field) from None
