"""The listening server, through real sockets: what a client may do with a connection, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from scheduler_api.app import create_app
from scheduler_api.context import Context
from scheduler_api.server import protocol
from scheduler_api.server.api_server import ApiServer
from scheduler_api.server.connections import Connections
from scheduler_api.server.listen import PortInUseError, listen, url_of
from scheduler_api.server.protocol import ServerProtocol
from scheduler_api.server.request_head import MAX_HEAD_BYTES
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.errors import ConfigError
from tests.api.conftest import EXAMPLE

Address = tuple[str, int]
BODY = json.dumps(EXAMPLE).encode()


@asynccontextmanager
async def serving(context: Context, connections: Connections | None = None) -> AsyncIterator[Address]:
    sockets = listen("127.0.0.1", 0)
    server = ApiServer(create_app(context), connections)
    task = asyncio.create_task(server.serve(sockets))
    try:
        yield sockets[0].getsockname()
    finally:
        server.stop()
        await task


@pytest.fixture
async def address(context: Context) -> AsyncIterator[Address]:
    async with serving(context) as address:
        yield address


async def exchange(address: Address, *parts: bytes, half_close: bool = False) -> bytes:
    """Send ``parts``; returns everything that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def post(*headers: bytes, body: bytes = BODY, length: int | None = None) -> bytes:
    lines = [b"POST / HTTP/1.1", b"Host: localhost", b"Connection: close", *headers]
    if length is not None or not any(line.lower().startswith(b"transfer-encoding") for line in headers):
        lines.append(b"Content-Length: %d" % (len(body) if length is None else length))
    return b"\r\n".join([*lines, b"", body])


async def test_a_request_over_a_socket_is_served(address: Address) -> None:
    answer = await exchange(address, post())
    assert status_of(answer) == 202
    assert b"\r\nserver:" not in answer.lower()
    assert b"\r\ndate: " in answer.lower()


async def test_a_body_in_chunks_is_read(address: Address) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert status_of(await exchange(address, post(b"Transfer-Encoding: chunked", body=chunks))) == 202


