"""``/ui/session``: sign in to the dashboard, show who is signed in, sign out."""

from __future__ import annotations

import math
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.access.client_address import network_of
from scheduler_api.access.session_cookie import remove_cookie, session_id_of, set_cookie
from scheduler_api.answers import json_answer, no_fields, query, read_body
from scheduler_api.context import Context, context_of
from scheduler_api.openapi.common import BAD, BODY_FAULTS, RETRY_AFTER
from scheduler_api.openapi.operation import Answer, Header, Operation, described, problem
from scheduler_api.problem import ApiError, session_fault
from scheduler_api.problem import problem as problem_answer
from scheduler_api.scope import KEY_IN_SCOPE, SESSION_IN_SCOPE
from scheduler_api.wire.answers.session import SessionState
from scheduler_api.wire.bodies import SignIn
from scheduler_api.wire.sign_in import sign_in_key_of
from scheduler_core.base.errors import StoreError
from scheduler_core.base.events import SIGNED_IN, SIGNED_OUT, get_logger
from scheduler_core.base.instants import rfc3339
from scheduler_core.usecases.sessions import LIFETIME_MS, Session

log = get_logger(__name__)

MOST_BODY_BYTES = 4096
"""Of a sign-in, which needs no key."""


async def show(request: Request) -> Response:
    """``GET /ui/session``: show whether a sign-in is needed, and who is signed in until when."""
    query(request)
    scope = request.scope
    return json_answer(_state(context_of(request), scope.get(SESSION_IN_SCOPE), key=scope.get(KEY_IN_SCOPE)))


async def sign_in(request: Request) -> Response:
    """``POST /ui/session``: exchange an API key for a session, whose id is set as a cookie."""
    query(request)
    context = context_of(request)
    if not context.keys:
        raise ApiError(409, "this server has no API keys, so no sign-in is needed", code="no_sign_in")
    key = sign_in_key_of(await read_body(request, limit=MOST_BODY_BYTES))
    client = context.client_addresses.of(request.scope)
    wait = context.sign_in_throttle.take(network_of(client))
    if wait:
        context.metrics.sign_ins.labels("throttled").inc()
        context.throttled_sign_ins.refused(client=client, detail="too many refused sign-ins from this address")
        return _throttled(math.ceil(wait))
    name = context.keys.name_of(key.encode())
    if name is None:
        context.metrics.sign_ins.labels("refused").inc()
        context.refused_sign_ins.refused(client=client, detail="the key is none of CRONPOST_API_KEYS")
        return problem_answer(403, "this is not one of the API keys of this server", code="key_refused", field="key")
    session = await _replace_session(request, name)
    context.sign_in_throttle.succeeded(network_of(client))
    context.metrics.sign_ins.labels("ok").inc()
    log.info(SIGNED_IN, key=name, client=client)
    cookie = set_cookie(request.scope, context.public_url, session.id, seconds=LIFETIME_MS // 1000)
    return json_answer(_state(context, session), headers={"Set-Cookie": cookie})


async def sign_out(request: Request) -> Response:
    """``DELETE /ui/session``: revoke the session of the request and remove its cookie."""
    query(request)
    await no_fields(request)
    context = context_of(request)
    session: Session | None = request.scope.get(SESSION_IN_SCOPE)
    if session is not None:
        try:
            async with context.lead_slot():
                await context.sessions.end(session.id)
        except StoreError as error:
            raise session_fault(error) from error
        log.info(SIGNED_OUT)
    headers = {"Set-Cookie": remove_cookie(request.scope, context.public_url)} if context.keys else None
    return json_answer(_state(context, None), headers=headers)


async def _replace_session(request: Request, key_name: str) -> Session:
    """Begin a session, and end the one whose cookie the new cookie replaces."""
    context = context_of(request)
    before = session_id_of(request.scope, context.public_url)
    try:
        async with context.lead_slot():
            session = await context.sessions.begin(key_name)
            if before is not None:
                await context.sessions.end(before)
    except StoreError as error:
        raise session_fault(error) from error
    return session


def _throttled(seconds: int) -> Response:
    return problem_answer(
        429,
        f"too many refused sign-ins from this address; try again in {seconds} s",
        code="too_many_sign_ins",
        headers={"Retry-After": str(seconds)},
    )


def _state(context: Context, session: Session | None, *, key: str | None = None) -> SessionState:
    return SessionState(
        sign_in_needed=bool(context.keys),
        signed_in=session is not None,
        key=(key or None) if session is None else session.key,
        expires_at=None if session is None else rfc3339(session.expires_at_ms),
    )


_UNAVAILABLE = {503: problem("Redis does not answer, so sessions cannot be read or changed.", RETRY_AFTER)}
_COOKIE = Header("Set-Cookie", "The cookie of the session: HttpOnly, SameSite=Strict, for 12 hours.")

operation = partial(Operation, "Sign-in", security="open")
ROUTES = described(
    operation(
        "GET /ui/session",
        show,
        "get_session",
        "Show whether the dashboard needs a sign-in, and who is signed in",
        answers={200: Answer("The session of the request.", SessionState), **BAD, **_UNAVAILABLE},
    ),
    operation(
        "POST /ui/session",
        sign_in,
        "sign_in",
        "Exchange an API key for a session of the dashboard",
        description="The answer sets a cookie with a random id; a session that the request had ends. After ten refused "
        "sign-ins an address has one every six seconds.",
        body=SignIn,
        answers={
            200: Answer("Signed in.", SessionState, [_COOKIE]),
            **BAD,
            403: problem("The key is wrong (`key_refused`); or a page of another origin sent the request."),
            409: problem("This server has no API keys (`no_sign_in`)."),
            429: problem("Too many refused sign-ins from this address (`too_many_sign_ins`).", RETRY_AFTER),
            **BODY_FAULTS,
            **_UNAVAILABLE,
        },
    ),
    operation(
        "DELETE /ui/session",
        sign_out,
        "sign_out",
        "Revoke the session and remove its cookie",
        description="Without a session it changes nothing.",
        answers={
            200: Answer("Signed out.", SessionState, [Header("Set-Cookie", "Removes the cookie.")]),
            **BAD,
            **BODY_FAULTS,
            **_UNAVAILABLE,
        },
    ),
)
