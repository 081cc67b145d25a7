"""Proofs that a kind of target keeps the delivery protocol. They run over every kind, also those of other packages.

A test gives them a ``Subject``: the deliverer under test, and a target that answers as the proof says::

    @pytest.mark.parametrize("proof", PROOFS)
    async def test_my_kind_keeps_the_protocol(proof: Proof) -> None:
        async with my_subject() as subject:
            await proof(subject)
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum, auto
from typing import Any

import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.base import (
    Call,
    Deliverer,
    Outcome,
    OutcomeKind,
    TargetKind,
    Verdict,
    always,
    start_all_of,
)
from scheduler_core.model.call import Callback
from tests.support.factories import make_call
from tests.support.stores import until

SECRET = "s3cret"
QUIET_SECONDS = 0.05
"""How long nothing may happen where nothing must happen."""
LONG_MS = 60_000
LATE_MS = 5_000
"""A deadline that passes later than this was not kept, also on a crowded machine."""


class Answer(Enum):
    """What the target does with a call that it has received."""

    ACCEPT = auto()
    BUSY = auto()
    RETRY = auto()
    REFUSE = auto()
    HANG = auto()
    """It never answers."""
    BREAK = auto()
    """It ends the connection without an answer."""


class Subject(ABC):
    """A kind of target under test."""

    kind: TargetKind
    deliverer: Deliverer
    url: str
    """Of the target. The secret may be part of it where the kind has a place for it."""
    bad_url: str
    """A URL with a scheme of the kind that the kind must refuse; it holds the secret."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers with a secret, if the kind has headers."""
    verdicts: tuple[Answer, ...] = (Answer.ACCEPT, Answer.BUSY, Answer.RETRY, Answer.REFUSE)
    """The verdicts that the target can give. A broker is never busy with the previous run."""

    @property
    @abstractmethod
    def received(self) -> int:
        """How many calls the target has received."""

    @abstractmethod
    def answers(self, *answers: Answer) -> None:
        """Let the target answer the next calls like this. Further calls are accepted."""

    @abstractmethod
    def impossible(self) -> dict[str, Any]:
        """Return fields of a call that the kind cannot send, and on which it fails by itself."""

    @abstractmethod
    def held_up(self) -> AbstractAsyncContextManager[None]:
        """While this context is open, further calls wait before their first byte."""

    def call(self, **fields: Any) -> Call:
        """Return a call for the target, with a secret wherever a call can have one."""
        callback = Callback("http://api.test/complete", "http://api.test/heartbeat", SECRET)
        values = {"url": self.url, "headers": self.headers, "payload": b'"%s"' % SECRET.encode(), "callback": callback}
        return make_call(**(values | {"timeout_ms": LONG_MS} | fields))

    async def outcome(self, **fields: Any) -> Outcome:
        """Make one attempt and return its outcome, which must be the only one."""
        outcomes = self.start(**fields)
        await until(lambda: bool(outcomes))
        await asyncio.sleep(0)
        assert len(outcomes) == 1
        return outcomes[0]

    async def timed_out(self) -> Outcome:
        """Make one attempt that the target does not answer, and return its outcome.

        On a slow machine the time can pass before the target has received the call. The next call is accepted in
        any case.
        """
        self.answers(Answer.HANG)
        outcome = await self.outcome(timeout_ms=80)
        self.answers()
        return outcome

    def start(self, **fields: Any) -> list[Outcome]:
        """Begin one attempt; its outcomes arrive in the list."""
        outcomes: list[Outcome] = []
        self.deliverer.start(self.call(**fields), outcomes.append, always)
        return outcomes


Proof = Callable[[Subject], Awaitable[None]]

VERDICTS = {
    Answer.ACCEPT: Verdict.ACCEPTED,
    Answer.BUSY: Verdict.BUSY,
    Answer.RETRY: Verdict.RETRY,
    Answer.REFUSE: Verdict.REFUSED,
}


async def the_verdict_follows_the_answer(subject: Subject) -> None:
    subject.answers(*subject.verdicts)
    for answer in subject.verdicts:
        outcome = await subject.outcome()
        assert (outcome.kind, outcome.verdict) == (OutcomeKind.RESPONSE, VERDICTS[answer])
        assert outcome.latency_ms > 0
    assert subject.received == len(subject.verdicts)


