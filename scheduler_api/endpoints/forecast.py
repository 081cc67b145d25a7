"""``GET /forecast``: how many jobs fire in each minute of the next 24 hours."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import compact_json, query, whole
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_api.wire.answers.forecast import Forecast, show_forecast

LONGEST_WAIT_SECONDS = 30
PARAMETERS = (
    Parameter(
        "wait_seconds",
        Annotated[int, Meta(ge=0, le=LONGEST_WAIT_SECONDS)],
        "How long to wait for a forecast that is being computed.",
        default=0,
    ),
)


async def forecast(request: Request) -> Response:
    """Answer at once with the latest forecast; a new one is computed in the background if it is old."""
    params = query(request, *query_names(PARAMETERS))
    wait_seconds = whole(params, "wait_seconds", 0, 0, LONGEST_WAIT_SECONDS)
    context = context_of(request)
    async with context.store_slot():
        pass  # the clock is set, and Redis has been reached once
    view = await context.forecasts.get(wait_seconds=wait_seconds)
    return compact_json(request, show_forecast(view, now_ms=context.clock.now_ms()))


ROUTES = described(
    Operation(
        "Monitoring",
        "GET /forecast",
        forecast,
        "get_forecast",
        "Forecast the fire times of the next 24 hours by minute, with its peaks and which jobs to spread",
        description=(
            "From the triggers of all jobs, or of 10,000 that are drawn at random; paused, completed and quarantined "
            "jobs do not fire. The answer comes at once: `state` is `computing` while a process computes a new "
            "forecast, which takes a few seconds. A forecast is used for ten minutes. Each process of the API has its "
            "own."
        ),
        parameters=PARAMETERS,
        answers={200: Answer("The forecast, or that it is being computed.", Forecast), **BAD, **STORE_FAULTS},
    )
)
