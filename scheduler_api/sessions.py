"""Middleware that accepts the session of a person who is signed in to the dashboard, instead of an API key.

A cookie is sent by the browser, not by the page. So a request with one must also show that a page of this server sent
it: see ``check_sender``. A request with an ``Authorization`` header is judged by that header alone, also if it has
cookies, and needs none of this: no page can make a browser send that header to another origin.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler_api.access.open_paths import OpenPaths
from scheduler_api.access.session_cookie import session_id_of
from scheduler_api.context import Context
from scheduler_api.problem import ApiError, session_fault
from scheduler_api.scope import KEY_IN_SCOPE, SESSION_IN_SCOPE
from scheduler_core.base.errors import StoreError
from scheduler_core.usecases.sessions import Session

SESSION_PATH = b"/ui/session"
"""Needs no key, and its endpoint shows and ends the session of the request."""


class Sessions:
    """Sets the key and the session of a request that has the cookie of a session. One read of Redis, only for such a
    request, and not for paths that need no key: the dashboard itself must load while Redis is away."""

    def __init__(self, app: ASGIApp, context: Context, open_paths: OpenPaths) -> None:
        self._app = app
        self._context = context
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._context.keys and self._needs_session(scope):
            session_id = session_id_of(scope, self._context.public_url)
            if session_id is not None:
                check_sender(scope)
                session = await self._find(session_id)
                if session is not None:
                    scope[KEY_IN_SCOPE] = session.key
                    scope[SESSION_IN_SCOPE] = session
        await self._app(scope, receive, send)

    def _needs_session(self, scope: Scope) -> bool:
        if any(name == b"authorization" for name, _ in scope["headers"]):
            return False
        if scope.get("raw_path") == SESSION_PATH:
            return bool(scope["method"] != "POST")  # a sign-in does not use the session that it replaces
        return not self._open_paths.include(scope)

    async def _find(self, session_id: str) -> Session | None:
        try:
            async with self._context.lead_slot():
                return await self._context.sessions.find(session_id)
        except StoreError as error:
            raise session_fault(error) from error


def check_sender(scope: Scope) -> None:
    """Raise 403 unless a page of this server sent the request.

    Browsers state in ``Sec-Fetch-Site`` which page sends a request; ``Origin`` counts where that is missing (it equals
    the host: ``SameOrigin`` has refused others). A request that changes something also needs a header that no form or
    link can add, and that a page of another origin may only add after a permission that this server never gives.
    """
    sites = [value for name, value in scope["headers"] if name == b"sec-fetch-site"]
    has_origin = any(name == b"origin" for name, _ in scope["headers"])
    if sites != [b"same-origin"] and (sites or not has_origin):
        raise _refused(
            "a request with the cookie of a session needs Sec-Fetch-Site: same-origin, or an Origin that equals the "
            "host. Browsers send the first one only over https and to localhost. Other clients send Authorization: "
            "Bearer <key> instead of a cookie",
            "not_same_origin",
        )
    marks = [value for name, value in scope["headers"] if name == b"cronpost-request"]
    if scope["method"] not in {"GET", "HEAD"} and marks != [b"1"]:
        raise _refused(
            f"a {scope['method']} request with the cookie of a session needs the header Cronpost-Request: 1",
            "request_header_missing",
        )


def _refused(detail: str, code: str) -> ApiError:
    return ApiError(403, detail, code=code, headers={"Connection": "close"})
