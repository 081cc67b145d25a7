"""The API as one ASGI application."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler_api.access.open_paths import OpenPaths
from scheduler_api.context import Context
from scheduler_api.dashboard import pages as dashboard
from scheduler_api.docs import pages as docs_ui
from scheduler_api.endpoints import callbacks
from scheduler_api.hosts import AllowedHosts
from scheduler_api.middleware import ApiKeys, ProblemResponses, RawPath, RequestMetrics, SameOrigin
from scheduler_api.problem import ApiError
from scheduler_api.routes import ROUTES
from scheduler_api.sessions import Sessions

PROBE_PATHS = ("/health", "/ready")
OPEN_PATHS = (*PROBE_PATHS, *docs_ui.OPEN_PATHS, "/ui/session")
"""Paths that need no API key: for the probes of an orchestrator (the answer of ``/ready`` contains no job, address or
secret), and for browsers that open the documentation."""


def create_app(context: Context, routes: Sequence[BaseRoute] = ROUTES) -> ASGIApp:
    """Build the API, or a part of it with other ``routes``. It starts nothing: the caller owns ``context``."""
    app: ASGIApp = RawPath(_Routes(list(routes)))
    settings = context.settings
    open_paths = OpenPaths(OPEN_PATHS, own_token=callbacks.OPEN_PATHS, pages=dashboard.OPEN_PATHS)
    app = ApiKeys(app, context, open_paths, probe_paths=PROBE_PATHS)
    app = Sessions(app, context, open_paths)
    app = SameOrigin(app, hosts=None if settings.api_keys else AllowedHosts(settings.allowed_hosts))
    return RequestMetrics(ProblemResponses(app), context)


class _Routes(Router):
    """A router that raises ApiError where Starlette's answers in plain text."""

    def __init__(self, routes: list[BaseRoute]) -> None:
        super().__init__(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # makes a route raise HTTPException for a method that it does not have
        try:
            await super().__call__(scope, receive, send)
        except HTTPException as error:
            if error.status_code != 405:
                raise
            # Other routes may have the same path with other methods.
            allowed = ", ".join(sorted(self._methods_at(scope["path"])))
            detail = f"{scope['method']} is not supported at this path; supported: {allowed}"
            raise ApiError(405, detail, code="method_not_allowed", headers={"Allow": allowed}) from None

    def _methods_at(self, path: str) -> set[str]:
        methods: set[str] = set()
        for route in self.routes:
            if isinstance(route, Route) and route.path_regex.match(path):
                methods |= route.methods or set()
        return methods

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = "nothing is at this path; GET /openapi.json lists all paths"
        if scope["path"].startswith("/jobs/"):
            detail += ". A slash in a job's id is written %2F in the path"
        raise ApiError(404, detail, code="no_such_path")
