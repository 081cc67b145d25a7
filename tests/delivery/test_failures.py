"""Each way in which a runner can misbehave ends as an outcome, within the deadline."""

from __future__ import annotations

import asyncio
import socket

import pytest

from scheduler_core.delivery.base import OutcomeKind
from scheduler_core.delivery.http.resolve import AddressInfo
from tests.support.delivery import addresses, deliverer, request
from tests.support.runners import (
    Action,
    CloseConnection,
    Exchange,
    Runner,
    answer,
    close_without_answer,
    drip_body,
    drip_head,
    endless_chunk_extension,
    endless_interim,
    endless_trailer,
    hang,
    head,
    huge_header,
    many_headers,
    raw,
    reset,
    reset_now,
)

SHORT_MS = 200
"""The time limit of attempts in tests that wait until it has passed."""


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(hang(), id="no answer"),
        pytest.param(drip_head(), id="dripping head"),
        pytest.param(drip_body(), id="dripping body"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n"), id="half a head"),
        pytest.param(raw(head(headers=[("Content-Length", "10")]) + b"12345"), id="half a body"),
        pytest.param(raw(head(headers=[("Transfer-Encoding", "chunked")]) + b"5\r\n12345\r\n"), id="no last chunk"),
        pytest.param(raw(head()), id="body until close, never closed"),
        pytest.param(endless_interim(interval=0.01), id="interim answers now and then"),
    ],
)
@pytest.mark.parametrize("used", [False, True], ids=["on a new connection", "on a used one"])
async def test_the_deadline_ends_an_attempt_whatever_trickles_in(action: Action, used: bool) -> None:
    async with Runner(*[answer()] * used, action) as runner, deliverer() as http:
        for _ in range(used):
            assert (await http.deliver(request(runner.url()))).status == 200
        outcome = await http.deliver(request(runner.url("/x?token=secret"), timeout_ms=SHORT_MS))
        assert (outcome.kind, outcome.status) == (OutcomeKind.TIMEOUT, None)
        assert outcome.message == "no complete answer within 200 ms"
        assert outcome.latency_ms >= SHORT_MS - 1
        await runner.wait_until(lambda runner: runner.open_connections == 0)
        assert (await http.deliver(request(runner.url()))).status == 200


async def test_the_deadline_includes_the_wait_for_a_connection() -> None:
    async with Runner(hang()) as runner, deliverer(max_connections=1) as http:
        first = asyncio.create_task(http.deliver(request(runner.url(), timeout_ms=SHORT_MS * 5)))
        await runner.wait_until(lambda runner: len(runner.received) == 1)
        second = await http.deliver(request(runner.url(), timeout_ms=SHORT_MS))
        assert second.kind is OutcomeKind.TIMEOUT
        assert not first.done()
        assert (await first).kind is OutcomeKind.TIMEOUT
        assert (await http.deliver(request(runner.url()))).status == 200
    assert len(runner.received) == 2


async def test_a_deadline_of_nothing_is_a_timeout() -> None:
    async with Runner() as runner, deliverer() as http:
        assert (await http.deliver(request(runner.url(), timeout_ms=0))).kind is OutcomeKind.TIMEOUT


async def test_the_deadline_includes_the_lookup() -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(host: bytes, port: None, **_: object) -> list[AddressInfo]:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return list(addresses("127.0.0.1"))

    async with Runner() as runner, deliverer(lookup=slow) as http:
        outcome = await http.deliver(request(runner.url(host="slow.test"), timeout_ms=SHORT_MS))
        assert outcome.kind is OutcomeKind.TIMEOUT
        release.set()
        assert (await http.deliver(request(runner.url(host="slow.test")))).status == 200


async def test_a_name_that_does_not_resolve_is_a_dns_outcome() -> None:
    async with deliverer() as http:
        outcome = await http.deliver(request("http://runner.invalid/enqueue?token=secret"))
    assert outcome.kind is OutcomeKind.DNS
    assert outcome.message.startswith("the name runner.invalid does not resolve")
    assert "secret" not in outcome.message


