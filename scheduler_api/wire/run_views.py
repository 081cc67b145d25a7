"""How a run and its attempts are shown in the list of runs. ``status`` is null while a run is not settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler_api.wire.fields import instant
from scheduler_core.base.secret_names import mask_headers, mask_url
from scheduler_core.model.catalogue import schedule_id_of
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, Run
from scheduler_core.model.status import attempt_error_type, attempt_status, error_type_of, status_of
from scheduler_core.usecases.history import FoundRun


def show_found(found: FoundRun) -> dict[str, Any]:
    """A run as ``GET /runs`` lists it."""
    run = found.run
    last = run.attempts[-1] if run.attempts else None
    status = status_of(run)
    error_type = error_type_of(run)
    return {
        "id": run.id,
        "schedule_id": schedule_id_of(found.job_id),
        "job_id": found.job_id,
        "status": None if status is None else status.value,
        "started_at": instant(run.started_at_ms),
        "completed_at": instant(run.ended_at_ms),
        "status_code": run.last_status,
        "latency_ms": None if last is None else round(last.latency_ms, 3),
        "response_size_bytes": run.answer_bytes,
        "error_message": None if error_type is None else _message(run),
        "error_type": error_type,
        "request_url": mask_url(run.url) or None,
        "request_method": run.method or None,
        "state": run.state.value,
        "reason": run.reason.value,
        "fire_time": instant(run.fire_time_ms),
        "lateness_ms": run.lateness_ms,
    }


def show_found_with_detail(found: FoundRun) -> dict[str, Any]:
    """A run as ``GET /runs/{id}`` answers it: also what was sent and answered, as far as that was kept."""
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
    return show_found(found) | kept | {"attempts": [_show_attempt(attempt) for attempt in run.attempts]}


def _show_attempt(attempt: Attempt) -> dict[str, Any]:
    error_type = attempt_error_type(attempt)
    return {
        "attempt_number": attempt.number,
        "status": attempt_status(attempt).value,
        "started_at": instant(attempt.started_at_ms),
        "completed_at": instant(attempt.started_at_ms + round(attempt.latency_ms)),
        "status_code": attempt.status,
        "latency_ms": round(attempt.latency_ms, 3),
        "error_message": None if error_type is None else _attempt_message(attempt),
        "error_type": error_type,
    }


def _message(run: Run) -> str:
    if run.message or not run.attempts:
        return run.message or run.state.value
    return _attempt_message(run.attempts[-1])


def _attempt_message(attempt: Attempt) -> str:
    if attempt.message or attempt.status is None:
        return attempt.message or attempt.outcome.value
    return f"the target answered {attempt.status}"


def _headers(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Headers as one object; a name that comes more than once has its values in one, as RFC 9110 allows."""
    found: dict[str, str] = {}
    for name, value in mask_headers(pairs):  # again: an older version may have stored them with a shorter list
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _text(body: bytes) -> str:
    """A body for people: what is no UTF-8 is replaced."""
    return body.decode("utf-8", "replace")
