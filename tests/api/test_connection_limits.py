"""How many connections a server keeps, for which clients, and the cost of a client that does not read its answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from scheduler_api.context import Context
from scheduler_api.server.connections import Connections
from scheduler_api.server.request_head import MAX_HEAD_BYTES
from scheduler_core.base.config import ApiSettings
from tests.api.test_connections import BODY, Address, address, exchange, post, quick, serving, status_of

__all__ = ["address"]

KEY = "key-one-0123456789abcdef"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIST = b"GET /jobs?limit=1 HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
CLOSE = b"Connection: close\r\n"
BEARER = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
HALF = b"GET /jobs HTTP/1.1\r\n"

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def read_answer(reader: asyncio.StreamReader) -> int:
    """Return the status of the next answer; 0 if the connection was closed instead."""
    try:
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return 0
    return status_of(head)


async def opened(address: Address, request: bytes = HEALTH) -> Pair:
    """Return an open connection whose first request was answered."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    assert await read_answer(reader) == 200
    return reader, writer


async def asks(pair: Pair, request: bytes = HEALTH) -> int:
    reader, writer = pair
    try:
        writer.write(request)
        return await read_answer(reader)
    except ConnectionResetError:
        return 0


@asynccontextmanager
async def held() -> AsyncIterator[list[Pair]]:
    pairs: list[Pair] = []
    try:
        yield pairs
    finally:
        for _, writer in pairs:
            writer.close()


class TestPlaces:
    """Twenty places: nineteen for all clients, one in reserve."""

    @pytest.fixture
    async def address(self, context: Context) -> AsyncIterator[Address]:
        async with serving(context, Connections(20)) as address:
            yield address

    async def test_a_new_connection_replaces_the_one_that_is_idle_longest(self, address: Address) -> None:
        async with held() as pairs:
            for _ in range(19):
                pairs.append(await opened(address))
            assert await asks(pairs[0]) == 200  # so the second one is idle longest
            pairs += [await opened(address) for _ in range(3)]
            assert [await asks(pair) for pair in pairs[:6]] == [200, 0, 0, 0, 200, 200]

    async def test_idle_connections_never_keep_a_client_out(self, address: Address) -> None:
        async with held() as pairs:
            for _ in range(100):
                pairs.append(await opened(address))
            assert status_of(await exchange(address, post())) == 202

    async def test_silent_connections_never_keep_a_client_out(self, address: Address) -> None:
        async with held() as pairs:
            for _ in range(100):
                pairs.append(await asyncio.open_connection(*address))
            assert status_of(await exchange(address, post())) == 202

    async def test_connections_that_send_slowly_are_replaced_too(self, address: Address) -> None:
        async with held() as pairs:
            for _ in range(100):
                pairs.append(await asyncio.open_connection(*address))
                pairs[-1][1].write(HALF)
            assert status_of(await exchange(address, post())) == 202


