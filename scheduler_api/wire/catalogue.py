"""What the endpoints of targets and schedules have in common: bodies, queries, pages, and how errors are told.

Their clients are used to other manners than those of jobs: unknown fields and parameters are passed over, what cannot
be accepted is a 422, lists are bare arrays, and a trailing slash makes no difference.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, ignore, json_answer, next_link, read_body, whole, with_ignored
from scheduler_api.problem import ApiError, problem
from scheduler_api.wire.json_body import Fields, read_object, refuse_repeated, required
from scheduler_api.wire.views import instant, next_fire_times
from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.http.validate import check_headers, check_url
from scheduler_core.model.catalogue import (
    MAX_NAME_CHARACTERS,
    TARGET_METHODS,
    ScheduleStatus,
    ScheduleType,
    Target,
    end_of,
    schedule_id_of,
    stopped_at,
    timing_of,
)
from scheduler_core.store.redis.catalogue import StoredTarget
from scheduler_core.triggers.trigger import IntervalSpec
from scheduler_core.usecases.catalogue import Schedule

MAX_SKIP = 10_000
MAX_DIGITS = 15
PAGE_PARAMETERS = ("skip", "limit", "cursor")
TARGET_FIELDS = ("name", "url", "method", "headers", "body_template")
SCHEDULE_FIELDS = ("name", "target_id", "schedule_type", "interval_seconds", "duration_seconds")

Endpoint = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def unprocessable(endpoint: Endpoint, parameters: Collection[str]) -> Endpoint:
    """The same endpoint, whose clients know what cannot be accepted as 422, and which passes over what it does not
    know, and names it."""

    @functools.wraps(endpoint)
    async def answered(request: Request) -> Response:
        try:
            return with_ignored(request, await endpoint(request), parameters)
        except InvalidInput as error:
            return problem(422, error.detail, code=error.code, field=error.field)

    return answered


def routes(path: str, endpoint: Endpoint, method: str, *, parameters: Collection[str] = ()) -> list[Route]:
    """The route, and the same with a trailing slash, which is not described apart. ``parameters`` of its query."""
    answering = unprocessable(endpoint, parameters)
    return [
        Route(path, answering, methods=[method]),
        Route(f"{path}/", answering, methods=[method], include_in_schema=False),
    ]


def path_number(request: Request, name: str) -> int:
    """The integer id in the path; raises InvalidInput. One that no id can be is 0, which is nobody's."""
    text = request.path_params[name]
    digits = text[1:] if text[:1] in {"-", "+"} else text
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidInput(f"{name} must be an integer", field=name)
    return int(digits) if text[0] != "-" and len(digits) <= MAX_DIGITS else 0


def refuse_schedule(job_id: str, instead: str, why: str = "this job is a schedule") -> None:
    """Raise ApiError if the job is a schedule: ``/jobs`` shows it and runs it, but its life is that of ``/schedules``,
    where its name is freed and its status counted. ``instead`` is a method and an action, such as ``POST /pause``;
    ``why`` says what a schedule does not have."""
    schedule_id = schedule_id_of(job_id)
    if schedule_id is not None:
        method, _, action = instead.partition(" ")
        hint = f"{method} /schedules/{schedule_id}{action}"
        raise ApiError(409, f"{why}; use {hint}", code="is_a_schedule")


async def body_fields(request: Request, known: Collection[str]) -> Fields:
    """The fields of the JSON object in the body; those that are not ``known`` are passed over, and named in the
    answer."""
    fields = read_object(await read_body(request), None)
    ignore(request, (name for name in fields if name not in known))
    return fields


async def ignored_body(request: Request) -> None:
    """Read the body of a request that needs none; its fields are named in the answer."""
    body = await read_body(request)
    try:
        ignore(request, read_object(body, None))
    except InvalidInput:
        return  # its clients may send anything here


# ---- pages ----------------------------------------------------------------------------------------------------------


