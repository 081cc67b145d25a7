"""AMQP brokers as targets, against a real RabbitMQ: the protocol, the messages, and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from scheduler_core.delivery.amqp.kind import AmqpKind
from scheduler_core.delivery.base import Outcome, OutcomeKind, TargetKind, Verdict, attempt
from scheduler_core.delivery.celery.kind import CeleryAmqpKind
from scheduler_core.model.call import Callback
from tests.delivery.conformance import PROOFS, SECRET, Answer, Proof
from tests.support.brokers import BrokerSubject, environment, publications
from tests.support.factories import make_call
from tests.support.processes import eventually, freeze
from tests.support.rabbitmq import PASSWORD, USER, RabbitMq
from tests.support.stores import until

assert PASSWORD == SECRET
_numbers = count()


class Amqp(BrokerSubject):
    """The kind of AMQP. Messages go through an exchange to the queue ``good``, or to one that is full."""

    bad_url = f"amqp://{USER}:{SECRET}@broker.test/vhost"
    split = staticmethod(publications)

    def __init__(self, rabbitmq: RabbitMq, channel: Any, kind: TargetKind | None = None) -> None:
        super().__init__(kind or AmqpKind(), lambda: asyncio.open_connection("127.0.0.1", rabbitmq.port))
        self.channel = channel
        name = f"test{next(_numbers)}"
        self.exchange, self.good, self.full = f"{name}.exchange", f"{name}.good", f"{name}.full"

    def declare(self) -> None:
        self.channel.exchange_declare(self.exchange, "direct", auto_delete=False)
        self.channel.queue_declare(self.good, auto_delete=False)
        self.channel.queue_bind(self.good, self.exchange, "key")
        full = {"x-max-length": 0, "x-overflow": "reject-publish"}
        self.channel.queue_declare(self.full, auto_delete=False, arguments=full)

    def clean_up(self) -> None:
        self.channel.exchange_delete(self.exchange)
        for queue in (self.good, self.full):
            self.channel.queue_delete(queue)

    def address(self, path: str) -> str:
        return f"amqp://{USER}:{SECRET}@127.0.0.1:{self.port}/{path}"

    def impossible(self) -> dict[str, Any]:
        return {"url": self.bad_url}

    @asynccontextmanager
    async def arranged(self, answer: Answer) -> AsyncIterator[None]:
        self.channel.queue_unbind(self.good, self.exchange, "key")
        if answer is Answer.RETRY:
            self.channel.queue_bind(self.full, self.exchange, "key")
        yield
        if answer is Answer.RETRY:
            self.channel.queue_unbind(self.full, self.exchange, "key")
        self.channel.queue_bind(self.good, self.exchange, "key")

    def message(self) -> Any:
        """Take the next message out of the queue."""
        return self.channel.basic_get(self.good, no_ack=True)

    def messages(self) -> int:
        return int(self.channel.queue_declare(self.good, passive=True).message_count)


class Celery(Amqp):
    """The kind of Celery over AMQP. The default exchange cannot be unbound, so its queue is replaced instead."""

    bad_url = f"celery+amqp://{USER}:{SECRET}@broker.test/vhost"

    def __init__(self, rabbitmq: RabbitMq, channel: Any) -> None:
        super().__init__(rabbitmq, channel, CeleryAmqpKind())

    def call(self, **fields: Any) -> Any:
        return super().call(**({"payload": b'["%s"]' % SECRET.encode()} | fields))

    def impossible(self) -> dict[str, Any]:
        return {"payload": b'"%s"' % SECRET.encode()}

    @asynccontextmanager
    async def arranged(self, answer: Answer) -> AsyncIterator[None]:
        self.channel.queue_delete(self.good)
        if answer is Answer.RETRY:
            full = {"x-max-length": 0, "x-overflow": "reject-publish"}
            self.channel.queue_declare(self.good, auto_delete=False, arguments=full)
        yield
        if answer is Answer.RETRY:
            self.channel.queue_delete(self.good)
        self.channel.queue_declare(self.good, auto_delete=False)


@pytest.fixture
async def subject(rabbitmq: RabbitMq, channel: Any) -> AsyncIterator[Amqp]:
    async with Amqp(rabbitmq, channel) as made:
        made.declare()
        made.url = made.address(f"%2F/{made.exchange}/key")
        yield made
    made.clean_up()


@pytest.fixture
async def celery(rabbitmq: RabbitMq, channel: Any) -> AsyncIterator[Celery]:
    async with Celery(rabbitmq, channel) as made:
        made.declare()
        made.url = f"celery+amqp://{USER}:{SECRET}@127.0.0.1:{made.port}?task=app.report&queue={made.good}"
        yield made
    made.clean_up()


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
async def test_amqp_keeps_the_protocol(subject: Amqp, proof: Proof) -> None:
    await proof(subject)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
async def test_celery_over_amqp_keeps_the_protocol(celery: Celery, proof: Proof) -> None:
    await proof(celery)


async def test_a_message_is_persistent_and_has_the_facts_of_the_run(subject: Amqp) -> None:
    payload = b'{"a" : 1.0}'
    outcome = await subject.outcome(
        payload=payload,
        run_id="r1",
        job_id="jöb",
        attempt=3,
        fence=2**40,
        fire_time_ms=1_700_000_000_500,
        callback=Callback("http://api.test/c", "http://api.test/h", "tok"),
    )
    assert (outcome.status, outcome.verdict) == (200, Verdict.ACCEPTED)
    message = subject.message()
    body = message.body if isinstance(message.body, bytes) else message.body.encode()
    assert body == payload
    assert message.properties["message_id"] == "r1"
    assert message.properties["delivery_mode"] == 2
    assert message.properties["content_type"] == "application/json"
    assert message.properties["application_headers"] == {
        "run_id": "r1",
        "job_id": "jöb",
        "fire_time": "2023-11-14T22:13:20.500Z",
        "attempt": 3,
        "fence": 2**40,
        "reason": "scheduled",
        "callback_url": "http://api.test/c",
        "heartbeat_url": "http://api.test/h",
        "callback_token": "tok",
    }


async def test_the_default_exchange_leads_to_a_queue_by_its_name(subject: Amqp) -> None:
    assert (await subject.outcome(url=subject.address(f"%2F//{subject.good}"))).verdict is Verdict.ACCEPTED
    assert subject.messages() == 1


async def test_a_payload_longer_than_a_frame_arrives_whole(subject: Amqp) -> None:
    payload = b'"' + b"x" * 1_000_000 + b'"'
    outcomes = [subject.start(payload=payload) for _ in range(3)]
    await until(lambda: all(outcomes))
    assert [len(subject.message().body) for _ in range(3)] == [len(payload)] * 3


async def test_an_empty_payload_arrives(subject: Amqp) -> None:
    assert (await subject.outcome(payload=b"")).verdict is Verdict.ACCEPTED
    assert not subject.message().body


async def test_a_message_that_no_queue_gets_is_refused(subject: Amqp) -> None:
    outcomes = [subject.start(url=subject.address(f"%2F/{subject.exchange}/nobody"), fence=one) for one in range(5)]
    outcomes += [subject.start(fence=one) for one in range(5)]
    await until(lambda: all(outcomes))
    for (outcome,) in outcomes[:5]:
        assert (outcome.kind, outcome.status, outcome.verdict) == (OutcomeKind.RESPONSE, 404, Verdict.REFUSED)
        assert outcome.message == (f"the exchange '{subject.exchange}' routes the key 'nobody' to no queue (NO_ROUTE)")
    assert {outcome.verdict for (outcome,) in outcomes[5:]} == {Verdict.ACCEPTED}
    outcome = await subject.outcome(url=subject.address("%2F//nobody"))
    assert outcome.message == "the default exchange routes the key 'nobody' to no queue (NO_ROUTE)"


async def test_of_two_attempts_of_a_run_only_the_returned_one_is_refused(subject: Amqp) -> None:
    """Both have the same message id and wait at the same time."""
    subject.channel.queue_unbind(subject.good, subject.exchange, "key")
    first = subject.start(run_id="r", attempt=1, fence=1)
    await until(lambda: bool(first))
    subject.channel.queue_bind(subject.good, subject.exchange, "key")
    second = await subject.outcome(run_id="r", attempt=2, fence=2)
    assert [first[0].verdict, second.verdict] == [Verdict.REFUSED, Verdict.ACCEPTED]


async def test_a_missing_exchange_fails_only_the_messages_to_it(subject: Amqp) -> None:
    urls = [subject.url, subject.address("%2F/nowhere/key")] * 5
    outcomes = [subject.start(url=url) for url in urls]
    await until(lambda: all(outcomes))
    assert [one.verdict for (one,) in outcomes] == [Verdict.ACCEPTED, Verdict.REFUSED] * 5
    assert subject.connections == 1
    missing = outcomes[1][0]
    assert missing.status == 404
    assert missing.message == ("the broker refused the message (404 NOT_FOUND - no exchange 'nowhere' in vhost '/')")


async def test_a_full_queue_is_tried_again(subject: Amqp) -> None:
    outcome = await subject.outcome(url=subject.address(f"%2F//{subject.full}"))
    assert (outcome.kind, outcome.status, outcome.verdict) == (OutcomeKind.RESPONSE, 503, Verdict.RETRY)
    assert outcome.message == "the broker refused the message (nack): a queue may be full"


async def test_wrong_accounts_and_vhosts_are_final(subject: Amqp) -> None:
    host = f"127.0.0.1:{subject.port}/%2F/{subject.exchange}/key"
    expected = {
        f"amqp://{USER}:wrong@{host}": (401, "the broker refused the user or the password"),
        f"amqp://{host}": (401, "the broker refused the user or the password"),
        subject.address(f"other/{subject.exchange}/key"): (403, "the broker refused the vhost"),
    }
    for url, (status, text) in expected.items():
        outcome = await subject.outcome(url=url)
        assert (outcome.kind, outcome.status, outcome.verdict) == (OutcomeKind.RESPONSE, status, Verdict.REFUSED)
        assert outcome.message.startswith(text)


async def test_a_slow_confirm_ends_at_the_deadline_and_the_next_attempt_uses_another_connection(
    subject: Amqp,
) -> None:
    await subject.outcome()
    subject.answers(Answer.HANG)
    outcome = await subject.outcome(timeout_ms=80)
    assert (outcome.kind, outcome.verdict) == (OutcomeKind.TIMEOUT, Verdict.RETRY)
    assert outcome.message == "no complete answer within 80 ms: the broker has not confirmed the message"
    assert (await subject.outcome()).verdict is Verdict.ACCEPTED
    assert subject.connections == 2


async def test_more_places_than_channels_are_reached_one_after_the_other(subject: Amqp) -> None:
    for number in range(200):
        outcome = await subject.outcome(url=subject.address(f"%2F/{subject.exchange}/key{number}"))
        assert outcome.status == 404
    assert subject.connections == 1


async def test_a_server_that_is_no_broker_is_refused() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(greetings.pop(0))
        await reader.read(-1)
        writer.close()

    greetings = [b"AMQP\x00\x01\x00\x00", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01\x00\x00\x00\x00\x00\x04abcd\xce"]
    deliverer = AmqpKind().open(environment())
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    call = make_call(url=f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/%2F//q", timeout_ms=20_000)
    while greetings:
        outcome = await attempt(lambda done: deliverer.start(call, done, lambda: True))
        assert (outcome.kind, outcome.verdict) == (OutcomeKind.PROTOCOL, Verdict.REFUSED)
    await deliverer.aclose()
    server.close()
    await server.wait_closed()


async def test_a_broker_that_accepts_no_messages_for_now_is_waited_for(subject: Amqp) -> None:
    assert (await subject.outcome()).verdict is Verdict.ACCEPTED
    links = subject.deliverer.links  # type: ignore[attr-defined]
    (link,) = links._links.values()
    link.is_blocked = True  # what connection.blocked does
    link.pause_writing()
    late = await subject.outcome(timeout_ms=80)
    assert late.message == "no complete answer within 80 ms: the broker does not accept messages at the moment"
    waiting = subject.start()
    await asyncio.sleep(0.05)
    assert waiting == []
    assert subject.received == 1
    link.is_blocked = False
    link.resume_writing()
    await until(lambda: bool(waiting))
    assert waiting[0].verdict is Verdict.ACCEPTED
    assert subject.connections == 1


async def test_attempts_in_flight_fail_when_the_broker_is_killed(rabbitmq: RabbitMq, channel: Any) -> None:
    queue = "killed"
    channel.queue_declare(queue, auto_delete=False)
    deliverer = AmqpKind().open(environment())
    url = rabbitmq.url(f"%2F//{queue}")
    call = make_call(url=url, timeout_ms=20_000)
    assert (await attempt(lambda done: deliverer.start(call, done, lambda: True))).verdict is Verdict.ACCEPTED
    freeze(rabbitmq.broker_pid)  # so that none of the messages is confirmed before the kill
    outcomes: list[Outcome] = []
    for number in range(20):
        deliverer.start(make_call(url=url, timeout_ms=20_000, run_id=f"r{number}"), outcomes.append, lambda: True)
    await asyncio.sleep(0.05)
    os.kill(rabbitmq.broker_pid, signal.SIGKILL)
    await until(lambda: len(outcomes) == 20)
    assert {(one.kind, one.verdict) for one in outcomes} == {(OutcomeKind.CONNECTION, Verdict.RETRY)}
    assert {one.message for one in outcomes} == {"the broker closed the connection before it confirmed the message"}
    messages: list[str] = []

    async def is_refused() -> bool:
        after = await attempt(lambda done: deliverer.start(call, done, lambda: True))
        assert (after.kind, after.verdict) == (OutcomeKind.CONNECTION, Verdict.RETRY)
        messages.append(after.message)
        return "connection refused" in after.message

    await eventually(is_refused)
    assert messages[-1] == f"cannot connect to 127.0.0.1 port {rabbitmq.port}: connection refused"
    await deliverer.aclose()
