"""One HTTP/1.1 connection: writes a request, reads its answer, and is ready for the next request.

llhttp (through httptools) parses the framing; it is strict, which prevents request smuggling. The connection itself is
our own (docs/decisions/0003-http-transport.md), because HTTP libraries lack two things that a sender of at-least-once
requests needs. It reports whether a lost connection was stale (the target closed it before it can have begun to work),
and unsolicited bytes (a server's 408 on an idle connection) never become the answer to the next request.

Everything that a target can send is bounded: the head in bytes and lines, together with interim (1xx) answers; the body
by flow control (reading stops until the received bytes are taken); chunk framing and trailers by a ratio.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from collections.abc import Callable
from typing import Final, cast

import httptools
import httpx

HEAD_LIMIT_BYTES: Final = 64 * 1024
"""The limit of status line and headers, together with all interim answers before them."""

HEAD_LIMIT_LINES: Final = 256

BUFFER_LIMIT_BYTES: Final = 64 * 1024
"""How much of a body is buffered before reading stops until it is taken."""

WRITE_PIECE_BYTES: Final = 64 * 1024
"""A longer request is written in pieces, so that an early answer (413) is read before the target's reset."""

FRAMING_RATIO: Final = 8
"""Chunks of one byte have six times as much framing as content. More than this ratio is an attack."""

STALE_408_SECONDS: Final = 0.25
"""A 408 that arrives on a used connection sooner than this after the request was sent is not its answer. Servers send
408 before they close an idle connection, and it can cross the next request. A server that has received a whole request
has no reason for an immediate 408, and one that means this request waits for seconds. A 408 that keeps the connection
open is an answer: a server that closes an idle connection announces it (RFC 9110, 15.5.9)."""

FIRST_FINAL_STATUS: Final = 200
REQUEST_TIMEOUT: Final = 408
SWITCHING_PROTOCOLS: Final = 101


