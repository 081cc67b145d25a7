"""``/api/v1/tasks`` and ``/api/v1/config``: one-off tasks and the settings of their lane.

Each path is served with and without a slash at its end, and a body is read as JSON whatever its Content-Type says:
existing clients do both.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
from scheduler_api.wire.fields import instant
from scheduler_api.wire.tasks import read_cursor, rules_of, tasks_of, write_cursor
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.run import Attempt
from scheduler_core.model.task import LaneRules, TaskStatus, task_id
from scheduler_core.store.tasks import StoredTask
from scheduler_core.usecases.tasks import PARTS_OF

LIST_PARAMETERS = ("status", "cursor", "limit")
STATUSES = tuple(status.value for status in TaskStatus)


async def add(request: Request) -> Response:
    """``POST /api/v1/tasks``: one task, or an array of 1 to 1000, all or none."""
    context = context_of(request)
    tasks, is_array, ignored = tasks_of(await read_body(request), context.guard)
    ignore(request, sorted(ignored))
    async with context.store_slot():
        ids = await context.tasks.add(tasks)
    return json_answer({"ids": ids} if is_array else {"id": ids[0], "ids": ids}, 202)


async def list_tasks(request: Request) -> Response:
    """``GET /api/v1/tasks?status=&cursor=&limit=``: pending ones in the order in which they are due, then those that
    are running, stale and delivered, of these the newest first.

    A task whose status changes between two pages may be seen twice, or not at all; with a ``status`` filter, only those
    that keep it are certain to be seen.
    """
    params = dict(request.query_params)
    status: TaskStatus | None = None
    if "status" in params:
        if params["status"] not in STATUSES:
            raise InvalidInput(f"status must be one of {', '.join(STATUSES)}", field="status")
        status = TaskStatus(params["status"])
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    start = read_cursor(params["cursor"], PARTS_OF[status]) if "cursor" in params else None
    context = context_of(request)
    async with context.store_slot():
        found, place = await context.tasks.page(status, start, limit)
    following = None if place is None else write_cursor(place)
    headers = (
        None
        if following is None
        else next_link(
            request, {name: value for name, value in params.items() if name in LIST_PARAMETERS}, cursor=following
        )
    )
    return json_answer({"tasks": [show_task(one) for one in found], "next": following}, headers=headers)


async def get(request: Request) -> Response:
    """``GET /api/v1/tasks/{id}``."""
    context = context_of(request)
    async with context.store_slot():
        stored = await context.tasks.get(_path_id(request))
    return json_answer(show_task(stored))


async def delete(request: Request) -> Response:
    """``DELETE /api/v1/tasks/{id}``: whatever its status. A call that is under way may end; there is no other."""
    public_id = _path_id(request)
    context = context_of(request)
    async with context.store_slot():
        await context.tasks.delete(public_id)
    return json_answer({"id": public_id, "deleted": True})


async def retry(request: Request) -> Response:
    """``POST /api/v1/tasks/{id}/retry``: make a stale task due again, with all its retries before it."""
    context = context_of(request)
    async with context.store_slot():
        stored = await context.tasks.retry(_path_id(request))
    return json_answer(show_task(stored), 202)


async def get_config(request: Request) -> Response:
    """``GET /api/v1/config``: the settings of the lane."""
    context = context_of(request)
    async with context.store_slot():
        rules = await context.tasks.rules()
    return json_answer(show_rules(rules))


async def change_config(request: Request) -> Response:
    """``PATCH /api/v1/config``: change some of them, for all nodes from the next batch on."""
    changes, ignored = rules_of(await read_body(request))
    ignore(request, sorted(ignored))
    context = context_of(request)
    async with context.store_slot():
        rules = await context.tasks.change_rules(changes)
    return json_answer(show_rules(rules))


def show_rules(rules: LaneRules) -> dict[str, int]:
    """The settings under their names."""
    shown: dict[str, int] = msgspec.structs.asdict(rules)
    return shown


def show_task(stored: StoredTask) -> dict[str, Any]:
    """A task as clients see it. ``webhookAuth`` is a secret: only whether there is one is shown."""
    shown: dict[str, Any] = {"id": task_id(stored.number), "status": stored.status.value}
    task = stored.task
    if task is None:
        return shown | {"message": stored.fault}
    run = task.run
    return shown | {
        "webhookUrl": task.url,
        "webhookAuth": None if task.auth is None else "***",
        "executeAt": instant(task.execute_at_ms),
        "createdAt": instant(task.created_at_ms),
        "settledAt": instant(stored.settled_at_ms),
        "runId": task.run_id,
        "calls": 0 if run is None else run.attempt,
        "retries": task.retries,
        "lastCall": None if run is None or not run.attempts else show_call(run.attempts[-1]),
    }


def show_call(attempt: Attempt) -> dict[str, Any]:
    """One call, ended."""
    return {
        "startedAt": instant(attempt.started_at_ms),
        "latencyMs": attempt.latency_ms,
        "outcome": attempt.outcome.value,
        "statusCode": attempt.status,
        "message": attempt.message,
    }


def _path_id(request: Request) -> str:
    return decoded(request.path_params["task_id"], field="id")


def _both(
    path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str, *, parameters: Collection[str] = ()
) -> list[Route]:
    @functools.wraps(endpoint)
    async def naming_ignored(request: Request) -> Response:
        return with_ignored(request, await endpoint(request), parameters)

    return [
        Route(path, naming_ignored, methods=[method]),
        Route(f"{path}/", naming_ignored, methods=[method], include_in_schema=False),
    ]


ROUTES = [
    *_both("/api/v1/tasks", add, "POST"),
    *_both("/api/v1/tasks", list_tasks, "GET", parameters=LIST_PARAMETERS),
    *_both("/api/v1/tasks/{task_id}", get, "GET"),
    *_both("/api/v1/tasks/{task_id}", delete, "DELETE"),
    *_both("/api/v1/tasks/{task_id}/retry", retry, "POST"),
    *_both("/api/v1/config", get_config, "GET"),
    *_both("/api/v1/config", change_config, "PATCH"),
]
