"""The connection pool: reuse, release after cancellation, the maximum number of connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from scheduler_core.delivery.base import Outcome, OutcomeKind, always
from scheduler_core.delivery.http.connection import STALE_408_SECONDS, Connection
from scheduler_core.delivery.http.transport import REPEAT_WITHIN_SECONDS
from scheduler_core.model.call import Call
from tests.support.delivery import deliverer, open_descriptors, request
from tests.support.factories import make_call
from tests.support.runners import (
    Action,
    CloseConnection,
    Exchange,
    Runner,
    after,
    answer,
    answer_then_speak_unasked,
    hang,
    head,
    raw,
    reset_now,
)
from tests.support.stores import until


async def until_pool_is_empty(runner: Runner) -> None:
    await runner.wait_until(lambda runner: runner.open_connections == 0)


async def until_descriptors(most: int) -> None:
    """Wait until at most ``most`` descriptors are open. Nothing signals a close, so check repeatedly."""
    async with asyncio.timeout(10):
        while open_descriptors() > most:  # noqa: ASYNC110 - the operating system sets no event
            await asyncio.sleep(0.01)


async def test_one_connection_serves_requests_that_follow_each_other() -> None:
    async with Runner() as runner, deliverer() as http:
        for _ in range(10):
            assert (await http.deliver(request(runner.url()))).status == 200
    assert (runner.connections, len(runner.received)) == (1, 10)


async def test_runners_do_not_share_connections() -> None:
    async with Runner() as one, Runner() as other, deliverer() as http:
        for _ in range(3):
            await http.deliver(request(one.url()))
            await http.deliver(request(other.url()))
    assert (one.connections, other.connections) == (1, 1)
    assert (len(one.received), len(other.received)) == (3, 3)


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with Runner() as runner, deliverer(transport_options={"keepalive_seconds": 0.05}) as http:
        await http.deliver(request(runner.url()))
        await until_pool_is_empty(runner)
        await http.deliver(request(runner.url()))
    assert runner.connections == 2


async def test_a_connection_that_the_runner_closed_while_idle_is_not_used_again() -> None:
    async with Runner(raw(head(headers=[("Content-Length", "0")]), close=True)) as runner, deliverer() as http:
        await http.deliver(request(runner.url()))
        await until_pool_is_empty(runner)
        assert (await http.deliver(request(runner.url()))).status == 200
    assert len(runner.received) == 2


async def _close(exchange: Exchange) -> None:
    raise CloseConnection


async def _reset(exchange: Exchange) -> None:
    reset_now(exchange.writer)
    raise CloseConnection


PATIENT = {"repeat_within_seconds": 60}
"""On a crowded machine it can take longer than the usual few milliseconds until a close is seen."""


@pytest.mark.parametrize("goodbye", [_close, _reset])
@pytest.mark.parametrize(("method", "headers"), [("POST", {"Idempotency-Key": "run-1"}), ("GET", {})])
async def test_a_used_connection_that_ends_without_a_byte_of_answer_is_replaced_once(
    goodbye: Action, method: str, headers: dict[str, str]
) -> None:
    """What a runner does that closes an idle connection at the moment at which the next request is sent."""
    async with Runner(answer(), goodbye, answer(202)) as runner, deliverer(transport_options=PATIENT) as http:
        await http.deliver(request(runner.url()))
        outcome = await http.deliver(request(runner.url(), method=method, headers=headers))
    assert outcome.status == 202
    assert [received.connection for received in runner.received] == [1, 1, 2]
    assert runner.received[1].body == runner.received[2].body


async def test_the_replacement_of_a_used_connection_is_not_replaced_again() -> None:
    async with Runner(answer(), _close, _close, answer()) as runner, deliverer(transport_options=PATIENT) as http:
        await http.deliver(request(runner.url()))
        outcome = await http.deliver(request(runner.url()))
    assert outcome.kind is OutcomeKind.CONNECTION
    assert len(runner.received) == 3


async def test_every_idle_connection_may_be_stale_and_still_one_replacement_does() -> None:
    gate = asyncio.Event()
    script = [after(gate, answer())] * 5
    async with Runner(*script, _close, answer(202)) as runner, deliverer(transport_options=PATIENT) as http:
        tasks = [asyncio.create_task(http.deliver(request(runner.url()))) for _ in range(5)]
        await runner.wait_until(lambda runner: len(runner.received) == 5)
        gate.set()
        await asyncio.gather(*tasks)
        assert (await http.deliver(request(runner.url()))).status == 202
    assert runner.received[-1].connection == 6


async def test_a_post_that_may_not_be_repeated_is_not() -> None:
    async with Runner(answer(), _close) as runner, deliverer(transport_options=PATIENT) as http:
        await http.deliver(request(runner.url()))
        outcome = await http.deliver(request(runner.url(), headers={"Content-Type": "text/plain"}))
    assert outcome.kind is OutcomeKind.CONNECTION
    assert len(runner.received) == 2


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
async def test_a_request_is_not_repeated_once_a_byte_of_an_answer_came(begun: bytes) -> None:
    async with Runner(answer(), raw(begun, close=True)) as runner, deliverer() as http:
        await http.deliver(request(runner.url()))
        outcome = await http.deliver(request(runner.url()))
    assert outcome.kind is OutcomeKind.CONNECTION
    assert len(runner.received) == 2


async def test_the_replacement_has_only_the_time_that_is_left() -> None:
    async def late_close(exchange: Exchange) -> None:
        await asyncio.sleep(0.1)
        raise CloseConnection

    async with Runner(answer(), late_close, hang()) as runner, deliverer(transport_options=PATIENT) as http:
        await http.deliver(request(runner.url()))
        outcome = await http.deliver(request(runner.url(), timeout_ms=200))
    assert outcome.kind is OutcomeKind.TIMEOUT
    assert 199 <= outcome.latency_ms < 2000


@pytest.mark.parametrize("goodbye", [_close, _reset])
async def test_a_request_that_the_target_took_and_worked_on_is_not_sent_again(goodbye: Action) -> None:
    """The server closes the connection too late for a close that crossed the request on its way."""
    allowed_to_end = asyncio.Event()

    async def work_then_close(exchange: Exchange) -> None:
        await allowed_to_end.wait()
        await goodbye(exchange)

    async with Runner(answer(), work_then_close) as runner, deliverer() as http:
        await http.deliver(request(runner.url()))
        sent = asyncio.create_task(http.deliver(request(runner.url())))
        await runner.wait_until(lambda runner: len(runner.received) == 2)
        loop = asyncio.get_running_loop()
        loop.call_later(10 * REPEAT_WITHIN_SECONDS, allowed_to_end.set)
        assert (await sent).kind is OutcomeKind.CONNECTION
        assert (await http.deliver(request(runner.url()))).status == 200
    assert len(runner.received) == 3


@pytest.mark.parametrize("body", [b"{}", b"x" * 200_000])
@pytest.mark.parametrize("goodbye", [_close, _reset])
async def test_the_last_request_that_a_policy_allows_is_not_sent_again(goodbye: Action, body: bytes) -> None:
    async with Runner(answer(), goodbye, answer(202)) as runner, deliverer(transport_options=PATIENT) as http:
        await http.deliver(request(runner.url()))
        outcome = await http.deliver(request(runner.url(), body=body, repeatable=False))
    assert outcome.kind is OutcomeKind.CONNECTION
    assert len(runner.received) == 2


class Idle:
    """A server that answers one request on each connection and then hands the connection to the test.

    It works in threads: what it sends is in the client's kernel when the call returns, and the client's event loop
    has not seen it.
    """

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/"
        self.requests = 0
        self.idle: queue.Queue[socket.socket] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                connection.settimeout(10)
                text = b""
                while not text.endswith(b"}"):
                    text += connection.recv(65536)
                self.requests += 1
                connection.sendall(head(200, [("Content-Length", "0")]))
                self.idle.put(connection)

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self._thread.join(10)
        while not self.idle.empty():
            self.idle.get().close()


@pytest.fixture
def idle() -> Iterator[Idle]:
    server = Idle()
    yield server
    server.close()


FAREWELL = head(408, [("Content-Length", "0"), ("Connection", "close")])


def _say_408(connection: socket.socket) -> None:
    connection.sendall(FAREWELL)


def _shut(connection: socket.socket) -> None:
    connection.close()


def _abort(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("farewell", [_say_408, _shut, _abort])
async def test_a_farewell_that_is_there_before_the_request_is_not_its_answer(
    idle: Idle, farewell: Callable[[socket.socket], None], repeatable: bool
) -> None:
    """Also for a request that may be sent only once: not a byte of it went to the old connection."""
    async with deliverer() as http:
        for _ in range(100):
            assert (await http.deliver(request(idle.url))).status == 200
            connection = await asyncio.to_thread(idle.idle.get)
            farewell(connection)  # and the event loop does not turn before the next request is sent
            assert (await http.deliver(request(idle.url, repeatable=repeatable))).status == 200
            idle.idle.get().close()
            connection.close()
            await until(lambda: not http._pool or not http._pool._idle)
    assert idle.requests == 200


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("at_the_end_of_the_turn", [False, True])
async def test_a_408_that_crosses_the_request_on_its_way_is_not_its_answer(
    idle: Idle, repeatable: bool, at_the_end_of_the_turn: bool
) -> None:
    loop = asyncio.get_running_loop()
    async with deliverer(transport_options=PATIENT) as http:
        for _ in range(100):
            assert (await http.deliver(request(idle.url))).status == 200
            connection = await asyncio.to_thread(idle.idle.get)
            outcomes: list[Outcome] = []
            http.send(request(idle.url, repeatable=repeatable), outcomes.append, always)
            if at_the_end_of_the_turn:
                loop.call_soon(_say_408, connection)
            else:
                _say_408(connection)
            await until(lambda: bool(outcomes))  # noqa: B023 - called in this turn of the loop
            if repeatable:
                assert outcomes[0].status == 200
                idle.idle.get().close()
            else:
                assert (outcomes[0].kind, outcomes[0].status) == (OutcomeKind.CONNECTION, None)
            connection.close()
            await until(lambda: not http._pool or not http._pool._idle)


async def test_a_408_after_a_wait_is_an_answer(idle: Idle) -> None:
    async with deliverer() as http:
        await http.deliver(request(idle.url))
        connection = await asyncio.to_thread(idle.idle.get)
        sent = asyncio.create_task(http.deliver(request(idle.url)))
        await asyncio.to_thread(connection.recv, 65536)
        asyncio.get_running_loop().call_later(STALE_408_SECONDS + 0.05, _say_408, connection)
        assert (await sent).status == 408
        connection.close()


@pytest.mark.parametrize("close", [False, True])
async def test_an_unsolicited_answer_is_not_taken_for_the_next_request(close: bool) -> None:
    """Some servers send a 408 before they close an idle connection."""
    unasked = head(408, [("Content-Length", "0")])
    async with Runner(answer_then_speak_unasked(unasked, close=close)) as runner, deliverer() as http:
        assert (await http.deliver(request(runner.url()))).status == 200
        await until_pool_is_empty(runner)
        assert (await http.deliver(request(runner.url()))).status == 200
    assert len(runner.received) == 2


@pytest.mark.parametrize("extra", [b"x", head(500, [("Content-Length", "0")]), b"\r\n\r\nHTTP/1.1"])
async def test_bytes_behind_an_answer_end_its_connection(extra: bytes) -> None:
    async with Runner(raw(head(headers=[("Content-Length", "2")]) + b"ok" + extra)) as runner, deliverer() as http:
        first = await http.deliver(request(runner.url()))
        assert (first.status, first.body) == (200, b"ok")
        assert (await http.deliver(request(runner.url()))).status == 200
    assert [received.connection for received in runner.received] == [1, 2]


async def test_a_cancelled_request_closes_its_connection_and_no_other() -> None:
    gate = asyncio.Event()
    async with Runner(hang(), after(gate, answer(202))) as runner, deliverer() as http:
        doomed = asyncio.create_task(http.deliver(request(runner.url())))
        await runner.wait_until(lambda runner: len(runner.received) == 1)
        other = asyncio.create_task(http.deliver(request(runner.url())))
        await runner.wait_until(lambda runner: len(runner.received) == 2)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        await runner.wait_until(lambda runner: runner.open_connections == 1)
        gate.set()
        assert (await other).status == 202


async def test_open_connections_never_exceed_the_limit_idle_ones_included() -> None:
    most = 0

    async def count(exchange: Exchange) -> None:
        nonlocal most
        most = max(most, one.open_connections + other.open_connections)
        await answer()(exchange)

    one, other = Runner(otherwise=count), Runner(otherwise=count)
    async with one, other, deliverer(max_connections=5) as http:
        for runner in (one, other, one, other):
            outcomes = await asyncio.gather(*(http.deliver(request(runner.url())) for _ in range(20)))
            assert {outcome.status for outcome in outcomes} == {200}
        await one.wait_until(lambda _: one.open_connections + other.open_connections <= 5)
    # The server may learn a moment later than the client that a connection was closed.
    assert most <= 10


@pytest.mark.slow
@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_thousands_of_abandoned_requests_leave_nothing_behind(how: str) -> None:
    """What leaves httpcore's pool unusable: deadlines of 0 to 20 ms, here on fewer connections than requests."""
    choose = random.Random(7)
    slow = [answer(delay=0.01), answer(), hang(), answer(200, b"x" * 50_000, delay=0.005)]

    async def unsteady(exchange: Exchange) -> None:
        await choose.choice(slow)(exchange)

    async with Runner(otherwise=unsteady) as runner, Runner() as healthy, deliverer(max_connections=20) as http:
        assert (await http.deliver(request(healthy.url()))).status == 200
        before = open_descriptors()

        async def fire() -> Outcome | None:
            milliseconds = choose.randrange(21)
            if how == "deadline":
                return await http.deliver(request(runner.url(), timeout_ms=milliseconds))
            try:
                async with asyncio.timeout(milliseconds / 1000):
                    return await http.deliver(request(runner.url()))
            except TimeoutError:
                return None

        for _ in range(30):
            outcomes = await asyncio.gather(*(fire() for _ in range(100)))
            kinds = {outcome.kind for outcome in outcomes if outcome is not None}
            assert kinds <= {OutcomeKind.RESPONSE, OutcomeKind.TIMEOUT}
        results = await asyncio.gather(*(http.deliver(request(healthy.url())) for _ in range(40)))
        assert {result.status for result in results} == {200}
        # Only the healthy runner's connections are left: what was abandoned is closed, on both sides.
        await until_pool_is_empty(runner)
        await until_descriptors(before + 2 * 20)


