"""``/pause`` and ``/resume``: hold and release everything."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, no_fields, query, read_body
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, BODY_FAULTS, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, described
from scheduler_api.scope import KEY_IN_SCOPE
from scheduler_api.wire.answers.pauses import PauseChanged, PauseOfAll, show_pause, show_pause_change
from scheduler_api.wire.bodies import Pause
from scheduler_api.wire.pauses import pause_request_of


async def pause(request: Request) -> Response:
    """``POST /pause``: pause all jobs, schedules and one-off tasks."""
    query(request)
    asked = pause_request_of(await read_body(request))
    context = context_of(request)
    async with context.store_slot():
        view = await context.pauses.pause(note=asked.note, until_ms=asked.until_ms, by=_by(request))
    return json_answer(show_pause_change(view, context.clock.now_ms(), resumed=False))


async def resume(request: Request) -> Response:
    """``POST /resume``: end the pause of everything."""
    query(request)
    await no_fields(request)
    context = context_of(request)
    async with context.store_slot():
        view = await context.pauses.resume(by=_by(request))
    return json_answer(show_pause_change(view, context.clock.now_ms(), resumed=True))


async def get(request: Request) -> Response:
    """``GET /pause``: show who paused everything, when and why, and the latest pauses."""
    query(request)
    context = context_of(request)
    async with context.store_slot():
        view = await context.pauses.view()
    return json_answer(show_pause(view, context.clock.now_ms()))


def _by(request: Request) -> str:
    """Return the name of the request's API key; empty without keys."""
    return str(request.scope.get(KEY_IN_SCOPE, ""))


operation = partial(Operation, "Pause of everything")
ROUTES = described(
    operation(
        "POST /pause",
        pause,
        "pause_all",
        "Pause everything: jobs, schedules and one-off tasks",
        description="Fire times in the pause are misses (`paused`), and nothing is caught up. Open runs end, waiting "
        "retries wait, `POST /jobs/{job_id}/run` works. The same pause again changes nothing; another note or end "
        "replaces it.",
        body=Pause,
        body_required=False,
        answers={200: Answer("Everything is paused.", PauseChanged), **BAD, **BODY_FAULTS, **STORE_FAULTS},
    ),
    operation(
        "POST /resume",
        resume,
        "resume_all",
        "Resume everything; nothing is caught up",
        description="Jobs that are paused themselves stay paused.",
        answers={
            200: Answer("Nothing is paused by `POST /pause`.", PauseChanged),
            **BAD,
            **BODY_FAULTS,
            **STORE_FAULTS,
        },
    ),
    operation(
        "GET /pause",
        get,
        "get_pause",
        "Show who paused everything, when and why, and the latest pauses",
        answers={200: Answer("The pauses of everything.", PauseOfAll), **BAD, **STORE_FAULTS},
    ),
)
