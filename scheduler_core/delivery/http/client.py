"""Delivers calls over HTTP: one request, one deadline, one outcome.

The deadline covers the whole attempt, from waiting for a connection to the last byte. HTTP libraries have timeouts per
phase instead; a target that sends one byte now and then never exceeds them. Of httpx, only the interface of transports
is used (docs/decisions/0003-http-transport.md).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib import metadata
from typing import Final, cast

import httpx
from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.secret_names import MASK
from scheduler_core.base.urls import origin_of
from scheduler_core.delivery.base import (
    NOT_SENT,
    Attempt,
    Call,
    Done,
    MaySend,
    Outcome,
    OutcomeKind,
    TaskAttempt,
    always,
    attempt,
    fault_text,
    start_one,
)
from scheduler_core.delivery.http.connect import AddressRefused, Origin, TlsFailed
from scheduler_core.delivery.http.connection import WRITE_PIECE_BYTES, Connection
from scheduler_core.delivery.http.deadlines import Deadlines
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.request import Request, Written, headers_of, request_of, write_head
from scheduler_core.delivery.http.resolve import LookupFailed
from scheduler_core.delivery.http.sign import signature_headers
from scheduler_core.delivery.http.tokens import TokenFailed, Tokens
from scheduler_core.delivery.http.transport import NotSent, PooledTransport
from scheduler_core.delivery.http.verdict import FINAL_KINDS, with_verdict
from scheduler_core.model.outcome import Verdict
from scheduler_core.model.request import ClientCredentials

KEPT_HEADERS: Final = 64
KEPT_HEADER_BYTES: Final = 8192
"""How many bytes of an answer's headers an outcome holds."""

UNAUTHORIZED: Final = 401

_KINDS: Final = (
    # The first match counts, so subclasses come first.
    (LookupFailed, OutcomeKind.DNS),
    (AddressRefused, OutcomeKind.BLOCKED),
    (TlsFailed, OutcomeKind.TLS),
    (httpx.TimeoutException, OutcomeKind.TIMEOUT),
    (httpx.RemoteProtocolError, OutcomeKind.PROTOCOL),
    (httpx.NetworkError, OutcomeKind.CONNECTION),
)


