"""What a request looks like on the wire, up to its body, and where it goes.

Most requests of a node are alike but for the values of some headers, so what is costly to find out is found out once:
of a URL where it leads, of the names of its headers whether they may be sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple

import httpx

from scheduler_core.delivery.base import Request
from scheduler_core.delivery.http.connect import Origin

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110, 9.2.2."""

CACHE_SIZE: Final = 8192
"""URLs, and sets of header names, whose reading is kept."""

_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
"""These state a length even when the body is empty (RFC 9110, 8.6)."""

_TRANSPORT_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_METHOD: Final = re.compile(r"[A-Z]+\Z")


class Written(NamedTuple):
    """A request as it is sent."""

    origin: Origin
    head: bytes
    repeatable: bool
    """Whether it may be sent again when a used connection was lost as it was sent."""


def write_head(request: Request, user_agent: str) -> Written:
    """The head of ``request`` and where it goes.

    Raises ValueError for a header that is the transport's or that is not Latin or UTF-8 text, httpx.LocalProtocolError
    for a line break or NUL in one, httpx.InvalidURL and httpx.UnsupportedProtocol for the URL.
    """
    method, body = request.method, request.body
    start = _start(method, request.url)
    names = _names(tuple(map(_FIRST, request.headers)))
    lines = [start.text]
    lines += [f"{name}: {value}" for name, value in request.headers]
    if not names.has_user_agent:
        lines.append(f"User-Agent: {user_agent}")
    lines.append("Accept-Encoding: identity")
    if body or method in _BODY_METHODS:
        lines.append(f"Content-Length: {len(body)}")
    lines.append("\r\n")
    head = "\r\n".join(lines).encode()
    _check(head, len(lines) + 1)  # the first of them is two: the request line and Host
    return Written(start.origin, head, request.repeatable and (names.has_idempotency_key or method in IDEMPOTENT))


def headers_of(request: Request, user_agent: str) -> list[tuple[bytes, bytes]]:
    """The headers that ``write_head`` writes, for a transport that writes them itself."""
    lines = write_head(request, user_agent).head.split(b"\r\n")[1:-2]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


def head_of(method: str, path: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The bytes of a request up to its body. Raises httpx.LocalProtocolError for a line break or NUL in a header."""
    lines = [b"%s %s HTTP/1.1\r\n" % (method.encode("ascii"), path)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    _check(head, len(lines))
    return head


def _check(head: bytes, lines: int) -> None:
    # Names and values were checked when the job was stored. Should one have slipped through, it must not become a
    # second request.
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise httpx.LocalProtocolError("a header holds a line break or a NUL")


def origin_of(url: httpx.URL) -> Origin:
    """Where a request for ``url`` connects to."""
    scheme = url.scheme
    if scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol("the URL must start with http:// or https://")
    tls = scheme == "https"
    return Origin(tls, url.raw_host.decode("ascii"), url.port or (443 if tls else 80))


class _Start(NamedTuple):
    text: str
    origin: Origin


@lru_cache(maxsize=CACHE_SIZE)
def _start(method: str, url: str) -> _Start:
    """Request line and Host. Parsing a URL costs as much as the rest of a request, and the same few come again."""
    if not _METHOD.match(method):
        raise ValueError("not a method")
    parsed = httpx.URL(url)
    path, host = parsed.raw_path.decode("ascii"), parsed.netloc.decode("ascii")
    return _Start(f"{method} {path} HTTP/1.1\r\nHost: {host}", origin_of(parsed))


class _Names(NamedTuple):
    has_user_agent: bool
    has_idempotency_key: bool


_FIRST = itemgetter(0)


@lru_cache(maxsize=CACHE_SIZE)
def _names(names: tuple[str, ...]) -> _Names:
    """What the names of a request's headers say. Nearly all requests have the same."""
    lower = {name.encode("ascii").decode().lower() for name in names}
    for name in lower & _TRANSPORT_HEADERS:
        raise ValueError(f"the header {name} is the transport's")
    return _Names("user-agent" in lower, "idempotency-key" in lower)
