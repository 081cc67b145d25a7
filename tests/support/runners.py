"""Runners for tests of delivery: small servers on loopback that follow a script and record what they receive.

    async with Runner(answer(503), reset(), otherwise=answer(200)) as runner:
        ...deliver to runner.url("/enqueue")...
        assert [request.method for request in runner.received] == ["POST", "POST", "POST"]

Each request takes the next action of the script; after the end of the script, ``otherwise`` answers. An action gets the
connection and may do anything with it, so each kind of misbehaviour has its own action.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.listeners import close


@dataclass
class Received:
    """One request as it was on the wire."""

    connection: int
    """The number of the connection, from 1."""
    method: str
    target: str
    """Path and query, as sent."""
    headers: list[tuple[str, str]]
    """Names as sent, in order."""
    body: bytes
    at: float = field(compare=False, default=0.0)
    """When the body was complete, on the loop's clock."""

    def header(self, name: str) -> str | None:
        """Return the value of the only header ``name``, in any case; None if the request has none."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass
class Exchange:
    """What an action works with."""

    request: Received
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()


class CloseConnection(Exception):
    """Raised by an action: no further request is read from this connection."""


Action = Callable[[Exchange], Awaitable[None]]
OnConnect = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Runner:
    """A server on 127.0.0.1 with a port of its own; use it as an async context manager."""

    def __init__(
        self,
        *script: Action,
        otherwise: Action | None = None,
        on_connect: OnConnect | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.open_connections = 0
        self._script = iter(script)
        self._otherwise = otherwise if otherwise is not None else answer()
        self._on_connect = on_connect
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._ssl_context, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        await close(self._server)
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
        await self._server.wait_closed()

    def url(self, path: str = "/", *, host: str = "127.0.0.1") -> str:
        scheme = "http" if self._ssl_context is None else "https"
        return f"{scheme}://{host}:{self.port}{path}"

    async def wait_until(self, condition: Callable[[Runner], bool]) -> None:
        """Wait until ``condition`` is true; checked after every request and every closed connection."""
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        try:
            if self._on_connect is not None:
                await self._on_connect(reader, writer)
            while True:
                request = await _read_request(reader, number)
                self.received.append(request)
                await self._notify()
                await next(self._script, self._otherwise)(Exchange(request, reader, writer))
        except (asyncio.IncompleteReadError, OSError, CloseConnection):
            pass
        except asyncio.CancelledError:
            pass  # the runner is closing; asyncio's streams would report the end of a handler as a cancellation
        finally:
            writer.close()
            self.open_connections -= 1
            self._tasks.discard(task)
            await self._notify()


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    body = await reader.readexactly(length)
    return Received(connection, method, target, headers, body, asyncio.get_running_loop().time())


# Well-behaved answers.


def head(status: int = 200, headers: Iterable[tuple[str, str]] = (), *, reason: str = "Whatever") -> bytes:
    """Status line and headers, with the empty line that ends them."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def answer(
    status: int = 200,
    body: bytes = b"",
    *,
    headers: Iterable[tuple[str, str]] = (),
    delay: float = 0.0,
    close: bool = False,
) -> Action:
    """Send a complete answer after ``delay`` seconds; ``close`` ends the connection after it, and says so."""
    extra = [*headers, ("Content-Length", str(len(body)))]
    if close:
        extra.append(("Connection", "close"))

    async def act(exchange: Exchange) -> None:
        if delay:
            await asyncio.sleep(delay)
        sent = b"" if exchange.request.method == "HEAD" else body
        await exchange.write(head(status, extra) + sent)
        if close:
            raise CloseConnection

    return act


def redirect(status: int, location: str) -> Action:
    return answer(status, headers=[("Location", location)])


def raw(text: bytes, *, close: bool = False, pieces: int | None = None) -> Action:
    """Exactly these bytes, ``pieces`` bytes at a time if given."""

    async def act(exchange: Exchange) -> None:
        if pieces is None:
            await exchange.write(text)
        else:
            for start in range(0, len(text), pieces):
                await exchange.write(text[start : start + pieces])
                await asyncio.sleep(0)
        if close:
            raise CloseConnection

    return act


