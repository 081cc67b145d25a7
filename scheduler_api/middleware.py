"""What surrounds every endpoint, each layer one small ASGI application around the next.

From the outside: :class:`Counted` (metrics and headers of every answer), :class:`Answered` (errors become problem
documents), :class:`SameOrigin` (no pages of others), :class:`Guarded` (API keys), :class:`RawPath` (routes see the
path as it was sent), the routes.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler_api.context import Context
from scheduler_api.problem import ApiError, problem, problem_of
from scheduler_core.errors import CronpostError
from scheduler_core.events import API_FAILED, get_logger

log = get_logger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Counted by name; others count as OTHER, so that a client cannot make new time series."""

ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]
"""A browser must not guess a type, and no cache may keep what needs a key."""


class Counted:
    """Counts each request by method and status, and puts the headers on that every answer has."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["cronpost"] = self._context
        method = scope["method"] if scope["method"] in METHODS else "OTHER"

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._context.metrics.requests.labels(method, str(message["status"])).inc()
                message["headers"] = [*message["headers"], *ALWAYS]
            await send(message)

        await self._app(scope, receive, count)


class Answered:
    """Turns whatever an endpoint raises into an answer. What nobody foresaw is a 500, and is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def watch(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
            return
        except CronpostError as error:
            answer = problem_of(error)
        except ApiError as error:
            answer = problem(error.status, error.detail, code=error.code, headers=error.headers)
        except HTTPException as error:
            answer = problem(error.status_code, error.detail, code="http_error", headers=error.headers)
        except Exception:
            # The client is told that it is our fault and nothing more; the log says what.
            log.exception(API_FAILED, method=scope["method"])
            answer = problem(500, "an unexpected error; the log of this server says more", code="internal")
        if not began:
            await answer(scope, receive, send)


class Guarded:
    """Lets nobody in without one of the API keys, but to the ``open_paths`` and to paths that match ``own_token``,
    where the endpoint itself asks for a token. Without keys, everybody.

    Refusal is the default: a route that is added later is guarded without anyone thinking of it.
    """

    def __init__(
        self, app: ASGIApp, keys: Collection[str], open_paths: Collection[str], own_token: re.Pattern[bytes]
    ) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._open_paths = frozenset(path.encode("ascii") for path in open_paths)
        self._own_token = own_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._digests and not self._is_open(scope) and not self._is_known(scope):
            raise ApiError(
                401,
                "an API key is needed: Authorization: Bearer <key>",
                code="unauthorized",
                headers={"WWW-Authenticate": 'Bearer realm="cronpost"', "Connection": "close"},
            )
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: bytes = scope.get("raw_path") or b""
        return path in self._open_paths or self._own_token.match(path) is not None

    def _is_known(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return False
        scheme, _, key = values[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        # Digests have one length and say nothing about the key, and each is compared, so that the time taken does
        # not tell which key came close.
        digest = hashlib.sha256(key.strip()).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


class SameOrigin:
    """Refuses what a browser sends for a page of somebody else.

    A body counts as JSON whatever its type says, so any page that its user visits could post a job to a server on
    loopback, which usually has no key. Browsers put an ``Origin`` on such requests; other clients send none. Without
    keys, every request must also be addressed to an IP address or to localhost: a foreign name can be made to lead here
    (DNS rebinding), and what its page then reads is of its own origin to the browser.
    """

    def __init__(self, app: ASGIApp, *, any_name: bool) -> None:
        self._app = app
        self._any_name = any_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if origins and not all(self._is_own(origin, scope) for origin in origins):
            raise ApiError(
                403,
                "a page of another origin may not use this API",
                code="foreign_origin",
                headers={"Connection": "close"},
            )
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if not self._any_name and not all(_leads_here(host) for host in hosts):
            raise ApiError(
                403,
                "this server has no API keys, so it is used by IP address or as localhost only",
                code="foreign_host",
                headers={"Connection": "close"},
            )
        await self._app(scope, receive, send)

    def _is_own(self, origin: bytes, scope: Scope) -> bool:
        _, _, netloc = origin.decode("latin-1").partition("://")
        if not netloc or [netloc.encode("latin-1")] != [value for name, value in scope["headers"] if name == b"host"]:
            return False
        return self._any_name or _leads_here(netloc)


# Clients of one process name it in a few ways, in every request.
@lru_cache(maxsize=256)
def _leads_here(netloc: str) -> bool:
    """Whether the host of ``netloc`` is an address or localhost, and not a name that somebody else can point here."""
    host = netloc.partition("]")[0].lstrip("[") if netloc.startswith("[") else netloc.partition(":")[0]
    return host.lower() == "localhost" or is_address(host)


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class RawPath:
    """Makes the routes match the path as it was sent, percent-encoding and all.

    Decoded, ``/jobs/a%2Fpause`` would be ``/jobs/a/pause``: another job, and another action.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes | None = scope.get("raw_path")
        if raw is not None:
            scope = {**scope, "path": raw.decode("latin-1")}
        await self._app(scope, receive, send)