class TestReserve:
    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(api_keys=(KEY,))

    @pytest.fixture
    async def address(self, context: Context) -> AsyncIterator[Address]:
        async with serving(context, Connections(20)) as address:
            yield address

    @pytest.fixture
    async def busy(self, context: Context, address: Address) -> AsyncIterator[asyncio.Event]:
        """Until the event is set, all ordinary places have a request that is being answered."""
        release = asyncio.Event()
        reached = asyncio.Semaphore(0)
        totals = context.history.totals

        async def slow_totals() -> object:
            reached.release()
            await release.wait()
            return await totals()

        context.history.totals = slow_totals  # type: ignore[method-assign, assignment]
        async with held() as pairs:
            for _ in range(19):
                pairs.append(await asyncio.open_connection(*address))
                pairs[-1][1].write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + BEARER + b"\r\n")
                await reached.acquire()
            yield release
            release.set()

    async def test_probes_and_clients_with_a_key_get_in_when_all_places_are_busy(
        self, address: Address, busy: asyncio.Event
    ) -> None:
        for request in (HEALTH, b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n", LIST % BEARER):
            answer = await exchange(address, request)  # returns when the server has closed: one request each
            assert status_of(answer) == 200
            assert b"connection: close" in answer.lower()

    async def test_other_clients_get_503_with_retry_after(self, address: Address, busy: asyncio.Event) -> None:
        answer = await exchange(address, b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(answer) == 503
        assert b"retry-after: 1" in answer.lower()
        busy.set()
        docs = b"GET /docs HTTP/1.1\r\nHost: localhost\r\n" + CLOSE + b"\r\n"
        async with asyncio.timeout(20):
            # The server does not announce a free place.
            while status_of(await exchange(address, docs)) != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def test_connections_with_a_key_are_replaced_last(self, address: Address) -> None:
        async with held() as pairs:
            pairs.append(await opened(address, LIST % BEARER))
            for _ in range(60):
                pairs.append(await opened(address))
            assert await asks(pairs[0], LIST % BEARER) == 200

    async def test_an_idle_connection_without_a_key_is_closed_sooner(
        self, address: Address, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quick(monkeypatch, keyless_idle_seconds=0.3)
        async with held() as pairs:
            pairs += [await opened(address), await opened(address, LIST % BEARER)]
            async with asyncio.timeout(20):
                assert await pairs[0][0].read() == b""
            assert await asks(pairs[1], LIST % BEARER) == 200


async def test_an_idle_connection_is_closed_in_time(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, idle_seconds=0.3)
    async with held() as pairs:
        pairs.append(await opened(address))
        async with asyncio.timeout(20):
            assert await pairs[0][0].read() == b""


async def test_one_address_gets_at_most_its_share_of_the_places(context: Context) -> None:
    async with serving(context, Connections(20, per_address=3)) as address, held() as pairs:
        for _ in range(5):
            pairs.append(await opened(address))
        assert [await asks(pair) for pair in pairs] == [0, 0, 200, 200, 200]


class Held:
    """A connection for tests of the table alone."""

    def __init__(self) -> None:
        self.is_idle = True
        self.closed = False

    def evict(self) -> None:
        self.closed = True


def test_an_address_has_half_of_the_places_and_loopback_all_of_them() -> None:
    table = Connections(20)
    strangers = [Held() for _ in range(11)]
    for one in strangers:
        table.admit(one, "192.0.2.1")
    assert [one.closed for one in strangers] == [True] + [False] * 10
    table = Connections(20)
    neighbours = [Held() for _ in range(20)]
    for one in neighbours:
        table.admit(one, "127.0.0.1")
    assert [one.closed for one in neighbours] == [True] + [False] * 19
    assert len(table) == 19


async def stored_list(address: Address, megabytes: int) -> None:
    payload = b'"' + b"x" * 1_000_000 + b'"'
    for number in range(megabytes):
        body = b'{"id":"%d","endpoint":"http://h/","cron":"@daily","payload":%s}' % (number, payload)
        assert status_of(await exchange(address, post(body=body))) == 202


async def mute(address: Address, request: bytes, *, buffer: int = 4096) -> socket.socket:
    """Return a client that sends a request and reads only what the test reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)
    await loop.sock_sendall(sock, request)
    return sock


@pytest.mark.parametrize("headers", [b"", CLOSE], ids=["kept", "closed"])
async def test_an_answer_that_its_client_does_not_read_is_aborted(
    context: Context, monkeypatch: pytest.MonkeyPatch, headers: bytes
) -> None:
    quick(monkeypatch, answer_seconds=0.5)
    table = Connections()
    async with serving(context, table) as address:
        await stored_list(address, 8)
        request = b"GET /jobs?view=full HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % headers
        before = resident_bytes()
        socks = [await mute(address, request) for _ in range(40)]
        async with asyncio.timeout(60):
            while len(table):  # noqa: ASYNC110 - nothing signals that it is empty
                await asyncio.sleep(0.05)
        for sock in socks:
            sock.close()
        # 40 answers of 8 MB are 320 MB; malloc keeps some of the freed memory, more after other tests.
        assert resident_bytes() - before < 240_000_000


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize("headers", [b"", CLOSE], ids=["kept", "closed"])
async def test_a_slow_but_steady_reader_gets_the_whole_of_a_large_answer(
    context: Context, monkeypatch: pytest.MonkeyPatch, headers: bytes
) -> None:
    quick(monkeypatch, answer_seconds=0.5)
    async with serving(context) as address:
        await stored_list(address, 8)
        request = b"GET /jobs?view=full HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % headers
        sock = await mute(address, request, buffer=65_536)
        loop = asyncio.get_running_loop()
        received = bytearray()
        length = None
        began = loop.time()
        while length is None or len(received) < length:
            part = await loop.sock_recv(sock, 1 << 15)
            assert part, f"cut off after {len(received)} bytes"
            received += part
            if length is None and b"\r\n\r\n" in received:
                head, _, _ = bytes(received).partition(b"\r\n\r\n")
                length = len(head) + 4 + int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await asyncio.sleep(0.01)
        assert loop.time() - began > 1, "read too fast to show anything"
        sock.close()


LARGE = b"A: " + b"b" * 100_000 + b"\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n" + LARGE + b"\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n" + LARGE + b"bad header\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n" + LARGE,
        HEALTH * 3 + b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n" + LARGE + b"\r\n",
        LIST % b"" + b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n" + LARGE + b"\r\n",
        LIST % b"" + b"bad",
        LIST % b"" + post(b"Transfer-Encoding: chunked", body=b"not a size"),
        post(b"Transfer-Encoding: chunked", body=b"1\r\n{\r\nnot a size"),
        LIST % b"" + LIST % b"" + post(b"Transfer-Encoding: chunked", body=b"1\r\n{\r\nnot a size") + HEALTH,
    ],
)
async def test_a_refused_request_logs_nothing_and_is_answered_after_those_before_it(
    address: Address, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    expected = sent.count(b"GET /health") + sent.count(b"limit=1") - sent.endswith(HEALTH)
    with caplog.at_level(logging.ERROR):
        answer = await exchange(address, sent)
        assert status_of(await exchange(address, post())) == 202
    statuses = [int(part.split(b" ", 1)[0]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses[:-1] == [200] * expected
    assert statuses[-1] in {400, 431}
    assert caplog.records == []


async def test_an_endless_trailer_or_chunk_extension_is_cut_off(address: Address) -> None:
    for begin in (b"1\r\n{\r\n0\r\nA: ", b"1;"):
        _, writer = await asyncio.open_connection(*address)
        writer.write(post(b"Transfer-Encoding: chunked", body=begin))
        sent = 0
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while sent < 64 << 20:
                    writer.write(b"x" * 65_536)
                    sent += 65_536
                    await writer.drain()
        assert sent < 64 << 20
        writer.close()


async def test_a_trailer_is_not_used_as_a_header(address: Address) -> None:
    body = b"%x\r\n%s\r\n0\r\nContent-Encoding: gzip\r\nOrigin: http://evil.example\r\n\r\n" % (len(BODY), BODY)
    assert status_of(await exchange(address, post(b"Transfer-Encoding: chunked", body=body))) == 202


async def test_a_half_sent_request_after_an_answer_has_a_deadline(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, head_seconds=0.3)
    answer = await exchange(address, LIST % b"" + HALF)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.count(b"HTTP/1.1 408") == 1
    assert len(HALF) < MAX_HEAD_BYTES
