"""The middleware around every endpoint, each one a small ASGI application around the next.

From the outside: ``RequestMetrics`` (metrics and common headers), ``ProblemResponses`` (errors become problem
documents), ``SameOrigin`` (refuses pages of other origins), ``Sessions`` (in a file of its own), ``ApiKeys``,
``RawPath`` (routes match the path as it was sent), then the routes.

They are plain ASGI, because Starlette's BaseHTTPMiddleware runs each endpoint in a task of its own.
"""

from __future__ import annotations

from collections.abc import Collection

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler_api.access.open_paths import READS, OpenPaths
from scheduler_api.access.refusal_log import RefusalLog
from scheduler_api.context import Context
from scheduler_api.hosts import AllowedHosts, host_of
from scheduler_api.problem import ApiError, problem, problem_of
from scheduler_api.scope import KEY_IN_SCOPE, RESERVED_IN_SCOPE, SESSION_IN_SCOPE
from scheduler_core.base.errors import CronpostError
from scheduler_core.base.events import API_FAILED, KEY_REFUSED, get_logger
from scheduler_core.usecases.sessions import Session

log = get_logger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Counted by name; others are counted as OTHER, so that a client cannot create new time series."""

NO_SNIFF = (b"x-content-type-options", b"nosniff")
"""In every answer: browsers must not guess types."""
NO_STORE = (b"cache-control", b"no-store")
"""In every answer whose route does not set its own: caches must not store answers that need a key."""


class RequestMetrics:
    """Counts each request by method and status, and adds the headers that every response has."""

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
                headers = [*message["headers"], NO_SNIFF]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(NO_STORE)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, count)


class ProblemResponses:
    """Turns exceptions of an endpoint into problem documents. An unexpected one is logged and becomes a 500."""

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
            # Details go only to the log, not to the client.
            log.exception(API_FAILED, method=scope["method"])
            answer = problem(500, "unexpected error; see the log of the server", code="internal")
        if not began:
            await answer(scope, receive, send)


class ApiKeys:
    """Refuses requests without one of the API keys, or the session of one (``Sessions``). If no keys are configured, it
    refuses none.

    Exceptions are ``open_paths``. All other routes are refused by default, also those that are added later. Log lines
    of a request with a changing method contain the name of its key and its client's address.
    """

    def __init__(
        self, app: ASGIApp, context: Context, open_paths: OpenPaths, *, probe_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._context = context
        self._open_paths = open_paths
        self._probe_paths = frozenset(path.encode("ascii") for path in probe_paths)
        self._refusals = RefusalLog(KEY_REFUSED, context.clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = self._name_of_key(scope)
        if name is not None or not self._context.keys:
            scope[KEY_IN_SCOPE] = name or ""
        elif not self._open_paths.include(scope):
            raise self._refusal(scope)
        if RESERVED_IN_SCOPE in scope and name is None and scope.get("raw_path") not in self._probe_paths:
            raise ApiError(
                503,
                "too many connections are open; the rest is reserved for probes and requests with an API key",
                code="too_many_connections",
                headers={"Connection": "close", "Retry-After": "1"},
            )
        if scope["method"] in READS:
            await self._app(scope, receive, send)
            return
        actor = {"client": self._context.client_addresses.of(scope)}
        if name is not None:
            actor["key"] = name
        with structlog.contextvars.bound_contextvars(**actor):
            await self._app(scope, receive, send)

    def _name_of_key(self, scope: Scope) -> str | None:
        """Return the name of the API key in the request or of its session; None without a valid one."""
        session: Session | None = scope.get(SESSION_IN_SCOPE)
        if session is not None:
            return session.key
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1 or not self._context.keys:
            return None
        scheme, _, key = values[0].partition(b" ")
        return self._context.keys.name_of(key.strip()) if scheme.lower() == b"bearer" else None

    def _refusal(self, scope: Scope) -> ApiError:
        """Log the refusal of a request, and return its error."""
        given = any(name == b"authorization" for name, _ in scope["headers"])
        self._refusals.refused(
            client=self._context.client_addresses.of(scope),
            detail="the Authorization header contains no valid API key" if given else "no API key",
        )
        return ApiError(
            401,
            "an API key is required: send Authorization: Bearer <key>, or sign in at /ui",
            code="unauthorized",
            headers={"WWW-Authenticate": 'Bearer realm="cronpost"', "Connection": "close"},
        )


class SameOrigin:
    """Refuses requests that a browser sends for a page of another origin.

    A body is read as JSON whatever its Content-Type is, so any page could post a job to a server on the visitor's
    loopback address, which usually has no key. Browsers add an ``Origin`` to such requests; other clients send none.
    Without keys (``hosts`` is given then), the ``Host`` must also be one that no other party can point to this server.
    """

    def __init__(self, app: ASGIApp, *, hosts: AllowedHosts | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins, hosts = [], []
        for name, value in scope["headers"]:
            if name == b"origin":
                origins.append(value)
            elif name == b"host":
                hosts.append(value)
        if origins and not all(self._is_own(origin, hosts) for origin in origins):
            raise ApiError(
                403,
                "requests from pages of another origin are refused",
                code="foreign_origin",
                headers={"Connection": "close"},
            )
        if not all(map(self._leads_here, hosts)):
            raise ApiError(
                403,
                "this server has no API keys, so it answers only under IP addresses, localhost and the names in "
                "CRONPOST_ALLOWED_HOSTS; add the name of the Host header there, or set CRONPOST_API_KEYS",
                code="foreign_host",
                headers={"Connection": "close"},
            )
        await self._app(scope, receive, send)

    def _is_own(self, origin: bytes, hosts: list[bytes]) -> bool:
        _, _, netloc = origin.partition(b"://")
        return bool(netloc) and [netloc] == hosts and self._leads_here(netloc)

    def _leads_here(self, netloc: bytes) -> bool:
        return host_of(netloc) is not None if self._hosts is None else self._hosts.allows(netloc)


class RawPath:
    """Makes the routes match the path as it was sent, still percent-encoded.

    Starlette's routes match the decoded path. Decoded, ``/jobs/a%2Fpause`` would be ``/jobs/a/pause``: another job, and
    another action.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes | None = scope.get("raw_path")
        if raw is not None:
            scope = {**scope, "path": raw.decode("latin-1")}
        await self._app(scope, receive, send)
