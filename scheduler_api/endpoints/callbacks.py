"""``POST /runs/{id}/complete`` and ``.../heartbeat``: a runner reports on a run that it has taken.

Both require the token from the run's request, whether or not the API has keys, so that a runner needs no API key, which
could change jobs. A token is valid for one run only.
"""

from __future__ import annotations

import re
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import decoded, json_answer, query, read_body
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, BODY_FAULTS, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, described, problem
from scheduler_api.wire import bodies
from scheduler_api.wire.answers.pending import HeartbeatTaken, RunCompleted
from scheduler_api.wire.fields import instant
from scheduler_api.wire.run_requests import completion_of, heartbeat_of
from scheduler_core.base.errors import TokenRefused
from scheduler_core.model.run import RunState

TOKEN_HEADER = "Cronpost-Callback-Token"  # noqa: S105 - the name of a header
OPEN_PATHS = re.compile(rb"/runs/[^/]+/(?:complete|heartbeat)\Z")
"""Paths that need no API key."""


async def complete(request: Request) -> Response:
    """``POST /runs/{id}/complete``: record how the run ended. A repeated request gets the same answer."""
    query(request)
    run_id, token = _run_id(request), _token(request)
    body = completion_of(await read_body(request))
    context = context_of(request)
    async with context.store_slot():
        state = await context.callbacks.complete(
            run_id,
            token,
            succeeded=body.state is RunState.SUCCEEDED,
            message=body.message,
            continuation=body.continuation,
        )
    return json_answer(RunCompleted(run_id, state))


async def heartbeat(request: Request) -> Response:
    """``POST /runs/{id}/heartbeat``: the run goes on; without a further report it is lost at ``deadline``."""
    query(request)
    run_id, token = _run_id(request), _token(request)
    body = heartbeat_of(await read_body(request))
    context = context_of(request)
    async with context.store_slot():
        deadline_ms = await context.callbacks.heartbeat(run_id, token, progress=body.progress, note=body.note)
    return json_answer(HeartbeatTaken(run_id, instant(deadline_ms)))


def _run_id(request: Request) -> str:
    return decoded(request.path_params["run_id"], field="run_id")


def _token(request: Request) -> str:
    """Read the run's token, from its own header or as a bearer token."""
    token = request.headers.get(TOKEN_HEADER, "").strip()
    if not token:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = value.strip() if scheme.lower() == "bearer" else ""
    if not token:
        raise TokenRefused(f"the run's token is required, in the header {TOKEN_HEADER}")
    return token


_FAULTS = {
    **BAD,
    404: problem("No such run, or one that is not completed by callback."),
    409: problem("The run is lost (`run_lost`) or cancelled (`run_cancelled`)."),
    **BODY_FAULTS,
    **STORE_FAULTS,
}

operation = partial(Operation, "Callbacks")
ROUTES = described(
    operation(
        "POST /runs/{run_id}/complete",
        complete,
        "complete_run",
        "Report how a run ended (called by its runner)",
        security="run_token",
        body=bodies.Completion,
        answers={200: Answer("The state of the run; a repetition gets the same answer.", RunCompleted), **_FAULTS},
    ),
    operation(
        "POST /runs/{run_id}/heartbeat",
        heartbeat,
        "send_heartbeat",
        "Report that a run is still executing (called by its runner)",
        security="run_token",
        body=bodies.Heartbeat,
        body_required=False,
        answers={200: Answer("When the run is lost without a further heartbeat.", HeartbeatTaken), **_FAULTS},
    ),
)