async def nothing_is_sent_without_a_lease(subject: Subject) -> None:
    for warm in (False, True):
        if warm:
            await subject.outcome()
        before, outcomes = subject.received, list[Outcome]()
        subject.deliverer.start(subject.call(), outcomes.append, lambda: False)
        await until(lambda outcomes=outcomes: bool(outcomes))  # type: ignore[misc]
        await asyncio.sleep(QUIET_SECONDS)
        assert [one.kind for one in outcomes] == [OutcomeKind.NOT_SENT]
        assert subject.received == before


async def the_lease_is_checked_before_the_target_receives_anything(subject: Subject) -> None:
    received_when_asked: list[int] = []

    def may_send() -> bool:
        received_when_asked.append(subject.received)
        return True

    for number in range(3):
        outcomes: list[Outcome] = []
        subject.deliverer.start(subject.call(), outcomes.append, may_send)
        await until(lambda outcomes=outcomes: bool(outcomes))  # type: ignore[misc]
        assert received_when_asked, "the lease was never checked"
        assert set(received_when_asked) == {number}
        received_when_asked.clear()


async def a_prepared_call_reaches_the_target_only_when_it_is_started(subject: Subject) -> None:
    for number in range(3):
        call = subject.deliverer.prepare(subject.call())
        subject.deliverer.prepare(subject.call())  # never started
        await asyncio.sleep(QUIET_SECONDS)
        assert subject.received == number
        outcomes: list[Outcome] = []
        subject.deliverer.start(call, outcomes.append, always)
        await until(lambda outcomes=outcomes: bool(outcomes))  # type: ignore[misc]
        assert [(one.kind, one.verdict) for one in outcomes] == [(OutcomeKind.RESPONSE, Verdict.ACCEPTED)]
        assert subject.received == number + 1


async def attempts_that_begin_together_check_the_lease_one_by_one(subject: Subject) -> None:
    calls = [subject.deliverer.prepare(subject.call()) for _ in range(5)]
    await asyncio.sleep(QUIET_SECONDS)
    assert subject.received == 0
    leases = [True, True, False, True, False]
    outcomes = [list[Outcome]() for _ in calls]
    starts = [
        (call, one.append, lambda holds=holds: holds) for call, one, holds in zip(calls, outcomes, leases, strict=True)
    ]
    attempts = start_all_of(subject.deliverer)(starts)
    assert not any(outcomes), "done was called from within"
    await until(lambda: all(outcomes))
    await asyncio.sleep(QUIET_SECONDS)
    expected = [OutcomeKind.RESPONSE if holds else OutcomeKind.NOT_SENT for holds in leases]
    assert [[one.kind for one in found] for found in outcomes] == [[kind] for kind in expected]
    assert subject.received == sum(leases)
    for attempt in attempts:
        attempt.cancel()


async def the_lease_is_checked_after_every_wait(subject: Subject) -> None:
    lease_holds, outcomes = True, list[Outcome]()
    async with subject.held_up():
        subject.deliverer.start(subject.call(), outcomes.append, lambda: lease_holds)
        await asyncio.sleep(QUIET_SECONDS)
        assert outcomes == []
        before = subject.received
        lease_holds = False  # the node was frozen while the call waited
    await until(lambda: bool(outcomes))
    await asyncio.sleep(QUIET_SECONDS)
    assert [one.kind for one in outcomes] == [OutcomeKind.NOT_SENT]
    assert subject.received == before


async def there_is_one_outcome_and_never_from_within_start(subject: Subject) -> None:
    for answer in (*subject.verdicts, Answer.BREAK):
        subject.answers(answer)
        outcomes = subject.start(is_last_attempt=True)
        assert outcomes == [], "done was called from within start"
        await until(lambda outcomes=outcomes: bool(outcomes))  # type: ignore[misc]
        await asyncio.sleep(QUIET_SECONDS)
        assert len(outcomes) == 1


async def the_deadline_ends_the_attempt(subject: Subject) -> None:
    for warm in (False, True):
        if warm:
            await subject.outcome()
        outcome = await subject.timed_out()
        assert (outcome.kind, outcome.verdict) == (OutcomeKind.TIMEOUT, Verdict.RETRY)
        assert 79 <= outcome.latency_ms < LATE_MS


