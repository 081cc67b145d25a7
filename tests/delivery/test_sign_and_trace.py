"""Signed requests and trace contexts, as they arrive at a receiver."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from base64 import b64encode
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from examples.signed_receiver import is_signed
from scheduler_core.delivery.base import Outcome, always
from scheduler_core.delivery.http.client import HttpClient
from scheduler_core.delivery.http.sign import signature_headers
from scheduler_core.model.call import Call
from tests.support.delivery import deliverer
from tests.support.factories import make_call
from tests.support.runners import Received, Runner

KEY, OTHER, THIRD = ("whsec_" + b64encode(letter * 24).decode() for letter in (b"k", b"o", b"t"))


async def send(http: HttpClient, call: Call) -> Outcome:
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    http.start(call, ended.set_result, always)
    return await ended


def verify(key: str, received: Received) -> None:
    Webhook(key).verify(received.body, {name.lower(): value for name, value in received.headers})


@pytest.mark.parametrize("body", [b'{"a": 1}', b"[]", '{"ü": "☃"}'.encode()])
@pytest.mark.parametrize("prepared", [False, True])
async def test_a_receiver_verifies_a_signed_request_with_either_key(body: bytes, prepared: bool) -> None:
    async with Runner() as runner, deliverer() as http:
        call = make_call(url=runner.url(), payload=body, sign_keys=(KEY, OTHER))
        outcome = await send(http, http.prepare(call) if prepared else call)
    (received,) = runner.received
    verify(KEY, received)
    verify(OTHER, received)
    with pytest.raises(WebhookVerificationError):
        verify(THIRD, received)
    assert received.header("webhook-id") == call.run_id
    assert dict(outcome.sent_headers)["webhook-signature"].count("v1,") == 2


def test_the_signature_is_that_of_the_package() -> None:
    at = datetime(2030, 1, 31, 12, tzinfo=UTC)
    headers = dict(signature_headers("run", int(at.timestamp()), b"body", [KEY]))
    assert headers["webhook-signature"] == Webhook(KEY).sign("run", at, "body")


@pytest.mark.parametrize(
    ("origin", "own", "verified_by"),
    [("", (), KEY), ("", (OTHER,), OTHER), ("http://other.test", (OTHER,), OTHER), ("http://other.test", (), None)],
)
async def test_keys_of_the_setting_sign_only_requests_to_its_origins(
    origin: str, own: tuple[str, ...], verified_by: str | None
) -> None:
    async with Runner() as runner:
        origins = [origin or runner.url().rstrip("/")]
        async with deliverer(sign_keys=[KEY], sign_origins=origins) as http:
            call = make_call(url=runner.url(), sign_keys=own)
            await send(http, call)
            await send(http, http.prepare(call))
    for received in runner.received:
        if verified_by is None:
            assert not [name for name, _ in received.headers if name.startswith("webhook-")]
        else:
            verify(verified_by, received)


async def test_each_attempt_is_a_span_of_the_trace_of_its_run() -> None:
    async with Runner() as runner, deliverer() as http:
        for run_id, fence, attempt in (("a", 1, 1), ("a", 1, 2), ("a", 2, 2), ("b", 1, 1)):
            await send(http, make_call(url=runner.url(), run_id=run_id, fence=fence, attempt=attempt))
    found = [received.header("traceparent") or "" for received in runner.received]
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", one) for one in found)
    assert len(set(found)) == 4
    traces = [one.split("-")[1] for one in found]
    assert traces == [hashlib.md5(run_id, usedforsecurity=False).hexdigest() for run_id in (b"a", b"a", b"a", b"b")]
    assert "0" * 16 not in {one.split("-")[2] for one in found}


async def test_the_span_of_an_attempt_has_sixteen_digits_with_the_fences_of_this_century() -> None:
    async with Runner() as runner, deliverer() as http:
        for fence in (1_795_231_232_929_000, 1_795_231_232_929_001, 4_102_444_800_000_000):
            await send(http, make_call(url=runner.url(), fence=fence, attempt=3))
    found = [received.header("traceparent") or "" for received in runner.received]
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{12}0003-01", one) for one in found)
    assert len(set(found)) == 3


async def test_a_trace_context_of_the_user_is_the_only_one() -> None:
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with Runner() as runner, deliverer() as http:
        await send(http, make_call(url=runner.url(), headers=(("Traceparent", own),)))
    assert runner.received[0].header("traceparent") == own


async def test_a_stored_key_that_cannot_sign_sends_nothing() -> None:
    async with Runner() as runner, deliverer() as http:
        with pytest.raises(ValueError, match="begin") as caught:
            await send(http, make_call(url=runner.url(), sign_keys=("secret-key",)))
    assert "secret-key" not in str(caught.value)
    assert runner.received == []


async def test_the_receiver_of_the_documentation_accepts_only_signed_requests() -> None:
    async with Runner() as runner, deliverer() as http:
        await send(http, make_call(url=runner.url(), sign_keys=(KEY, OTHER)))
    (received,) = runner.received
    headers = dict(received.headers)
    now = int(headers["webhook-timestamp"])
    for key in (KEY, OTHER):
        assert is_signed(headers, received.body, [THIRD, key], now)
    assert not is_signed(headers, received.body, [THIRD], now)
    assert not is_signed(headers, received.body + b" ", [KEY], now)
    assert not is_signed(headers | {"webhook-id": "other"}, received.body, [KEY], now)
    assert not is_signed(headers, received.body, [KEY], now + 301)
    assert not is_signed({}, received.body, [KEY], now)


def test_the_receiver_of_the_documentation_has_no_key_that_is_empty() -> None:
    content = b"id.5.{}"
    forged = b64encode(hmac.digest(b"", content, "sha256")).decode()
    headers = {"webhook-id": "id", "webhook-timestamp": "5", "webhook-signature": f"v1,{forged}"}
    assert not is_signed(headers, b"{}", [KEY, "", "whsec_"], 5)