@contextmanager
def without_collector() -> Iterator[None]:
    """Objects in a reference cycle stay alive while the collector is off."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def connections_in_memory() -> int:
    return sum(isinstance(one, Connection) for one in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["silent", "in the middle of its answer"])
async def test_attempts_that_timed_out_are_freed_without_the_collector(how: str) -> None:
    """A connection and its parser hold each other. Left so, ten timeouts a second grow a node by half a megabyte a
    minute until Python looks for circles among old objects, which it rarely does."""
    begun = raw(head(headers=[("Content-Length", "10")]) + b"12345")

    async def stop_short(exchange: Exchange) -> None:
        await begun(exchange)
        await exchange.reader.read()
        raise CloseConnection

    runner_does = hang() if how == "silent" else stop_short
    async with Runner(otherwise=runner_does) as runner, deliverer(max_connections=20) as http:
        with without_collector():
            before = connections_in_memory()
            for _ in range(3):
                outcomes = await asyncio.gather(
                    *(http.deliver(request(runner.url(), timeout_ms=40)) for _ in range(10))
                )
                assert {outcome.kind for outcome in outcomes} == {OutcomeKind.TIMEOUT}
                del outcomes
            assert runner.connections == 30
            await until_pool_is_empty(runner)
            await until(lambda: connections_in_memory() <= before)


async def test_an_abandoned_tls_handshake_leaves_nothing_behind() -> None:
    async def read_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        raise CloseConnection

    async with Runner(on_connect=read_on) as runner, deliverer(max_connections=5) as http:
        url = runner.url().replace("http:", "https:")
        await http.deliver(request(url, timeout_ms=500))
        before = open_descriptors()
        for _ in range(5):
            outcomes = await asyncio.gather(*(http.deliver(request(url, timeout_ms=30)) for _ in range(10)))
            assert {outcome.kind for outcome in outcomes} == {OutcomeKind.TIMEOUT}
        await until_pool_is_empty(runner)
        await until_descriptors(before)


# ---- connections that are opened ahead of the request ---------------------------------------------------------------


def a_call(runner: Runner) -> Call:
    return make_call(url=runner.url())


async def test_a_prepared_call_finds_an_open_connection() -> None:
    async with Runner() as runner, deliverer() as http:
        calls = [http.prepare(a_call(runner)) for _ in range(3)]
        await until(lambda: runner.open_connections == 3)
        assert not runner.received
        outcomes: list[Outcome] = []
        for call in calls:
            http.start(call, outcomes.append, always)
        await until(lambda: len(outcomes) == 3)
        assert [one.status for one in outcomes] == [200] * 3
        http.prepare(a_call(runner))
        await asyncio.sleep(0.05)
    assert runner.connections == 3, "three are idle again"


async def test_connections_that_are_opened_ahead_stay_within_the_limit_and_expire() -> None:
    async with Runner() as runner, deliverer(max_connections=2, transport_options={"keepalive_seconds": 0.05}) as http:
        for _ in range(10):
            http.prepare(a_call(runner))
        await until(lambda: runner.connections == 2)
        await until_pool_is_empty(runner)
    assert runner.connections == 2


async def test_a_connection_that_cannot_be_opened_ahead_is_the_failure_of_its_request() -> None:
    with contextlib.closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        async with deliverer() as http:
            call = http.prepare(make_call(url=url))
            await asyncio.sleep(0.05)
            outcomes: list[Outcome] = []
            http.start(call, outcomes.append, always)
            await until(lambda: bool(outcomes))
    assert outcomes[0].kind is OutcomeKind.CONNECTION


async def test_connections_that_are_being_opened_end_with_the_deliverer() -> None:
    async with Runner() as runner:
        async with deliverer() as http:
            await http.deliver(request(runner.url()))
        await until_pool_is_empty(runner)
        before = open_descriptors()
        async with deliverer() as http:
            for _ in range(20):
                http.prepare(a_call(runner))
        await until_pool_is_empty(runner)
        await until_descriptors(before)
