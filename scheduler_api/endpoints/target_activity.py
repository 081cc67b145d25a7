"""``POST /targets/{id}/try``: one request to a target; ``GET /targets/{id}/statistics``: how it answered lately."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import idempotency_key, json_answer, whole
from scheduler_api.context import Context, context_of
from scheduler_api.endpoints.lenient import ignored_body, lenient, path_number
from scheduler_api.openapi.common import BODY_FAULTS, IDEMPOTENCY_KEY, IGNORED, LENIENT_FAULTS, LOCATION, RETRY_AFTER
from scheduler_api.openapi.operation import Answer, Operation, Parameter, problem
from scheduler_api.wire.answers.service import Breaker, show_breaker
from scheduler_api.wire.answers.target_activity import TargetActivity, TargetTried, show_statistics, show_try
from scheduler_core.base.errors import JobNotFound
from scheduler_core.base.urls import origin_of
from scheduler_core.model.catalogue import Target
from scheduler_core.usecases.target_tries import TargetTry

MAX_WAIT_SECONDS = 20
"""Well below the deadline of an answer."""
FIRST_LOOK_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.25

TRY_PARAMETERS = (
    IDEMPOTENCY_KEY,
    Parameter(
        "wait",
        Annotated[int, Meta(ge=0, le=MAX_WAIT_SECONDS)],
        "How many seconds to wait for the end of the run.",
        default=0,
    ),
)


async def try_target(request: Request) -> Response:
    """``POST /targets/{id}/try``: send one request to a target, as a recorded manual run.

    A node sends it, through the address guard and within the limits of the target, also during a pause of everything.
    An open breaker does not hold it back: the request is its probe. It is never repeated: if its node dies, the run
    ends as `lost`. If it cannot be sent within 60 s, the run ends as `cancelled`. A request with the same
    `Idempotency-Key` gets the first run.
    """
    target_id = path_number(request, "target_id")
    await ignored_body(request)
    wait = whole(request.query_params, "wait", 0, 0, MAX_WAIT_SECONDS)
    key = idempotency_key(request)
    context = context_of(request)
    async with context.store_slot():
        tried = await context.target_tries.send(target_id, key=key)
    ended = await _wait(context, tried, wait)
    view = None
    async with context.store_slot():
        found = await context.history.get(tried.run_id) if ended else None
        if found is None:
            try:
                view = await context.job_services.of(tried.job_id).get(tried.job_id)
            except JobNotFound:
                view = None
    shown = show_try(tried, found, view, _breakers_of(context, tried.target))
    return json_answer(shown, 200 if ended else 202, headers={"Location": f"/runs/{tried.run_id}"})


async def _wait(context: Context, tried: TargetTry, seconds: int) -> bool:
    """Wait until the run has ended, for at most ``seconds``; return whether it has. Holds no store slot meanwhile."""
    clock = context.clock
    until = clock.monotonic() + seconds
    pause = FIRST_LOOK_SECONDS
    while seconds:
        async with context.store_slot():
            if await context.target_tries.has_ended(tried):
                return True
        left = until - clock.monotonic()
        if left <= 0:
            break
        await clock.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return False


async def statistics(request: Request) -> Response:
    """``GET /targets/{id}/statistics``: success rate, latencies and last failures of a target.

    The figures are of at most 1,000 runs: the latest of at most 100 jobs and schedules that use the target.
    """
    target_id = path_number(request, "target_id")
    context = context_of(request)
    async with context.store_slot():
        found = await context.target_statistics.read(target_id)
    return json_answer(show_statistics(found, _breakers_of(context, found.target)))


def _breakers_of(context: Context, target: Target) -> list[Breaker]:
    """Return the breakers of the target's host that are not closed, one for each node of this server."""
    origin = origin_of(target.url)
    found = context.breakers() or []
    return [show_breaker(node, one) for node, breakers in found for one in breakers if one.target == origin]


operation = partial(Operation, "Targets")
ROUTES = lenient(
    operation(
        "POST /targets/{target_id}/try",
        try_target,
        "try_target",
        "Send one request to a target, as a recorded run",
        parameters=TRY_PARAMETERS,
        answers={
            200: Answer("The run has ended within `wait`.", TargetTried, [LOCATION, IGNORED]),
            202: Answer("The run is stored, and a node sends the request.", TargetTried, [LOCATION, IGNORED]),
            404: problem("No such target."),
            409: problem("An earlier try with this Idempotency-Key has not ended (`run_not_settled`)."),
            503: problem("No node is running, so nothing would send the request (`no_node`).", RETRY_AFTER),
            **BODY_FAULTS,
            **LENIENT_FAULTS,
        },
    ),
    operation(
        "GET /targets/{target_id}/statistics",
        statistics,
        "get_target_statistics",
        "Get success rate, latencies and last failures of a target",
        answers={
            200: Answer("The statistics.", TargetActivity, [IGNORED]),
            404: problem("No such target."),
            **LENIENT_FAULTS,
        },
    ),
)
