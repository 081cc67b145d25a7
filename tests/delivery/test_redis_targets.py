"""Streams of a Redis as targets, against a real server: the protocol, the entries, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scheduler_core.delivery.base import Attempt, Deliverer, Done, OutcomeKind, Verdict, attempt
from scheduler_core.delivery.broker import links as broker_links
from scheduler_core.delivery.http.guard import AddressGuard, OwnEndpoint
from scheduler_core.delivery.redis_stream.kind import RedisStreamKind
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.call import Callback
from tests.delivery.conformance import PROOFS, QUIET_SECONDS, SECRET, Answer, Proof
from tests.support.brokers import RedisSubject, commands_of, environment
from tests.support.factories import make_call
from tests.support.stores import until


class Stream(RedisSubject):
    """The kind of Redis streams."""

    bad_url = f"redis+stream://runner:{SECRET}@redis.test/no-database"
    split = staticmethod(commands_of(b"XADD"))

    key = "jobs"

    def __init__(self, socket: Path) -> None:
        super().__init__(RedisStreamKind(), socket)

    def address(self, path: str) -> str:
        return f"redis+stream://runner:{SECRET}@127.0.0.1:{self.port}/{path}"

    def impossible(self) -> dict[str, Any]:
        return {"url": self.bad_url}


@pytest.fixture
async def stream(redis_server: EmbeddedRedis, redis_url: str) -> AsyncIterator[Stream]:
    async with Stream(redis_server.socket_path) as subject:
        subject.redis.acl_setuser("runner", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], categories=["+@all"])
        subject.url = subject.address("0/jobs?maxlen=100")
        yield subject
        subject.redis.config_set("maxmemory", 0)
        subject.redis.acl_deluser("runner")
        subject.redis.close()


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
async def test_the_kind_keeps_the_protocol(stream: Stream, proof: Proof) -> None:
    await proof(stream)


async def test_an_entry_has_the_payload_and_the_facts_of_the_run(stream: Stream) -> None:
    payload = b'{"a" : 1.0, "a": "\xc3\xa9"}'
    outcome = await stream.outcome(
        payload=payload,
        run_id="r1",
        job_id="jöb",
        attempt=3,
        fence=2**40,
        fire_time_ms=1_700_000_000_500,
        last_success_ms=1_700_000_000_000,
        callback=Callback("http://api.test/c", "http://api.test/h", "tok"),
        url=stream.address("0/a%2Fb/c"),
    )
    ((entry, fields),) = stream.redis.xrange("a/b/c")
    assert outcome.body == entry
    assert (outcome.status, outcome.verdict) == (200, Verdict.ACCEPTED)
    facts = {
        b"run_id": b"r1",
        b"job_id": "jöb".encode(),
        b"fire_time": b"2023-11-14T22:13:20.500Z",
        b"attempt": b"3",
        b"fence": b"1099511627776",
        b"reason": b"scheduled",
        b"last_success": b"2023-11-14T22:13:20Z",
        b"callback_url": b"http://api.test/c",
        b"heartbeat_url": b"http://api.test/h",
        b"callback_token": b"tok",
    }
    assert fields == {b"payload": payload} | facts
    assert {name.encode(): value.encode() for name, value in outcome.sent_headers} == facts


async def test_an_entry_without_optional_facts_has_seven_fields(stream: Stream) -> None:
    await stream.outcome(callback=None)
    ((_, fields),) = stream.redis.xrange("jobs")
    names = ["payload", "run_id", "job_id", "fire_time", "attempt", "fence", "reason"]
    assert [name.decode() for name in fields] == names


async def test_a_stream_keeps_at_least_maxlen_entries_and_little_more(stream: Stream) -> None:
    stream.redis.config_set("stream-node-max-entries", 10)
    outcomes = [stream.start() for _ in range(250)]
    await until(lambda: all(outcomes))
    stream.redis.config_set("stream-node-max-entries", 100)
    assert 100 <= stream.redis.xlen("jobs") <= 110


async def test_attempts_share_a_connection_per_account_and_database(stream: Stream) -> None:
    outcomes = [stream.start() for _ in range(30)]
    await until(lambda: all(outcomes))
    assert stream.connections == 1
    assert (await stream.outcome(url=stream.address("0/other"))).verdict is Verdict.ACCEPTED
    assert stream.connections == 1
    assert (await stream.outcome(url=stream.address("1/jobs"))).verdict is Verdict.ACCEPTED
    assert stream.connections == 2
    assert stream.redis.xlen("jobs") == 30


async def test_a_lost_connection_fails_its_attempts_and_the_next_one_connects_again(stream: Stream) -> None:
    stream.answers(Answer.HANG)
    waiting = [stream.start() for _ in range(3)]
    await until(lambda: stream.received == 1)
    stream.redis.client_kill_filter(_type="normal", skipme=True)
    await until(lambda: all(waiting))
    assert {(one.kind, one.verdict) for (one,) in waiting} == {(OutcomeKind.CONNECTION, Verdict.RETRY)}
    assert waiting[0][0].message == "the Redis closed the connection before it confirmed the message"
    assert (await stream.outcome()).verdict is Verdict.ACCEPTED
    assert stream.connections == 2


async def test_a_silent_connection_is_left_by_further_attempts(stream: Stream) -> None:
    await stream.outcome()
    stream.answers(Answer.HANG)
    slow = stream.start(timeout_ms=60_000)
    await until(lambda: stream.received == 2)
    late = await stream.outcome(timeout_ms=60)
    assert late.kind is OutcomeKind.TIMEOUT
    assert late.message == "no complete answer within 60 ms: the Redis has not answered"
    assert (await stream.outcome()).verdict is Verdict.ACCEPTED
    assert stream.connections == 2
    assert slow == []  # it still waits on the first connection


async def test_wrong_accounts_keys_and_databases_are_final(stream: Stream) -> None:
    stream.redis.acl_setuser("poor", enabled=True, passwords=[f"+{SECRET}"], keys=["other"], categories=["+@all"])
    stream.redis.set("text", "x")
    expected = {
        f"redis+stream://runner:wrong@127.0.0.1:{stream.port}/0/jobs": (401, "refused the user or the password"),
        f"redis+stream://poor:{SECRET}@127.0.0.1:{stream.port}/0/jobs": (403, "may not run this command on this key"),
        stream.address("0/text"): (400, "the key holds another type of value (WRONGTYPE)"),
        stream.address("9999/jobs"): (404, "the Redis has no database 9999"),
    }
    for url, (status, text) in expected.items():
        outcome = await stream.outcome(url=url)
        assert (outcome.kind, outcome.verdict) == (OutcomeKind.RESPONSE, Verdict.REFUSED)
        assert outcome.status == status
        assert text in outcome.message
    stream.redis.acl_deluser("poor")


async def test_a_redis_without_memory_is_tried_again(stream: Stream) -> None:
    stream.redis.config_set("maxmemory", 1)
    outcome = await stream.outcome()
    assert (outcome.status, outcome.verdict) == (503, Verdict.RETRY)
    assert outcome.message == "the Redis has reached its maxmemory (OOM)"


async def test_a_job_may_retry_an_answer_that_is_final_otherwise(stream: Stream) -> None:
    stream.redis.set("jobs", "x")
    assert (await stream.outcome(retry_statuses=(400,))).verdict is Verdict.RETRY
    assert (await stream.outcome(retry_statuses=(404,))).verdict is Verdict.REFUSED


async def test_a_redis_that_cannot_be_reached_is_tried_again() -> None:
    deliverer = RedisStreamKind().open(environment())
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    call = make_call(url=f"redis+stream://127.0.0.1:{port}/0/jobs", timeout_ms=5000)
    outcome = await attempt(lambda done: deliverer.start(call, done, lambda: True))
    assert (outcome.kind, outcome.verdict) == (OutcomeKind.CONNECTION, Verdict.RETRY)
    assert outcome.message == f"cannot connect to 127.0.0.1 port {port}: connection refused"
    await deliverer.aclose()


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$9999999\r\n" + b"x" * 600_000])
async def test_a_server_that_is_no_redis_is_refused(greeting: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(greeting)
        await reader.read(-1)
        writer.close()

    deliverer = RedisStreamKind().open(environment())
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    call = make_call(url=f"redis+stream://127.0.0.1:{server.sockets[0].getsockname()[1]}/0/jobs", timeout_ms=20_000)
    outcome = await attempt(lambda done: deliverer.start(call, done, lambda: True))
    assert (outcome.kind, outcome.verdict) == (OutcomeKind.PROTOCOL, Verdict.REFUSED)
    await deliverer.aclose()
    server.close()
    await server.wait_closed()


async def test_the_guard_decides_about_brokers_too() -> None:
    refused = {
        "redis+stream://169.254.169.254/0/jobs": "the address 169.254.169.254 is refused: link-local",
        "redis+stream://127.0.0.1:7000/0/jobs": "the address 127.0.0.1 is refused by a rule of this server: it is "
        "the Redis of Cronpost",
    }
    guard = AddressGuard(own=[OwnEndpoint("0.0.0.0", 7000, "the Redis of Cronpost")])
    deliverer = RedisStreamKind().open(environment(guard))
    for url, message in refused.items():
        outcome = await attempt(partial(_start, deliverer, url))
        assert (outcome.kind, outcome.verdict, outcome.message) == (OutcomeKind.BLOCKED, Verdict.REFUSED, message)
    await deliverer.aclose()


def _start(deliverer: Deliverer, url: str, done: Done) -> Attempt:
    return deliverer.start(make_call(url=url, timeout_ms=20_000), done, lambda: True)


async def test_a_prepared_call_opens_the_connection(stream: Stream) -> None:
    stream.deliverer.prepare(stream.call())
    await until(lambda: stream.connections == 1)
    await asyncio.sleep(QUIET_SECONDS)
    assert stream.received == 0
    assert (await stream.outcome()).verdict is Verdict.ACCEPTED
    assert stream.connections == 1


async def test_an_idle_connection_is_closed(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_links, "IDLE_SECONDS", 0.02)
    await stream.outcome()
    links = stream.deliverer.links  # type: ignore[attr-defined]
    await until(lambda: len(links) == 0)
    monkeypatch.undo()
    assert (await stream.outcome()).verdict is Verdict.ACCEPTED
    assert stream.connections == 2


async def test_connections_are_bounded(stream: Stream) -> None:
    links = stream.deliverer.links  # type: ignore[attr-defined]
    links._most = 2
    for number in range(5):
        assert (await stream.outcome(url=stream.address(f"{number}/jobs"))).verdict is Verdict.ACCEPTED
        assert len(links) <= 2
    stream.answers(Answer.HANG, Answer.HANG)
    waiting = [stream.start(url=stream.address(f"{number}/jobs")) for number in (6, 7)]
    await until(lambda: stream.received == 7)
    outcome = await stream.outcome(url=stream.address("8/jobs"))
    assert outcome.message == "all 2 connections to brokers are in use"
    assert waiting == [[], []]


async def test_closing_the_deliverer_closes_its_connections(stream: Stream) -> None:
    await stream.outcome()
    links = stream.deliverer.links  # type: ignore[attr-defined]
    await stream.deliverer.aclose()
    await until(lambda: len(links) == 0)


async def test_a_payload_larger_than_the_socket_buffer_arrives_whole(stream: Stream) -> None:
    payload = json.dumps("x" * 3_000_000).encode()
    outcomes = [stream.start(payload=payload) for _ in range(3)]
    await until(lambda: all(outcomes))
    assert [fields[b"payload"] for _, fields in stream.redis.xrange("jobs")] == [payload] * 3