class HttpClient:
    """Makes attempts over HTTP/1.1. Safe to call from many coroutines at once.

    ``max_connections`` limits the open requests; a further one waits, and its deadline runs meanwhile.
    ``read_limit_bytes`` limits how much of an answer's body is read, ``keep_bytes`` how much of it an outcome holds.
    ``transport`` is any httpx transport; the default is a ``PooledTransport`` with ``guard``. Another transport must
    ask a guard itself.
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
        sign_keys: Sequence[str] = (),
        sign_origins: Iterable[str] = (),
        is_sampled: Callable[[str], bool] | None = None,
    ) -> None:
        """``sign_keys`` sign the requests to ``sign_origins`` whose call has no keys of its own. ``is_sampled`` returns
        the flag of a run's trace context; None: it is always set."""
        self._is_sampled = is_sampled
        self._clock = clock
        self._sign_keys = tuple(sign_keys)
        self._sign_origins = frozenset(map(origin_of, sign_origins))
        self._read_limit = read_limit_bytes
        self._keep = keep_bytes
        self._user_agent = user_agent if user_agent is not None else default_user_agent()
        self._transport: httpx.AsyncBaseTransport = (
            transport if transport is not None else PooledTransport(guard=guard, max_connections=max_connections)
        )
        self._pool = self._transport if isinstance(self._transport, PooledTransport) else None
        self._deadlines = Deadlines()
        self._tokens = Tokens(clock, self._transport, self._user_agent)

    async def deliver(self, request: Request) -> Outcome:
        """Make one attempt and return its outcome. Raises only CancelledError.

        A redirect is an answer like any other. 1xx answers are skipped. If the body of an answer fails after its status
        and headers have arrived, the outcome is the failure and not a response.
        """
        return await attempt(lambda done: self.send(request, done, always))

    def prepare(self, call: Call, /) -> Call:
        """Build the request of a call and open a connection for it, as ``Deliverer.prepare`` says.

        A signed request is built again by ``start``, because its signature holds the time of the attempt. Of a request
        with a token, only the token is fetched.
        """
        if call.client is not None:
            self._tokens.expect(call.client)
            return call
        sampled = self._is_sampled is None or self._is_sampled(call.run_id)
        request: Request | None = request_of(call, sampled=sampled)
        assert request is not None
        try:
            written = write_head(request, self._user_agent)
        except Exception:  # noqa: BLE001 - as in ``send``
            return call
        if self._pool is not None:
            self._pool.expect(written.origin)
        if self._keys_of(call):
            request = None
        return replace(call, prepared=(request, written))

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        """Begin one attempt, as ``Deliverer.start`` says."""
        if call.prepared is None:
            if call.client is not None:
                return self._start_with_token(call, call.client, done, may_send)
            return self.send(self._request_of(call), done, may_send)
        request, written = cast("tuple[Request | None, Written]", call.prepared)
        if self._pool is not None:
            self._pool.expect(written.origin, -1)
        if request is None:
            return self.send(self._request_of(call), done, may_send)
        return self.send(request, done, may_send, written)

    def start_all(self, starts: Sequence[tuple[Call, Done, MaySend]], /) -> list[Attempt]:
        """Begin many attempts, as ``StartsTogether.start_all`` says.

        First writes the requests of prepared calls to idle connections, and nothing else. No answer is read before this
        returns, so the objects that wait for the answers are made afterwards.
        """
        pool, monotonic = self._pool, self._clock.monotonic
        if pool is None:
            return [start_one(self.start, *one) for one in starts]
        oldest_usable = pool.oldest_usable()
        sent: list[tuple[Connection, float, int | OSError | None] | None] = []
        expected: Counter[Origin] = Counter()
        for call, _, may_send in starts:
            sent.append(None)
            if call.prepared is None:
                continue
            request, written = cast("tuple[Request | None, Written]", call.prepared)
            if request is not None and len(request.body) <= WRITE_PIECE_BYTES and may_send():
                connection = pool.take_idle(written.origin, oldest_usable=oldest_usable)
                if connection is not None:
                    sent[-1] = connection, monotonic(), connection.write_ahead(written.head + request.body)
                    expected[written.origin] += 1
        for origin, count in expected.items():
            pool.expect(origin, -count)
        attempts: list[Attempt] = []
        for (call, done, may_send), one in zip(starts, sent, strict=True):
            if one is None:
                attempts.append(start_one(self.start, call, done, may_send))
            else:
                request_sent, written = cast("tuple[Request, Written]", call.prepared)
                attempts.append(_Direct(self, pool, request_sent, written, done, may_send, *one))
        return attempts

    def _start_with_token(self, call: Call, client: ClientCredentials, done: Done, may_send: MaySend) -> Attempt:
        token = self._tokens.known(client)
        if token is None:
            return TaskAttempt(self._after_token(call, client, may_send), done)
        request = self._request_of(_authorized(call, token))
        return self.send(request, lambda outcome: done(self._judged(client, token, outcome)), may_send)

    async def _after_token(self, call: Call, client: ClientCredentials, may_send: MaySend) -> Outcome:
        """Fetch a token and make the attempt, both within its deadline."""
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(call.timeout_ms / 1000.0):
                token = await self._tokens.get(client)
        except (TimeoutError, TokenFailed) as error:
            final = isinstance(error, TokenFailed) and error.final
            message = str(error) or f"no token within {call.timeout_ms} ms from {origin_of(client.token_url)}"
            latency_ms = (self._clock.monotonic() - started) * 1000.0
            verdict = Verdict.REFUSED if final else Verdict.RETRY
            return Outcome(OutcomeKind.AUTH, latency_ms, message=message, verdict=verdict)
        left_ms = call.timeout_ms - round((self._clock.monotonic() - started) * 1000.0)
        request = self._request_of(_authorized(replace(call, timeout_ms=max(1, left_ms)), token))
        outcome = await attempt(lambda ended: self.send(request, ended, may_send))
        return self._judged(client, token, outcome)

    def _judged(self, client: ClientCredentials, token: str, outcome: Outcome) -> Outcome:
        """Return the outcome with the token masked, to be retried if another token may help."""
        if outcome.kind is not OutcomeKind.RESPONSE:
            return outcome
        if outcome.status != UNAUTHORIZED:
            self._tokens.accepted(client)
        elif self._tokens.rejected(client, token):
            outcome = replace(outcome, verdict=Verdict.RETRY)
        if token.encode() in outcome.body:
            outcome = replace(outcome, body=outcome.body.replace(token.encode(), MASK.encode()))
        if any(token in value for _, value in outcome.headers):
            headers = tuple((name, value.replace(token, MASK)) for name, value in outcome.headers)
            outcome = replace(outcome, headers=headers)
        return outcome

    def _request_of(self, call: Call) -> Request:
        keys = self._keys_of(call)
        sampled = self._is_sampled is None or self._is_sampled(call.run_id)
        if not keys:
            return request_of(call, sampled=sampled)
        signature = signature_headers(call.run_id, self._clock.now_ms() // 1000, call.payload, keys)
        return request_of(call, signature, sampled=sampled)

    def _keys_of(self, call: Call) -> tuple[str, ...]:
        """Return the keys that sign the request of ``call``; none: it is not signed."""
        if call.sign_keys or not self._sign_keys:
            return call.sign_keys
        return self._sign_keys if origin_of(call.url) in self._sign_origins else ()

    def send(self, request: Request, done: Done, may_send: MaySend, written: Written | None = None) -> Attempt:
        """Begin an attempt for a request that is built, with the guarantees of ``Deliverer.start``.

        Fast path: if a connection is idle and the request is short, the arriving answer drives the attempt. Without its
        own task and timer, an attempt takes half of the processor time.
        """
        pool = self._pool
        if pool is not None and len(request.body) <= WRITE_PIECE_BYTES and may_send():
            try:
                written = written or write_head(request, self._user_agent)
            except Exception:  # noqa: BLE001 - the slow path raises it again, and makes it the outcome
                pass
            else:
                connection = pool.take_idle(written.origin)
                if connection is not None:
                    return _Direct(self, pool, request, written, done, may_send, connection, self._clock.monotonic())
        return TaskAttempt(
            self._in_task(request, self._clock.monotonic(), request.timeout_ms / 1000.0, may_send=may_send), done
        )

    async def _in_task(
        self,
        request: Request,
        started: float,
        timeout_seconds: float,
        *,
        fresh: bool = False,
        may_send: MaySend,
    ) -> Outcome:
        """Make one attempt as a coroutine: on a new connection, with a long body, or over another httpx transport."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._attempt(request, started, fresh=fresh, may_send=may_send)
        except NotSent:
            return NOT_SENT
        except TimeoutError:
            return self._timed_out(request, started)
        except Exception as error:  # noqa: BLE001 - a fault here must end one attempt, not the loop that made it
            return self._failed(error, request, started)

    async def _attempt(self, request: Request, started: float, *, fresh: bool, may_send: MaySend) -> Outcome:
        if self._pool is not None:
            written = write_head(request, self._user_agent)
            answer = await self._pool.exchange(
                written.origin,
                request.method,
                written.head,
                request.body,
                repeatable=written.repeatable,
                fresh=fresh,
                may_send=may_send,
            )
            try:
                return await self._read(answer.status, answer.headers, answer.read, request, started)
            finally:
                answer.close()
        if not may_send():
            raise NotSent
        headers = headers_of(request, self._user_agent)
        response = await self._transport.handle_async_request(
            httpx.Request(request.method, request.url, headers=headers, stream=httpx.ByteStream(request.body))
        )
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        chunks = aiter(stream)
        try:
            return await self._read(
                response.status_code,
                response.headers.raw,
                lambda: anext(chunks, b""),
                request,
                started,
            )
        finally:
            await stream.aclose()

    async def _read(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        read: Callable[[], Awaitable[bytes]],
        request: Request,
        started: float,
    ) -> Outcome:
        """Read the body up to the limit, by ``read``, which returns b"" at its end."""
        body = Body(self._read_limit, self._read_limit if request.whole_answer else self._keep)
        while chunk := await read():
            if not body.add(chunk):
                break
        return self._answered(status, headers, body, request, started)

    def _answered(
        self, status: int, headers: list[tuple[bytes, bytes]], body: Body, request: Request, started: float
    ) -> Outcome:
        outcome = Outcome(
            OutcomeKind.RESPONSE,
            (self._clock.monotonic() - started) * 1000.0,
            status,
            _kept_headers(headers),
            body.kept,
            body.length,
            body.truncated,
            verdict=Verdict.ACCEPTED,
            sent_headers=request.headers,
        )
        if 200 <= status < 300 and not request.whole_answer:
            return outcome
        return with_verdict(outcome, request.retry_statuses, now_ms=self._clock.now_ms())

    def _timed_out(self, request: Request, started: float) -> Outcome:
        return self._ended_without(
            OutcomeKind.TIMEOUT, request, started, f"no complete answer within {request.timeout_ms} ms"
        )

    def _failed(self, error: Exception, request: Request, started: float) -> Outcome:
        if not isinstance(error, httpx.TransportError):
            return self._ended_without(OutcomeKind.INTERNAL, request, started, fault_text(error))
        kind = next((kind for error_class, kind in _KINDS if isinstance(error, error_class)), OutcomeKind.INTERNAL)
        return self._ended_without(kind, request, started, str(error))

    def _ended_without(self, kind: OutcomeKind, request: Request, started: float, message: str) -> Outcome:
        return Outcome(
            kind,
            (self._clock.monotonic() - started) * 1000.0,
            message=" ".join(message.split())[:500],
            verdict=Verdict.REFUSED if kind in FINAL_KINDS else Verdict.RETRY,
            sent_headers=request.headers,
        )

    async def aclose(self) -> None:
        """Close idle and open connections."""
        await self._tokens.aclose()
        await self._transport.aclose()


class Body:
    """Collects an answer's body: reads at most ``limit`` bytes and keeps the first ``keep`` of them."""

    __slots__ = ("_keep", "_limit", "kept", "length", "truncated")

    def __init__(self, limit: int, keep: int) -> None:
        self._limit = limit
        self._keep = keep
        self.kept = b""
        self.length = 0
        self.truncated = False

    def add(self, chunk: bytes) -> bool:
        """Add the next bytes. Returns whether to read on."""
        if self.length < self._keep:
            self.kept += chunk[: self._keep - self.length]
        self.length += len(chunk)
        if self.length <= self._limit:
            return True
        self.length = self._limit
        self.kept = self.kept[: self._limit]
        self.truncated = True
        return False


class _Direct:
    """An attempt on a connection that was idle, driven by the bytes that arrive there."""

    __slots__ = (
        "_body",
        "_client",
        "_connection",
        "_done",
        "_may_send",
        "_pool",
        "_released",
        "_repeat",
        "_request",
        "_started",
        "_written",
    )

    def __init__(
        self,
        client: HttpClient,
        pool: PooledTransport,
        request: Request,
        written: Written,
        done: Done,
        may_send: MaySend,
        connection: Connection,
        started: float,
        sent: int | OSError | None = None,
    ) -> None:
        """``started``: when the request was written. ``sent``: what ``connection.write_ahead`` returned."""
        self._client = client
        self._pool = pool
        self._connection = connection
        self._request = request
        self._written = written
        self._done = done
        self._may_send = may_send
        self._released = False
        self._repeat: TaskAttempt | None = None
        self._body = Body(client._read_limit, client._read_limit if request.whole_answer else client._keep)
        self._started = started
        client._deadlines.add(self, request.timeout_ms)
        connection.begin(request.method, written.head, request.body, self._progressed, sent)

    def cancel(self) -> None:
        """Close the connection and free its slot. ``done`` is not called afterwards."""
        if self._repeat is not None:
            self._repeat.cancel()
        elif not self._released:  # else another attempt may use the connection by now
            self._release()

    def expire(self) -> None:
        """End the attempt as timed out: its deadline has passed."""
        self._release()
        self._done(self._client._timed_out(self._request, self._started))

    def _progressed(self) -> None:
        connection = self._connection
        if connection.fault is not None:
            self._lost(connection.fault)
            return
        more = True
        if chunk := connection.take():
            more = self._body.add(chunk)
        if not more or connection.complete:
            status, headers = connection.status, connection.headers
            self._release()
            self._done(self._client._answered(status, headers, self._body, self._request, self._started))

    def _lost(self, fault: httpx.TransportError) -> None:
        repeat = isinstance(fault, httpx.ReadError) and self._pool.may_repeat(
            self._connection, repeatable=self._written.repeatable
        )
        self._release()
        if not repeat:
            self._done(self._client._failed(fault, self._request, self._started))
            return
        # The target closed the connection while it was idle: send again, on a new one.
        client, request = self._client, self._request
        left = request.timeout_ms / 1000.0 - (client._clock.monotonic() - self._started)
        self._repeat = TaskAttempt(
            client._in_task(request, self._started, left, fresh=True, may_send=self._may_send), self._done
        )

    def _release(self) -> None:
        self._released = True
        self._client._deadlines.remove(self, self._request.timeout_ms)
        self._pool.release(self._written.origin, self._connection)


def _authorized(call: Call, token: str) -> Call:
    return replace(call, headers=(*call.headers, ("Authorization", f"Bearer {token}")))


def _kept_headers(raw: list[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    kept: list[tuple[str, str]] = []
    size = 0
    for name, value in raw[:KEPT_HEADERS]:
        size += len(name) + len(value)
        if size > KEPT_HEADER_BYTES:
            break
        kept.append((name.decode("latin-1").lower(), value.decode("latin-1")))
    return tuple(kept)


def default_user_agent() -> str:
    """Return ``Cronpost/<version>``."""
    try:
        return f"Cronpost/{metadata.version('cronpost')}"
    except metadata.PackageNotFoundError:
        return "Cronpost/0"
