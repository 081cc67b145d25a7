"""Serves HTTP/1.1 with a deadline for each part of an exchange, and refuses requests.

uvicorn has no deadline for the rest of a request, nor for a client to take an answer, so a few hundred connections
could block everybody. Here the head of a request, its body and its answer each have one.

This module uses attributes of uvicorn that are not public: decision 24 and ``tests/api/test_server_libraries.py`` list
them.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from scheduler_api.scope import KEY_IN_SCOPE, RESERVED_IN_SCOPE
from scheduler_api.server.connections import Admission, Connections
from scheduler_api.server.deadlines import ANSWER_BYTES, AnswerProgress, Deadline
from scheduler_api.server.request_head import closing_answer
from scheduler_api.server.request_parser import RequestParser

HEAD_SECONDS = 10.0
"""For a request's line and headers, from the first byte, or from the start of the connection."""
BODY_SECONDS = 30.0
"""For its body, from the end of the headers. A megabyte in that time is 35 kB/s."""
ANSWER_SECONDS = 60.0
"""From the end of the body until the answer begins, and then for each ``ANSWER_BYTES`` of it that wait for the
client. Redis is given up long before."""
IDLE_SECONDS = 75.0
"""How long a connection without a request is kept. Clients and proxies usually close theirs earlier. They should: a
request that meets a closing connection is lost."""
KEYLESS_IDLE_SECONDS = 15.0
"""The same if the server has API keys and the last request carried none."""
LINGER_SECONDS = 2.0
"""How long the rest of a refused request is read and discarded. If the connection were closed at once, the system would
reset it, and the reset could overtake the answer with the reason."""
LINGER_BYTES = 8 << 20
"""How much of it is read at most."""


