"""All routes of the API, and ``GET /openapi.json``, which describes them."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from scheduler_api.answers import json_answer
from scheduler_api.context import context_of
from scheduler_api.dashboard import pages as dashboard
from scheduler_api.docs import pages
from scheduler_api.endpoints import (
    account,
    attention,
    batch,
    breakers,
    callbacks,
    cron,
    events,
    health,
    job_health,
    job_list,
    job_patch,
    jobs,
    operations,
    pauses,
    pending,
    runs,
    schedules,
    targets,
    tasks,
)
from scheduler_api.openapi.document import describe
from scheduler_api.openapi.operation import Answer, Operation, described


@cache
def document(*, keys: bool) -> dict[str, Any]:
    """Return the OpenAPI document. ``keys``: the API requires a key."""
    return describe(ROUTES, keys=keys)


async def openapi(request: Request) -> Response:
    """``GET /openapi.json``."""
    # Generated at the first request, in some 60 ms: in a thread, so that no fire waits for it.
    return json_answer(await asyncio.to_thread(document, keys=bool(context_of(request).settings.api_keys)))


ROUTES: list[BaseRoute] = [
    *jobs.ROUTES,
    *job_list.ROUTES,
    *job_patch.ROUTES,
    *batch.ROUTES,
    *pending.ROUTES,
    *callbacks.ROUTES,
    *runs.ROUTES,
    *operations.ROUTES,
    *account.ROUTES,
    *pauses.ROUTES,
    *job_health.ROUTES,
    *attention.ROUTES,
    *breakers.ROUTES,
    *cron.ROUTES,
    *health.ROUTES,
    *events.ROUTES,
    *targets.ROUTES,
    *schedules.ROUTES,
    *tasks.ROUTES,
    *described(
        Operation(
            "Documentation",
            "GET /openapi.json",
            openapi,
            "get_openapi",
            "Get this document",
            answers={200: Answer("The document.", dict[str, Any])},
        )
    ),
    *pages.ROUTES,
    *dashboard.ROUTES,
]
