"""Requests that offer another protocol with ``Upgrade``: answered as if they did not, with any method.

``curl --http2`` and Java's ``HttpClient`` send ``Upgrade: h2c`` with every request on a plain connection.
"""

from __future__ import annotations

import json

import httpx
import pytest

from scheduler_api.context import Context
from tests.api.conftest import EXAMPLE
from tests.api.test_connections import BODY, Address, address, exchange, status_of

__all__ = ["address"]

H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
WEBSOCKET = (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
LAST = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""Ends the connection; its answer is 404."""
INNER_DELETE = b"DELETE /?job_id=job-scheduler-unique-id HTTP/1.1\r\nHost: localhost\r\n\r\n"


def request(line: bytes, *headers: bytes, body: bytes | None = None) -> bytes:
    length = [] if body is None else [b"Content-Length: %d" % len(body)]
    return b"\r\n".join([line + b" HTTP/1.1", b"Host: localhost", *headers, *length, b"", body or b""])


def chunked(body: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


def statuses(answer: bytes) -> list[int]:
    return [int(part.split(b" ", 1)[0]) for part in answer.split(b"HTTP/1.1 ")[1:]]


async def stored(context: Context) -> dict[str, object]:
    return await job_of(context, str(EXAMPLE["id"]))


async def job_of(context: Context, job_id: str) -> dict[str, object]:
    from tests.api.conftest import client_of

    async with client_of(context) as client:
        answer = await client.get(f"/jobs/{job_id}")
        assert answer.status_code in {200, 404}
        found: dict[str, object] = answer.json()
        return found


@pytest.mark.parametrize("headers", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
async def test_an_upsert_with_upgrade_stores_its_body(
    address: Address, context: Context, headers: tuple[bytes, ...]
) -> None:
    answer = await exchange(address, request(b"POST /", *headers, body=BODY) + LAST)
    assert statuses(answer) == [202, 404]
    assert (await stored(context))["payload"] == EXAMPLE["payload"]


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_the_body_is_stored_with_any_split_of_the_bytes(address: Address, context: Context, size: int) -> None:
    sent = request(b"POST /", *H2C, body=BODY) + LAST
    answer = await exchange(address, *[sent[at : at + size] for at in range(0, len(sent), size)])
    assert statuses(answer) == [202, 404]
    assert (await stored(context))["payload"] == EXAMPLE["payload"]


async def test_a_chunked_body_with_upgrade_is_read(address: Address, context: Context) -> None:
    sent = request(b"POST /", *H2C, b"Transfer-Encoding: chunked") + chunked(BODY)
    assert statuses(await exchange(address, sent + LAST)) == [202, 404]
    assert (await stored(context))["payload"] == EXAMPLE["payload"]


async def test_an_upgrade_that_the_connection_header_does_not_name_changes_nothing(
    address: Address, context: Context
) -> None:
    assert statuses(await exchange(address, request(b"POST /", b"Upgrade: h2c", body=BODY) + LAST)) == [202, 404]
    assert (await stored(context))["payload"] == EXAMPLE["payload"]


async def test_connection_close_with_upgrade_closes_the_connection(address: Address, context: Context) -> None:
    headers = (b"Connection: Upgrade, close", b"Upgrade: h2c")
    assert statuses(await exchange(address, request(b"POST /", *headers, body=BODY) + LAST)) == [202]


async def test_a_run_that_is_requested_with_upgrade_gets_its_payload(address: Address, context: Context) -> None:
    assert status_of(await exchange(address, request(b"POST /", b"Connection: close", body=BODY))) == 202
    run = b'{"payload": {"page": 7}, "not_before": "2099-01-01T00:00:00Z"}'
    sent = request(b"POST /jobs/job-scheduler-unique-id/run", *H2C, body=run)
    assert statuses(await exchange(address, sent + LAST)) == [202, 404]
    pending = await exchange(address, request(b"GET /jobs/job-scheduler-unique-id/pending", b"Connection: close"))
    assert b'"payload":{"page": 7}' in pending


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"GET", b"DELETE", b"OPTIONS"])
@pytest.mark.parametrize("headers", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
async def test_a_request_inside_a_body_is_never_carried_out(
    address: Address, context: Context, method: bytes, headers: tuple[bytes, ...]
) -> None:
    assert status_of(await exchange(address, request(b"POST /", b"Connection: close", body=BODY))) == 202
    answer = await exchange(address, request(method + b" /nothing", *headers, body=INNER_DELETE) + LAST)
    assert statuses(answer) == [404, 404]
    assert (await stored(context))["id"] == EXAMPLE["id"]


async def test_a_request_inside_a_chunked_body_is_never_carried_out(address: Address, context: Context) -> None:
    assert status_of(await exchange(address, request(b"POST /", b"Connection: close", body=BODY))) == 202
    sent = request(b"POST /nothing", *H2C, b"Transfer-Encoding: chunked") + chunked(INNER_DELETE)
    assert statuses(await exchange(address, sent + LAST)) == [404, 404]
    assert (await stored(context))["id"] == EXAMPLE["id"]


async def test_pipelined_requests_with_upgrade_are_all_answered_in_order(address: Address, context: Context) -> None:
    bodies = [json.dumps({**EXAMPLE, "id": f"job-{n}", "payload": n}).encode() for n in range(4)]
    health = request(b"GET /health", *H2C)
    sent = b"".join(request(b"POST /", *(H2C if n % 2 else ()), body=body) + health for n, body in enumerate(bodies))
    assert statuses(await exchange(address, sent + LAST)) == [202, 200] * 4 + [404]
    for number in range(4):
        assert (await job_of(context, f"job-{number}"))["payload"] == number


async def test_a_body_with_upgrade_follows_the_same_framing_rules(address: Address) -> None:
    both = request(b"POST /", *H2C, b"Transfer-Encoding: chunked", body=INNER_DELETE)
    assert statuses(await exchange(address, both)) == [400]
    unknown = request(b"POST /", *H2C, b"Transfer-Encoding: gzip") + INNER_DELETE
    assert statuses(await exchange(address, unknown))[0] in {400, 501}
    assert len(statuses(await exchange(address, unknown))) == 1


async def test_http2_without_upgrade_is_refused(address: Address) -> None:
    assert statuses(await exchange(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) == [400]


async def test_connect_is_refused_and_what_follows_it_is_not_carried_out(address: Address, context: Context) -> None:
    assert status_of(await exchange(address, request(b"POST /", b"Connection: close", body=BODY))) == 202
    tunnel = b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n" + INNER_DELETE
    assert statuses(await exchange(address, tunnel)) == [501]
    assert (await stored(context))["id"] == EXAMPLE["id"]


async def test_a_client_that_offers_http2_gets_http1(address: Address) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{address[1]}", trust_env=False) as client:
        headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
        for _ in range(3):
            answer = await client.post("/", json=EXAMPLE, headers=headers)
            assert answer.status_code == 202
            assert answer.http_version == "HTTP/1.1"