def chunked(*chunks: bytes) -> Action:
    """Send a chunked body with a trailer."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX-Trailer: t\r\n\r\n"
    return raw(head(headers=[("Transfer-Encoding", "chunked")]) + body)


def until_close(body: bytes) -> Action:
    """Send a body whose end is the end of the connection."""
    return raw(head() + body, close=True)


# Misbehaviour.


def hang() -> Action:
    """Never answers; notices when the client gives up."""

    async def act(exchange: Exchange) -> None:
        await exchange.reader.read()
        raise CloseConnection

    return act


def after(event: asyncio.Event, then: Action) -> Action:
    """Does ``then`` once the test has set ``event``."""

    async def act(exchange: Exchange) -> None:
        await event.wait()
        await then(exchange)

    return act


def _endless(start: bytes, piece: bytes, *, interval: float) -> Action:
    async def act(exchange: Exchange) -> None:
        await exchange.write(start)
        while True:
            await exchange.write(piece)
            await asyncio.sleep(interval)

    return act


def drip_head(interval: float = 0.01) -> Action:
    """Send one byte of a header at a time, for ever."""
    return _endless(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x", interval=interval)


def drip_body(interval: float = 0.01) -> Action:
    """Send one byte of the body at a time, for ever."""
    return _endless(head(headers=[("Content-Length", "1000000000")]), b"x", interval=interval)


def endless_body() -> Action:
    """Send a body without end, as fast as the client reads it."""
    return _endless(head(headers=[("Transfer-Encoding", "chunked")]), b"4000\r\n" + b"x" * 0x4000 + b"\r\n", interval=0)


def endless_interim(interval: float = 0.0) -> Action:
    """Send 1xx answers and never a final one."""
    return _endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n", interval=interval)


def endless_chunk_extension() -> Action:
    """Send a chunk whose size line never ends."""
    return _endless(head(headers=[("Transfer-Encoding", "chunked")]) + b"1;", b"x" * 4096, interval=0)


def endless_trailer() -> Action:
    """Send a trailer whose value never ends."""
    start = head(headers=[("Transfer-Encoding", "chunked")]) + b"1\r\nx\r\n0\r\nX-Trailer: "
    return _endless(start, b"x" * 4096, interval=0)


def huge_header(size: int = 2_000_000) -> Action:
    """Send one header of ``size`` bytes."""
    return raw(head(headers=[("X-Huge", "x" * size), ("Content-Length", "0")]))


def many_headers(count: int = 10_000) -> Action:
    return raw(head(headers=[*((f"X-{number}", "x") for number in range(count)), ("Content-Length", "0")]))


def gzip_bomb(unpacked: int = 200_000_000) -> Action:
    """Send a small body that claims to be a large one, compressed."""
    block = bytes(1_000_000)
    packed = gzip.compress(block) * (unpacked // len(block))  # gzip members in a row are one gzip file
    return answer(200, packed, headers=[("Content-Encoding", "gzip")])


def close_without_answer() -> Action:
    """Closes the connection in order, without an answer."""

    async def act(exchange: Exchange) -> None:
        raise CloseConnection

    return act


def reset(after: bytes = b"") -> Action:
    """Sends ``after``, then resets the connection (RST)."""

    async def act(exchange: Exchange) -> None:
        if after:
            await exchange.write(after)
            await asyncio.sleep(0.05)  # otherwise the reset may overtake it
        reset_now(exchange.writer)
        raise CloseConnection

    return act


def reset_now(writer: asyncio.StreamWriter) -> None:
    """Close with a reset (RST) instead of a FIN."""
    connected = writer.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def answer_then_speak_unasked(unasked: bytes, *, close: bool = False) -> Action:
    """Send a complete 200, and a little later more bytes without a request, like servers that send a 408 when an idle
    connection times out."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(head(headers=[("Content-Length", "0")]))
        await asyncio.sleep(0.02)
        await exchange.write(unasked)
        if close:
            raise CloseConnection

    return act
