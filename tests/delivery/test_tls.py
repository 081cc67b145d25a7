"""Certificates are always checked."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime

import pytest
import trustme

from scheduler_core.delivery.base import OutcomeKind
from scheduler_core.delivery.http.connect import default_ssl_context
from tests.support.delivery import addresses, deliverer, request
from tests.support.runners import CloseConnection, Runner, answer, until_close


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def client_side(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"ssl_context": context}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "runner.test", "runner.test."])
async def test_a_runner_with_a_trusted_certificate_is_reached(authority: trustme.CA, host: str) -> None:
    certificate = authority.issue_cert("127.0.0.1", "localhost", "runner.test")

    async with (
        Runner(answer(202, b"ok"), ssl_context=server_side(certificate)) as runner,
        deliverer(lookup=lambda *_, **__: addresses("127.0.0.1"), transport_options=client_side(authority)) as http,
    ):
        outcome = await http.deliver(request(runner.url("/x", host=host)))
        assert (outcome.status, outcome.body) == (202, b"ok")
        assert (await http.deliver(request(runner.url("/x", host=host)))).status == 200
    assert runner.connections == 1


async def test_a_large_payload_and_a_large_answer_pass_through_tls(authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    payload = bytes(range(256)) * 4096
    async with (
        Runner(answer(200, payload), ssl_context=server_side(certificate)) as runner,
        deliverer(transport_options=client_side(authority), read_limit_bytes=2_000_000, keep_bytes=2_000_000) as http,
    ):
        outcome = await http.deliver(request(runner.url(), body=payload))
    assert outcome.body == payload
    assert runner.received[0].body == payload


async def test_a_body_that_ends_with_a_tls_connection_is_whole(authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    async with (
        Runner(until_close(b"abc"), ssl_context=server_side(certificate)) as runner,
        deliverer(transport_options=client_side(authority)) as http,
    ):
        outcome = await http.deliver(request(runner.url()))
    assert (outcome.status, outcome.body) == (200, b"abc")


async def test_an_unknown_authority_is_a_tls_outcome_and_nothing_is_sent(authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    async with Runner(ssl_context=server_side(certificate)) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url("/?token=secret")))
    assert outcome.kind is OutcomeKind.TLS
    assert outcome.message.startswith("the certificate of 127.0.0.1 is not accepted")
    assert "secret" not in outcome.message
    assert runner.received == []


async def test_a_certificate_for_another_name_is_a_tls_outcome(authority: trustme.CA) -> None:
    certificate = authority.issue_cert("other.test")
    async with (
        Runner(ssl_context=server_side(certificate)) as runner,
        deliverer(transport_options=client_side(authority)) as http,
    ):
        outcome = await http.deliver(request(runner.url(host="localhost")))
    assert outcome.kind is OutcomeKind.TLS
    assert runner.received == []


async def test_an_expired_certificate_is_a_tls_outcome(authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    async with (
        Runner(ssl_context=server_side(certificate)) as runner,
        deliverer(transport_options=client_side(authority)) as http,
    ):
        outcome = await http.deliver(request(runner.url()))
    assert outcome.kind is OutcomeKind.TLS
    assert "expired" in outcome.message


async def test_a_plain_runner_behind_an_https_url_is_a_tls_outcome() -> None:
    async def speak_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()
        raise CloseConnection

    async with Runner(on_connect=speak_plain) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url().replace("http:", "https:")))
    assert outcome.kind is OutcomeKind.TLS


async def test_a_connection_closed_during_the_handshake_is_a_tls_outcome() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise CloseConnection

    async with Runner(on_connect=hang_up) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url().replace("http:", "https:")))
    assert outcome.kind is OutcomeKind.TLS


async def test_a_tls_runner_behind_an_http_url_is_no_hang(authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    async with Runner(ssl_context=server_side(certificate)) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url().replace("https:", "http:")))
    assert outcome.kind in {OutcomeKind.PROTOCOL, OutcomeKind.CONNECTION}


async def test_a_certificate_that_names_its_host_only_as_common_name_is_a_tls_outcome(authority: trustme.CA) -> None:
    certificate = authority.issue_cert(common_name="runner.test")
    context = default_ssl_context()
    authority.configure_trust(context)
    async with (
        Runner(ssl_context=server_side(certificate)) as runner,
        deliverer(lookup=lambda *_, **__: addresses("127.0.0.1"), transport_options={"ssl_context": context}) as http,
    ):
        outcome = await http.deliver(request(runner.url(host="runner.test")))
    assert outcome.kind is OutcomeKind.TLS
    assert runner.received == []
