"""``/api/v1/tasks`` and ``/api/v1/config``: one-off tasks and their settings.

Each path is served with and without a slash at its end, and a body is read as JSON with any Content-Type, as existing
clients require.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from functools import partial

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import (
    DEFAULT_PAGE,
    MAX_PAGE,
    decoded,
    ignore,
    json_answer,
    next_link,
    read_body,
    whole,
    with_ignored,
)
from scheduler_api.context import context_of
from scheduler_api.openapi.common import (
    BAD,
    BODY_FAULTS,
    CURSOR,
    IGNORED,
    LIMIT,
    NEXT_PAGE,
    STORE_FAULTS,
)
from scheduler_api.openapi.operation import Answer, Endpoint, Operation, Parameter, problem, query_names, with_slash
from scheduler_api.wire.answers.tasks import Task, TaskDeleted, TaskPage, TasksStored, show_rules, show_task
from scheduler_api.wire.bodies import TaskBodies, TaskSettings, TaskSettingsChange
from scheduler_api.wire.tasks import read_cursor, rules_of, tasks_of, write_cursor
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.task import TaskStatus
from scheduler_core.usecases.tasks import PARTS_OF

LIST_PARAMETERS = (Parameter("status", TaskStatus, "Only tasks with this status."), CURSOR, LIMIT)


async def add(request: Request) -> Response:
    """``POST /api/v1/tasks``: one task, or an array of 1 to 1000, all or none."""
    context = context_of(request)
    tasks, is_array, ignored = tasks_of(await read_body(request), context.guard)
    ignore(request, sorted(ignored))
    async with context.store_slot():
        ids = await context.tasks.add(tasks)
    return json_answer(TasksStored(id=UNSET if is_array else ids[0], ids=ids), 202)


async def list_tasks(request: Request) -> Response:
    """``GET /api/v1/tasks?status=&cursor=&limit=``: pending tasks in the order in which they are due, then running
    ones, then stale and delivered ones, both with the newest first.

    A task whose status changes between two pages may be seen twice, or not at all; with a ``status`` filter, only those
    that keep it are certain to be seen.
    """
    params = dict(request.query_params)
    status: TaskStatus | None = None
    if "status" in params:
        if params["status"] not in list(TaskStatus):
            raise InvalidInput(f"status must be one of {', '.join(TaskStatus)}", field="status")
        status = TaskStatus(params["status"])
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    start = read_cursor(params["cursor"], PARTS_OF[status]) if "cursor" in params else None
    context = context_of(request)
    async with context.store_slot():
        found, place = await context.tasks.page(status, start, limit)
    following = None if place is None else write_cursor(place)
    headers = None
    if following is not None:
        known = query_names(LIST_PARAMETERS)
        kept = {name: value for name, value in params.items() if name in known}
        headers = next_link(request, kept, cursor=following)
    return json_answer(TaskPage([show_task(one) for one in found], following), headers=headers)


async def get(request: Request) -> Response:
    """``GET /api/v1/tasks/{id}``."""
    context = context_of(request)
    async with context.store_slot():
        stored = await context.tasks.get(_path_id(request))
    return json_answer(show_task(stored))


async def delete(request: Request) -> Response:
    """``DELETE /api/v1/tasks/{id}``: delete a task in any status. A call in flight can still end; no other is made."""
    public_id = _path_id(request)
    context = context_of(request)
    async with context.store_slot():
        await context.tasks.delete(public_id)
    return json_answer(TaskDeleted(public_id, True))


async def retry(request: Request) -> Response:
    """``POST /api/v1/tasks/{id}/retry``: make a stale task due again, with all its retries."""
    context = context_of(request)
    async with context.store_slot():
        stored = await context.tasks.retry(_path_id(request))
    return json_answer(show_task(stored), 202)


async def get_config(request: Request) -> Response:
    """``GET /api/v1/config``: the settings of one-off tasks."""
    context = context_of(request)
    async with context.store_slot():
        rules = await context.tasks.rules()
    return json_answer(show_rules(rules))


async def change_config(request: Request) -> Response:
    """``PATCH /api/v1/config``: change some settings, for all nodes, from the next batch on."""
    changes, ignored = rules_of(await read_body(request))
    ignore(request, sorted(ignored))
    context = context_of(request)
    async with context.store_slot():
        rules = await context.tasks.change_rules(changes)
    return json_answer(show_rules(rules))


def _path_id(request: Request) -> str:
    return decoded(request.path_params["task_id"], field="id")


def _naming_ignored(endpoint: Endpoint, parameters: Collection[str]) -> Endpoint:
    @functools.wraps(endpoint)
    async def answered(request: Request) -> Response:
        return with_ignored(request, await endpoint(request), parameters)

    return answered


_NONE = {404: problem("No such task, or it was removed.")}
_SETTINGS = Answer("All settings.", TaskSettings, [IGNORED])

operation = partial(Operation, "One-off tasks")
ROUTES = with_slash(
    _naming_ignored,
    operation(
        "POST /api/v1/tasks",
        add,
        "create_tasks",
        "Store one-off tasks: one, or an array, all or none",
        body=TaskBodies,
        answers={202: Answer("Stored.", TasksStored, [IGNORED]), **BAD, **BODY_FAULTS, **STORE_FAULTS},
    ),
    operation(
        "GET /api/v1/tasks",
        list_tasks,
        "list_tasks",
        "List one-off tasks",
        parameters=LIST_PARAMETERS,
        answers={200: Answer("A page.", TaskPage, [NEXT_PAGE, IGNORED]), **BAD, **STORE_FAULTS},
    ),
    operation(
        "GET /api/v1/tasks/{task_id}",
        get,
        "get_task",
        "Get a one-off task",
        answers={200: Answer("The task.", Task, [IGNORED]), **BAD, **_NONE, **STORE_FAULTS},
    ),
    operation(
        "DELETE /api/v1/tasks/{task_id}",
        delete,
        "delete_task",
        "Delete a one-off task; a call in flight continues",
        answers={200: Answer("Removed.", TaskDeleted, [IGNORED]), **BAD, **_NONE, **STORE_FAULTS},
    ),
    operation(
        "POST /api/v1/tasks/{task_id}/retry",
        retry,
        "retry_task",
        "Make a stale one-off task due again",
        answers={
            202: Answer("It is due again.", Task, [IGNORED]),
            **BAD,
            **_NONE,
            409: problem("The task is not stale."),
            **STORE_FAULTS,
        },
    ),
    operation(
        "GET /api/v1/config",
        get_config,
        "get_task_settings",
        "Get the settings of one-off tasks",
        answers={200: _SETTINGS, **STORE_FAULTS},
    ),
    operation(
        "PATCH /api/v1/config",
        change_config,
        "update_task_settings",
        "Change settings of one-off tasks, for all nodes from the next batch on",
        body=TaskSettingsChange,
        answers={200: _SETTINGS, **BAD, **BODY_FAULTS, **STORE_FAULTS},
    ),
)