class ServerProtocol(RequestParser):
    """Serves one connection of a client."""

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    answer_seconds = ANSWER_SECONDS
    idle_seconds = IDLE_SECONDS
    keyless_idle_seconds = KEYLESS_IDLE_SECONDS
    linger_seconds = LINGER_SECONDS

    def __init__(self, *args: Any, table: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table
        self._reserved = False
        """Whether this connection is in the reserve: for one request, of a probe or with a key."""
        self._deadline = Deadline(self.loop, self._expire)
        """When the current part of the exchange must be over."""
        self._progress: AnswerProgress
        self._is_idle = False
        """Whether all requests are answered and no byte of the next one has arrived."""
        self._refuse_after_answers: HTTPStatus | None = None
        """A refusal that waits until the requests before it are answered."""
        self._lingering = False
        """Whether the last answer was sent, and further input is discarded."""
        self._discarded = 0
        self._is_lost = False

    @property
    def is_idle(self) -> bool:
        """Return whether no part of a request has arrived and no part of an answer waits for the client."""
        return not self._in_head and not self.transport.get_write_buffer_size()

    # ---- called by the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._progress = AnswerProgress(transport)
        admission = self._table.admit(self, self.client[0] if self.client else "")
        if admission is Admission.REFUSED:
            self.connections.discard(self)
            transport.write(closing_answer(HTTPStatus.SERVICE_UNAVAILABLE))
            transport.close()
            self._deadline.set(self.linger_seconds)
            return
        self._reserved = admission is Admission.RESERVED
        self._deadline.set(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._is_lost = True
        self._table.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._refuse_after_answers is not None:
            return
        if self._lingering:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.transport.abort()
            return
        if self._is_idle:
            self._is_idle = False
            self._deadline.set(self.head_seconds)
        self.feed(data)

    # ---- called by the parser ---------------------------------------------------------------------------------------

    def begin_request(self) -> None:
        self._table.mark_busy(self)
        self._deadline.set(self.body_seconds)
        super().begin_request()
        self.cycle.transport = _ExchangeTransport(self)  # type: ignore[assignment]
        if self._reserved:
            self.scope[RESERVED_IN_SCOPE] = True  # type: ignore[literal-required]
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self._lingering:
            super().on_body(body)

    def end_request(self) -> None:
        super().end_request()
        if not self.cycle.response_complete:
            self._arm_answer()

    # ---- called by uvicorn ------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Continue with the next request of the connection, or wait for it. Replaces uvicorn's method, which has its
        own timer for idle connections."""
        self.server_state.total_requests += 1
        if self._lingering or self._is_lost:
            return
        if self.transport.is_closing():
            self._arm_answer()
            return
        if self.cycle.more_body and not self.pipeline:
            self._linger()  # answered before the body had arrived, for example 413 or 401
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._arm_answer()
            self._start_asgi_task(*self.pipeline.pop())
            return
        if self._refuse_after_answers is not None:
            status, self._refuse_after_answers = self._refuse_after_answers, None
            self._refuse_now(status)
            return
        has_key = KEY_IN_SCOPE in self.cycle.scope
        self._table.mark_waiting(self, has_key=has_key)
        if self._in_head:
            self._deadline.set(self.head_seconds)
            return
        self._is_idle = True
        if self.transport.get_write_buffer_size() > ANSWER_BYTES:
            self._arm_answer()
        else:
            self._deadline.set(self.idle_seconds if has_key else self.keyless_idle_seconds)

    def end_exchange(self) -> None:
        """Close the connection after an answer, as client or server requested."""
        if self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def write(self, data: bytes) -> None:
        """Send a part of an answer."""
        self._progress.written += len(data)
        self.transport.write(data)

    # ---- called by Connections --------------------------------------------------------------------------------------

    def evict(self) -> None:
        """Close at once, in favour of a new connection."""
        self.transport.abort()

    # ---- deadlines and refusals -------------------------------------------------------------------------------------

    def _arm_answer(self) -> None:
        """Set the deadline for the endpoint to answer, or for the client to take the waiting part of the answer."""
        self._progress.mark()
        self._deadline.set(self.answer_seconds)

    def _expire(self) -> None:
        if self._lingering:
            self.transport.abort()
            return
        waiting = self.transport.get_write_buffer_size()
        # uvicorn has no exchange before the first head is complete.
        exchange: RequestResponseCycle | None = self.cycle
        is_answering = exchange is not None and not exchange.response_complete and not exchange.more_body
        if waiting:
            if self._progress.suffices(waiting):
                self._arm_answer()
            else:
                self.transport.abort()  # and free the memory that the answer takes
        elif self.transport.is_closing():
            self.transport.abort()
        elif is_answering and exchange is not None:
            if exchange.response_started:
                self._arm_answer()  # the client has taken everything, and the endpoint is still writing
            else:
                self.transport.abort()
        elif self._in_head or (exchange is not None and exchange.more_body and not exchange.response_started):
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def refuse(self, status: HTTPStatus) -> None:
        """Answer with an error and close the connection, after the answers to earlier requests."""
        if self._lingering or self.transport.is_closing():
            return
        exchange: RequestResponseCycle | None = self.cycle
        if exchange is not None and not exchange.response_complete:
            is_at_fault = exchange.more_body
            if is_at_fault and self.pipeline and self.pipeline[0][0] is exchange:
                self.pipeline.popleft()  # its endpoint has not started, and is not called
                exchange.more_body = is_at_fault = False
            if not is_at_fault:
                self._refuse_after_answers = status
                self.flow.pause_reading()
                self._arm_answer()
                return
            exchange.disconnected = True  # wake its endpoint, which waits for the rest of the body
            exchange.message_event.set()
            if exchange.response_started:
                self.transport.abort()
                return
        self._refuse_now(status)

    def _refuse_now(self, status: HTTPStatus) -> None:
        self.transport.write(closing_answer(status))
        self._linger()

    def _linger(self) -> None:
        """Close the connection so that the client can read the answer although its request was not read to the end."""
        if self._lingering or self.transport.is_closing():
            return
        self._lingering = True
        self._deadline.set(self.linger_seconds)
        self.transport.write_eof()
        self.flow.resume_reading()


class _ExchangeTransport:
    """The transport for uvicorn's exchange. It leaves closing to the protocol."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: ServerProtocol) -> None:
        self.write = protocol.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.end_exchange
