"""HTTP/1.1 as uvicorn speaks it, with what it lacks: deadlines and limits on what a client may do to a connection.

uvicorn waits for ever for the rest of a request, so that a few hundred half-sent ones keep everybody out. Here each
part of an exchange has a deadline of its own: the request's head, its body, the answer's way to the client. The parser
(httptools) is several times as fast as the alternative, but takes a request without ``Host`` and a head of any
size; both are refused here (RFC 9112, 3.2; RFC 6585, 5).
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_SECONDS = 10.0
"""For a request's line and headers, from the first byte, or from the start of the connection."""
BODY_SECONDS = 30.0
"""For its body, from the end of the headers. A megabyte in that time is 35 kB/s."""
ANSWER_SECONDS = 60.0
"""From the end of the body until the client has taken the answer. Redis is given up long before."""
IDLE_SECONDS = 75.0
"""How long a connection without a request is kept. Longer than clients and proxies usually keep theirs, so that it is
they who close it: a request that meets a closing connection is lost."""
LINGER_SECONDS = 2.0
"""How long the rest of a request that was refused half-way is read and thrown away. Closing at once would make the
system reset the connection, and the reset would overtake the answer that says why."""
LINGER_BYTES = 8 << 20
"""And how much of it at most."""
MAX_HEAD_BYTES = 65_536
MAX_CONNECTIONS = 1000
"""Open connections; one more is told so and closed."""


class ServerProtocol(HttpToolsProtocol):
    """One connection of a client."""

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    answer_seconds = ANSWER_SECONDS
    linger_seconds = LINGER_SECONDS
    max_connections = MAX_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False
        """Whether the head of a request has begun, and not ended."""
        self._head_bytes = 0
        self._head_without_upgrade: bytes | None = None
        """Set while the parser reads a request that asks for another protocol: its head, to be parsed again."""
        self._refusal: HTTPStatus | None = None
        self._lingering = False
        """Whether the last answer was given, and what still comes is thrown away."""
        self._thrown_away = 0

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.max_connections:
            transport.write(_closing_answer(HTTPStatus.SERVICE_UNAVAILABLE))
            transport.close()
            self.transport = transport
            return
        super().connection_made(transport)
        self._arm(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._lingering:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self.transport.abort()
            return
        if self._deadline is None:
            self._arm(self.head_seconds)  # an idle connection wakes up
        self._parse(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _parse(self, data: bytes) -> None:
        """Feed the parser. A request with ``Upgrade`` is read as if it had none (RFC 9110, 7.8, allows that).

        llhttp takes the bytes after the head of such a request for another protocol, so that they would be parsed as
        the next request. Here they are given to a new parser, after the same head without ``Upgrade``.
        """
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head = self._head_without_upgrade
                if head is None:  # CONNECT is refused at the end of its head, so this is not reached
                    self._refuse(HTTPStatus.BAD_REQUEST)
                    return
                self._head_without_upgrade = None
                self.parser = _new_parser(self)
                data = head + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("")
                return

    # What the parser calls.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._stop_parsing(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop_parsing(HTTPStatus.NOT_IMPLEMENTED)
            self._head_without_upgrade = self._encode_head(without=b"upgrade")
            return
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._stop_parsing(HTTPStatus.BAD_REQUEST)
        self._arm(self.body_seconds)
        super().on_headers_complete()
        self.cycle.transport = _ExchangeTransport(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        if not self._lingering:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._head_without_upgrade is not None:
            return
        super().on_message_complete()
        if not self.cycle.response_complete:
            self._arm(self.answer_seconds)

    # What uvicorn calls.

    def on_response_complete(self) -> None:
        if self._lingering:
            return
        if self.cycle.more_body and not self.pipeline:
            self._linger()  # answered before the body had arrived: too large, no key
            return
        if self.pipeline:
            self._arm(self.answer_seconds)
        else:
            self._disarm()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or HTTPStatus.BAD_REQUEST)

    def end_exchange(self) -> None:
        """Close the connection after an answer, as one of the two sides asked for."""
        if self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def _encode_head(self, *, without: bytes) -> bytes:
        """The head of the current request, as the parser has read it, but for the headers with one name."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != without]
        return b"\r\n".join([*lines, b"", b""])

    # Deadlines and refusals.

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self._lingering or self.transport.is_closing():
            self.transport.abort()  # the client does not even take the last answer
            return
        # uvicorn has no exchange before the first head is complete.
        exchange: RequestResponseCycle | None = self.cycle
        if self._in_head or (exchange is not None and exchange.more_body and not exchange.response_started):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        elif exchange is None or exchange.response_complete:
            self.transport.close()
        else:
            self.transport.abort()

    def _stop_parsing(self, status: HTTPStatus) -> None:
        self._refusal = status
        raise ValueError(status.phrase)  # the parser passes it on, and uvicorn asks for send_400_response

    def _refuse(self, status: HTTPStatus) -> None:
        self.transport.write(_closing_answer(status))
        self._linger()

    def _linger(self) -> None:
        """End the connection in a way that lets the client read the answer although it has not been read out."""
        if self._lingering or self.transport.is_closing():
            return
        self._lingering = True
        self._unset_keepalive_if_required()
        self._arm(self.linger_seconds)
        self.transport.write_eof()
        self.flow.resume_reading()


class _ExchangeTransport:
    """The transport as uvicorn's exchange sees it: closing it is left to the protocol."""

    __slots__ = ("_protocol", "is_closing", "write")

    def __init__(self, protocol: ServerProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        self._protocol.end_exchange()


def _new_parser(protocol: ServerProtocol) -> httptools.HttpRequestParser:
    """A parser with the one leniency of uvicorn's: data after ``Connection: close`` is no error."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _closing_answer(status: HTTPStatus) -> bytes:
    """An answer made without the application, after which the connection is closed."""
    body = f'{{"title":"{status.phrase}","status":{status.value},"detail":"{status.description or status.phrase}"}}'
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode("ascii")
