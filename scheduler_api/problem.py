"""Writes errors as ``application/problem+json`` (RFC 9457). Only here does an error of the core get an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from scheduler_api.wire.answers.problem import Problem
from scheduler_core.base.errors import (
    AlertChannelInUse,
    AlertChannelNotFound,
    AlertRuleNotFound,
    AlreadyReplayed,
    AlreadySettled,
    AlreadySucceeded,
    AttentionNotFound,
    CorruptDocument,
    CronpostError,
    DefinitionChanged,
    DuplicateName,
    InvalidInput,
    JobNotFound,
    KeyReused,
    NoNode,
    OperationEnded,
    OperationNotFound,
    OutcomeUnknown,
    RunCancelled,
    RunConflict,
    RunLost,
    RunNotFound,
    ScheduleNotFound,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TargetInUse,
    TargetNotFound,
    TaskNotFound,
    TaskNotStale,
    TokenRefused,
    TooManyAlertEntries,
    TooManyListeners,
    TooManyOperations,
    VersionMismatch,
    WrongStatus,
)

RETRY_AFTER_SECONDS = 1
"""``Retry-After`` when Redis has a temporary fault. Restart, failover and loading last seconds; during a longer fault a
client sends one cheap request a second."""

STATUSES: Mapping[type[CronpostError], int] = {
    InvalidInput: 400,
    JobNotFound: 404,
    VersionMismatch: 412,
    RunConflict: 409,
    KeyReused: 422,
    RunLost: 409,
    RunCancelled: 409,
    AlreadySettled: 409,
    AlreadyReplayed: 409,
    AlreadySucceeded: 409,
    DefinitionChanged: 409,
    RunNotFound: 404,
    AttentionNotFound: 404,
    OperationNotFound: 404,
    OperationEnded: 409,
    TooManyOperations: 409,
    AlertRuleNotFound: 404,
    AlertChannelNotFound: 404,
    AlertChannelInUse: 409,
    TooManyAlertEntries: 409,
    TokenRefused: 403,
    NoNode: 503,
    TargetInUse: 409,
    TargetNotFound: 404,
    ScheduleNotFound: 404,
    DuplicateName: 400,
    WrongStatus: 400,
    TaskNotFound: 404,
    TaskNotStale: 409,
    TooManyListeners: 503,
    StoreUnavailable: 429,
    StoreRefused: 422,
    CorruptDocument: 500,
}


class ApiError(Exception):
    """An error of HTTP itself (no such path, body too large), not of the core."""

    def __init__(self, status: int, detail: str, *, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.headers = dict(headers or {})


def session_fault(error: StoreError) -> ApiError:
    """Build the error for a request whose session cannot be read or changed. While Redis is away nobody is signed
    out."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return ApiError(503, f"sessions cannot be read or changed now: {error}", code=error.code, headers=headers)


def problem_of(error: CronpostError) -> Response:
    """Build the response for an error of the core."""
    body = problem_body(error)
    headers: dict[str, str] = {}
    if body.status in {429, 503}:
        headers["Retry-After"] = str(_retry_after(error))
    elif isinstance(error, VersionMismatch) and error.etag is not None:
        headers["ETag"] = f'"{error.etag}"'
    return _answer(body, headers)


def _retry_after(error: CronpostError) -> int:
    """Return whole seconds. After them, a change with unknown outcome is either stored or never will be."""
    if isinstance(error, OutcomeUnknown):
        return max(RETRY_AFTER_SECONDS, -(-error.retry_after_ms // 1000))
    return RETRY_AFTER_SECONDS


def problem_body(error: CronpostError) -> Problem:
    """What that answer says."""
    status = next((STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES), 500)
    if isinstance(error, InvalidInput):
        return fields_of_problem(status, error.detail, error.code, error.field)
    return fields_of_problem(status, str(error), error.code, getattr(error, "field", None))


def problem(
    status: int,
    detail: str,
    *,
    code: str,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Build a problem document. ``code`` is stable and for programs, ``detail`` is for people."""
    return _answer(fields_of_problem(status, detail, code, field), headers)


def fields_of_problem(status: int, detail: str, code: str, field: str | None = None) -> Problem:
    """What a problem document says."""
    return Problem(HTTPStatus(status).phrase, status, detail, code, UNSET if field is None else field)


def _answer(body: Problem, headers: Mapping[str, str] | None) -> Response:
    return Response(
        msgspec.json.encode(body) + b"\n",
        body.status,
        media_type="application/problem+json",
        headers=dict(headers or {}),
    )