class PageQuery:
    """``skip``, ``limit`` and ``cursor`` of a request for a list. Raises InvalidInput."""

    def __init__(self, request: Request) -> None:
        self.params: dict[str, str] = dict(request.query_params)
        self.limit = whole(self.params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
        self.skip = whole(self.params, "skip", 0, 0, MAX_SKIP)
        self.after = whole(self.params, "cursor", 0, 0, 10**MAX_DIGITS)
        self._request = request

    def answer(self, shown: list[dict[str, Any]], cursor: int | None, skip: int = 0) -> Response:
        """The page as a bare array, with a ``Link`` to the next one if there is one; ``skip``: what that has to leave
        out still."""
        if cursor is None:
            return json_answer(shown)
        if skip:
            return json_answer(shown, headers=next_link(self._request, self.params, skip=str(skip), cursor=str(cursor)))
        kept = {name: value for name, value in self.params.items() if name not in {"skip", "cursor"}}
        return json_answer(shown, headers=next_link(self._request, kept, cursor=str(cursor)))


def status_filter(params: Mapping[str, str]) -> ScheduleStatus | None:
    """The status in the query; raises InvalidInput."""
    if "status_filter" not in params:
        return None
    return _one_of(ScheduleStatus, params["status_filter"], "status_filter")


# ---- targets --------------------------------------------------------------------------------------------------------


def target_of(fields: Fields, old: Target | None = None) -> Target:
    """The target that a body asks for: a new one, or ``old`` but for the fields that are given.

    In a change, null leaves a field that cannot be null as it is. Raises InvalidInput.
    """
    target = old or Target(id=0, name="", url="")
    name, url, method = target.name, target.url, target.method
    if old is None or _given(fields, "name"):
        name = name_of(fields)
    if old is None or _given(fields, "url"):
        url = check_url(required(fields, "url", str, "an absolute http or https URL"), field="url")
    if (old is None and "method" in fields) or _given(fields, "method"):
        words = f"one of {', '.join(TARGET_METHODS)}"
        method = required(fields, "method", str, words)
        if method not in TARGET_METHODS:
            raise InvalidInput(f"method must be {words}", field="method")
    headers, template = target.headers, target.body_template
    if "headers" in fields:
        sent = required(fields, "headers", dict[str, str] | None, "an object of strings, or null")
        if sent is not None:
            refuse_repeated(bytes(fields["headers"]), path="headers.")
        headers = None if sent is None else check_headers(sent)
    if "body_template" in fields:
        template = required(fields, "body_template", str | None, "a string or null")
    return Target(
        id=target.id,
        name=name,
        url=url,
        method=method,
        headers=headers,
        body_template=template,
        created_at_ms=target.created_at_ms,
        updated_at_ms=target.updated_at_ms,
    )


def show_stored(stored: StoredTarget) -> dict[str, Any]:
    """A target as it is stored. Of one that cannot be read, its id and why: PUT with all fields replaces it."""
    if stored.fault is not None:
        return {"id": stored.target.id, "status": "unreadable", "detail": stored.fault}
    return show_target(stored.target)


def show_target(target: Target) -> dict[str, Any]:
    """A target as it was written, the values of its headers included: clients read it, change it and send it back."""
    return {
        "id": target.id,
        "name": target.name,
        "url": target.url,
        "method": target.method,
        "headers": None if target.headers is None else dict(target.headers),
        "body_template": target.body_template,
        "created_at": instant(target.created_at_ms),
        "updated_at": instant(target.updated_at_ms),
    }


# ---- schedules ------------------------------------------------------------------------------------------------------


def name_of(fields: Fields) -> str:
    """The name of a target or a schedule."""
    name = required(fields, "name", str, f"a string of 1 to {MAX_NAME_CHARACTERS} characters")
    assert isinstance(name, str)
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise InvalidInput(f"name must have 1 to {MAX_NAME_CHARACTERS} characters, and has {len(name)}", field="name")
    if not name.isprintable():
        character = next(character for character in name if not character.isprintable())
        raise InvalidInput(f"name must be printable text, and has {character!a}", field="name")
    return name


def type_of(fields: Fields) -> ScheduleType:
    """INTERVAL or WINDOW."""
    words = " or ".join(ScheduleType)
    return _one_of(ScheduleType, required(fields, "schedule_type", str, words), "schedule_type")


def seconds_of(fields: Fields, name: str) -> int:
    """A whole number of seconds above 0. How large it may be is said by the model."""
    words = "a whole number of seconds, at least 1"
    value = required(fields, name, int | float, words)
    if value % 1 != 0:
        raise InvalidInput(f"{name} must be {words}", field=name)
    return int(value)


def target_id_of(fields: Fields) -> int:
    """The id of a target; one that no id can be is 0, which is nobody's."""
    value = required(fields, "target_id", int, "the id of a target, an integer")
    assert isinstance(value, int)
    return value if 0 <= value < 10**MAX_DIGITS else 0


def if_given(fields: Fields, name: str, read: Callable[[Fields], T]) -> T | None:
    """What ``read`` makes of a field that is there and not null."""
    return read(fields) if _given(fields, name) else None


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


def _given(fields: Fields, name: str) -> bool:
    return name in fields and bytes(fields[name]).strip() != b"null"


def _one_of(kind: type[E], text: str, field: str) -> E:
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(f"{field} must be one of {', '.join(kind)}", field=field) from None