async def test_an_encoded_slash_reaches_the_routes_as_it_was_sent(address: Address) -> None:
    put = b"PUT /jobs/a%2Fpause HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
    body = BODY.replace(b'"job-scheduler-unique-id"', b'"a/pause"')
    assert status_of(await exchange(address, put + b"%d\r\n\r\n%s" % (len(body), body))) == 202
    answer = await exchange(address, b"GET /jobs/a%2Fpause HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b'"id":"a/pause"' in answer
    answer = await exchange(address, b"GET /jobs/a/pause HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status_of(answer) == 405


HEADERS_OF = {
    "no Host": (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    "two Hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", 400),
    "no Host in HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", 200),
    "two framings": (post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", length=5), 400),
    "two lengths": (post(b"Content-Length: 1"), 400),
    "a negative length": (post(b"Content-Length: -1"), 400),
    "a length with a sign": (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\nx", 400),
    "a coding before chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    "chunked twice": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "chunked, chunked": (post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 505),
    "HTTP/2.0 as text": (b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
    "a user in Host": (b"GET /health HTTP/1.1\r\nHost: localhost:80@evil\r\nConnection: close\r\n\r\n", 400),
    "text behind an address": (b"GET /health HTTP/1.1\r\nHost: [::1]evil\r\nConnection: close\r\n\r\n", 400),
    "two names in Host": (b"GET /health HTTP/1.1\r\nHost: localhost, evil\r\nConnection: close\r\n\r\n", 400),
    "a foreign name": (b"GET /jobs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
    "an absolute target": (
        b"GET http://LOCALHOST:80/health HTTP/1.1\r\nHost: localhost:80\r\nConnection: close\r\n\r\n",
        200,
    ),
    "an absolute target without a path": (
        b"GET http://localhost?a=b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        200,
    ),
    "an absolute target of a foreign name": (
        b"GET http://evil.example/jobs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        403,
    ),
    "an absolute target that Host contradicts": (
        b"GET http://evil.example/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        400,
    ),
    "an absolute target with a user": (
        b"GET http://a@localhost/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        400,
    ),
    "an absolute target of another scheme": (
        b"GET ftp://localhost/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        400,
    ),
    "an absolute target in HTTP/1.0 without Host": (b"GET http://evil.example/jobs HTTP/1.0\r\n\r\n", 400),
    "a path that looks like a host": (
        b"GET //evil.example/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        404,
    ),
    "no path at all": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a blank in a header name": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n", 400),
    "a path that is not ASCII": (b"GET /jobs/\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
    "a long header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    "many headers": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * (MAX_HEAD_BYTES // 3) + b"\r\n",
        431,
    ),
    "a long path": (b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    "headers without an end": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 8 * MAX_HEAD_BYTES, 431),
    "an offer to upgrade": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
        200,
    ),
    "a body that is too long by its own account": (post(length=1 << 30), 413),
    "a compressed body": (post(b"Content-Encoding: gzip"), 415),
}


@pytest.mark.parametrize(("request_bytes", "status"), HEADERS_OF.values(), ids=HEADERS_OF.keys())
async def test_an_unusual_request_gets_the_right_status(address: Address, request_bytes: bytes, status: int) -> None:
    assert status_of(await exchange(address, request_bytes)) == status
    assert status_of(await exchange(address, post())) == 202


class TestLimits:
    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(max_body_bytes=2048)

    async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not(self, address: Address) -> None:
        filled = BODY + b" " * (2048 - len(BODY))
        assert status_of(await exchange(address, post(body=filled))) == 202
        answer = await exchange(address, post(body=filled + b" "))
        assert status_of(answer) == 413
        assert b"application/problem+json" in answer

    async def test_the_body_limit_counts_chunks_as_they_arrive(self, address: Address) -> None:
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        answer = await exchange(address, post(b"Transfer-Encoding: chunked", body=chunk * 3))
        assert status_of(answer) == 413

    async def test_an_endless_body_is_cut_off(self, address: Address) -> None:
        _, writer = await asyncio.open_connection(*address)
        writer.write(post(b"Transfer-Encoding: chunked", body=b""))
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        sent = 0
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while sent < 256 << 20:
                    writer.write(chunk * 64)
                    sent += 64 * 1024
                    await writer.drain()
        assert sent < 256 << 20
        writer.close()

    async def test_a_body_far_over_the_limit_still_gets_its_answer(self, address: Address) -> None:
        assert status_of(await exchange(address, post(body=b" " * 4_000_000))) == 413


def quick(monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(ServerProtocol, name, value)


SLOW: dict[str, tuple[bytes, int]] = {
    "silence": (b"", 0),
    "half a request line": (b"GET /hea", 408),
    "half of the headers": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", 408),
    "half a body": (post(length=len(BODY) + 1), 408),
    "half a chunk": (post(b"Transfer-Encoding: chunked", body=b"400\r\nxx"), 408),
    "a body that is not sent": (post(body=b"", length=100), 408),
}


@pytest.mark.parametrize(("sent", "status"), SLOW.values(), ids=SLOW.keys())
async def test_an_incomplete_request_is_closed_after_its_deadline(
    address: Address, monkeypatch: pytest.MonkeyPatch, sent: bytes, status: int
) -> None:
    quick(monkeypatch, head_seconds=0.2, body_seconds=0.2)
    assert status_of(await exchange(address, sent)) == status


async def drip(address: Address, begin: bytes, drop: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(begin)
    answer = asyncio.create_task(reader.read())
    async with asyncio.timeout(20):
        while not answer.done():
            writer.write(drop)
            await asyncio.wait([answer], timeout=0.02)
    writer.close()
    try:
        return answer.result()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"A: b\r\n"),
        (b"", b"\r\n"),
        (post(body=b"", length=1_000_000), b" "),
        (post(b"Transfer-Encoding: chunked", body=b""), b"1\r\n \r\n"),
    ],
    ids=["headers", "empty lines", "body", "chunks"],
)
async def test_single_bytes_do_not_extend_the_deadline(
    address: Address, monkeypatch: pytest.MonkeyPatch, begin: bytes, drop: bytes
) -> None:
    quick(monkeypatch, head_seconds=0.3, body_seconds=0.3)
    await drip(address, begin, drop)


async def test_a_kept_connection_serves_many_requests_each_with_its_own_deadline(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, head_seconds=0.3)
    reader, writer = await asyncio.open_connection(*address)
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(5):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert status_of(head) == 200
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        await asyncio.sleep(0.1)  # together longer than the deadline of one head
    writer.write(request[:10])
    async with asyncio.timeout(20):
        assert status_of(await reader.read()) == 408
    writer.close()


async def test_pipelined_requests_are_answered_in_their_order(address: Address) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await exchange(address, health * 3 + last)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.rindex(b"HTTP/1.1 404") > answer.rindex(b"HTTP/1.1 200")


async def test_half_open_connections_never_keep_a_client_out(address: Address) -> None:
    held = [await asyncio.open_connection(*address) for _ in range(200)]
    for _, writer in held:
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
    assert status_of(await exchange(address, post())) == 202
    for _, writer in held:
        writer.close()


async def test_a_client_that_does_not_read_its_answer_is_disconnected(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, answer_seconds=0.3)
    async with serving(context) as address:
        payload = b'"' + b"x" * 1_000_000 + b'"'
        for number in range(8):
            body = b'{"id":"%d","endpoint":"http://h/","cron":"@daily","payload":%s}' % (number, payload)
            assert status_of(await exchange(address, post(body=body))) == 202
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, b"GET /jobs?view=full HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4)
        await asyncio.sleep(1)
        received = 0
        async with asyncio.timeout(20):
            try:
                while part := await loop.sock_recv(sock, 1 << 20):
                    received += len(part)
            except ConnectionResetError:
                pass
        sock.close()
        assert received < 32_000_000


async def test_a_stopping_server_finishes_open_requests_and_accepts_no_new_ones(context: Context) -> None:
    reached, release = asyncio.Event(), asyncio.Event()
    upsert: Callable[..., Awaitable[object]] = context.jobs.upsert

    async def slow_upsert(job: object, **options: object) -> object:
        reached.set()
        await release.wait()
        return await upsert(job, **options)

    context.jobs.upsert = slow_upsert  # type: ignore[method-assign, assignment]
    sockets = listen("127.0.0.1", 0)
    address = sockets[0].getsockname()
    server = ApiServer(create_app(context))
    serving = asyncio.create_task(server.serve(sockets))
    request = asyncio.create_task(exchange(address, post()))
    idle_reader, idle_writer = await asyncio.open_connection(*address)
    await reached.wait()
    server.stop()
    async with asyncio.timeout(20):
        assert await idle_reader.read() == b""
        while True:
            try:
                _, writer = await asyncio.open_connection(*address)
            except OSError:
                break
            writer.close()
            await asyncio.sleep(0.02)
        release.set()
        assert status_of(await request) == 202
        await serving
    idle_writer.close()


def test_a_port_in_use_is_reported() -> None:
    sockets = listen("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    with pytest.raises(PortInUseError, match=f"port {port} on 127.0.0.1 is in use"):
        listen("127.0.0.1", port)
    sockets[0].close()
    listen("127.0.0.1", port)[0].close()


def test_localhost_listens_on_one_port_and_an_address_of_another_machine_is_refused() -> None:
    sockets = listen("localhost", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_the_url_of_an_ipv6_address_has_brackets() -> None:
    sockets = listen("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    assert url_of(sockets, "::1") == f"http://[::1]:{port}"
    sockets[0].close()


def test_the_deadlines_are_consistent() -> None:
    assert protocol.HEAD_SECONDS < protocol.BODY_SECONDS < protocol.ANSWER_SECONDS
