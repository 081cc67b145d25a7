"""OAuth 2 tokens: fetched once, cached, refreshed, and failures as outcomes of their own. With a real token server."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from scheduler_core.delivery.base import Outcome, OutcomeKind, Verdict, always
from scheduler_core.delivery.http.client import HttpClient
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.transport import PooledTransport
from scheduler_core.model.call import Call
from scheduler_core.model.request import ClientCredentials
from tests.support.delivery import deliverer
from tests.support.factories import make_call
from tests.support.manual_clock import ManualClock
from tests.support.runners import Action, Runner, answer, hang, redirect


def token(text: str, **fields: Any) -> Action:
    content = msgspec.json.encode({"access_token": text, "token_type": "Bearer", "expires_in": 100} | fields)
    return answer(200, content)


def credentials(server: Runner, **changes: str) -> ClientCredentials:
    return ClientCredentials(server.url("/token"), changes.get("id", "c 1"), "s:cret", changes.get("scope", "a b"))


async def send(http: HttpClient, call: Call) -> Outcome:
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    http.start(call, ended.set_result, always)
    return await ended


@asynccontextmanager
async def with_clock(clock: ManualClock) -> AsyncIterator[HttpClient]:
    guard = AddressGuard()
    transport = PooledTransport(guard=guard, max_connections=50)
    http = HttpClient(clock=clock, guard=guard, max_connections=50, transport=transport)
    try:
        yield http
    finally:
        await http.aclose()


def sent(runner: Runner) -> list[str | None]:
    return [received.header("authorization") for received in runner.received]


async def test_a_token_is_fetched_as_the_standard_says_and_sent() -> None:
    async with Runner(token("t1")) as server, Runner() as runner, deliverer() as http:
        call = make_call(url=runner.url(), client=credentials(server))
        outcome = await send(http, call)
        await send(http, http.prepare(call))
    assert (outcome.status, sent(runner)) == (200, ["Bearer t1"] * 2)
    (request,) = server.received
    assert (request.method, request.body) == ("POST", b"grant_type=client_credentials&scope=a+b")
    assert request.header("authorization") == "Basic " + b64encode(b"c+1:s%3Acret").decode()
    assert request.header("content-type") == "application/x-www-form-urlencoded"


async def test_many_attempts_that_need_a_token_at_once_make_one_request() -> None:
    async with Runner(otherwise=token("t1")) as server, Runner() as runner, deliverer() as http:
        one, other = credentials(server), credentials(server, id="other")
        calls = [make_call(url=runner.url(), client=client) for client in (one, other) for _ in range(20)]
        outcomes = await asyncio.gather(*(send(http, call) for call in calls))
    assert [outcome.status for outcome in outcomes] == [200] * 40
    assert len(server.received) == 2


async def test_a_token_is_refreshed_before_it_expires_while_the_old_one_is_sent() -> None:
    clock = ManualClock()
    async with Runner(token("t1"), token("t2"), token("t3")) as server, Runner() as runner, with_clock(clock) as http:
        call = make_call(url=runner.url(), client=credentials(server))
        await send(http, call)
        clock.advance(79_000)
        await send(http, call)
        assert len(server.received) == 1
        clock.advance(2_000)
        await send(http, call)
        await server.wait_until(lambda server: len(server.received) == 2)
        await asyncio.gather(*http._tokens._fetches.values())
        await send(http, call)
        clock.advance(200_000)
        await send(http, call)
    assert sent(runner) == ["Bearer t1", "Bearer t1", "Bearer t1", "Bearer t2", "Bearer t3"]


async def test_a_failed_refresh_keeps_the_old_token_and_is_not_repeated_at_once() -> None:
    clock = ManualClock()
    async with Runner(token("t1"), answer(500), token("t2")) as server, Runner() as runner, with_clock(clock) as http:
        call = make_call(url=runner.url(), client=credentials(server))
        await send(http, call)
        clock.advance(81_000)
        for _ in range(3):
            await send(http, call)
            await asyncio.gather(*http._tokens._fetches.values(), return_exceptions=True)
        assert len(server.received) == 2
        clock.advance(6_000)
        await send(http, call)
        await asyncio.gather(*http._tokens._fetches.values())
        await send(http, call)
    assert sent(runner) == ["Bearer t1"] * 5 + ["Bearer t2"]


async def test_failures_of_the_token_server_are_outcomes_of_their_own() -> None:
    script = {
        answer(500): ("answered 500", Verdict.RETRY),
        answer(429): ("answered 429", Verdict.RETRY),
        answer(401, b'{"error": "invalid_client"}'): ("answered 401 invalid_client", Verdict.REFUSED),
        answer(400, b'{"error": "s:cret is wrong"}'): ("answered 400", Verdict.REFUSED),
        redirect(302, "http://elsewhere.test/"): ("answered 302", Verdict.REFUSED),
        answer(200, b"<html>"): ("without an access_token", Verdict.REFUSED),
        token("a\r\nX: y"): ("without an access_token", Verdict.REFUSED),
        token("t", token_type="mac"): ("another type", Verdict.REFUSED),
        answer(200, b"x" * 70_000): ("too long", Verdict.REFUSED),
    }
    async with Runner(*script) as server, Runner() as runner, deliverer() as http:
        for text, verdict in script.values():
            outcome = await send(http, make_call(url=runner.url(), client=credentials(server)))
            assert (outcome.kind, outcome.verdict) == (OutcomeKind.AUTH, verdict)
            assert text in outcome.message
            assert "s:cret" not in outcome.message
    assert runner.received == []
    assert len(server.received) == len(script)


async def test_a_hanging_token_server_ends_the_attempt_at_its_deadline() -> None:
    async with Runner(hang(), otherwise=token("t1")) as server, Runner() as runner, deliverer() as http:
        outcome = await send(http, make_call(url=runner.url(), client=credentials(server), timeout_ms=100))
        assert (outcome.kind, outcome.verdict) == (OutcomeKind.AUTH, Verdict.RETRY)
        assert "no token within 100 ms" in outcome.message
        outcome = await send(http, make_call(url=runner.url(), client=credentials(server, id="other")))
        assert outcome.status == 200


async def test_a_cancelled_attempt_does_not_take_the_token_from_the_others() -> None:
    release = asyncio.Event()

    async def late(exchange: Any) -> None:
        await release.wait()
        await token("t1")(exchange)

    async with Runner(late) as server, Runner() as runner, deliverer() as http:
        call = make_call(url=runner.url(), client=credentials(server))
        ended: list[Outcome] = []
        first = http.start(call, ended.append, always)
        second = asyncio.create_task(send(http, call))
        await server.wait_until(lambda server: len(server.received) == 1)
        first.cancel()
        release.set()
        assert (await second).status == 200
        assert ended == []
    assert len(runner.received) == 1


async def test_a_token_request_passes_the_address_guard() -> None:
    async with Runner() as runner, deliverer() as http:
        client = ClientCredentials("http://169.254.169.254/token", "c", "s")
        outcome = await send(http, make_call(url=runner.url(), client=client))
    assert outcome.kind is OutcomeKind.AUTH
    assert runner.received == []


async def test_a_401_drops_the_token_once_and_the_attempt_is_retried() -> None:
    script = answer(401), answer(401), answer(401), answer(200), answer(401)
    async with Runner(token("t1"), token("t2"), token("t3")) as server, Runner(*script) as runner, deliverer() as http:
        call = make_call(url=runner.url(), client=credentials(server))
        verdicts = [(await send(http, call)).verdict for _ in script]
    assert verdicts == [Verdict.RETRY, Verdict.REFUSED, Verdict.REFUSED, Verdict.ACCEPTED, Verdict.RETRY]
    assert sent(runner) == ["Bearer t1", *["Bearer t2"] * 4]


async def test_a_token_is_masked_where_the_target_repeats_it() -> None:
    async with Runner(token("s3cret-token")) as server, deliverer() as http:
        echo = answer(400, b"no s3cret-token", headers=[("X-Echo", "s3cret-token")])
        async with Runner(echo) as runner:
            outcome = await send(http, make_call(url=runner.url(), client=credentials(server)))
    assert outcome.body == b"no ***"
    assert outcome.header("x-echo") == "***"
