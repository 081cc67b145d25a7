"""Runs of all jobs, schedules and one-off tasks as the list of runs answers them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, structs

from scheduler_api.wire.answers.runs import (
    AttemptCount,
    Deadline,
    EndedBy,
    HeardAt,
    OutcomeName,
    Progress,
    ReplayedBy,
    ReplayOf,
    TakenAt,
    show_replay_of,
)
from scheduler_api.wire.fields import Described, Instant, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.base.secret_names import mask_headers, mask_url
from scheduler_core.model import run as model
from scheduler_core.model.catalogue import schedule_id_of
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import NEXT_FIRE_TIME, Reason, RunState
from scheduler_core.model.status import RunStatus, attempt_error_type, attempt_status, error_type_of, status_of
from scheduler_core.model.trace import trace_id_of
from scheduler_core.usecases.history import FoundRun


class ErrorType(StrEnum):
    """The kind of error of a request."""

    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    HTTP_UNEXPECTED = "http_unexpected"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    DNS = "dns"
    UNKNOWN = "unknown"


StatusCode = Annotated[int | None, Meta(description="Of the last answer.")]
Latency = Annotated[float | None, Meta(description="From the name lookup to the last byte read.")]


class ListedRun(Described):
    """A run of any job, schedule or one-off task. `status_code` to `error_type` are those of its last attempt."""

    id: str
    schedule_id: int | None
    job_id: str
    status: Annotated[RunStatus | None, Meta(description="Null while the run is not settled.")]
    started_at: Instant | None
    completed_at: Instant | None
    status_code: StatusCode
    latency_ms: Latency
    response_size_bytes: Annotated[int | None, Meta(description="Of the body, as far as it was read.")]
    error_message: str | None
    error_type: ErrorType | None
    request_url: str | None
    request_method: str | None
    state: RunState
    reason: Reason
    fire_time: Instant
    lateness_ms: Annotated[
        int | None,
        Meta(description="From the fire time to the first attempt; null for backfills, replays and recovery."),
    ]
    ended_by: EndedBy
    replay_of: ReplayOf
    replayed_by: ReplayedBy


class ListedAttempt(Described):
    """One request of a run."""

    attempt_number: int
    fence: Annotated[int, Meta(description="The number of the lease under which it was sent (`Cronpost-Fence`).")]
    outcome: OutcomeName
    status: RunStatus
    started_at: Instant | None
    completed_at: Instant | None
    status_code: StatusCode
    latency_ms: Latency
    error_message: str | None
    error_type: ErrorType | None


class RunDetail(ListedRun):
    """A run with its request and response, as far as they were kept. Secrets are masked. `taken_at` to `note` belong to
    completion by callback."""

    trace_id: Annotated[
        str, Meta(description="Of its spans, and in the `traceparent` of its requests: the MD5 of `id`.")
    ]
    job_version: int
    attempt: AttemptCount
    message: Annotated[str, Meta(description="Why the run is in this state, for people.")]
    retry_at: Instant | None
    node: Annotated[str | None, Meta(description="The node that executes the run now.")]
    taken_at: TakenAt
    heard_at: HeardAt
    deadline: Deadline
    progress: Progress | None
    note: str
    request_headers: dict[str, str] | None
    request_body: str | None
    response_headers: dict[str, str] | None
    response_body: Annotated[str | None, Meta(description="Its beginning.")]
    attempts: Annotated[list[ListedAttempt], Meta(description="The first and the latest ones.")]


def show_found(found: FoundRun) -> ListedRun:
    """A run as ``GET /runs`` lists it."""
    run = found.run
    last = run.attempts[-1] if run.attempts else None
    error_type = error_type_of(run)
    return ListedRun(
        id=run.id,
        schedule_id=schedule_id_of(found.job_id),
        job_id=found.job_id,
        status=status_of(run),
        started_at=instant(run.started_at_ms),
        completed_at=instant(run.ended_at_ms),
        status_code=run.last_status,
        latency_ms=None if last is None else round(last.latency_ms, 3),
        response_size_bytes=run.answer_bytes,
        error_message=None if error_type is None else _message(run),
        error_type=None if error_type is None else ErrorType(error_type),
        request_url=mask_url(run.url) or None,
        request_method=run.method or None,
        state=run.state,
        reason=run.reason,
        fire_time=rfc3339(run.fire_time_ms),
        lateness_ms=run.lateness_ms,
        ended_by=NEXT_FIRE_TIME if run.ended_by == NEXT_FIRE_TIME else None,
        replay_of=show_replay_of(run),
        replayed_by=run.replayed_by or None,
    )


def show_found_with_detail(found: FoundRun) -> RunDetail:
    """A run as ``GET /runs/{id}`` answers it: with its request and response, as far as they were kept."""
    run, detail = found.run, found.detail
    kept: dict[str, Any] = dict.fromkeys(("request_headers", "request_body", "response_headers", "response_body"))
    if detail is not None:
        kept["request_headers"] = _headers(detail.request_headers)
        kept["request_body"] = _text(detail.request_body)
        if run.attempts and run.attempts[-1].outcome is OutcomeKind.RESPONSE:
            kept["response_headers"] = _headers(detail.response_headers)
            kept["response_body"] = _text(detail.response_body)
    elif run.excerpt:
        kept["response_body"] = run.excerpt
    attempts = [_show_attempt(attempt) for attempt in run.attempts]
    is_taken = run.state is RunState.TAKEN
    return RunDetail(
        **structs.asdict(show_found(found)),
        trace_id=trace_id_of(run.id),
        job_version=run.job_version,
        attempt=run.attempt,
        message=run.message,
        retry_at=None if is_taken else instant(run.retry_at_ms),
        node=found.node or None,
        taken_at=instant(run.taken_at_ms),
        heard_at=instant(run.heartbeat_at_ms),
        deadline=instant(run.retry_at_ms) if is_taken else None,
        progress=run.progress,
        note=run.note,
        **kept,
        attempts=attempts,
    )


def _show_attempt(attempt: model.Attempt) -> ListedAttempt:
    error_type = attempt_error_type(attempt)
    return ListedAttempt(
        attempt_number=attempt.number,
        fence=attempt.fence,
        outcome=attempt.outcome,
        status=attempt_status(attempt),
        started_at=instant(attempt.started_at_ms),
        completed_at=instant(attempt.started_at_ms + round(attempt.latency_ms)),
        status_code=attempt.status,
        latency_ms=round(attempt.latency_ms, 3),
        error_message=None if error_type is None else _attempt_message(attempt),
        error_type=None if error_type is None else ErrorType(error_type),
    )


def error_of(run: model.Run) -> tuple[ErrorType, str] | None:
    """The kind of error of a settled run and its text; None: no error."""
    kind = error_type_of(run)
    return None if kind is None else (ErrorType(kind), _message(run))


def _message(run: model.Run) -> str:
    if run.message or not run.attempts:
        return run.message or run.state.value
    return _attempt_message(run.attempts[-1])


def _attempt_message(attempt: model.Attempt) -> str:
    if attempt.message or attempt.status is None:
        return attempt.message or attempt.outcome.value
    return f"the target answered {attempt.status}"


def _headers(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return headers as one object. Values of a repeated name are joined with commas, as RFC 9110 allows."""
    found: dict[str, str] = {}
    for name, value in mask_headers(pairs):  # again: an older version may have masked fewer names
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _text(body: bytes) -> str:
    """Decode a body for display. Bytes that are not UTF-8 are replaced."""
    return body.decode("utf-8", "replace")
