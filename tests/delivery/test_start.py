"""Attempts without a task: they begin at once, end with one outcome, never within the call, and can be cancelled."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from scheduler_core.delivery.base import (
    NOT_SENT,
    Attempt,
    Call,
    CoroutineDeliverer,
    Deliverer,
    Done,
    MaySend,
    Outcome,
    OutcomeKind,
    always,
    start_all_of,
)
from scheduler_core.delivery.http.client import HttpClient
from scheduler_core.delivery.http.connection import Connection
from scheduler_core.delivery.http.deadlines import KEPT_GROUPS, Deadlines
from scheduler_core.delivery.registry import DelivererByScheme
from tests.support.delivery import deliverer, request
from tests.support.factories import make_call
from tests.support.runners import Runner, answer, hang
from tests.support.stores import until


async def warm(http: HttpClient, runner: Runner) -> None:
    """Leave one idle connection to the runner."""
    assert (await http.deliver(request(runner.url()))).status == 200


@pytest.mark.parametrize("used", [False, True])
async def test_done_is_called_once_and_not_from_within_send(used: bool) -> None:
    async with Runner() as runner, deliverer() as http:
        if used:
            await warm(http, runner)
        outcomes: list[Outcome] = []
        http.send(request(runner.url()), outcomes.append, always)
        assert outcomes == []
        await until(lambda: bool(outcomes))
        await asyncio.sleep(0.02)
        assert [outcome.status for outcome in outcomes] == [200]
    assert runner.connections == 1


@pytest.mark.parametrize("used", [False, True])
async def test_a_cancelled_attempt_is_silent_and_frees_its_slot(used: bool) -> None:
    async with Runner(*[answer()] * used, hang()) as runner, deliverer(max_connections=1) as http:
        if used:
            await warm(http, runner)
        outcomes: list[Outcome] = []
        attempt = http.send(request(runner.url(), timeout_ms=100), outcomes.append, always)
        await runner.wait_until(lambda runner: len(runner.received) == 1 + used)
        attempt.cancel()
        assert (await http.deliver(request(runner.url()))).status == 200  # the only place is free again
        await asyncio.sleep(0.15)
        assert outcomes == []


@pytest.mark.parametrize("used", [False, True])
async def test_cancelling_an_attempt_that_has_just_ended_affects_no_other(used: bool) -> None:
    async with Runner() as runner, deliverer(max_connections=1) as http:
        if used:
            await warm(http, runner)
        outcomes: list[Outcome] = []

        def ended(outcome: Outcome) -> None:
            outcomes.append(outcome)
            http.send(request(runner.url()), outcomes.append, always)  # on the connection that was just released
            attempt.cancel()
            attempt.cancel()

        attempt = http.send(request(runner.url()), ended, always)
        await until(lambda: len(outcomes) == 2)
        assert [outcome.status for outcome in outcomes] == [200, 200]
        outcomes = await asyncio.gather(*(http.deliver(request(runner.url())) for _ in range(3)))
        assert [outcome.status for outcome in outcomes] == [200, 200, 200]
    assert runner.connections == 1


async def test_a_request_that_cannot_be_written_is_an_outcome_too() -> None:
    async with Runner() as runner, deliverer() as http:
        await warm(http, runner)
        outcomes: list[Outcome] = []
        http.send(request(runner.url(), headers={"X-A": "a\r\nX-B: b"}), outcomes.append, always)
        await until(lambda: bool(outcomes))
        assert outcomes[0].kind is OutcomeKind.INTERNAL
    assert len(runner.received) == 1


async def test_an_answer_above_the_read_limit_ends_the_attempt_and_its_connection() -> None:
    async with Runner(answer(), answer(body=b"x" * 5000)) as runner, deliverer(read_limit_bytes=1000) as http:
        await warm(http, runner)
        outcome = await http.deliver(request(runner.url()))
        assert (outcome.status, outcome.truncated, outcome.body_bytes, len(outcome.body)) == (200, True, 1000, 1000)


async def test_a_request_that_waited_for_a_connection_is_sent_only_with_a_lease() -> None:
    async with Runner() as runner, deliverer(max_connections=2) as http:
        outcomes: list[Outcome] = []
        http.send(request(runner.url()), outcomes.append, lambda: False)
        await until(lambda: bool(outcomes))
        assert outcomes == [NOT_SENT]
        assert outcomes[0].kind is OutcomeKind.NOT_SENT
        await runner.wait_until(lambda runner: runner.open_connections == 0)
        assert runner.received == []
        for _ in range(3):  # its place is free again
            assert (await http.deliver(request(runner.url()))).status == 200


@pytest.mark.parametrize("body", [b"{}", b"x" * 200_000])
async def test_nothing_is_sent_on_an_idle_connection_without_a_lease(body: bytes) -> None:
    async with Runner() as runner, deliverer() as http:
        await warm(http, runner)
        outcomes: list[Outcome] = []
        http.send(request(runner.url(), body=body), outcomes.append, lambda: False)
        await until(lambda: bool(outcomes))
        assert outcomes[0].kind is OutcomeKind.NOT_SENT
    assert len(runner.received) == 1


async def test_a_coroutine_deliverer_sends_only_with_a_lease() -> None:
    calls: list[Call] = []

    class Coroutine(CoroutineDeliverer[None]):
        async def send(self, call: Call, _: None, /) -> Outcome:
            calls.append(call)
            return Outcome(OutcomeKind.RESPONSE, 1.0, status=200)

    outcomes: list[Outcome] = []
    lease_holds = True
    Coroutine().start(make_call(), outcomes.append, lambda: lease_holds)
    lease_holds = False  # frozen before the task had its turn
    await until(lambda: bool(outcomes))
    assert outcomes[0].kind is OutcomeKind.NOT_SENT
    assert calls == []


class Broken(CoroutineDeliverer[None]):
    """A deliverer that raises."""

    async def send(self, call: Call, _: None, /) -> Outcome:
        raise RuntimeError(call.method)


async def test_the_faults_of_a_coroutine_deliverer_become_outcomes() -> None:
    outcomes: list[Outcome] = []
    Broken().start(make_call(), outcomes.append, always)
    await until(lambda: bool(outcomes))
    assert outcomes[0].kind is OutcomeKind.INTERNAL
    assert outcomes[0].message.startswith("unexpected RuntimeError in send, line ")


class Cancelled(Broken):
    """A deliverer that waits for something that another part cancels."""

    async def send(self, call: Call, _: None, /) -> Outcome:
        raise asyncio.CancelledError


async def test_an_attempt_that_is_cancelled_from_within_has_an_outcome() -> None:
    outcomes: list[Outcome] = []
    Cancelled().start(make_call(), outcomes.append, always)
    await until(lambda: bool(outcomes))
    assert outcomes[0].kind is OutcomeKind.INTERNAL


class Expiring:
    def __init__(self, passed: list[str], name: str, *, broken: bool = False) -> None:
        self._passed = passed
        self._name = name
        self._broken = broken

    def expire(self) -> None:
        self._passed.append(self._name)
        if self._broken:
            raise RuntimeError("broken")


async def test_a_fault_in_one_deadline_does_not_stop_the_others() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[str] = []
    loop.set_exception_handler(lambda _, context: complaints.append(str(context["exception"])))
    passed: list[str] = []
    deadlines = Deadlines()
    ended, broken = Expiring(passed, "ended"), Expiring(passed, "broken", broken=True)
    for one in (ended, broken, Expiring(passed, "after it")):
        deadlines.add(one, 20)
    deadlines.add(Expiring(passed, "sooner"), 5)
    deadlines.remove(ended, 20)
    deadlines.remove(ended, 20)
    deadlines.remove(ended, 9999)
    await until(lambda: len(passed) == 3)
    assert passed == ["sooner", "broken", "after it"]
    assert complaints == ["broken"]
    # Nothing of a timeout is left once nobody has it, and it can come again.
    await until(lambda: not deadlines.timeouts)
    deadlines.add(Expiring(passed, "again"), 20)
    await until(lambda: passed[-1] == "again")


async def test_ten_thousand_different_timeouts_leave_few_timers_behind() -> None:
    passed: list[str] = []
    deadlines = Deadlines()
    attempts = [(Expiring(passed, str(timeout_ms)), timeout_ms) for timeout_ms in range(60_000, 70_000)]
    for one, timeout_ms in attempts:
        deadlines.add(one, timeout_ms)
    assert len(deadlines.timeouts) == 10_000
    for one, timeout_ms in attempts:
        deadlines.remove(one, timeout_ms)
    assert len(deadlines.timeouts) <= KEPT_GROUPS
    for one, timeout_ms in attempts:  # one after the other
        deadlines.add(one, timeout_ms)
        deadlines.remove(one, timeout_ms)
    assert len(deadlines.timeouts) <= KEPT_GROUPS
    assert passed == []


async def test_a_deadline_that_is_added_as_the_last_of_its_group_passes_is_kept() -> None:
    passed: list[str] = []
    deadlines = Deadlines()
    for timeout_ms in range(60_000, 60_000 + KEPT_GROUPS):
        deadlines.add(Expiring(passed, "never"), timeout_ms)

    class Again(Expiring):
        def expire(self) -> None:
            super().expire()
            deadlines.remove(self, 20)
            deadlines.add(Expiring(passed, "second"), 20)

    deadlines.add(Again(passed, "first"), 20)
    await until(lambda: passed == ["first", "second"])


async def test_no_deadline_passes_early() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    early: list[float] = []

    class Timed:
        def __init__(self) -> None:
            self.deadline = loop.time() + 0.03

        def expire(self) -> None:
            early.append(self.deadline - loop.time())

    for _ in range(20):
        deadlines.add(Timed(), 30)
        await asyncio.sleep(0.001)
    await until(lambda: len(early) == 20)
    assert max(early) <= 0.001  # a turn of the loop, whose clock is read once for it


# ---- many at once ---------------------------------------------------------------------------------------------------


async def prepared(http: HttpClient, runner: Runner, count: int) -> list[Call]:
    """Calls for which connections are open."""
    calls = [http.prepare(make_call(url=runner.url(), run_id=f"run{number}")) for number in range(count)]
    await until(lambda: runner.open_connections == count)
    await asyncio.sleep(0.02)
    return calls


def together(http: HttpClient, calls: list[Call]) -> tuple[list[Attempt], list[list[Outcome]]]:
    outcomes = [list[Outcome]() for _ in calls]
    starts = [(call, one.append, always) for call, one in zip(calls, outcomes, strict=True)]
    return http.start_all(starts), outcomes


async def test_attempts_that_begin_together_get_their_own_outcomes_on_open_connections() -> None:
    async with Runner(*[answer(body=b"%d" % number) for number in range(20)]) as runner, deliverer() as http:
        calls = await prepared(http, runner, 20)
        _, outcomes = together(http, calls)
        assert not any(outcomes)
        await until(lambda: all(outcomes))
        assert {one.status for (one,) in outcomes} == {200}
        assert {one.body for (one,) in outcomes} == {b"%d" % number for number in range(20)}
        assert runner.connections == 20
        sent = {received.header("Idempotency-Key") for received in runner.received}
        assert sent == {f"run{number}" for number in range(20)}
        _, outcomes = together(http, await prepared(http, runner, 20))
        await until(lambda: all(outcomes))
    assert runner.connections == 20, "the connections were used again"


async def test_all_requests_are_written_before_an_attempt_is_made_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    write_ahead, begin = Connection.write_ahead, Connection.begin

    def noting(name: str, method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            order.append(name)
            return method(*arguments)

        return call

    async with Runner() as runner, deliverer() as http:
        for _ in range(2):
            calls = await prepared(http, runner, 3)
            monkeypatch.setattr(Connection, "write_ahead", noting("write", write_ahead))
            monkeypatch.setattr(Connection, "begin", noting("begin", begin))
            order.clear()
            _, outcomes = together(http, calls)
            await until(lambda outcomes=outcomes: all(outcomes))  # type: ignore[misc]
    assert order == ["write"] * 3 + ["begin"] * 3
    assert len(runner.received) == 6


async def test_more_attempts_than_open_connections_and_long_bodies_begin_together_too() -> None:
    async with Runner() as runner, deliverer() as http:
        calls = await prepared(http, runner, 2)
        calls += [make_call(url=runner.url()), http.prepare(make_call(url=runner.url(), payload=b"x" * 100_000))]
        calls.append(make_call(url="http://127.0.0.1:1/"))
        _, outcomes = together(http, calls)
        await until(lambda: all(outcomes))
        assert [one.status for (one,) in outcomes[:4]] == [200] * 4
        assert outcomes[4][0].kind in (OutcomeKind.CONNECTION, OutcomeKind.BLOCKED)
    assert {len(received.body) for received in runner.received} >= {100_000}


async def test_a_request_that_the_kernel_takes_only_in_part_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    async with Runner() as runner, deliverer() as http:
        await warm(http, runner)
        (call,) = [http.prepare(make_call(url=runner.url(), payload=b'"whole"'))]
        for most in (0, 10):
            monkeypatch.setattr(
                "scheduler_core.delivery.http.connection.os.write", lambda fd, data, most=most: write(fd, data[:most])
            )
            _, outcomes = together(http, [call])
            monkeypatch.undo()
            await until(lambda outcomes=outcomes: all(outcomes))  # type: ignore[misc]
            assert outcomes[0][0].status == 200
    assert [received.body for received in runner.received[1:]] == [b'"whole"'] * 2


async def test_a_connection_that_breaks_at_the_write_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "broken pipe")

    async with Runner() as runner, deliverer() as http:
        await warm(http, runner)
        call = http.prepare(make_call(url=runner.url(), is_last_attempt=True))
        monkeypatch.setattr("scheduler_core.delivery.http.connection.os.write", broken)
        _, outcomes = together(http, [call])
        monkeypatch.undo()
        await until(lambda: all(outcomes))
        assert outcomes[0][0].status == 200
    assert (runner.connections, len(runner.received)) == (2, 2)


async def test_attempts_that_begin_together_end_at_their_deadlines_and_can_be_cancelled() -> None:
    async with Runner(answer(), answer(), hang(), hang()) as runner, deliverer(max_connections=2) as http:
        _, outcomes = together(http, await prepared(http, runner, 2))
        await until(lambda: all(outcomes))
        calls = [http.prepare(make_call(url=runner.url(), timeout_ms=100)) for _ in range(2)]
        attempts, outcomes = together(http, calls)
        attempts[0].cancel()
        await until(lambda: bool(outcomes[1]))
        assert outcomes[1][0].kind is OutcomeKind.TIMEOUT
        assert outcomes[0] == []
        assert (await http.deliver(request(runner.url()))).status == 200


class Kind(CoroutineDeliverer[None]):
    """A deliverer that accepts each call."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    async def send(self, call: Call, _: None, /) -> Outcome:
        self.urls.append(call.url)
        return Outcome(OutcomeKind.RESPONSE, 1.0, status=200)


