"""Targets and schedules as plain values: bodies, timing, status."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.http.request import request_of
from scheduler_core.model.catalogue import (
    MAX_SECONDS,
    ScheduleStatus,
    ScheduleType,
    Target,
    Timing,
    body_of,
    check_timing,
    job_id_of,
    job_of_schedule,
    schedule_id_of,
    schedule_status,
    stopped_at,
    timing_of,
    with_timing,
)
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.node.dispatch.calls import with_target
from scheduler_core.plan.fire_times import trigger_of
from tests.support.factories import at, make_call

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


def target(**fields: Any) -> Target:
    defaults: dict[str, Any] = {"id": 1, "name": "t", "url": "http://runner.test/a?b=c"}
    return Target(**(defaults | fields))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    ("template", "content_type"),
    [
        ('{"a": [1, 2.50]}', JSON),
        ("[]", JSON),
        ("12", JSON),
        ("null", JSON),
        (' "text" ', JSON),
        ("text", TEXT),
        ("{a: 1}", TEXT),
        ("NaN", TEXT),
        ('{"a": 1} trailing', TEXT),
        ("[" * 5000, TEXT),
        ("\u00e9", TEXT),
    ],
)
def test_a_json_body_is_sent_as_json_and_any_other_as_text(method: str, template: str, content_type: str) -> None:
    assert body_of(target(method=method, body_template=template)) == (content_type, template.encode())


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_send_no_body(method: str) -> None:
    assert body_of(target(method=method, body_template="{}")) == (None, b"")


@pytest.mark.parametrize("template", [None, ""])
def test_without_a_template_the_body_is_empty_and_has_no_type(template: str | None) -> None:
    assert body_of(target(method="POST", body_template=template)) == (None, b"")


def test_a_content_type_in_the_targets_headers_takes_precedence() -> None:
    own = (("X-A", "1"), ("content-TYPE", "application/xml"))
    request = request_of(with_target(make_call(), target(method="PUT", headers=own, body_template="{}")))
    assert request.headers[: len(own)] == own
    assert "Content-Type" not in dict(request.headers)
    assert request.body == b"{}"


def test_a_request_has_the_targets_method_url_and_headers() -> None:
    named = target(method="PATCH", headers=(("X-A", "1"),), body_template="{}")
    request = request_of(with_target(make_call(), named))
    assert (request.method, request.url) == ("PATCH", "http://runner.test/a?b=c")
    assert request.headers[:3] == (("Content-Type", JSON), ("X-A", "1"), ("Idempotency-Key", "RUN"))


@given(st.integers(1, 10**15 - 1))
def test_a_schedule_can_be_read_from_its_job(number: int) -> None:
    assert schedule_id_of(job_id_of(number)) == number


@pytest.mark.parametrize(
    "job_id", ["schedule_", "schedule_x", "task_1", "1", "schedule_-1", "schedule_1 ", "schedule_²"]
)
def test_other_jobs_are_not_schedules(job_id: str) -> None:
    assert schedule_id_of(job_id) is None


# ---- timing ---------------------------------------------------------------------------------------------------------


def schedule(interval: int = 10, duration: int | None = None) -> Job:
    return job_of_schedule(3, name="s", target_id=1, timing=Timing(interval, duration), now_ms=at(0.25))


def fire_times(job: Job, after: float, count: int = 3) -> list[float]:
    found: list[float] = []
    at_ms = trigger_of(job).next_after(at(after))
    while at_ms is not None and len(found) < count:
        found.append((at_ms - at(0)) / 1000)
        at_ms = trigger_of(job).next_after(at_ms)
    return found


def test_the_first_fire_time_is_one_interval_after_the_creation() -> None:
    assert fire_times(schedule(10), 0.25) == [10.25, 20.25, 30.25]


@pytest.mark.parametrize(
    ("duration", "expected"),
    [(9, []), (10, [10.25]), (19, [10.25]), (20, [10.25, 20.25]), (25, [10.25, 20.25]), (30, [10.25, 20.25, 30.25])],
)
def test_a_window_fires_up_to_and_including_its_end(duration: int, expected: list[float]) -> None:
    assert fire_times(schedule(10, duration), 0.25) == expected


def test_a_changed_interval_counts_from_the_change_and_the_window_still_from_the_creation() -> None:
    changed = with_timing(schedule(10, 60), Timing(7, 60), now_ms=at(33))
    assert fire_times(changed, 33, 10) == [40, 47, 54]
    assert timing_of(changed) == Timing(7, 60)


def test_a_changed_duration_keeps_the_grid() -> None:
    changed = with_timing(schedule(10, 60), Timing(10, 45), now_ms=at(33))
    assert fire_times(changed, 33, 10) == [40.25]
    endless = with_timing(changed, Timing(10), now_ms=at(35))
    assert fire_times(endless, 33, 2) == [40.25, 50.25]


def test_the_same_timing_is_the_same_trigger() -> None:
    for job in (schedule(10), schedule(10, 60)):
        assert with_timing(job, timing_of(job), now_ms=at(33)) == job


@given(st.integers(1, MAX_SECONDS), st.none() | st.integers(1, MAX_SECONDS), st.integers(0, 10**9))
def test_a_timing_can_be_read_back_from_its_schedule(interval: int, duration: int | None, later: int) -> None:
    job = schedule(interval, duration)
    assert timing_of(job) == Timing(interval, duration)
    assert timing_of(with_timing(job, Timing(interval, duration), now_ms=at(later))) == Timing(interval, duration)


PAUSED = JobState(paused_at_ms=at(3))
SET_ASIDE = JobState(quarantine="why")


@pytest.mark.parametrize(
    ("duration", "state", "now", "expected"),
    [
        (None, JobState(), 0.25, "ACTIVE"),
        (None, JobState(), 10**8, "ACTIVE"),
        (None, PAUSED, 5, "PAUSED"),
        (None, PAUSED, 10**8, "PAUSED"),
        (None, SET_ASIDE, 5, "PAUSED"),
        (60, JobState(), 60.249, "ACTIVE"),
        (60, JobState(), 60.25, "STOPPED"),
        (60, PAUSED, 60.249, "PAUSED"),
        (60, PAUSED, 60.25, "STOPPED"),
        (60, SET_ASIDE, 60.25, "STOPPED"),
    ],
)
def test_the_status_follows_from_the_window_the_pause_and_the_time(
    duration: int | None, state: JobState, now: float, expected: str
) -> None:
    assert schedule_status(schedule(10, duration), state, at(now)) is ScheduleStatus(expected)


def test_a_schedule_shows_the_end_of_its_window_as_its_stop_however_late_it_is_read() -> None:
    job = schedule(10, 60)
    assert stopped_at(job, at(60.249)) is None
    assert stopped_at(job, at(60.25)) == stopped_at(job, at(10_000)) == at(60.25)
    assert stopped_at(schedule(10), at(10**8)) is None


@pytest.mark.parametrize(
    ("kind", "interval", "duration", "field"),
    [
        ("INTERVAL", 0, None, "interval_seconds"),
        ("INTERVAL", -1, None, "interval_seconds"),
        ("INTERVAL", MAX_SECONDS + 1, None, "interval_seconds"),
        ("WINDOW", 1, None, "duration_seconds"),
        ("WINDOW", 1, 0, "duration_seconds"),
        ("WINDOW", 1, MAX_SECONDS + 1, "duration_seconds"),
        ("INTERVAL", 1, -1, "duration_seconds"),
    ],
)
def test_an_invalid_timing_is_refused_with_the_name_of_its_field(
    kind: str, interval: int, duration: int | None, field: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        check_timing(ScheduleType(kind), interval, duration)
    assert error.value.field == field


def test_an_interval_ignores_a_duration() -> None:
    assert check_timing(ScheduleType.INTERVAL, 5, 60) == Timing(5)
    assert Timing(5).type is ScheduleType.INTERVAL
    assert check_timing(ScheduleType.WINDOW, 5, 60).type is ScheduleType.WINDOW
