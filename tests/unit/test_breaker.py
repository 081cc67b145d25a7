"""The circuit breaker: a table of histories, and a state machine with random histories."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler_core.node.dispatch.breaker import Breaker, BreakerRule, BreakerState
from tests.support.examples import examples

RULE = BreakerRule(failures=3, after_ms=10_000, open_ms=5_000, longest_ms=12_000)
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def after(*failures_ms: int, rule: BreakerRule = RULE) -> Breaker:
    """Return a breaker with failures at these times."""
    breaker = Breaker()
    for at_ms in failures_ms:
        breaker.failed(rule, at_ms, "connection: refused", probe=0, jitter=0.0)
    return breaker


@pytest.mark.parametrize(
    ("failures_ms", "rule", "state"),
    [
        ((), RULE, CLOSED),
        ((1_000, 6_000), RULE, CLOSED),
        ((1_000, 6_000, 10_999), RULE, CLOSED),
        ((1_000, 6_000, 11_000), RULE, OPEN),
        ((1_000, 1_001, 1_002, 1_003, 10_999), RULE, CLOSED),
        ((1_000, 1_001, 1_002, 1_003, 11_000), RULE, OPEN),
        ((1_000, 99_000), RULE, CLOSED),
        ((1_000,), BreakerRule(failures=1, after_ms=0), OPEN),
        ((1_000, 99_000, 999_000), BreakerRule(failures=0, after_ms=0), CLOSED),
    ],
)
def test_it_opens_after_enough_consecutive_failures_over_enough_time(
    failures_ms: tuple[int, ...], rule: BreakerRule, state: BreakerState
) -> None:
    assert after(*failures_ms, rule=rule).state is state


def test_an_answer_between_failures_resets_the_count() -> None:
    breaker = after(1_000, 6_000)
    assert breaker.answered() is False
    for at_ms in (11_000, 12_000, 20_999):
        assert not breaker.failed(RULE, at_ms, "timeout", probe=0, jitter=0.0)
    assert breaker.failed(RULE, 21_000, "timeout", probe=0, jitter=0.0)
    assert (breaker.failures, breaker.last_error, breaker.opened_at_ms) == (4, "timeout", 21_000)


def test_one_probe_is_sent_after_the_open_time_and_its_answer_closes_the_breaker() -> None:
    breaker = after(0, 5_000, 10_000)
    assert breaker.probe_at_ms == 15_000
    assert not breaker.lets_through(14_999)
    assert breaker.lets_through(15_000)
    assert breaker.began() == 1
    assert breaker.state is HALF_OPEN
    assert not breaker.lets_through(99_000), "one at a time"
    assert breaker.answered() is True
    assert breaker.lets_through(99_000)
    assert breaker.failures == 0


def test_each_failed_probe_doubles_the_open_time_up_to_the_maximum() -> None:
    breaker = after(0, 5_000, 10_000)
    waits = []
    for _ in range(4):
        now_ms = breaker.probe_at_ms
        assert breaker.failed(RULE, now_ms, "dns: gone", probe=breaker.began(), jitter=0.0)
        waits.append(breaker.probe_at_ms - now_ms)
    assert waits == [10_000, 12_000, 12_000, 12_000]
    assert (breaker.failures, breaker.opened_at_ms) == (7, 10_000)


def test_jitter_adds_at_most_a_tenth() -> None:
    breaker = after(0, 5_000)
    breaker.failed(RULE, 10_000, "", probe=0, jitter=0.999)
    assert 15_000 < breaker.probe_at_ms <= 15_500


def test_requests_from_before_the_opening_change_nothing_if_they_fail_and_close_it_if_answered() -> None:
    breaker = after(0, 5_000, 10_000)
    probe_at_ms = breaker.probe_at_ms
    assert not breaker.failed(RULE, 11_000, "timeout", probe=0, jitter=0.0)
    assert (breaker.probe_at_ms, breaker.failures) == (probe_at_ms, 3)
    assert breaker.answered() is True
    assert breaker.state is CLOSED


def test_a_probe_that_was_never_sent_is_followed_by_another() -> None:
    breaker = after(0, 5_000, 10_000)
    breaker.gave_up(probe=breaker.began())
    assert breaker.state is OPEN
    assert breaker.lets_through(breaker.probe_at_ms)


def test_a_probe_of_an_earlier_opening_decides_nothing() -> None:
    breaker = after(0, 5_000, 10_000)
    old = breaker.began()
    breaker.answered()
    for at_ms in (20_000, 25_000, 30_000):
        breaker.failed(RULE, at_ms, "timeout", probe=0, jitter=0.0)
    new = breaker.began()
    assert not breaker.failed(RULE, 40_000, "timeout", probe=old, jitter=0.0)
    breaker.gave_up(probe=old)
    assert breaker.state is HALF_OPEN
    assert breaker.failed(RULE, 41_000, "timeout", probe=new, jitter=0.0)


class BreakerMachine(RuleBasedStateMachine):
    """Starts and ends requests in any order, and keeps the results of the target as a model."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_000_000
        self.breaker = Breaker()
        self.requests: list[int] = []
        self.failures_ms: list[int] = []
        """Since the last answer, as far as they counted."""

    @rule(ms=st.sampled_from([1, 400, 3_000, 5_000, 13_500]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule()
    def begin(self) -> None:
        was = self.breaker.state
        if self.breaker.lets_through(self.now_ms):
            assert was is not HALF_OPEN
            assert was is CLOSED or self.now_ms >= self.breaker.probe_at_ms
            self.requests.append(self.breaker.began())
            assert (self.requests[-1] > 0) == (was is OPEN)

    @precondition(lambda self: self.requests)
    @rule(index=st.integers(0, 99))
    def answer(self, index: int) -> None:
        self.requests.pop(index % len(self.requests))
        self.breaker.answered()
        self.failures_ms = []
        assert self.breaker.state is CLOSED

    @precondition(lambda self: self.requests)
    @rule(index=st.integers(0, 99), jitter=st.floats(0, 0.999))
    def fail(self, index: int, jitter: float) -> None:
        probe = self.requests.pop(index % len(self.requests))
        was, probe_at_ms = self.breaker.state, self.breaker.probe_at_ms
        opened = self.breaker.failed(RULE, self.now_ms, "why", probe=probe, jitter=jitter)
        if was is CLOSED:
            self.failures_ms.append(self.now_ms)
            long_enough = self.now_ms - self.failures_ms[0] >= RULE.after_ms
            assert opened == (len(self.failures_ms) >= RULE.failures and long_enough)
        elif not opened:
            assert (self.breaker.state, self.breaker.probe_at_ms) == (was, probe_at_ms)
        if opened:
            assert RULE.open_ms <= self.breaker.probe_at_ms - self.now_ms <= RULE.longest_ms * 1.1

    @precondition(lambda self: self.requests)
    @rule(index=st.integers(0, 99))
    def give_up(self, index: int) -> None:
        self.breaker.gave_up(probe=self.requests.pop(index % len(self.requests)))

    @invariant()
    def a_probe_is_under_way_exactly_while_it_is_half_open(self) -> None:
        under_way = [probe for probe in self.requests if probe == self.breaker.probe and probe]
        assert len(under_way) <= 1
        if self.breaker.state is HALF_OPEN:
            assert under_way

    @invariant()
    def it_is_never_shut_for_ever(self) -> None:
        if self.breaker.state is OPEN:
            assert self.breaker.lets_through(self.breaker.probe_at_ms)


TestBreakerMachine = pytest.mark.random(BreakerMachine.TestCase)
TestBreakerMachine.settings = settings(max_examples=examples(20), stateful_step_count=40, deadline=None)