async def test_a_lookup_that_finds_nothing_is_a_dns_outcome() -> None:
    async with deliverer(lookup=lambda *_, **__: []) as http:
        assert (await http.deliver(request("http://empty.test/"))).kind is OutcomeKind.DNS


async def test_a_failed_lookup_is_not_remembered() -> None:
    answers: list[list[AddressInfo]] = [[], list(addresses("127.0.0.1"))]
    async with Runner() as runner, deliverer(lookup=lambda *_, **__: answers.pop(0)) as http:
        assert (await http.deliver(request(runner.url(host="new.test")))).kind is OutcomeKind.DNS
        assert (await http.deliver(request(runner.url(host="new.test")))).status == 200


async def test_many_dead_names_do_not_hold_up_a_live_one() -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def lookup(host: bytes, port: None, **_: object) -> list[AddressInfo]:
        if host.startswith(b"dead"):
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return list(addresses("127.0.0.1"))

    async with Runner() as runner, deliverer(lookup=lookup) as http:
        dead = [
            asyncio.create_task(http.deliver(request(runner.url(host=f"dead{number}.test")))) for number in range(30)
        ]
        assert (await http.deliver(request(runner.url(host="live.test")))).status == 200
        assert not any(task.done() for task in dead)
        release.set()
        assert {outcome.status for outcome in await asyncio.gather(*dead)} == {200}


async def test_a_refused_connection_is_a_connection_outcome() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound but not listening: nothing else can take the port
        port = reserved.getsockname()[1]
        async with deliverer() as http:
            outcome = await http.deliver(request(f"http://127.0.0.1:{port}/x?token=secret"))
    assert outcome.kind is OutcomeKind.CONNECTION
    assert outcome.message == f"cannot connect to 127.0.0.1 port {port}: connection refused"


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        (close_without_answer(), OutcomeKind.CONNECTION, "without an answer"),
        (reset(), OutcomeKind.CONNECTION, "reset"),
        (reset(head(headers=[("Content-Length", "10")]) + b"12345"), OutcomeKind.CONNECTION, "reset"),
        (reset(head() + b"12345"), OutcomeKind.CONNECTION, "reset"),
        (raw(b"HTTP/1.1 200 OK\r\nX: ", close=True), OutcomeKind.CONNECTION, "before the answer was complete"),
        (raw(head(headers=[("Content-Length", "9")]) + b"1", close=True), OutcomeKind.CONNECTION, "before the answer"),
        (
            raw(head(headers=[("Transfer-Encoding", "chunked")]) + b"5\r\n12345\r\n", close=True),
            OutcomeKind.CONNECTION,
            "before the answer was complete",
        ),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\n", close=True), OutcomeKind.CONNECTION, "before the answer was complete"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), OutcomeKind.PROTOCOL, "not HTTP"),
        (raw(b"\x15\x03\x01\x00\x02\x02\x46"), OutcomeKind.PROTOCOL, "not HTTP"),
        (raw(b"<html>hello</html>", close=True), OutcomeKind.PROTOCOL, "not HTTP"),
        (raw(b"RTSP/1.0 200 OK\r\n\r\n"), OutcomeKind.PROTOCOL, "not HTTP"),
        (raw(b"HTTP/2.0 200 OK\r\n\r\n"), OutcomeKind.PROTOCOL, "not HTTP/1"),
        (raw(b"HTTP/1.1 099 OK\r\n\r\n"), OutcomeKind.PROTOCOL, "not HTTP/1"),
        (raw(b"HTTP/1.1 abc\r\n\r\n"), OutcomeKind.PROTOCOL, "not valid HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), OutcomeKind.PROTOCOL, "not valid HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), OutcomeKind.PROTOCOL, "not valid HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), OutcomeKind.PROTOCOL, "valid"),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            OutcomeKind.PROTOCOL,
            "not valid HTTP",
        ),
        (raw(head(headers=[("Transfer-Encoding", "chunked")]) + b"xyz\r\n"), OutcomeKind.PROTOCOL, "not valid HTTP"),
        (huge_header(), OutcomeKind.PROTOCOL, "the head of the answer is longer"),
        (huge_header(70_000), OutcomeKind.PROTOCOL, "the head of the answer is longer"),
        (many_headers(), OutcomeKind.PROTOCOL, "the head of the answer is longer"),
        (many_headers(257), OutcomeKind.PROTOCOL, "the head of the answer is longer"),
        (endless_interim(), OutcomeKind.PROTOCOL, "the head of the answer is longer"),
        (endless_chunk_extension(), OutcomeKind.PROTOCOL, "more framing than content"),
        (endless_trailer(), OutcomeKind.PROTOCOL, "more framing than content"),
    ],
)
@pytest.mark.parametrize("used", [False, True], ids=["on a new connection", "on a used one"])
async def test_each_kind_of_incomplete_answer_has_its_own_outcome(
    action: Action, kind: OutcomeKind, message: str, used: bool
) -> None:
    async with Runner(*[answer()] * used, action) as runner, deliverer() as http:
        for _ in range(used):
            assert (await http.deliver(request(runner.url()))).status == 200
        # A request that may not be repeated, so that its outcome is also seen on a used connection.
        outcome = await http.deliver(request(runner.url("/x?token=secret"), headers={}))
        assert (outcome.kind, outcome.status, outcome.body) == (kind, None, b"")
        assert message in outcome.message
        assert "\n" not in outcome.message
        assert "secret" not in outcome.message
        assert len(runner.received) == 1 + used, "a request was repeated"
        assert (await http.deliver(request(runner.url()))).status == 200
    assert runner.connections == 2


