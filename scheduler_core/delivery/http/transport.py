"""An httpx transport with a connection pool that survives cancelled requests.

httpx's own pool (httpcore) stops working after some thousand requests were cancelled by a deadline, and takes over 2 ms
of processor time per request. docs/decisions/0003-http-transport.md has the measurements.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import httpx

from scheduler_core.delivery.http.connect import Connector, Origin
from scheduler_core.delivery.http.connection import Connection
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.request import IDEMPOTENT, head_of, origin_of
from scheduler_core.delivery.http.resolve import Resolver

KEEPALIVE_SECONDS: Final = 4.0
"""How long an idle connection may be used again. uvicorn, Node and Apache close idle connections after 5 s; a shorter
time makes it rare that a request meets a connection that is being closed."""

EXPECTED_SECONDS: Final = 1.0
"""How long a request counts as expected: twice the longest time that a job is claimed ahead."""

REPEAT_WITHIN_SECONDS: Final = 0.005
"""If a used connection is lost later than this after the request was sent, the target may have worked on the request,
and it is not repeated. Measured on the loop's clock: on a crowded machine more stale connections end as errors, but no
request is repeated by mistake."""


class PooledTransport(httpx.AsyncBaseTransport):
    """Sends requests over pooled HTTP/1.1 connections, at most ``max_connections`` at a time.

    * Sends the request unchanged: Host and Content-Length must be among its headers, as httpx has them. No proxies, no
      cookies, no redirects, no decompression, nothing from the environment.
    * Cancelling a request closes its connection and frees its slot. Other requests are not affected.
    * Sends a request a second time, on a new connection, only if the target cannot have begun to work on it: either the
      used connection was closed before a byte was sent, or it was lost within ``repeat_within_seconds`` of sending
      without a byte of an answer. The second case also requires ``repeatable``: an idempotent method or an
      ``Idempotency-Key`` (the rule of Go's client), and a policy that allows another request. On a new connection
      nothing is sent twice.
    * Open connections, idle ones included, are at most ``max_connections``.

    Raises httpx's transport errors and, from connecting, the subclasses in ``connect``.
    """

    def __init__(
        self,
        *,
        guard: AddressGuard,
        max_connections: int,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        repeat_within_seconds: float = REPEAT_WITHIN_SECONDS,
        ssl_context: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._connector = Connector(guard=guard, resolver=resolver, ssl_context=ssl_context)
        self._slots = SlotQueue(max_connections)
        self._max_connections = max_connections
        self._keepalive = keepalive_seconds
        self._repeat_within = repeat_within_seconds
        self._busy: set[Connection] = set()
        self._idle: OrderedDict[Connection, tuple[Origin, float]] = OrderedDict()
        """Idle connections with the time at which they became idle, the longest idle first. Not a plain dictionary:
        there, popping the last entry repeatedly scans all entries that were popped before."""
        self._idle_by_origin: dict[Origin, OrderedDict[Connection, None]] = {}
        self._connecting = 0
        self._expected: dict[Origin, int] = {}
        """How many requests ``expect`` announced that have not begun."""
        self._expecting_since = 0.0
        self._opening: dict[Origin, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Connections that are opened ahead of the request that needs them."""
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        stream = request.stream
        body = b"".join(stream) if isinstance(stream, httpx.ByteStream) else await request.aread()
        headers = request.headers.raw
        answer = await self.exchange(
            origin_of(request.url),
            request.method,
            head_of(request.method, request.url.raw_path, headers),
            body,
            repeatable=request.method in IDEMPOTENT or "idempotency-key" in request.headers,
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=answer, request=request)

    async def exchange(
        self,
        origin: Origin,
        method: str,
        head: bytes,
        body: bytes,
        *,
        repeatable: bool,
        fresh: bool = False,
        may_send: Callable[[], bool] | None = None,
    ) -> Answer:
        """Send a request whose head is written, and return when the head of its answer has arrived.

        Does the same as ``handle_async_request`` without httpx's objects, which cost as much as the rest of a request.
        ``fresh`` requires a new connection. ``may_send`` is called on an open connection, immediately before the first
        byte; if it returns False, NotSent is raised and nothing is sent. The caller closes the answer.
        """
        if self._closed:
            raise RuntimeError("the transport is closed")
        await self._slots.take()
        try:
            connection = await self._exchange(
                origin, method, head, body, repeatable=repeatable, fresh=fresh, may_send=may_send
            )
        except BaseException:
            self._slots.release()
            raise
        return Answer(self, origin, connection)

    def may_repeat(self, connection: Connection, *, repeatable: bool) -> bool:
        """Return whether a request that failed on ``connection`` may be sent again on a new one."""
        if connection.unsent:
            return True
        lost_after = connection.lost_after
        return repeatable and lost_after is not None and lost_after <= self._repeat_within

    def _make_idle(self, origin: Origin, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._idle[connection] = (origin, loop.time())
        candidates = self._idle_by_origin.get(origin)
        if candidates is None:
            candidates = self._idle_by_origin[origin] = OrderedDict()
        candidates[connection] = None
        if self._sweep is None:
            self._sweep = loop.call_later(self._keepalive, self._close_expired)

    def expect(self, origin: Origin, change: int = 1) -> None:
        """Expect one more request to ``origin`` soon (-1: one less), and open a connection if too few are idle.

        At most half of all connections are opened ahead for one origin, because a target gets half of a node's free
        slots. A request that never comes is forgotten after ``EXPECTED_SECONDS``.
        """
        now = asyncio.get_running_loop().time()
        if now - self._expecting_since > EXPECTED_SECONDS:
            self._expected.clear()
            self._expecting_since = now
        expected = self._expected[origin] = self._expected.get(origin, 0) + change
        ready = len(self._idle_by_origin.get(origin, ())) + self._opening.get(origin, 0)
        in_use = len(self._busy) + self._connecting + len(self._idle)
        if (
            change > 0
            and ready < min(expected, 1 + self._max_connections // 2)
            and in_use < self._max_connections
            and not self._closed
        ):
            self._connecting += 1
            self._opening[origin] = self._opening.get(origin, 0) + 1
            task = asyncio.create_task(self._open_ahead(origin))
            self._tasks.add(task)
            task.add_done_callback(partial(self._opened_ahead, origin))

    async def _open_ahead(self, origin: Origin) -> None:
        """Open a connection that becomes idle. If that fails, the request that needs one reports why."""
        with contextlib.suppress(Exception):
            connection = await self._connector.connect(origin, Connection)
            connection.on_idle_loss = self._forget
            if self._closed:
                connection.abort()
            else:
                self._make_idle(origin, connection)

    def _opened_ahead(self, origin: Origin, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._connecting -= 1
        self._opening[origin] -= 1
        if not self._opening[origin]:
            del self._opening[origin]

    def oldest_usable(self) -> float:
        """Return since when a connection may be idle at most, to be used again."""
        return asyncio.get_running_loop().time() - self._keepalive

    def take_idle(
        self, origin: Origin, *, has_slot: bool = False, oldest_usable: float | None = None
    ) -> Connection | None:
        """Return the idle connection to ``origin`` that was used last: the target is least likely to have closed it.

        None if no connection is idle or no slot is free. Takes a slot too, unless the caller has one. For a caller that
        writes and reads by itself (``Connection.begin``), and then calls ``release``. ``oldest_usable``: what the
        method of that name returned in this turn of the event loop.
        """
        if not has_slot and (self._closed or self._slots.free == 0):
            return None
        if oldest_usable is None:
            oldest_usable = self.oldest_usable()
        while candidates := self._idle_by_origin.get(origin):
            connection, _ = candidates.popitem()
            _, idle_since = self._idle.pop(connection)
            if not candidates:
                del self._idle_by_origin[origin]
            if connection.usable and idle_since >= oldest_usable:
                self._busy.add(connection)
                if not has_slot:
                    self._slots.free -= 1
                return connection
            connection.abort()
        return None

    def release(self, origin: Origin, connection: Connection) -> None:
        """End the exchange on ``connection``: make it idle, or close it if more of the answer would come."""
        self._busy.discard(connection)
        if connection.finish() and not self._closed:
            self._make_idle(origin, connection)
        else:
            connection.abort()
        self._slots.release()

    async def _exchange(
        self,
        origin: Origin,
        method: str,
        head: bytes,
        body: bytes,
        *,
        repeatable: bool,
        fresh: bool,
        may_send: Callable[[], bool] | None,
    ) -> Connection:
        """Send on an idle connection, or else on a new one. Return it after the answer's head was read."""
        connection = None if fresh else self.take_idle(origin, has_slot=True)
        if connection is not None:
            if may_send is not None and not may_send():
                self._busy.discard(connection)
                connection.abort()
                raise NotSent
            try:
                await self._send(connection, method, head, body)
            except httpx.ReadError:
                if not self.may_repeat(connection, repeatable=repeatable):
                    raise
            else:
                return connection
        connection = await self._open(origin)
        if may_send is not None and not may_send():
            self._busy.discard(connection)
            connection.abort()
            raise NotSent
        await self._send(connection, method, head, body)
        return connection

    async def _send(self, connection: Connection, method: str, head: bytes, body: bytes) -> None:
        try:
            await connection.send(method, head, body)
        except BaseException:
            # Also if the answer has just become complete: no caller is left that would release the connection.
            self._busy.discard(connection)
            connection.abort()
            raise

    async def _open(self, origin: Origin) -> Connection:
        while self._idle and len(self._busy) + self._connecting + len(self._idle) >= self._max_connections:
            oldest = next(iter(self._idle))
            self._forget(oldest)
            oldest.abort()
        self._connecting += 1
        try:
            connection = await self._connector.connect(origin, Connection)
        finally:
            self._connecting -= 1
        connection.on_idle_loss = self._forget
        self._busy.add(connection)
        return connection

    def _forget(self, connection: Connection) -> None:
        entry = self._idle.pop(connection, None)
        if entry is not None:
            candidates = self._idle_by_origin[entry[0]]
            del candidates[connection]
            if not candidates:
                del self._idle_by_origin[entry[0]]

    def _close_expired(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._idle:
            connection, (_, idle_since) = next(iter(self._idle.items()))
            if idle_since + self._keepalive > now:
                self._sweep = loop.call_at(idle_since + self._keepalive, self._close_expired)
                return
            self._forget(connection)
            connection.abort()

    async def aclose(self) -> None:
        """Close idle and open connections. Open requests fail with httpx.ReadError."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        opening = list(self._tasks)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        open_connections = [*self._idle, *self._busy]
        for connection in open_connections:
            self._forget(connection)
            connection.abort()
        await self._connector.aclose()
        for connection in open_connections:
            await connection.wait_closed()


class NotSent(Exception):
    """The lease expired before the connection was available, so the request was not sent."""


class SlotQueue:
    """A bounded number of slots, first come, first served."""

    def __init__(self, count: int) -> None:
        self.free = count
        """The number of free slots; 0 while callers wait. A caller that need not wait may take one by itself."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Take a slot, after all earlier callers."""
        if self.free > 0:
            self.free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the slot was passed to this caller in the same turn
            raise

    def release(self) -> None:
        """Pass the slot to the caller that has waited longest; free it if none waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


class Answer(httpx.AsyncByteStream):
    """An answer whose head has arrived. Iterating returns its body as sent; closing it early closes the connection."""

    def __init__(self, transport: PooledTransport, origin: Origin, connection: Connection) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._transport: PooledTransport | None = transport
        self._origin = origin
        self._connection = connection

    async def read(self) -> bytes:
        """Return the next bytes of the body; b"" at its end."""
        return await self._connection.read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._connection.read()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def close(self) -> None:
        """Release the connection; it is closed if more of the answer would come."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.release(self._origin, self._connection)

    async def aclose(self) -> None:
        self.close()
