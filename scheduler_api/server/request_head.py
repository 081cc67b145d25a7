"""Checks the head of a request, and writes the answer to one that is refused before the application sees it.

httptools accepts some requests that two programs can read in two ways (request smuggling); these are refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from scheduler_api.hosts import host_of

MAX_HEAD_BYTES = 65_536
"""Of a request's line and headers. The same limit holds for bytes in a row that are not content in a chunked body."""

SLASH = b"/"[0]

Headers = Sequence[tuple[bytes, bytes]]


class HeadRefused(Exception):
    """The head of a request is refused with ``status``."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def check_head(method: bytes, url: bytes, headers: Headers, version: str) -> bytes:
    """Check a head and return its target in origin form.

    Raises HeadRefused for a head with more than one reading (RFC 9112: 2.3, 3.2, 6.1; RFC 6585, 5). A target in
    absolute form must name the same host as ``Host``; as it is returned in origin form, the application's check of
    ``Host`` covers both.
    """
    size, hosts, codings, host = len(url), 0, 0, b""
    for name, value in headers:
        size += len(name) + len(value)
        if name == b"host":
            hosts += 1
            host = value
        elif name == b"transfer-encoding":
            codings += 1
            if value.lower() != b"chunked":
                raise HeadRefused(HTTPStatus.NOT_IMPLEMENTED)
    if size > MAX_HEAD_BYTES:
        raise HeadRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    if version not in {"1.1", "1.0"}:
        raise HeadRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if hosts > 1 or (hosts == 0 and version == "1.1") or host_of(host) is None:
        raise HeadRefused(HTTPStatus.BAD_REQUEST)
    if codings > 1 or (codings and version == "1.0"):
        raise HeadRefused(HTTPStatus.BAD_REQUEST)
    if url[0] == SLASH or url == b"*" or method == b"CONNECT":
        return url
    scheme, _, rest = url.partition(b"://")
    end = next((at for at, byte in enumerate(rest) if byte in b"/?#"), len(rest))
    if scheme.lower() not in {b"http", b"https"} or rest[:end].lower() != host.lower():
        raise HeadRefused(HTTPStatus.BAD_REQUEST)
    return rest[end:] if rest[end : end + 1] == b"/" else b"/" + rest[end:]


def encode_head(method: bytes, url: bytes, headers: Headers, version: str, *, without: bytes) -> bytes:
    """Encode a parsed head again, without the headers named ``without``."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    lines += [b"%s: %s" % (name, value) for name, value in headers if name != without]
    return b"\r\n".join([*lines, b"", b""])


def closing_answer(status: HTTPStatus) -> bytes:
    """Build an answer without the application. The connection is closed after it."""
    detail = status.description or status.phrase
    body = f'{{"title":"{status.phrase}","status":{status.value},"detail":"{detail}"}}\n'
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode("ascii")
