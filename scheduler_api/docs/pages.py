"""``GET /docs`` and ``GET /redoc``: the documentation of the API for people, rendered in the browser.

The pages are our own and small: Cronpost also runs in closed networks, and no packaged UI works with the strict
policy below (docs/decisions/0010). They contain no data and read ``openapi.json`` of their server. Nothing is
loaded from another host; the Content-Security-Policy forbids that, and everything inline.
Pages and assets need no API key, as they are the same in every copy of Cronpost; ``openapi.json`` and all requests do.
"""

from __future__ import annotations

from functools import cache, partial
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import json_answer
from scheduler_api.openapi.operation import Answer, Header, Operation, described
from scheduler_api.problem import ApiError
from scheduler_api.wire.answers.service import LINKS, Links

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGES = {"/docs": "docs.html", "/redoc": "redoc.html"}
ASSETS = {
    "docs.css": "text/css",
    "docs.js": "text/javascript",
    "dom.js": "text/javascript",
    "request.js": "text/javascript",
    "schema.js": "text/javascript",
}
OPEN_PATHS = (*PAGES, *(f"/docs/{name}" for name in ASSETS))


@cache
def _content(name: str) -> bytes:
    return files("scheduler_api.docs").joinpath("static", name).read_bytes()


async def page(request: Request) -> Response:
    """Serve one of the two pages."""
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    return Response(_content(PAGES[request.scope["path"]]), media_type="text/html", headers=headers)


async def asset(request: Request) -> Response:
    """Serve a script or a style of the pages."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise ApiError(404, "nothing is at this path", code="no_such_path")
    return Response(_content(name), media_type=ASSETS[name], headers={"Content-Security-Policy": POLICY})


async def root(request: Request) -> Response:
    """``GET /``: redirect browsers to the dashboard, give links to other clients. Needs no key."""
    if prefers_html(request.headers.get("accept", "")):
        return Response(status_code=307, headers={"Location": "/ui", "Vary": "Accept"})
    return json_answer(LINKS, headers={"Vary": "Accept"})


def prefers_html(accepted: str) -> bool:
    """Return whether an Accept header names ``text/html`` before any JSON, as browsers do."""
    types = [part.partition(";")[0].strip().lower() for part in accepted.split(",")]
    return "text/html" in types and "application/json" not in types[: types.index("text/html")]


_PAGE = {200: Answer("The page.", str, media_type="text/html")}

operation = partial(Operation, "Documentation")
ROUTES = [
    *described(
        operation(
            "GET /",
            root,
            "get_links",
            "Redirect a browser to the dashboard; answer other clients with links",
            security="open",
            answers={
                200: Answer("Paths of this API.", Links),
                307: Answer("To the dashboard.", headers=[Header("Location", "`/ui`.")]),
            },
        ),
        operation(
            "GET /docs",
            page,
            "get_docs",
            "Show this documentation, with forms to send requests",
            security="open",
            answers=_PAGE,
        ),
        operation(
            "GET /redoc", page, "get_redoc", "Show this documentation on one page", security="open", answers=_PAGE
        ),
    ),
    Route("/docs/{name}", asset, methods=["GET"], include_in_schema=False),
]