async def the_deadline_counts_the_wait_before_the_first_byte(subject: Subject) -> None:
    async with subject.held_up():
        before = subject.received
        outcome = await subject.outcome(timeout_ms=80)
        assert outcome.kind is OutcomeKind.TIMEOUT
        assert 79 <= outcome.latency_ms < LATE_MS
    await asyncio.sleep(QUIET_SECONDS)
    assert subject.received == before


async def a_cancelled_attempt_is_silent(subject: Subject) -> None:
    for warm in (False, True):
        if warm:
            await subject.outcome()
        outcomes: list[Outcome] = []
        subject.deliverer.start(subject.call(), outcomes.append, always).cancel()  # in the turn of its start
        await asyncio.sleep(QUIET_SECONDS)
        subject.answers(Answer.HANG)
        before = subject.received
        attempt = subject.deliverer.start(subject.call(timeout_ms=400), outcomes.append, always)
        await until(lambda before=before: subject.received > before)  # type: ignore[misc]
        attempt.cancel()
        attempt.cancel()
        await asyncio.sleep(0.4 + QUIET_SECONDS)  # its deadline passes too
        assert outcomes == []
        subject.answers()
        assert (await subject.outcome()).verdict is Verdict.ACCEPTED


async def cancelling_an_attempt_that_has_ended_does_nothing(subject: Subject) -> None:
    outcomes: list[Outcome] = []
    attempt = subject.deliverer.start(subject.call(), outcomes.append, always)
    await until(lambda: bool(outcomes))
    attempt.cancel()
    assert (await subject.outcome()).verdict is Verdict.ACCEPTED
    assert len(outcomes) == 1


async def faults_are_outcomes_that_are_tried_again(subject: Subject) -> None:
    outcome = await subject.outcome(**subject.impossible())
    assert outcome.kind not in (OutcomeKind.RESPONSE, OutcomeKind.NOT_SENT)
    subject.answers(Answer.BREAK)
    outcome = await subject.outcome(is_last_attempt=True)
    assert (outcome.kind, outcome.verdict) == (OutcomeKind.CONNECTION, Verdict.RETRY)
    assert (await subject.outcome()).verdict is Verdict.ACCEPTED


async def the_last_attempt_is_sent_once(subject: Subject) -> None:
    await subject.outcome()
    subject.answers(Answer.BREAK)
    await subject.outcome(is_last_attempt=True)
    await asyncio.sleep(QUIET_SECONDS)
    assert subject.received == 2


async def messages_are_one_short_line_without_secrets(subject: Subject) -> None:
    outcomes = [await subject.timed_out()]
    subject.answers(Answer.BREAK, Answer.REFUSE, Answer.RETRY)
    outcomes += [await subject.outcome(is_last_attempt=True) for _ in range(3)]
    outcomes.append(await subject.outcome(**subject.impossible()))
    for outcome in outcomes:
        assert SECRET not in outcome.message
        assert "\n" not in outcome.message
        assert len(outcome.message) <= 500


async def concurrent_attempts_get_their_own_outcomes(subject: Subject) -> None:
    outcomes = [subject.start() for _ in range(20)]
    await until(lambda: all(outcomes))
    await asyncio.sleep(QUIET_SECONDS)
    assert [len(one) for one in outcomes] == [1] * 20
    assert subject.received == 20


async def urls_are_checked_without_being_repeated(subject: Subject) -> None:
    subject.kind.check_url(subject.url, field="endpoint")
    with pytest.raises(InvalidInput) as caught:
        subject.kind.check_url(subject.bad_url, field="webhookUrl")
    assert caught.value.field == "webhookUrl"
    assert SECRET not in caught.value.detail


PROOFS: tuple[Proof, ...] = (
    the_verdict_follows_the_answer,
    nothing_is_sent_without_a_lease,
    the_lease_is_checked_before_the_target_receives_anything,
    a_prepared_call_reaches_the_target_only_when_it_is_started,
    attempts_that_begin_together_check_the_lease_one_by_one,
    the_lease_is_checked_after_every_wait,
    there_is_one_outcome_and_never_from_within_start,
    the_deadline_ends_the_attempt,
    the_deadline_counts_the_wait_before_the_first_byte,
    a_cancelled_attempt_is_silent,
    cancelling_an_attempt_that_has_ended_does_nothing,
    faults_are_outcomes_that_are_tried_again,
    the_last_attempt_is_sent_once,
    messages_are_one_short_line_without_secrets,
    concurrent_attempts_get_their_own_outcomes,
    urls_are_checked_without_being_repeated,
)
