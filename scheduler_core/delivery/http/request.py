"""Turns a call into the bytes of an HTTP request: its request line, its headers, and the origin that it goes to.

Most requests of a node differ only in the values of some headers. So the origin of each URL and the check of each set
of header names are computed once and cached. httpx's own request objects would cost as much as the rest of a request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from scheduler_core.base.instants import rfc3339
from scheduler_core.delivery.http.connect import Origin
from scheduler_core.model.call import Call, Headers
from scheduler_core.model.trace import traceparent_of

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""The idempotent methods (RFC 9110, 9.2.2)."""

CACHE_SIZE: Final = 8192
"""Entries of each cache: URLs, and sets of header names."""

_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
"""Requests with these methods have a Content-Length even if the body is empty (RFC 9110, 8.6)."""

_TRANSPORT_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_METHOD: Final = re.compile(r"[A-Z]+\Z")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]*")
"""Characters that percent-encoding does not change (RFC 3986, 2.3)."""


class Request(msgspec.Struct, frozen=True):
    """One HTTP request to make.

    ``headers`` are complete except for Host, Content-Length and Connection, which the transport sets.
    ``timeout_ms`` is the deadline of the whole attempt.
    """

    method: str
    url: str
    headers: Headers
    body: bytes
    timeout_ms: int
    whole_answer: bool = False
    """Whether the outcome must hold the answer's body as far as it is read, not only its first bytes."""
    retry_statuses: tuple[int, ...] = ()
    """Statuses that the job retries in addition to the usual ones."""
    repeatable: bool = True
    """Whether a policy allows another request of this run. If not, the transport must not send this one again once a
    byte of it was sent."""
    traceparent: str = ""
    """The header of this name, unless ``headers`` have one; empty: send none."""


def request_of(call: Call, signature: Headers = (), *, sampled: bool = True) -> Request:
    """Return the HTTP request of ``call``: the user's headers, those that describe the run, and ``signature``.

    ``sampled``: the flag of its trace context.
    """
    headers = [
        *call.headers,
        *signature,
        ("Idempotency-Key", call.run_id),
        ("Cronpost-Job-Id", _quoted(call.job_id)),
        ("Cronpost-Fire-Time", rfc3339(call.fire_time_ms)),
        ("Cronpost-Attempt", str(call.attempt)),
        ("Cronpost-Fence", str(call.fence)),
        ("Cronpost-Reason", call.reason.value),
    ]
    if call.content_type is not None:
        headers.insert(0, ("Content-Type", call.content_type))
    if call.last_success_ms is not None:
        headers.append(("Cronpost-Last-Success", rfc3339(call.last_success_ms)))
    if call.callback is not None:
        headers.append(("Cronpost-Callback-Url", call.callback.complete_url))
        headers.append(("Cronpost-Heartbeat-Url", call.callback.heartbeat_url))
        headers.append(("Cronpost-Callback-Token", call.callback.token))
    return Request(
        call.method,
        call.url,
        tuple(headers),
        call.payload,
        call.timeout_ms,
        call.whole_answer,
        call.retry_statuses,
        not call.is_last_attempt,
        traceparent_of(call.run_id, call.fence, call.attempt, sampled=sampled),
    )


@lru_cache(maxsize=1024)
def _quoted(job_id: str) -> str:
    return job_id if _UNRESERVED.fullmatch(job_id) else quote(job_id, safe="")


class Written(NamedTuple):
    """The head of a request as it is sent."""

    origin: Origin
    head: bytes
    repeatable: bool
    """Whether the request may be sent again if a used connection was lost while it was sent."""


def write_head(request: Request, user_agent: str) -> Written:
    """Return the head of ``request`` and the origin that it goes to.

    Raises ValueError for a header that only the transport sets or that is not Latin or UTF-8 text,
    httpx.LocalProtocolError for a line break or NUL in a header, httpx.InvalidURL and httpx.UnsupportedProtocol for the
    URL.
    """
    method, body = request.method, request.body
    start = _start(method, request.url)
    names = _names(tuple(map(_FIRST, request.headers)))
    lines = [start.text]
    lines += map(_LINE, request.headers)
    if not names.has_user_agent:
        lines.append(f"User-Agent: {user_agent}")
    if request.traceparent and not names.has_traceparent:
        lines.append(f"traceparent: {request.traceparent}")
    lines.append("Accept-Encoding: identity")
    if body or method in _BODY_METHODS:
        lines.append(f"Content-Length: {len(body)}")
    lines.append("\r\n")
    head = "\r\n".join(lines).encode()
    _check(head, len(lines) + 1)  # the first of them is two: the request line and Host
    return Written(start.origin, head, request.repeatable and (names.has_idempotency_key or method in IDEMPOTENT))


def headers_of(request: Request, user_agent: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that ``write_head`` writes, for a transport that writes them itself."""
    lines = write_head(request, user_agent).head.split(b"\r\n")[1:-2]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


def head_of(method: str, path: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the bytes of a request up to its body. Raises httpx.LocalProtocolError for a line break or NUL."""
    lines = [b"%s %s HTTP/1.1\r\n" % (method.encode("ascii"), path)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    _check(head, len(lines))
    return head


def _check(head: bytes, lines: int) -> None:
    # Names and values were checked when the job was stored. If a bad one was stored all the same, it must not smuggle a
    # second request.
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise httpx.LocalProtocolError("a header holds a line break or a NUL")


def origin_of(url: httpx.URL) -> Origin:
    """Return the origin that a request for ``url`` connects to."""
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
    """Return request line and Host. Cached: parsing a URL costs as much as the rest of a request."""
    if not _METHOD.match(method):
        raise ValueError("not a method")
    parsed = httpx.URL(url)
    path, host = parsed.raw_path.decode("ascii"), parsed.netloc.decode("ascii")
    return _Start(f"{method} {path} HTTP/1.1\r\nHost: {host}", origin_of(parsed))


class _Names(NamedTuple):
    has_user_agent: bool
    has_idempotency_key: bool
    has_traceparent: bool


_FIRST = itemgetter(0)
_LINE = "%s: %s".__mod__


@lru_cache(maxsize=CACHE_SIZE)
def _names(names: tuple[str, ...]) -> _Names:
    """Check the names of a request's headers. Cached: nearly all requests have the same names."""
    lower = {name.encode("ascii").decode().lower() for name in names}
    for name in lower & _TRANSPORT_HEADERS:
        raise ValueError(f"only the transport sets the header {name}")
    return _Names("user-agent" in lower, "idempotency-key" in lower, "traceparent" in lower)
