"""Targets and schedules.

A *target* is a named HTTP request that many schedules can share. A *schedule* is a job with an interval as its trigger,
a target instead of a URL, and the policies of ``SCHEDULE_POLICIES``. Its status is not stored: it follows from the
job's trigger, its state and the time.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import Overlap, Policies, Recovery, RetryRule
from scheduler_core.model.request import Auth
from scheduler_core.triggers.trigger import IntervalSpec, OnRequestSpec

BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
"""The methods of a target that send its body."""
TARGET_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
MAX_NAME_CHARACTERS = 255
MAX_SECONDS = 3_153_600_000
"""The longest interval and the longest window: 100 years of 365 days."""

SCHEDULE_POLICIES = Policies(
    overlap=Overlap.SKIP,
    recovery=Recovery.NONE,
    retry=RetryRule(attempts=1),
    conflict_is_failure=True,
    keep_answers=True,
    keep=True,
)
"""One attempt per run, no recovery, and the schedule stays when its window is over."""

TRY_POLICIES = Policies(
    retry=RetryRule(attempts=1), conflict_is_failure=True, keep_answers=True, delete_completed=True, at_most_once=True
)
"""One request, never repeated. The job is deleted when its run ends, and request and answer are kept."""

_PREFIX = "schedule_"
_TRY_ID = re.compile(r"try_([0-9]{1,15})_[0-9a-f]{20}\Z", re.ASCII)

Headers = tuple[tuple[str, str], ...]


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named request."""

    id: int = msgspec.field(name="i")
    name: str = msgspec.field(name="n")
    url: str = msgspec.field(name="u")
    method: str = msgspec.field(default="GET", name="m")
    headers: Headers | None = msgspec.field(default=None, name="h")
    """Names and values in the order of the client; values may be secrets."""
    body_template: str | None = msgspec.field(default=None, name="b")
    created_at_ms: int = msgspec.field(default=0, name="c")
    updated_at_ms: int = msgspec.field(default=0, name="t")
    auth: Auth | None = msgspec.field(default=None, name="a")
    sign: tuple[str, ...] = msgspec.field(default=(), name="s")
    """The keys that sign each request, as ``whsec_`` and base64."""

    def same_request(self, other: Target) -> bool:
        """Return whether both are the same request, apart from id and instants."""
        return self == replace(other, id=self.id, created_at_ms=self.created_at_ms, updated_at_ms=self.updated_at_ms)


def body_of(target: Target) -> tuple[str | None, bytes]:
    """Return the content type to add (None: add none) and the body of a target's requests.

    POST, PUT and PATCH send the body. A template that is valid JSON is sent as JSON, any other as text. A Content-Type
    among the target's own headers wins.
    """
    if target.method not in BODY_METHODS or not target.body_template:
        return None, b""
    body = target.body_template.encode()
    if any(name.lower() == "content-type" for name, _ in target.headers or ()):
        return None, body
    return "application/json" if _is_json(body) else "text/plain; charset=utf-8", body


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


# ---- schedules ------------------------------------------------------------------------------------------------------


class ScheduleType(StrEnum):
    """Whether a schedule ends."""

    INTERVAL = "INTERVAL"
    WINDOW = "WINDOW"
    """It ends a given time after it was created."""


class ScheduleStatus(StrEnum):
    """The status of a schedule. ``STOPPED`` is final."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"


class Timing(msgspec.Struct, frozen=True):
    """When a schedule fires. ``duration_seconds`` is None if and only if it never ends."""

    interval_seconds: int
    duration_seconds: int | None = None

    @property
    def type(self) -> ScheduleType:
        return ScheduleType.INTERVAL if self.duration_seconds is None else ScheduleType.WINDOW


def job_id_of(schedule_id: int) -> str:
    """Return the id of the schedule's job."""
    return f"{_PREFIX}{schedule_id}"


def schedule_id_of(job_id: str) -> int | None:
    """Return the id of the schedule; None if the job is not a schedule."""
    digits = job_id.removeprefix(_PREFIX)
    if digits == job_id or not (digits.isascii() and digits.isdecimal() and len(digits) <= 15):
        return None
    return int(digits)


def try_id_of(target_id: int, token: str) -> str:
    """Return the id of the job that tries a target. ``token``: 20 hexadecimal digits."""
    return f"try_{target_id}_{token}"