class Connection(asyncio.Protocol):
    """The protocol of one connection. One exchange at a time: ``send``, then ``read`` until b""."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._socket: int | None = None
        """The file descriptor to write to directly; None under TLS."""
        self._used = False
        """Whether this is at least the second exchange."""
        self._sent_at = 0.0
        self._parser: httptools.HttpResponseParser | None = None
        self._progressed: Callable[[], None] = _ignore
        """Called when a part of the answer has arrived or the connection is lost."""
        self.fault: httpx.TransportError | None = None
        """Why the answer cannot become complete; None: it still can."""
        self._closed = False
        self._closed_waiter: asyncio.Future[None] | None = None
        self._write_paused = False
        self._read_paused = False
        self._began = False
        self._early = b""
        """Bytes that arrived before the first exchange began."""
        self._loss: Exception | None = None
        self._spoiled = False
        """Whether the connection cannot be used for another exchange."""
        self.on_idle_loss: Callable[[Connection], None] | None = None
        """Called when the connection is lost between exchanges."""

    # What the pool and the transport call.

    @property
    def usable(self) -> bool:
        """Return whether another exchange can begin.

        Also polls the kernel: a close or an unsolicited answer that has arrived there since the last turn of the event
        loop must be seen before the next request is written.
        """
        return (
            self._parser is None
            and not self._spoiled
            and not self._closed
            and self._transport is not None
            and not self._transport.is_closing()
            and not self._poll.poll(0)
        )

    def _is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def write_ahead(self, text: bytes) -> int | OSError | None:
        """Write a request before the exchange is opened; return the number of bytes written, or the error.

        ``begin`` must follow, with this result, before the event loop continues: a burst writes all requests before it
        prepares for the answers. None: nothing was written, and only ``begin`` can write.
        """
        transport = self._transport
        if self._socket is None or self._early or transport is None or transport.get_write_buffer_size():
            return None
        try:
            return os.write(self._socket, text)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            return error

    def begin(
        self,
        method: str,
        head: bytes,
        body: bytes,
        progressed: Callable[[], None],
        written: int | OSError | None = None,
    ) -> None:
        """Write a request whose body is no longer than ``WRITE_PIECE_BYTES``, and return at once.

        ``progressed`` is called, never from inside this method, whenever a part of the answer has arrived or the
        connection is lost; ``fault``, ``complete`` and ``take`` have the details, until ``finish``. ``written``: what
        ``write_ahead`` returned for the same request.
        """
        to_write = self._open_exchange(method)
        self._progressed = progressed
        if written is None:
            if to_write:
                self._write(head + body)
        elif written != len(head) + len(body):
            self._wrote(head + body, written)
        if not to_write or self.fault is not None:
            # Looked up when it is called: the exchange may be finished by then.
            asyncio.get_running_loop().call_soon(lambda: self._progressed())  # noqa: PLW0108

    async def send(self, method: str, head: bytes, body: bytes) -> None:
        """Write a request and return when the head of the final answer is in ``status`` and ``headers``.

        Raises httpx.ReadError if the connection is lost first, httpx.RemoteProtocolError if the answer is not HTTP.
        """
        assert self._transport is not None
        if self._open_exchange(method):
            if len(body) <= WRITE_PIECE_BYTES:
                self._write(head + body)
            else:
                await self._write_in_pieces(head, body)
        while not self._head_done:
            if self.fault is not None:
                raise _copy_of(self.fault)
            await self._wait()

    def _open_exchange(self, method: str) -> bool:
        """Prepare for an answer. Returns False if the request must not be written, because an answer came already."""
        self._is_head_request = method == "HEAD"
        self._interim = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._ends_with_connection = True
        self._head_done = False
        self.complete = False
        """Whether the last byte of the answer has arrived."""
        self._chunks: list[bytes] = []
        self._buffered = 0
        self.received = 0
        """Bytes that have arrived in this exchange."""
        self.unsent = False
        """Whether no byte of the request was sent, because the connection was closed already."""
        self.lost_after: float | None = None
        """Seconds from sending the request to the loss of a used connection without a byte of an answer; a 408 for the
        idle connection counts as such a loss. None in all other cases."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """The headers of the final answer, as sent."""
        self._parser = httptools.HttpResponseParser(self)
        self._sent_at = asyncio.get_running_loop().time()
        self._used = self._began
        if not self._began:
            self._began = True
            self._take_early_answer()
        if self.complete or self.fault is not None:
            self._spoiled = True  # nothing was sent
            return False
        return True

    def _take_early_answer(self) -> None:
        """Take an answer that arrived before the first request (503, too many connections) as the answer to it."""
        if self._early:
            early, self._early = self._early, b""
            self.data_received(early)
        if self._closed:
            self._end_by_loss(self._loss)

    def _write(self, text: bytes) -> None:
        """Write a request or its beginning.

        Writes to the socket directly if possible. uvloop's transport writes at the end of the loop's turn, and a close
        or a 408 that arrives between the check of ``usable`` and that moment would look like the answer.
        """
        transport = self._transport
        assert transport is not None
        if self._socket is None or transport.is_closing() or transport.get_write_buffer_size():
            transport.write(text)
            return
        try:
            written: int | OSError = os.write(self._socket, text)
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError as error:
            written = error
        if written != len(text):
            self._wrote(text, written)

    def _wrote(self, text: bytes, written: int | OSError) -> None:
        """Let the transport write what the kernel did not take of ``text``, or fail."""
        if isinstance(written, OSError):
            self.unsent = True
            self._fail(httpx.ReadError(f"the connection failed: {_reason(written)}"))
        else:
            assert self._transport is not None
            self._transport.write(text[written:])

    async def _write_in_pieces(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        self._write(head)
        view = memoryview(body)
        for start in range(0, len(body), WRITE_PIECE_BYTES):
            while self._write_paused and self.fault is None and not self._head_done:
                await self._wait()
            if self.fault is not None or self._head_done:
                self._spoiled = True  # the rest of the request is never sent
                return
            self._transport.write(view[start : start + WRITE_PIECE_BYTES])

    async def read(self) -> bytes:
        """Return the next bytes of the body, as many as there are; b"" at its end. Raises as ``send`` does."""
        while not self._chunks:
            if self.complete:
                return b""
            if self.fault is not None:
                raise _copy_of(self.fault)
            await self._wait()
        return self.take()

    def take(self) -> bytes:
        """Return what has arrived of the body since the last call. Without calls, reading stops soon."""
        chunks = self._chunks
        if not chunks:
            return b""
        self._chunks = []
        self._buffered = 0
        if self._read_paused:
            self._resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _resume_reading(self) -> None:
        if self._read_paused and self._transport is not None and not self._is_closing():
            self._read_paused = False
            self._transport.resume_reading()

    def finish(self) -> bool:
        """End the exchange. Returns whether the connection can be used again; if not, it is closed."""
        reusable = (
            self.complete
            and not self._spoiled
            and not self._chunks
            and not self._read_paused
            and not self._write_paused
            and not self._closed
            and self._transport is not None
            and not self._transport.is_closing()
        )
        self._parser = None
        self._progressed = _ignore
        if not reusable:
            self.abort()
        return reusable

    def abort(self) -> None:
        """Close the connection at once, in any state."""
        self._spoiled = True
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the socket is closed, which happens shortly after ``abort``."""
        if not self._closed and self._transport is not None:
            self._closed_waiter = asyncio.get_running_loop().create_future()
            await self._closed_waiter

    async def _wait(self) -> None:
        """Wait until a part of the answer has arrived or the connection is lost."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._progressed = lambda: None if waiter.done() else waiter.set_result(None)
        try:
            await waiter
        finally:
            self._progressed = _ignore

    def _fail(self, fault: httpx.TransportError) -> None:
        """Give up the answer. A caller outside the parser must call ``_progressed`` afterwards."""
        if self.fault is None and not self.complete:
            self.fault = fault
        self.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses of asyncio's
        descriptor: int = transport.get_extra_info("socket").fileno()
        self._poll.register(descriptor, select.POLLIN)
        if transport.get_extra_info("sslcontext") is None:
            self._socket = descriptor

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None and not self._began and len(self._early) <= HEAD_LIMIT_BYTES:
            self._early += data
            return
        if parser is None:
            # Unsolicited: a 408 before an idle connection is closed, or the rest of a broken answer.
            self.abort()
            return
        if not self.received and not data.startswith(b"HTTP/"[: len(data)]):
            self.received = len(data)
            self._fail(httpx.RemoteProtocolError("the answer is not HTTP"))
            self._progressed()
            return
        self.received += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._spoiled = True
        except httptools.HttpParserError as error:
            self._spoiled = True  # if the answer is complete, the other bytes are unsolicited
            if not self.complete:
                self._fail(httpx.RemoteProtocolError(f"the answer is not valid HTTP: {error}"))
        if not self._head_done:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._fail(_head_too_long())
        elif not self.complete and self.received > 2 * HEAD_LIMIT_BYTES + FRAMING_RATIO * self._body_bytes:
            self._fail(httpx.RemoteProtocolError("the answer has more framing than content"))
        self._progressed()

    def eof_received(self) -> None:
        """Return None, so that the transport closes itself and calls ``connection_lost``."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket = None  # from now on, another connection may have this number
        self._closed = True
        if self._closed_waiter is not None and not self._closed_waiter.done():
            self._closed_waiter.set_result(None)
        self._loss = exc
        if self._parser is not None:
            self._end_by_loss(exc)
            # Break the reference cycle: without this, an attempt that timed out stays until the collector runs.
            self._parser = None
        elif self.on_idle_loss is not None:
            self.on_idle_loss(self)

    def _end_by_loss(self, exc: Exception | None) -> None:
        if self.fault is None and not self.complete:
            if self._head_done and self._ends_with_connection and exc is None:
                self.complete = True
            elif exc is not None:
                self.fault = httpx.ReadError(f"the connection failed: {_reason(exc)}")
            elif self.received:
                self.fault = httpx.ReadError("the target closed the connection before the answer was complete")
            else:
                self.fault = httpx.ReadError("the target closed the connection without an answer")
            if self._used and not self.received:
                self.lost_after = asyncio.get_running_loop().time() - self._sent_at
        self._progressed()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._progressed()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            self._spoiled = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # a trailer, or a second answer
        self.headers.append((name, value))
        if len(self.headers) > HEAD_LIMIT_LINES or self.received > HEAD_LIMIT_BYTES:
            # One read can hold more than a head, so the bytes are counted by line here.
            length = sum(len(key) + len(text) + 4 for key, text in self.headers)
            if len(self.headers) > HEAD_LIMIT_LINES or length > HEAD_LIMIT_BYTES:
                fault = _head_too_long()
                self._fail(fault)
                raise fault
        lower = name.lower()
        if lower == b"content-length" or (lower == b"transfer-encoding" and b"chunked" in value.lower()):
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        if self._head_done:
            return
        parser = self._parser
        assert parser is not None
        status: int = parser.get_status_code()
        if status < 100 or not parser.get_http_version().startswith("1."):
            fault = httpx.RemoteProtocolError("the answer is not HTTP/1.0 or HTTP/1.1")
            self._fail(fault)
            raise fault
        if status < FIRST_FINAL_STATUS and status != SWITCHING_PROTOCOLS:
            self._interim = True
            self._ends_with_connection = True
            self.headers = []
            return
        if status == REQUEST_TIMEOUT and self._used and not parser.should_keep_alive():
            elapsed = asyncio.get_running_loop().time() - self._sent_at
            if elapsed < STALE_408_SECONDS:
                self.lost_after = elapsed
                stale = httpx.ReadError("the target closed the idle connection (408) as the request was sent")
                self._fail(stale)
                raise stale
        self.status = status
        self._head_done = True
        if status == SWITCHING_PROTOCOLS:
            self._spoiled = True
            self.complete = True
        elif self._is_head_request:
            self.complete = True
            self._spoiled = not parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        if self.complete:
            self._spoiled = True
            return
        if not data:
            return
        self._chunks.append(data)
        self._buffered += len(data)
        self._body_bytes += len(data)
        if self._buffered >= BUFFER_LIMIT_BYTES and not self._read_paused and not self._is_closing():
            assert self._transport is not None
            self._read_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        if not self.complete:
            self.complete = True
            assert self._parser is not None
            if not self._parser.should_keep_alive():
                self._spoiled = True


def _ignore() -> None:
    """What ``Connection._progressed`` is while no caller waits for the answer."""


def _copy_of(fault: httpx.TransportError) -> httpx.TransportError:
    """Return a copy of ``fault`` to raise. Raising ``fault`` itself would make a reference cycle (exception, frames,
    connection, exception) that stays until the collector runs."""
    return type(fault)(str(fault))


def _reason(error: Exception) -> str:
    """Return why a connection was lost, without any bytes that were received on it."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'unknown reason'}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__


def _head_too_long() -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError(
        f"the head of the answer is longer than {HEAD_LIMIT_BYTES // 1024} KiB or {HEAD_LIMIT_LINES} lines"
    )