class Raising:
    """A deliverer whose ``start`` raises for some calls, although it must not."""

    def __init__(self) -> None:
        self.kind = Kind()

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        if call.run_id == "bad":
            raise RuntimeError("a secret")
        return self.kind.start(call, done, may_send)

    def prepare(self, call: Call, /) -> Call:
        return call

    async def aclose(self) -> None:
        pass


async def started_together(subject: Deliverer, *calls: Call) -> list[Outcome]:
    outcomes = [list[Outcome]() for _ in calls]
    start_all_of(subject)([(call, one.append, always) for call, one in zip(calls, outcomes, strict=True)])
    assert not any(outcomes)
    await until(lambda: all(outcomes))
    return [outcome for (outcome,) in outcomes]


async def test_a_call_that_cannot_be_started_fails_alone_and_not_those_that_were_sent_with_it() -> None:
    http, raising = Kind(), Raising()
    by_scheme = DelivererByScheme({"http": http, "https": http, "other": raising})
    good, bad = make_call(url="other://a", run_id="good"), make_call(url="other://a", run_id="bad")
    for one, first in ((by_scheme, make_call(url="http://a/")), (raising, good)):
        sent, failed, last = await started_together(one, first, bad, good)
        assert (sent.status, failed.kind, last.status) == (200, OutcomeKind.INTERNAL, 200)
        assert failed.message.startswith("unexpected RuntimeError in start")


async def test_a_signed_request_with_a_broken_key_fails_alone() -> None:
    async with Runner() as runner, deliverer() as http:
        (good,) = await prepared(http, runner, 1)
        bad = http.prepare(make_call(url=runner.url(), run_id="bad", sign_keys=("whsec_",)))
        _, outcomes = together(http, [good, bad])
        await until(lambda: all(outcomes))
        assert (outcomes[0][0].status, outcomes[1][0].kind) == (200, OutcomeKind.INTERNAL)


async def test_a_scheme_that_begins_with_https_has_its_own_deliverer() -> None:
    http, other = Kind(), Kind()
    by_scheme = DelivererByScheme({"http": http, "https": http, "https+unix": other})
    await started_together(by_scheme, make_call(url="https://a/"), make_call(url="https+unix://b/"))
    assert (http.urls, other.urls) == (["https://a/"], ["https+unix://b/"])
