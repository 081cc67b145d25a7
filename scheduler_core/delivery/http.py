"""Delivery over HTTP: one request, one deadline, one outcome.

The deadline is the whole attempt's, from waiting for a connection to the last byte. Timeouts per phase, as HTTP
libraries have them, are outlived by a target that sends a byte now and then.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib import metadata
from typing import Final, NamedTuple

import httpx

from scheduler_core.clock import Clock
from scheduler_core.delivery.base import Outcome, OutcomeKind, Request
from scheduler_core.delivery.connect import AddressRefused, LookupFailed, Origin, TlsFailed
from scheduler_core.delivery.guard import AddressGuard
from scheduler_core.delivery.transport import IDEMPOTENT, PooledTransport, head_of, origin_of

KEPT_HEADERS: Final = 64
KEPT_HEADER_BYTES: Final = 8192
"""How much of an answer's headers an outcome holds."""

URL_CACHE_SIZE: Final = 8192

_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
"""These state a length even when the body is empty (RFC 9110, 8.6)."""

_TRANSPORT_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_METHOD: Final = re.compile(r"[A-Z]+\Z")

_KINDS: Final = (
    # The first match counts, so subclasses come first.
    (LookupFailed, OutcomeKind.DNS),
    (AddressRefused, OutcomeKind.BLOCKED),
    (TlsFailed, OutcomeKind.TLS),
    (httpx.TimeoutException, OutcomeKind.TIMEOUT),
    (httpx.RemoteProtocolError, OutcomeKind.PROTOCOL),
    (httpx.NetworkError, OutcomeKind.CONNECTION),
)


class HttpDeliverer:
    """Makes attempts over HTTP/1.1. Safe to call from many coroutines at once.

    ``max_connections`` bounds the requests under way; one more waits, and its deadline runs meanwhile.
    ``read_limit_bytes`` is where reading an answer's body stops, ``keep_bytes`` how much of it an outcome holds.
    ``transport`` is any httpx transport; the default is a :class:`PooledTransport` with ``guard``. A transport that is
    given has to ask a guard itself.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        guard: AddressGuard,
        max_connections: int,
        read_limit_bytes: int = 65536,
        keep_bytes: int = 10240,
        user_agent: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._clock = clock
        self._read_limit = read_limit_bytes
        self._keep = keep_bytes
        self._user_agent = (user_agent if user_agent is not None else default_user_agent()).encode("ascii")
        self._transport: httpx.AsyncBaseTransport = (
            transport if transport is not None else PooledTransport(guard=guard, max_connections=max_connections)
        )

    async def deliver(self, request: Request) -> Outcome:
        """Make one attempt. Raises nothing but cancellation.

        Redirects are answers like any other. 1xx answers are passed over. An answer whose status and headers have
        arrived but whose body fails is not a response: the attempt ends as what went wrong.
        """
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(request.timeout_ms / 1000.0):
                return await self._attempt(request, started)
        except TimeoutError:
            return self._failed(OutcomeKind.TIMEOUT, started, f"no complete answer within {request.timeout_ms} ms")
        except httpx.TransportError as error:
            for error_class, kind in _KINDS:
                if isinstance(error, error_class):
                    return self._failed(kind, started, str(error))
            return self._failed(OutcomeKind.INTERNAL, started, str(error))
        except Exception as error:  # noqa: BLE001 - a fault here must end one attempt, not the loop that made it
            return self._failed(OutcomeKind.INTERNAL, started, _where(error))

    async def _attempt(self, request: Request, started: float) -> Outcome:
        target, headers = _target(request.url), self._headers(request)
        if isinstance(self._transport, PooledTransport):
            answer = await self._transport.exchange(
                target.origin,
                request.method,
                head_of(request.method, target.url.raw_path, headers),
                request.body,
                repeatable=request.method in IDEMPOTENT or any(name == b"Idempotency-Key" for name, _ in headers),
            )
            try:
                return await self._read(answer.status, answer.headers, answer.read, started, self._kept(request))
            finally:
                answer.close()
        response = await self._transport.handle_async_request(
            httpx.Request(request.method, target.url, headers=headers, stream=httpx.ByteStream(request.body))
        )
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        chunks = aiter(stream)
        try:
            return await self._read(
                response.status_code,
                response.headers.raw,
                lambda: anext(chunks, b""),
                started,
                self._kept(request),
            )
        finally:
            await stream.aclose()

    async def _read(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        read: Callable[[], Awaitable[bytes]],
        started: float,
        keep: int,
    ) -> Outcome:
        """Read the body through ``read``, which gives b"" at its end, up to the limit; ``keep`` bytes go out."""
        body = b""
        length = 0
        truncated = False
        while chunk := await read():
            if len(body) < keep:
                body += chunk[: keep - len(body)]
            length += len(chunk)
            if length > self._read_limit:
                length = self._read_limit
                body = body[: self._read_limit]
                truncated = True
                break
        return Outcome(
            kind=OutcomeKind.RESPONSE,
            latency_ms=(self._clock.monotonic() - started) * 1000.0,
            status=status,
            headers=_kept_headers(headers),
            body=body,
            body_bytes=length,
            truncated=truncated,
        )

    def _kept(self, request: Request) -> int:
        return self._read_limit if request.whole_answer else self._keep

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = [(b"Host", _target(request.url).host)]
        has_user_agent = False
        for name, value in request.headers:
            lower = name.lower()
            if lower in _TRANSPORT_HEADERS:
                raise ValueError(f"the header {lower} is the transport's")
            if lower == "user-agent":
                has_user_agent = True
            headers.append((name.encode("ascii"), value.encode("utf-8")))
        if not has_user_agent:
            headers.append((b"User-Agent", self._user_agent))
        headers.append((b"Accept-Encoding", b"identity"))
        if request.body or request.method in _BODY_METHODS:
            headers.append((b"Content-Length", b"%d" % len(request.body)))
        if not _METHOD.match(request.method):
            raise ValueError("not a method")
        return headers

    def _failed(self, kind: OutcomeKind, started: float, message: str) -> Outcome:
        return Outcome(
            kind=kind,
            latency_ms=(self._clock.monotonic() - started) * 1000.0,
            message=" ".join(message.split())[:500],
        )

    async def aclose(self) -> None:
        """Close idle and open connections."""
        await self._transport.aclose()


class _Target(NamedTuple):
    url: httpx.URL
    host: bytes
    """The value of the Host header."""
    origin: Origin


@lru_cache(maxsize=URL_CACHE_SIZE)
def _target(url: str) -> _Target:
    """Parsing a URL costs as much as the rest of the request, and the same few thousand come again and again."""
    parsed = httpx.URL(url)
    return _Target(parsed, parsed.netloc, origin_of(parsed))


def _kept_headers(raw: list[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    kept: list[tuple[str, str]] = []
    size = 0
    for name, value in raw[:KEPT_HEADERS]:
        size += len(name) + len(value)
        if size > KEPT_HEADER_BYTES:
            break
        kept.append((name.decode("latin-1").lower(), value.decode("latin-1")))
    return tuple(kept)


def _where(error: Exception) -> str:
    """Name an unexpected error and its place. Not its text, which may hold what must not be logged."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{place}"


def default_user_agent() -> str:
    """``Cronpost/<version>``."""
    try:
        return f"Cronpost/{metadata.version('cronpost')}"
    except metadata.PackageNotFoundError:
        return "Cronpost/0"
