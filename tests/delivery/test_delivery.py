"""The bytes of a request, and the outcome of a well-behaved answer."""

from __future__ import annotations

import asyncio
import tracemalloc

import httpx
import pytest

from scheduler_core.base.clock import SystemClock
from scheduler_core.delivery.base import OutcomeKind
from scheduler_core.delivery.http.client import HttpClient
from scheduler_core.delivery.http.guard import AddressGuard
from tests.support.delivery import deliverer, request
from tests.support.runners import (
    Runner,
    answer,
    chunked,
    endless_body,
    gzip_bomb,
    head,
    raw,
    redirect,
    until_close,
)


async def test_the_payload_arrives_byte_for_byte_with_its_headers() -> None:
    payload = '{"b": [], "a": 9007199254740993, "ü": "☃", "n": {"x": {}}}'.encode()
    async with Runner(answer(202, b"taken")) as runner, deliverer(user_agent="Cronpost/1.2") as http:
        headers = {"Content-Type": "application/json", "Idempotency-Key": "run-1", "Cronpost-Job-Id": "j%C3%BC"}
        outcome = await http.deliver(request(runner.url("/enqueue?a=b&c"), body=payload, headers=headers))
    assert (outcome.kind, outcome.status, outcome.body, outcome.body_bytes) == (OutcomeKind.RESPONSE, 202, b"taken", 5)
    assert not outcome.truncated
    assert outcome.latency_ms > 0
    (received,) = runner.received
    assert (received.method, received.target, received.body) == ("POST", "/enqueue?a=b&c", payload)
    assert received.headers == [
        ("Host", f"127.0.0.1:{runner.port}"),
        *headers.items(),
        ("User-Agent", "Cronpost/1.2"),
        ("Accept-Encoding", "identity"),
        ("Content-Length", str(len(payload))),
    ]


async def test_a_url_with_unicode_is_sent_percent_encoded() -> None:
    async with Runner() as runner, deliverer() as http:
        await http.deliver(request(runner.url("/größe/☃?q=ä b%20c")))
    assert runner.received[0].target == "/gr%C3%B6%C3%9Fe/%E2%98%83?q=%C3%A4%20b%20c"


async def test_a_header_value_beyond_ascii_is_sent_as_utf8() -> None:
    async with Runner() as runner, deliverer() as http:
        await http.deliver(request(runner.url(), headers={"X-Name": "ü"}))
    assert runner.received[0].header("X-Name") == "ü".encode().decode("latin-1")


@pytest.mark.parametrize("name", ["Host", "Content-Length", "transfer-encoding", "Connection"])
async def test_a_header_of_the_transport_that_slipped_through_sends_nothing(name: str) -> None:
    async with Runner() as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url(), headers={name: "0"}))
    assert outcome.kind is OutcomeKind.INTERNAL
    assert runner.received == []


@pytest.mark.parametrize("value", ["a\r\nX-Injected: b", "a\nb", "a\rb", "a\x00b"])
async def test_a_line_break_in_a_header_that_slipped_through_sends_nothing(value: str) -> None:
    async with Runner() as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url(), headers={"X-Value": value}))
        assert outcome.kind is OutcomeKind.INTERNAL
        assert "Injected" not in outcome.message
        assert (await http.deliver(request(runner.url()))).status == 200
    assert len(runner.received) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_a_method_without_body_sends_no_length(method: str) -> None:
    async with Runner() as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url(), method=method, body=b""))
    assert outcome.status == 200
    assert runner.received[0].method == method
    assert runner.received[0].header("Content-Length") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_an_empty_body_of_a_method_that_has_one_states_its_length(method: str) -> None:
    async with Runner() as runner, deliverer() as http:
        await http.deliver(request(runner.url(), method=method, body=b""))
    assert runner.received[0].header("Content-Length") == "0"


async def test_the_users_own_user_agent_is_the_only_one() -> None:
    async with Runner() as runner, deliverer() as http:
        await http.deliver(request(runner.url(), headers={"user-agent": "mine"}))
    assert runner.received[0].header("User-Agent") == "mine"


async def test_a_payload_of_a_megabyte_arrives_whole() -> None:
    payload = bytes(range(256)) * 4096
    async with Runner() as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url(), body=payload))
    assert outcome.status == 200
    assert runner.received[0].body == payload


