"""Operations: ``POST /jobs:pause`` and the other verbs on many jobs, ``POST /runs:replay``, and ``/operations``."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import (
    DEFAULT_PAGE,
    MAX_PAGE,
    decoded,
    json_answer,
    next_link,
    no_fields,
    query,
    read_body,
    whole,
)
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, BODY_FAULTS, CURSOR, LIMIT, LOCATION, NEXT_PAGE, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Endpoint, Operation, described, problem
from scheduler_api.wire.answers import operations as answers
from scheduler_api.wire.answers.operations import (
    OperationAccepted,
    OperationPage,
    OperationResult,
    show_operation,
    show_result,
)
from scheduler_api.wire.operations import BODIES, operation_of
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.run import run_id_ms
from scheduler_core.store.operations import OperationState
from scheduler_core.usecases.operation_spec import OperationVerb


def _start(verb: OperationVerb) -> Endpoint:
    """Return the endpoint that carries out ``verb`` on many: 200 if it ends within about a second, else 202."""

    async def start(request: Request) -> Response:
        query(request)
        body = await read_body(request)
        context = context_of(request)
        spec = operation_of(verb, body, now_ms=context.clock.now_ms())
        async with context.store_slot():
            try:
                view = await context.operations.start(spec)
            except InvalidInput as error:  # an unknown target, found by the store
                raise InvalidInput(f"in select: {error.detail}", field=f"select.{error.field}") from None
        if view.state == OperationState.DONE:
            return json_answer(show_result(view))
        return json_answer(OperationAccepted(view.id), 202, headers={"Location": f"/operations/{view.id}"})

    return start


async def list_operations(request: Request) -> Response:
    """``GET /operations?cursor=&limit=``: newest first."""
    params = query(request, "cursor", "limit")
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    after = params.get("cursor", "")
    if after and run_id_ms(after) is None:
        raise InvalidInput("not a cursor of this list; use next of an earlier page, or none", field="cursor")
    context = context_of(request)
    async with context.store_slot():
        views, following = await context.operations.page(after=after, limit=limit)
    headers = None if following is None else next_link(request, params, cursor=following)
    return json_answer(OperationPage([show_operation(view) for view in views], following), headers=headers)


async def get(request: Request) -> Response:
    """``GET /operations/{id}``."""
    query(request)
    context = context_of(request)
    async with context.store_slot():
        view = await context.operations.get(_path_id(request))
    return json_answer(show_operation(view))


async def cancel(request: Request) -> Response:
    """``POST /operations/{id}/cancel``."""
    query(request)
    await no_fields(request)
    context = context_of(request)
    async with context.store_slot():
        view = await context.operations.cancel(_path_id(request))
    return json_answer(show_operation(view))


def _path_id(request: Request) -> str:
    return decoded(request.path_params["operation_id"], field="id")


_ACCEPTED = {
    200: Answer("It has ended: its counts.", OperationResult),
    202: Answer("It continues in the background: `GET /operations/{id}`.", OperationAccepted, [LOCATION]),
}
_FULL = {409: problem("Too many operations are open (`too_many_operations`).")}
_NONE = {404: problem("No such operation, or it ended more than a day ago.")}
_SUMMARIES = {
    OperationVerb.PAUSE: "Pause the selected jobs",
    OperationVerb.RESUME: "Resume the selected jobs, also quarantined ones",
    OperationVerb.RUN: "Start a run of each selected job now",
    OperationVerb.DELETE: "Delete the selected jobs",
    OperationVerb.LABEL: "Change labels of the selected jobs",
    OperationVerb.REPLAY: "Run settled runs again, by default those that failed",
}
_DESCRIPTIONS = {
    OperationVerb.PAUSE: "Schedules are counted under `skipped`.",
    OperationVerb.RESUME: "Schedules are counted under `skipped`.",
    OperationVerb.RUN: "As `POST /jobs/{id}/run` without payload, at most `per_second` of them. Schedules are skipped.",
    OperationVerb.DELETE: "Schedules are counted under `skipped`.",
    OperationVerb.LABEL: "Runs in flight and waiting retries continue. Schedules are changed too.",
    OperationVerb.REPLAY: "As `POST /runs/{id}/retry`; at most ten replays of a job wait or run at the same time, and "
    "they give way to fire times that are due. Only runs that had ended when the request arrived are replayed.",
}

operation = partial(Operation, "Many jobs and runs")


def _verb(verb: OperationVerb) -> Operation:
    path = "/runs:replay" if verb is OperationVerb.REPLAY else f"/jobs:{verb.value}"
    return operation(
        f"POST {path}",
        _start(verb),
        "replay_runs" if verb is OperationVerb.REPLAY else f"{verb.value}_jobs",
        _SUMMARIES[verb],
        description=_DESCRIPTIONS[verb],
        body=BODIES[verb],
        answers={**_ACCEPTED, **BAD, **_FULL, **BODY_FAULTS, **STORE_FAULTS},
    )


ROUTES = described(
    *map(_verb, OperationVerb),
    operation(
        "GET /operations",
        list_operations,
        "list_operations",
        "List operations, newest first",
        parameters=(CURSOR, LIMIT),
        answers={200: Answer("A page.", OperationPage, [NEXT_PAGE]), **BAD, **STORE_FAULTS},
    ),
    operation(
        "GET /operations/{operation_id}",
        get,
        "get_operation",
        "Get an operation: counts, position, errors",
        answers={200: Answer("The operation.", answers.Operation), **BAD, **_NONE, **STORE_FAULTS},
    ),
    operation(
        "POST /operations/{operation_id}/cancel",
        cancel,
        "cancel_operation",
        "Cancel an operation; what it has done stays",
        answers={
            200: Answer("It handles no job after the one in hand.", answers.Operation),
            **BAD,
            **_NONE,
            409: problem("It has ended (`operation_ended`)."),
            **BODY_FAULTS,
            **STORE_FAULTS,
        },
    ),
)
