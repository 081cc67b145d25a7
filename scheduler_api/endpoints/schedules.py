"""``/schedules``: targets called at a fixed interval. ``/metrics/schedules``: totals of their runs."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, json_answer
from scheduler_api.context import context_of
from scheduler_api.endpoints.lenient import PAGE_PARAMETERS, PageQuery, body_fields, ignored_body, lenient, path_number
from scheduler_api.openapi.common import BODY_FAULTS, IGNORED, LENIENT_FAULTS, LOCATION, NEXT_PAGE
from scheduler_api.openapi.operation import Answer, Operation, Parameter, problem
from scheduler_api.wire import bodies
from scheduler_api.wire.answers.runs import show_in_flight
from scheduler_api.wire.answers.schedules import (
    Schedule,
    ScheduleDeleted,
    ScheduleMetrics,
    show_changed,
    show_schedule,
    show_schedule_metrics,
)
from scheduler_api.wire.schedules import (
    SCHEDULE_FIELDS,
    if_given,
    seconds_of,
    status_filter,
    target_id_of,
    type_of,
)
from scheduler_api.wire.targets import name_of
from scheduler_core.model.catalogue import ScheduleStatus, check_timing, job_id_of
from scheduler_core.usecases.schedules import ScheduleChange


async def create(request: Request) -> Response:
    """``POST /schedules``: the first fire time is one interval from now."""
    fields = await body_fields(request, SCHEDULE_FIELDS)
    name, target_id, schedule_type = name_of(fields), target_id_of(fields), type_of(fields)
    duration = if_given(fields, "duration_seconds", lambda given: seconds_of(given, "duration_seconds"))
    timing = check_timing(schedule_type, seconds_of(fields, "interval_seconds"), duration)
    context = context_of(request)
    async with context.store_slot():
        schedule = await context.schedules.add(name, target_id, timing)
    return json_answer(show_schedule(schedule), 201, headers={"Location": f"/schedules/{schedule.id}"})


async def list_schedules(request: Request) -> Response:
    """``GET /schedules?status_filter=&skip=&limit=``, by id; also with the ``cursor`` of a ``Link``.

    A page of one status reads a bounded number of schedules: it may be short and still have a next page.
    """
    query = PageQuery(request)
    status = status_filter(query.params)
    context = context_of(request)
    async with context.store_slot():
        page = await context.schedules.page(after=query.after, skip=query.skip, limit=query.limit, status=status)
    return query.answer([show_schedule(schedule) for schedule in page.schedules], page.cursor, page.skip)


async def get(request: Request) -> Response:
    """``GET /schedules/{id}``."""
    schedule_id = path_number(request, "schedule_id")
    context = context_of(request)
    async with context.store_slot():
        return json_answer(show_schedule(await context.schedules.get(schedule_id)))


async def put(request: Request) -> Response:
    """``PUT /schedules/{id}``: change the given fields. A changed interval starts now."""
    schedule_id = path_number(request, "schedule_id")
    fields = await body_fields(request, SCHEDULE_FIELDS)
    change = ScheduleChange(
        name=if_given(fields, "name", name_of),
        target_id=if_given(fields, "target_id", target_id_of),
        type=if_given(fields, "schedule_type", type_of),
        interval_seconds=if_given(fields, "interval_seconds", lambda given: seconds_of(given, "interval_seconds")),
        duration_seconds=if_given(fields, "duration_seconds", lambda given: seconds_of(given, "duration_seconds")),
    )
    context = context_of(request)
    async with context.store_slot(job_id_of(schedule_id)):
        return json_answer(show_changed(await context.schedules.change(schedule_id, change)))


async def delete(request: Request) -> Response:
    """``DELETE /schedules/{id}``."""
    schedule_id = path_number(request, "schedule_id")
    context = context_of(request)
    async with context.store_slot(job_id_of(schedule_id)):
        in_flight = await context.schedules.delete(schedule_id)
    return json_answer(ScheduleDeleted(f"schedule {schedule_id} deleted", show_in_flight(in_flight)))


async def pause(request: Request) -> Response:
    """``POST /schedules/{id}/pause``."""
    await ignored_body(request)
    schedule_id = path_number(request, "schedule_id")
    context = context_of(request)
    async with context.store_slot(job_id_of(schedule_id)):
        return json_answer(show_changed(await context.schedules.pause(schedule_id)))


async def resume(request: Request) -> Response:
    """``POST /schedules/{id}/resume``: continue with the old fire times; missed ones are not made up for."""
    await ignored_body(request)
    schedule_id = path_number(request, "schedule_id")
    context = context_of(request)
    async with context.store_slot(job_id_of(schedule_id)):
        return json_answer(show_changed(await context.schedules.resume(schedule_id)))


async def metrics(request: Request) -> Response:
    """``GET /metrics/schedules?skip=&limit=``: totals per schedule."""
    query = PageQuery(request)
    context = context_of(request)
    async with context.store_slot():
        page = await context.schedules.page(after=query.after, skip=query.skip, limit=query.limit)
    return query.answer([show_schedule_metrics(schedule) for schedule in page.schedules], page.cursor, page.skip)


_NONE = {404: problem("No such schedule.")}
_UNREADABLE = {409: problem("The stored schedule cannot be read.")}
_SHOWN = {200: Answer("The schedule.", Schedule, [IGNORED]), **_NONE, **LENIENT_FAULTS}
_PAGE = f"At most {MAX_PAGE}, by default {DEFAULT_PAGE}."

operation = partial(Operation, "Schedules")
ROUTES = lenient(
    operation(
        "POST /schedules",
        create,
        "create_schedule",
        "Create a schedule; its first fire time is one interval from now",
        body=bodies.ScheduleBody,
        answers={
            201: Answer("Stored.", Schedule, [LOCATION, IGNORED]),
            400: problem("The name is taken."),
            404: problem("No such target."),
            **BODY_FAULTS,
            **LENIENT_FAULTS,
        },
    ),
    operation(
        "GET /schedules",
        list_schedules,
        "list_schedules",
        "List schedules in the order of their ids",
        parameters=(Parameter("status_filter", ScheduleStatus, "Only schedules with this status."), *PAGE_PARAMETERS),
        answers={200: Answer(_PAGE, list[Schedule], [NEXT_PAGE, IGNORED]), **LENIENT_FAULTS},
    ),
    operation("GET /schedules/{schedule_id}", get, "get_schedule", "Get a schedule", answers=_SHOWN),
    operation(
        "PUT /schedules/{schedule_id}",
        put,
        "update_schedule",
        "Change a schedule",
        body=bodies.ScheduleChange,
        answers={
            **_SHOWN,
            400: problem("The name is taken, or the schedule has stopped."),
            404: problem("No such schedule, or no such target."),
            **_UNREADABLE,
            **BODY_FAULTS,
        },
    ),
    operation(
        "DELETE /schedules/{schedule_id}",
        delete,
        "delete_schedule",
        "Delete a schedule; its runs stay until they are trimmed",
        answers={200: Answer("Deleted.", ScheduleDeleted, [IGNORED]), **_NONE, **LENIENT_FAULTS},
    ),
    operation(
        "POST /schedules/{schedule_id}/pause",
        pause,
        "pause_schedule",
        "Pause a schedule; a request in flight continues",
        answers={**_SHOWN, 400: problem("The schedule is not ACTIVE."), **_UNREADABLE},
    ),
    operation(
        "POST /schedules/{schedule_id}/resume",
        resume,
        "resume_schedule",
        "Resume a schedule at its old fire times; nothing is caught up",
        answers={**_SHOWN, 400: problem("The schedule is not PAUSED."), **_UNREADABLE},
    ),
    operation(
        "GET /metrics/schedules",
        metrics,
        "list_schedule_metrics",
        "List the totals of each schedule's runs",
        parameters=PAGE_PARAMETERS,
        answers={200: Answer(_PAGE, list[ScheduleMetrics], [NEXT_PAGE, IGNORED]), **LENIENT_FAULTS},
    ),
)
