"""Parses requests more strictly than uvicorn and httptools.

httptools reads the bytes after a request with ``Upgrade`` as another protocol, accepts requests that two programs can
read in two ways, and has no limit for a head or for trailers. h11 has none of these faults, but takes several times the
CPU per request. So we keep uvicorn's protocol class for httptools, and correct it here
(docs/decisions/0024-edge-of-the-api.md).

This module uses attributes of uvicorn and httptools that are not public: ``tests/api/test_server_libraries.py`` lists
them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from scheduler_api.server.request_head import MAX_HEAD_BYTES, HeadRefused, check_head, encode_head


class RequestParser(HttpToolsProtocol):
    """Reads the requests of one connection.

    A subclass implements ``refuse``, and extends ``begin_request`` and ``end_request``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        """A part of a request's head has arrived, and the end of the head has not."""
        self._head_bytes = 0
        self._quiet_bytes = 0
        """Bytes since the last content of a body: trailers, chunk extensions, sizes of chunks."""
        self._head_without_upgrade: bytes | None = None
        """While the parser reads a request with ``Upgrade``: its head, to be parsed again."""
        self._refusal: HTTPStatus | None = None

    def refuse(self, status: HTTPStatus) -> None:
        """Answer with an error and close the connection, after the answers to earlier requests."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Parse ``data``. Refuses a request with an error, and a head or trailers above the limit."""
        self._quiet_bytes += len(data)
        if not self._parse(data):
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._quiet_bytes > MAX_HEAD_BYTES + len(data) and self._expects_body():
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _parse(self, data: bytes) -> bool:
        """Feed the parser. Returns whether the request is accepted so far.

        A request with ``Upgrade`` is read as if it had none (RFC 9110, 7.8, allows that). llhttp treats the bytes after
        the head of such a request as another protocol, and they would be parsed as the next request. So a new parser
        gets the same head without ``Upgrade``, and then these bytes.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return True
            except httptools.HttpParserUpgrade as upgrade:
                head = self._head_without_upgrade
                if head is None:  # CONNECT is refused at the end of its head, so this is not reached
                    self.refuse(HTTPStatus.BAD_REQUEST)
                    return False
                self._head_without_upgrade = None
                self.parser = _new_parser(self)
                data = head + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.refuse(self._refusal or HTTPStatus.BAD_REQUEST)
                return False

    def _expects_body(self) -> bool:
        # uvicorn has no exchange before the first head is complete.
        exchange: RequestResponseCycle | None = self.cycle
        return exchange is not None and exchange.more_body

    # ---- called by the parser ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer, which must not be taken for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._check_head()
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop_parsing(HTTPStatus.NOT_IMPLEMENTED)
            self._head_without_upgrade = encode_head(
                self.parser.get_method(), self.url, self.headers, self.parser.get_http_version(), without=b"upgrade"
            )
            return
        self._quiet_bytes = 0
        self.begin_request()

    def begin_request(self) -> None:
        """Start the exchange for a request whose head was accepted."""
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._quiet_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._head_without_upgrade is None:
            self.end_request()

    def end_request(self) -> None:
        """Mark the body of the request as complete."""
        super().on_message_complete()

    def _check_head(self) -> None:
        try:
            method, version = self.parser.get_method(), self.parser.get_http_version()
            self.url = check_head(method, self.url, self.headers, version)
        except HeadRefused as refused:
            self._stop_parsing(refused.status)

    def _stop_parsing(self, status: HTTPStatus) -> None:
        self._refusal = status
        raise ValueError(status.phrase)  # httptools raises it as HttpParserError


def _new_parser(protocol: RequestParser) -> httptools.HttpRequestParser:
    """Create a parser with the leniency that uvicorn sets: data after ``Connection: close`` is not an error."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
