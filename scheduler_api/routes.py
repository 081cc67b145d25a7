"""All routes of the API, and ``GET /openapi.json``, which describes them."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from scheduler_api.answers import json_answer, query
from scheduler_api.context import context_of
from scheduler_api.dashboard import pages as dashboard
from scheduler_api.docs import pages
from scheduler_api.endpoints import (
    account,
    alerts,
    attention,
    batch,
    breakers,
    callbacks,
    cron,
    events,
    forecast,
    health,
    job_health,
    job_list,
    job_patch,
    jobs,
    labels,
    nodes,
    operations,
    pauses,
    pending,
    runs,
    schedules,
    session,
    statistics,
    strip,
    target_activity,
    targets,
    tasks,
)
from scheduler_api.openapi.common import BAD
from scheduler_api.openapi.document import describe, with_schemas_of
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_core.base.errors import InvalidInput


@cache
def document(*, keys: bool) -> dict[str, Any]:
    """Return the OpenAPI document. ``keys``: the API requires a key."""
    return describe(ROUTES, keys=keys)


async def openapi(request: Request) -> Response:
    """``GET /openapi.json?schema=``."""
    params = query(request, *query_names(OPENAPI_PARAMETERS))
    # Generated at the first request, in some 60 ms: in a thread, so that no fire waits for it.
    whole = await asyncio.to_thread(document, keys=bool(context_of(request).settings.api_keys))
    name = params.get("schema")
    if name is None:
        return json_answer(whole)
    if name not in whole["components"]["schemas"]:
        raise InvalidInput(f"no schema has the name {name[:100]!r}; see components.schemas", field="schema")
    return json_answer(with_schemas_of(whole["components"]["schemas"], name))


OPENAPI_PARAMETERS = (
    Parameter(
        "schema",
        str,
        "Only the schema with this name, such as `JobBody`, and those that it refers to: an object of schemas by name.",
    ),
)
ROUTES: list[BaseRoute] = [
    *jobs.ROUTES,
    *job_list.ROUTES,
    *labels.ROUTES,
    *job_patch.ROUTES,
    *batch.ROUTES,
    *pending.ROUTES,
    *callbacks.ROUTES,
    *runs.ROUTES,
    *operations.ROUTES,
    *account.ROUTES,
    *strip.ROUTES,
    *pauses.ROUTES,
    *job_health.ROUTES,
    *attention.ROUTES,
    *alerts.ROUTES,
    *breakers.ROUTES,
    *cron.ROUTES,
    *health.ROUTES,
    *events.ROUTES,
    *statistics.ROUTES,
    *forecast.ROUTES,
    *nodes.ROUTES,
    *targets.ROUTES,
    *target_activity.ROUTES,
    *schedules.ROUTES,
    *tasks.ROUTES,
    *session.ROUTES,
    *described(
        Operation(
            "Documentation",
            "GET /openapi.json",
            openapi,
            "get_openapi",
            "Get this document",
            parameters=OPENAPI_PARAMETERS,
            answers={200: Answer("The document, or the schemas.", dict[str, Any]), **BAD},
        )
    ),
    *pages.ROUTES,
    *dashboard.ROUTES,
]