async def test_an_answer_that_comes_before_the_request_is_read_is_not_lost() -> None:
    """413 and a reset, from a runner that reads nothing: the answer counts, not the reset."""
    sent = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(head(413, [("Content-Length", "3"), ("Connection", "close")]) + b"big")
        await writer.drain()
        await sent.wait()
        reset_now(writer)

    async with Runner(on_connect=refuse) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url(), body=b"x" * 20_000_000))
        sent.set()
    assert (outcome.kind, outcome.status, outcome.body, outcome.message) == (OutcomeKind.RESPONSE, 413, b"big", "")


@pytest.mark.parametrize("wait", [True, False])
async def test_an_answer_that_comes_before_the_request_is_sent_counts(wait: bool) -> None:
    async def full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(503, [("Content-Length", "0"), ("Connection", "close")]))
        await writer.drain()
        if wait:
            await reader.read(1)
        raise CloseConnection

    async with Runner(on_connect=full) as runner, deliverer() as http:
        for _ in range(20):
            assert (await http.deliver(request(runner.url()))).status == 503


async def test_a_runner_that_does_not_read_the_request_ends_at_the_deadline() -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with Runner(on_connect=stall) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url(), body=b"x" * 20_000_000, timeout_ms=SHORT_MS))
    assert outcome.kind is OutcomeKind.TIMEOUT


async def test_a_slow_runner_does_not_hold_up_another() -> None:
    async with Runner(otherwise=hang()) as slow, Runner() as quick, deliverer(max_connections=100) as http:
        stuck = [asyncio.create_task(http.deliver(request(slow.url()))) for _ in range(90)]
        await slow.wait_until(lambda runner: len(runner.received) == 90)
        outcomes = await asyncio.gather(*(http.deliver(request(quick.url())) for _ in range(100)))
        assert {outcome.status for outcome in outcomes} == {200}
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_closing_the_deliverer_ends_open_requests_as_outcomes() -> None:
    async with Runner(hang()) as runner, deliverer() as http:
        task = asyncio.create_task(http.deliver(request(runner.url())))
        await runner.wait_until(lambda runner: len(runner.received) == 1)
        await http.aclose()
        assert (await task).kind is OutcomeKind.CONNECTION
        assert (await http.deliver(request(runner.url()))).kind is OutcomeKind.INTERNAL


async def test_latency_runs_to_the_last_byte() -> None:
    async def late_body(exchange: Exchange) -> None:
        await exchange.write(head(headers=[("Content-Length", "2")]))
        await asyncio.sleep(0.1)
        await exchange.write(b"ok")

    async with Runner(late_body, answer()) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
    assert outcome.body == b"ok"
    assert outcome.latency_ms >= 99
