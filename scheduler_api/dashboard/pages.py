"""``GET /ui``: the dashboard, rendered in the browser (docs/decisions/0048).

Every path below ``/ui`` answers the same shell, whose router shows the page of its path. It differs only in the modules
and styles that it tells the browser to load early; without this the browser finds them one after the other.
Shell and assets contain no data and are the same in every copy of Cronpost, so they need no API key; the API requests
of the pages do.
Nothing is loaded from another host and nothing is inline: the Content-Security-Policy forbids both, and scripts cannot
pass text to an HTML parser.
"""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import re
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import accepts_gzip
from scheduler_api.openapi.operation import Answer, Header, Operation, described
from scheduler_api.problem import ApiError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
STATIC = "/ui/static/"
IMMUTABLE = "public, max-age=31536000, immutable"
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
DOCUMENTS = (MEDIA_TYPES[".html"], MEDIA_TYPES[".svg"])
SHELL = "index.html"
APP = "app.js"
"""The script of the shell."""
OPEN_PATHS = re.compile(rb"/ui(?:/.*)?\Z")
"""Paths that need no API key. All of them are read with GET."""


_IMPORT = re.compile(r'^import [^"]*"(\.[^"]+)"', re.MULTILINE)
_STYLES = re.compile(r"^export const styles = \[([^\]]*)\]", re.MULTILINE)
_ROUTE = re.compile(r'path: "(/ui[^"]*)".*import\("\./([^"]+)"\)')


class _Asset(msgspec.Struct, frozen=True):
    """A file as it is sent. ``etag`` is that of the plain form; the compressed form has another."""

    media_type: str
    etag: str
    plain: bytes
    compressed: bytes


@cache
def names() -> frozenset[str]:
    """Return the paths of all files below ``static/``."""
    found, left = set(), [("", files("scheduler_api.dashboard").joinpath("static"))]
    while left:
        prefix, folder = left.pop()
        for one in folder.iterdir():
            if one.is_dir():
                left.append((f"{prefix}{one.name}/", one))
            elif PurePosixPath(one.name).suffix in MEDIA_TYPES:
                found.add(prefix + one.name)
    return frozenset(found)


def _read(name: str) -> bytes:
    return files("scheduler_api.dashboard").joinpath("static", *name.split("/")).read_bytes()


@cache
def digest() -> str:
    """Return a hash of all files. It is part of the paths that the shell names, so browsers can keep those files."""
    every = hashlib.sha256()
    for name in sorted(names()):
        every.update(name.encode() + b"\0" + hashlib.sha256(_read(name)).digest())
    return every.hexdigest()[:12]


@cache
def _asset(name: str) -> _Asset:
    return _packed(name, _read(name))


def _packed(name: str, plain: bytes) -> _Asset:
    media_type = MEDIA_TYPES[PurePosixPath(name).suffix]
    return _Asset(media_type, hashlib.sha256(plain).hexdigest()[:20], plain, gzip.compress(plain, mtime=0))


@cache
def _shell(module: str) -> _Asset:
    """Return the shell for pages of ``module``, a path below ``static/``; empty: for a path without a page."""
    plain = _read(SHELL).decode()
    early = sorted((needs(APP) | (needs(module) if module else set())) - {APP})
    kinds = {".js": 'rel="modulepreload"', ".css": 'rel="preload" as="style"'}
    links = [f'<link {kinds[PurePosixPath(name).suffix]} href="{STATIC}{name}">\n' for name in early]
    plain = plain.replace("</head>", "".join(links) + "</head>")
    # The imports of the scripts are relative, so all of them follow the first script to this path.
    return _packed(SHELL, plain.replace(STATIC, f"{STATIC}@{digest()}/").encode())


@cache
def needs(module: str) -> frozenset[str]:
    """Return the modules that a module imports, itself included, and the styles of its page."""
    text = _read(module).decode()
    found = {module}
    for imported in _IMPORT.findall(text):
        found |= needs(posixpath.normpath(posixpath.join(posixpath.dirname(module), imported)))
    for styles in _STYLES.findall(text):
        found |= {f"style/{style}" for style in re.findall(r'"([^"]+)"', styles)}
    return frozenset(found)


@cache
def _pages() -> list[tuple[re.Pattern[str], str]]:
    """Return the routes of ``routes.js`` in their order: the pattern of a path, and the module of its page."""
    routes = _ROUTE.findall(_read("routes.js").decode())
    return [(re.compile(re.sub(r":\w+", "[^/]+", path) + "/?"), module) for path, module in routes]


def module_of(path: str) -> str:
    """Return the module of the page at a path as it was sent; empty: no page has this path."""
    return next((module for pattern, module in _pages() if pattern.fullmatch(path)), "")


async def shell(request: Request) -> Response:
    """Serve the page that contains every view of the dashboard."""
    path = request.scope["raw_path"].partition(b"?")[0].decode("latin-1")
    return _answer(request, _shell(module_of(path)), "no-cache")


async def asset(request: Request) -> Response:
    """Serve a script, a style or an image of the dashboard.

    A page that was loaded before an upgrade names the digest of that version. It gets the files of this version, and
    does not keep them.
    """
    name = request.path_params["path"]
    caching = "no-cache"
    if name.startswith("@"):
        version, _, name = name[1:].partition("/")
        caching = IMMUTABLE if version == digest() else "no-store"
    if name not in names() - {SHELL}:
        raise ApiError(404, "nothing is at this path", code="no_such_path")
    return _answer(request, _asset(name), caching)


def _answer(request: Request, found: _Asset, caching: str) -> Response:
    """Answer with a file; 304 if the browser has it. With ``no-cache`` browsers ask each time."""
    # The files contain no secret, so their compressed length reveals nothing.
    compress = accepts_gzip(request)
    etag = f'"{found.etag}-gzip"' if compress else f'"{found.etag}"'
    headers = {
        "Cache-Control": caching,
        "ETag": etag,
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
    }
    if found.media_type in DOCUMENTS:  # scripts and styles have the policy of the page that loads them
        headers["Content-Security-Policy"] = POLICY
    if etag in (one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    if compress:
        headers["Content-Encoding"] = "gzip"
    return Response(found.compressed if compress else found.plain, media_type=found.media_type, headers=headers)


_ETAG = Header("ETag", "Changes with the page.")
ROUTES = [
    *described(
        Operation(
            "Documentation",
            "GET /ui",
            shell,
            "get_dashboard",
            "Show the dashboard",
            description="Every path below `/ui` answers the same page, which shows the view of its path.",
            security="open",
            answers={
                200: Answer("The page.", str, [_ETAG], "text/html"),
                304: Answer("It is the one in `If-None-Match`.", headers=[_ETAG]),
            },
        )
    ),
    Route(STATIC + "{path:path}", asset, methods=["GET"], include_in_schema=False),
    Route("/ui/{path:path}", shell, methods=["GET"], include_in_schema=False),
]