def tried_target_of(job_id: str) -> int | None:
    """Return the id of the target that a job tries; None: the job does not try one."""
    found = _TRY_ID.match(job_id)
    return None if found is None else int(found[1])


def job_of_try(target_id: int, token: str, *, now_ms: int) -> Job:
    """Return the job that tries a target. It has no trigger: its only run is a pending entry."""
    return Job(
        id=try_id_of(target_id, token),
        url="",
        trigger=OnRequestSpec(),
        payload=b"",
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        policies=TRY_POLICIES,
        target_id=target_id,
    )


def job_of_schedule(schedule_id: int, *, name: str, target_id: int, timing: Timing, now_ms: int) -> Job:
    """Return the job of a new schedule. Its first fire time is one interval after ``now_ms``."""
    return Job(
        id=job_id_of(schedule_id),
        url="",
        trigger=_trigger(timing, anchor_ms=now_ms, started_at_ms=now_ms),
        payload=b"",
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        policies=SCHEDULE_POLICIES,
        name=name,
        target_id=target_id,
    )


def with_timing(job: Job, timing: Timing, *, now_ms: int) -> Job:
    """Return the schedule ``job`` with another timing. A changed interval counts from now, an unchanged one keeps its
    grid. A window always counts from the creation of the schedule."""
    trigger = _interval(job)
    same_grid = trigger.every_ms == timing.interval_seconds * 1000
    anchor_ms = trigger.anchor_ms if same_grid else now_ms
    return replace(job, trigger=_trigger(timing, anchor_ms=anchor_ms, started_at_ms=job.created_at_ms))


def timing_of(job: Job) -> Timing:
    """Return the timing of the schedule ``job``."""
    trigger = _interval(job)
    duration_ms = None if trigger.end_ms is None else trigger.end_ms - job.created_at_ms
    return Timing(trigger.every_ms // 1000, None if duration_ms is None else duration_ms // 1000)


def end_of(job: Job) -> int | None:
    """Return when the schedule's window ends; None: never."""
    return _interval(job).end_ms


def stopped_at(job: Job, now_ms: int) -> int | None:
    """Return when the schedule stopped; None: it has not."""
    end_ms = end_of(job)
    return end_ms if end_ms is not None and end_ms <= now_ms else None


def is_paused(state: JobState) -> bool:
    """Return whether the schedule waits for a resume. A quarantined schedule does too."""
    return state.paused_at_ms is not None or state.quarantine is not None


def schedule_status(job: Job, state: JobState, now_ms: int) -> ScheduleStatus:
    """Return the status at ``now_ms``. The end of the window stops a schedule, also a paused one; failures do not."""
    if stopped_at(job, now_ms) is not None:
        return ScheduleStatus.STOPPED
    return ScheduleStatus.PAUSED if is_paused(state) else ScheduleStatus.ACTIVE


def check_timing(schedule_type: ScheduleType, interval_seconds: int, duration_seconds: int | None) -> Timing:
    """Return the timing that these values describe. An INTERVAL ignores the duration. Raises InvalidInput."""
    if not 1 <= interval_seconds <= MAX_SECONDS:
        raise InvalidInput(f"interval_seconds must be from 1 to {MAX_SECONDS}", field="interval_seconds")
    if duration_seconds is not None and not 1 <= duration_seconds <= MAX_SECONDS:
        raise InvalidInput(f"duration_seconds must be from 1 to {MAX_SECONDS}", field="duration_seconds")
    if schedule_type is ScheduleType.INTERVAL:
        return Timing(interval_seconds)
    if duration_seconds is None:
        raise InvalidInput("a WINDOW needs duration_seconds", field="duration_seconds")
    return Timing(interval_seconds, duration_seconds)


def _trigger(timing: Timing, *, anchor_ms: int, started_at_ms: int) -> IntervalSpec:
    end_ms = None if timing.duration_seconds is None else started_at_ms + timing.duration_seconds * 1000
    return IntervalSpec(every_ms=timing.interval_seconds * 1000, anchor_ms=anchor_ms, end_ms=end_ms)


def _interval(job: Job) -> IntervalSpec:
    assert isinstance(job.trigger, IntervalSpec), f"{job.id} is no schedule"
    return job.trigger