@pytest.mark.parametrize("status", [200, 202, 204, 304, 400, 404, 409, 410, 429, 500, 503, 599, 999])
async def test_every_status_is_a_response(status: int) -> None:
    async with (
        Runner(raw(head(status, [] if status in (204, 304) else [("Content-Length", "0")]))) as runner,
        deliverer() as http,
    ):
        outcome = await http.deliver(request(runner.url()))
    assert (outcome.kind, outcome.status) == (OutcomeKind.RESPONSE, status)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_is_a_response_and_never_followed(status: int) -> None:
    async with Runner() as elsewhere, Runner(redirect(status, elsewhere.url("/stolen"))) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
    assert (outcome.kind, outcome.status) == (OutcomeKind.RESPONSE, status)
    assert outcome.header("location") == elsewhere.url("/stolen")
    assert elsewhere.received == []
    assert len(runner.received) == 1


async def test_response_headers_have_lower_case_names_and_their_order() -> None:
    sent = [("Retry-After", "7"), ("X-B", "1"), ("X-b", "2"), ("X-Empty", "")]
    async with Runner(answer(503, headers=sent)) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
    assert outcome.headers[:4] == (("retry-after", "7"), ("x-b", "1"), ("x-b", "2"), ("x-empty", ""))
    assert outcome.header("retry-after") == "7"
    assert outcome.header("x-b") == "1"


async def test_the_headers_kept_are_bounded_in_number_and_size() -> None:
    many = [(f"X-{number}", "x") for number in range(200)]
    large = [(f"X-{number}", "x" * 1000) for number in range(30)]
    async with Runner(answer(headers=many), answer(headers=large)) as runner, deliverer() as http:
        first = await http.deliver(request(runner.url()))
        second = await http.deliver(request(runner.url()))
    assert (first.status, len(first.headers)) == (200, 64)
    assert second.status == 200
    assert 7000 < sum(len(name) + len(value) for name, value in second.headers) <= 8192


async def test_set_cookie_is_never_sent_back() -> None:
    async with Runner(answer(headers=[("Set-Cookie", "a=b")])) as runner, deliverer() as http:
        await http.deliver(request(runner.url()))
        await http.deliver(request(runner.url()))
    assert runner.received[1].header("Cookie") is None


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runner() as proxy, Runner() as runner:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        async with deliverer() as http:
            outcome = await http.deliver(request(runner.url()))
    assert outcome.status == 200
    assert (len(runner.received), len(proxy.received)) == (1, 0)


async def test_a_chunked_body_is_put_together_and_its_trailer_dropped() -> None:
    async with Runner(chunked(b"abc", b"d", b"efgh")) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
        assert (outcome.status, outcome.body, outcome.body_bytes) == (200, b"abcdefgh", 8)
        assert outcome.header("x-trailer") is None
        await http.deliver(request(runner.url()))
    assert runner.connections == 1


async def test_a_body_that_ends_with_its_connection_is_whole() -> None:
    async with Runner(until_close(b"abc")) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
        assert (outcome.kind, outcome.body) == (OutcomeKind.RESPONSE, b"abc")
        await http.deliver(request(runner.url()))
    assert runner.connections == 2


async def test_an_answer_in_pieces_of_one_byte_is_the_same_answer() -> None:
    text = b"HTTP/1.1 100 Continue\r\n\r\n" + head(201, [("Content-Length", "5"), ("X-A", "b")]) + b"hello"
    async with Runner(raw(text, pieces=1)) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
    assert (outcome.status, outcome.body, outcome.header("x-a")) == (201, b"hello", "b")


async def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 7\r\n\r\nHTTP/1.1 102 P\r\n\r\n"
    async with Runner(raw(interim + head(200, [("Content-Length", "2")]) + b"ok")) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
    assert (outcome.status, outcome.body) == (200, b"ok")
    assert outcome.headers == (("content-length", "2"),)


async def test_the_length_that_an_answer_to_head_states_is_not_waited_for() -> None:
    async with Runner(raw(head(200, [("Content-Length", "1000")]))) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url(), method="HEAD", body=b""))
        assert (outcome.status, outcome.body_bytes) == (200, 0)
        assert (await http.deliver(request(runner.url()))).status == 200
    assert runner.connections == 1


