"""``/targets``: named requests that schedules share."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, json_answer
from scheduler_api.context import context_of
from scheduler_api.endpoints.lenient import PAGE_PARAMETERS, PageQuery, body_fields, lenient, path_number
from scheduler_api.openapi.common import BODY_FAULTS, IGNORED, LENIENT_FAULTS, LOCATION, NEXT_PAGE
from scheduler_api.openapi.operation import Answer, Operation, problem
from scheduler_api.wire.answers.runs import show_in_flight
from scheduler_api.wire.answers.targets import Target as ShownTarget
from scheduler_api.wire.answers.targets import TargetDeleted, show_stored, show_target
from scheduler_api.wire.bodies import TargetBody, TargetChange
from scheduler_api.wire.targets import TARGET_FIELDS, check_allowed, target_of
from scheduler_core.model.catalogue import Target

DELETE_SECONDS = 20.0
"""How long a request deletes the schedules of a target. Well below the deadline of an answer."""


async def create(request: Request) -> Response:
    """``POST /targets``."""
    context = context_of(request)
    target = target_of(await body_fields(request, TARGET_FIELDS))
    check_allowed(target, context.guard)
    async with context.store_slot():
        stored = await context.targets.add(target)
    return json_answer(show_target(stored), 201, headers={"Location": f"/targets/{stored.id}"})


async def list_targets(request: Request) -> Response:
    """``GET /targets?skip=&limit=``, in the order of their ids; also with the ``cursor`` of a ``Link``."""
    query = PageQuery(request)
    context = context_of(request)
    async with context.store_slot():
        page = await context.targets.page(after=query.after, skip=query.skip, limit=query.limit)
    return query.answer([show_stored(target) for target in page.targets], page.cursor)


async def get(request: Request) -> Response:
    """``GET /targets/{id}``."""
    target_id = path_number(request, "target_id")
    context = context_of(request)
    async with context.store_slot():
        return json_answer(show_stored(await context.targets.get_stored(target_id)))


async def put(request: Request) -> Response:
    """``PUT /targets/{id}``: change the given fields. Its schedules use them from their next run on."""
    target_id = path_number(request, "target_id")
    fields = await body_fields(request, TARGET_FIELDS)

    def change(old: Target) -> Target:
        target = target_of(fields, old)
        if (target.url, target.auth) != (old.url, old.auth):
            check_allowed(target, context.guard)
        return target

    def anew() -> Target:
        target = target_of(fields)
        check_allowed(target, context.guard)
        return target

    context = context_of(request)
    async with context.store_slot(f"target {target_id}"):
        return json_answer(show_target(await context.targets.change(target_id, change, anew=anew)))


async def delete(request: Request) -> Response:
    """``DELETE /targets/{id}``: delete a target and its schedules; if there are many, partly in the background."""
    target_id = path_number(request, "target_id")
    context = context_of(request)
    async with context.store_slot(f"target {target_id}"):
        deleted = await context.targets.delete_within(target_id, DELETE_SECONDS)
    message = f"target {target_id} deleted"
    if not deleted.all_gone:
        message += "; its other schedules are being deleted in the background"
    return json_answer(TargetDeleted(message, deleted.schedules, show_in_flight(deleted.in_flight)))


_TAKEN = {400: problem("The name is taken.")}
_NONE = {404: problem("No such target.")}
_SHOWN = {200: Answer("The target.", ShownTarget, [IGNORED]), **_NONE, **LENIENT_FAULTS}

operation = partial(Operation, "Targets")
ROUTES = lenient(
    operation(
        "POST /targets",
        create,
        "create_target",
        "Create a target",
        body=TargetBody,
        answers={201: Answer("Stored.", ShownTarget, [LOCATION, IGNORED]), **_TAKEN, **BODY_FAULTS, **LENIENT_FAULTS},
    ),
    operation(
        "GET /targets",
        list_targets,
        "list_targets",
        "List targets in the order of their ids",
        parameters=PAGE_PARAMETERS,
        answers={
            200: Answer(f"At most {MAX_PAGE}, by default {DEFAULT_PAGE}.", list[ShownTarget], [NEXT_PAGE, IGNORED]),
            **LENIENT_FAULTS,
        },
    ),
    operation("GET /targets/{target_id}", get, "get_target", "Get a target", answers=_SHOWN),
    operation(
        "PUT /targets/{target_id}",
        put,
        "update_target",
        "Change a target; its schedules use it from their next run on",
        body=TargetChange,
        answers={**_SHOWN, **_TAKEN, **BODY_FAULTS},
    ),
    operation(
        "DELETE /targets/{target_id}",
        delete,
        "delete_target",
        "Delete a target and its schedules",
        answers={
            200: Answer("Deleted.", TargetDeleted, [IGNORED]),
            **_NONE,
            409: problem("Jobs use the target (`target_in_use`); schedules do not count."),
            **LENIENT_FAULTS,
        },
    ),
)