async def test_an_answer_of_http_1_0_closes_its_connection() -> None:
    async with (
        Runner(raw(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", close=True)) as runner,
        deliverer() as http,
    ):
        assert (await http.deliver(request(runner.url()))).body == b"ok"
        assert (await http.deliver(request(runner.url()))).status == 200
    assert runner.connections == 2


async def test_a_switch_of_protocol_is_a_response_and_ends_the_connection() -> None:
    upgrade = head(101, [("Upgrade", "websocket"), ("Connection", "upgrade")]) + b"\x81\x00"
    async with Runner(raw(upgrade), raw(head(101))) as runner, deliverer() as http:
        for _ in range(2):
            outcome = await http.deliver(request(runner.url()))
            assert (outcome.kind, outcome.status, outcome.body) == (OutcomeKind.RESPONSE, 101, b"")
        assert (await http.deliver(request(runner.url()))).status == 200
    assert runner.connections == 3


@pytest.mark.parametrize(
    ("length", "kept", "read", "truncated"),
    [
        (0, 0, 0, False),
        (100, 100, 100, False),
        (101, 100, 101, False),
        (1000, 100, 1000, False),
        (1001, 100, 1000, True),
        (300_000, 100, 1000, True),
    ],
)
async def test_a_body_is_read_and_kept_up_to_the_limits(length: int, kept: int, read: int, truncated: bool) -> None:
    body = bytes(number % 251 for number in range(length))
    async with Runner(answer(200, body)) as runner, deliverer(keep_bytes=100, read_limit_bytes=1000) as http:
        outcome = await http.deliver(request(runner.url()))
    assert outcome.kind is OutcomeKind.RESPONSE
    assert outcome.body == body[:kept]
    assert (outcome.body_bytes, outcome.truncated) == (read, truncated)


async def test_a_body_without_end_is_cut_off_and_its_connection_closed() -> None:
    async with Runner(endless_body()) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
        assert (outcome.kind, outcome.status, outcome.truncated) == (OutcomeKind.RESPONSE, 200, True)
        assert (outcome.body_bytes, len(outcome.body)) == (65536, 10240)
        await runner.wait_until(lambda runner: runner.open_connections == 0)


async def test_a_compressed_bomb_is_never_unpacked() -> None:
    async with Runner(gzip_bomb()) as runner, deliverer() as http:
        tracemalloc.start()
        try:
            outcome = await http.deliver(request(runner.url()))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (outcome.status, outcome.truncated, outcome.body_bytes) == (200, True, 65536)
    assert outcome.body.startswith(b"\x1f\x8b")
    assert peak < 3_000_000


async def test_two_hundred_concurrent_requests_get_their_own_answers() -> None:
    async with Runner() as runner, deliverer(max_connections=200) as http:
        bodies = [b"%d" % number for number in range(200)]
        outcomes = await asyncio.gather(*(http.deliver(request(runner.url(), body=body)) for body in bodies))
    assert {outcome.status for outcome in outcomes} == {200}
    assert sorted(received.body for received in runner.received) == sorted(bodies)


async def test_any_httpx_transport_can_stand_in() -> None:
    def handle(seen: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"X-Method": seen.method}, content=seen.read())

    http = HttpClient(
        clock=SystemClock(), guard=AddressGuard(), max_connections=1, transport=httpx.MockTransport(handle)
    )
    outcome = await http.deliver(request("http://nowhere.invalid/", body=b"abc"))
    await http.aclose()
    assert (outcome.status, outcome.body, outcome.header("x-method")) == (200, b"abc", "POST")


async def test_an_unexpected_fault_is_an_outcome_without_its_text() -> None:
    def handle(_: httpx.Request) -> httpx.Response:
        raise RuntimeError("secret")

    http = HttpClient(
        clock=SystemClock(), guard=AddressGuard(), max_connections=1, transport=httpx.MockTransport(handle)
    )
    outcome = await http.deliver(request("http://h/"))
    assert outcome.kind is OutcomeKind.INTERNAL
    assert "RuntimeError" in outcome.message
    assert "secret" not in outcome.message


async def test_cancellation_passes() -> None:
    gate = asyncio.Event()

    async def handle(_: httpx.Request) -> httpx.Response:
        gate.set()
        await asyncio.Event().wait()
        raise AssertionError

    http = HttpClient(
        clock=SystemClock(), guard=AddressGuard(), max_connections=1, transport=httpx.MockTransport(handle)
    )
    task = asyncio.create_task(http.deliver(request("http://h/")))
    await gate.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
