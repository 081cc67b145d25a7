"""Decisions of the limiter about one attempt, compared with expected values: permits, marks, counts and metrics."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import HeldBack, HoldReason
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.policies import Limits, Policies
from scheduler_core.node.dispatch.breaker import BreakerState
from scheduler_core.node.dispatch.limiter import SATURATED_OPEN, SATURATED_WAIT_MS, Permit, TargetLimiter
from scheduler_core.node.dispatch.limits import RATES_PER_TARGET, Rate, rates_for
from scheduler_core.node.slots import SlotPool
from scheduler_core.plan.claim import Work
from tests.support.factories import answered, at, failed, make_job, make_run, make_state
from tests.support.manual_clock import ManualClock

URL = "http://one.test/run"
ORIGIN = "http://one.test"
QUICK = EngineSettings(breaker_failures=2, breaker_after_seconds=0.0, breaker_open_seconds=5.0)


@pytest.fixture(autouse=True)
def _half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every random number with 0.5."""
    monkeypatch.setattr("scheduler_core.node.dispatch.limiter.random.random", lambda: 0.5)


class Setup:
    def __init__(self, settings: EngineSettings | None = None, slots: int = 10) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.slots = SlotPool(slots)
        self.limiter = TargetLimiter(self.slots, settings or EngineSettings(), self.clock, self.metrics)

    def ask(
        self, url: str | None = URL, *, hold: HeldBack | None = None, taken_over: bool = False, **limits: Any
    ) -> Permit | HeldBack:
        policies = Policies(limits=Limits(**limits) if limits else None)
        work = Work(make_job(url=url or URL, policies=policies), make_run(), make_state())
        return self.limiter.acquire(url, work, hold, taken_over=taken_over)

    def permit(self, url: str | None = URL, **how: Any) -> Permit:
        found = self.ask(url, **how)
        assert isinstance(found, Permit)
        return found

    def held(self, url: str = URL, **how: Any) -> HeldBack:
        found = self.ask(url, **how)
        assert isinstance(found, HeldBack)
        return found

    def fail(self, kind: OutcomeKind = OutcomeKind.CONNECTION, message: str = "refused") -> None:
        self.limiter.release(self.permit(), Outcome(kind, 1.0, message=message))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def test_a_full_share_holds_back_until_a_slot_is_likely_to_be_free() -> None:
    setup = Setup()
    permits = [setup.permit() for _ in range(5)]
    assert all(permit.probe == 0 for permit in permits)
    # No request has ended: the estimate is 50 ms for five at once, and the shortest wait is 10 ms.
    assert setup.held() == HeldBack(HoldReason.LIMIT, at(0), at(0.011), ORIGIN)
    assert setup.held() == HeldBack(HoldReason.LIMIT, at(0), at(0.021), ORIGIN)
    assert setup.value("cronpost_held_back_total", reason="limit") == 2.0
    setup.limiter.release(permits[0], answered(200))
    assert isinstance(setup.ask(), Permit)
    assert setup.limiter._targets.of(URL).service_ms == 12.0
    setup.limiter.release(permits[1], replace(answered(200), latency_ms=112.0))
    assert setup.limiter._targets.of(URL).service_ms == 22.0
    assert setup.limiter._targets.of(URL).ended == 2


def test_a_mark_with_a_place_keeps_it_while_the_target_is_full() -> None:
    setup = Setup()
    for _ in range(5):
        setup.permit()
    placed = HeldBack(HoldReason.RATE, at(-1), at(0), ORIGIN, placed=True)
    assert setup.held(hold=placed).placed
    assert not setup.held(hold=replace(placed, placed=False)).placed


def test_the_age_of_open_requests_raises_the_estimate_of_the_target() -> None:
    setup = Setup()
    for _ in range(5):
        setup.permit()
    assert setup.held().until_ms == at(0.011)
    setup.clock.advance(400)
    assert setup.held().until_ms == at(0.4) + 80 + 1  # 400 ms for five at once
    setup.clock.advance(400)
    assert setup.held().until_ms == at(0.8) + 160 + 1


def test_a_job_can_set_a_limit_below_its_share() -> None:
    setup = Setup()
    setup.permit(max_in_flight=2)
    setup.permit(max_in_flight=2)
    assert setup.held(max_in_flight=2).reason is HoldReason.LIMIT
    assert isinstance(setup.ask(max_in_flight=3), Permit)


def test_a_rate_gives_each_held_back_attempt_a_place() -> None:
    setup = Setup()
    assert isinstance(setup.ask(rate=2.0), Permit)
    assert setup.held(rate=2.0) == HeldBack(HoldReason.RATE, at(0), at(0.501), ORIGIN, placed=True)
    placed = setup.held(rate=2.0)
    assert placed == HeldBack(HoldReason.RATE, at(0), at(1.001), ORIGIN, placed=True)
    assert isinstance(setup.ask(rate=2.0, hold=placed), Permit), "it has its place"
    assert isinstance(setup.ask(rate=2.0, taken_over=True), Permit), "it was counted on another node"
    assert setup.held(rate=2.0).until_ms == at(1.501)
    assert setup.value("cronpost_held_back_total", reason="rate") == 3.0


def test_a_rate_is_shared_by_the_nodes() -> None:
    setup = Setup()
    setup.slots.live_nodes = 3
    assert isinstance(setup.ask(rate=2.0), Permit)
    assert setup.held(rate=2.0).until_ms == at(1.501)


def test_a_queue_that_is_too_long_gives_no_more_places() -> None:
    setup = Setup()
    assert isinstance(setup.ask(rate=0.02), Permit)
    assert setup.held(rate=0.02) == HeldBack(HoldReason.RATE, at(0), at(50.001), ORIGIN, placed=True)
    assert setup.held(rate=0.02) == HeldBack(HoldReason.RATE, at(0), at(45), ORIGIN)


def test_a_request_of_a_job_without_a_rate_counts_for_jobs_with_a_rate() -> None:
    setup = Setup()
    assert isinstance(setup.ask(rate=2.0), Permit)
    setup.clock.advance(500)
    assert isinstance(setup.ask(), Permit)
    assert setup.held(rate=2.0).until_ms == at(1.001)


def test_the_rate_in_the_settings_applies_to_every_job() -> None:
    setup = Setup(EngineSettings(target_rate=1.0))
    assert isinstance(setup.ask(), Permit)
    assert setup.held().until_ms == at(1.001)
    assert setup.held(rate=0.5).until_ms == at(2.001), "the stricter of the two"


def test_a_breaker_opens_after_consecutive_failures_and_sends_its_probe_when_due() -> None:
    setup = Setup(QUICK)
    setup.fail()
    assert setup.limiter.breakers() == []
    setup.fail(message="gone")
    (shown,) = setup.limiter.breakers()
    assert (shown.target, shown.state, shown.failures) == (ORIGIN, BreakerState.OPEN, 2)
    assert (shown.since_ms, shown.probe_at_ms, shown.last_error) == (at(0), at(5.25), "connection: gone")
    assert setup.value("cronpost_breaker_state", target=ORIGIN) == 1.0
    assert setup.value("cronpost_breakers_open") == 1.0
    first, second = setup.held(), setup.held()
    assert first == HeldBack(HoldReason.BREAKER, at(0), at(5.25), ORIGIN, breaker=True)
    assert second.until_ms == at(5.251), "one a millisecond"
    placed = HeldBack(HoldReason.RATE, at(-1), at(0), ORIGIN, placed=True)
    assert setup.held(hold=placed).placed
    assert setup.limiter.blocked_by(URL) == HeldBack(HoldReason.BREAKER, at(0), at(5.253), ORIGIN, breaker=True)
    assert setup.limiter.blocked_by("http://other.test/") is None
    assert setup.limiter.blocked_by(None) is None
    setup.clock.advance(5_250)
    assert setup.limiter.blocked_by(URL) is None
    probe = setup.permit()
    assert probe.probe == 1
    assert setup.value("cronpost_breaker_state", target=ORIGIN) == 0.5
    waits = setup.held()
    assert waits == HeldBack(HoldReason.BREAKER, at(5.25), at(5.301), ORIGIN, breaker=True)
    setup.limiter.release(probe, failed(OutcomeKind.TIMEOUT))
    assert setup.value("cronpost_breaker_state", target=ORIGIN) == 1.0
    assert setup.held().until_ms == at(5.25) + 10_500
    setup.clock.advance(10_500)
    setup.limiter.release(setup.permit(), answered(500))
    assert setup.limiter.breakers() == []
    assert setup.value("cronpost_breaker_state", target=ORIGIN) is None
    assert setup.value("cronpost_breakers_open") == 0.0


@pytest.mark.parametrize(
    ("kind", "opens"),
    [
        (OutcomeKind.TIMEOUT, True),
        (OutcomeKind.DNS, True),
        (OutcomeKind.CONNECTION, True),
        (OutcomeKind.TLS, True),
        (OutcomeKind.PROTOCOL, False),
        (OutcomeKind.RESPONSE, False),
        (OutcomeKind.BLOCKED, False),
        (OutcomeKind.INTERNAL, False),
    ],
)
def test_only_attempts_without_an_answer_count_as_failures_of_a_target(kind: OutcomeKind, opens: bool) -> None:
    setup = Setup(QUICK)
    setup.fail(kind, message="")
    setup.fail(kind, message="")
    assert [one.last_error for one in setup.limiter.breakers()] == ([kind.value] if opens else [])


@pytest.mark.parametrize("outcome", [None, Outcome(OutcomeKind.BLOCKED, 1.0)], ids=["never sent", "blocked"])
def test_a_probe_without_a_result_about_its_target_is_followed_by_another(outcome: Outcome | None) -> None:
    setup = Setup(QUICK)
    setup.fail()
    setup.fail()
    setup.clock.advance(5_250)
    setup.limiter.release(setup.permit(), outcome)
    assert setup.permit().probe == 2


def test_an_attempt_whose_target_is_resolved_later_keeps_its_slot_and_can_be_the_probe() -> None:
    setup = Setup(QUICK)
    work = Work(make_job(), make_run(), make_state())
    permit = setup.permit(None)
    assert permit.target is None
    assert setup.limiter._open == 1
    assert setup.limiter.acquire_resolved(permit, URL, work, None) is None
    assert (setup.limiter._open, setup.limiter._targets.of(URL).open) == (1, 1)
    assert setup.limiter.acquire_resolved(permit, "http://other.test/", work, None) is None, "it has entered"
    assert setup.limiter._targets.of("http://other.test/").open == 0
    setup.limiter.release(permit, failed(OutcomeKind.CONNECTION))
    setup.fail()
    late = setup.permit(None)
    held = setup.limiter.acquire_resolved(late, URL, work, None)
    assert held == HeldBack(HoldReason.BREAKER, at(0), at(5.25), ORIGIN, breaker=True)
    setup.clock.advance(5_250)
    assert setup.limiter.acquire_resolved(late, URL, work, held) is None
    assert late.probe == 1
    setup.limiter.release(late, None)
    assert (setup.limiter._open, setup.limiter._targets.of(URL).open) == (0, 0)


def test_only_a_fast_target_with_many_open_requests_is_saturated() -> None:
    for slots, latency, saturated in (
        (2 * SATURATED_OPEN, 50.0, True),
        (2 * SATURATED_OPEN, 50.1, False),
        (2 * SATURATED_OPEN - 2, 10.0, False),
    ):
        setup = Setup(slots=slots)
        setup.limiter.release(setup.permit(), replace(answered(200), latency_ms=latency))
        while isinstance(setup.ask(), Permit):
            pass
        woken: list[int] = []
        assert (setup.limiter.batch(5, lambda woken=woken: woken.append(1)) == 0) is saturated  # type: ignore[misc]
        if saturated:
            setup.clock.advance(SATURATED_WAIT_MS - 1)
            assert setup.limiter.batch(5, lambda: None) == 0
            setup.clock.advance(1)
            assert setup.limiter.batch(5, lambda: None) == 5, "it has waited long enough"


def test_a_claim_that_returns_fewer_jobs_than_requested_ends_the_saturation() -> None:
    setup = Setup(slots=2 * SATURATED_OPEN)
    setup.limiter.release(setup.permit(), answered(200))
    while isinstance(setup.ask(), Permit):
        pass
    assert setup.limiter.batch(5, lambda: None) == 0
    setup.limiter.claimed(5, 5)
    assert setup.limiter.batch(5, lambda: None) == 0
    setup.limiter.claimed(5, 4)
    assert setup.limiter.batch(5, lambda: None) == 5


def test_a_rate_in_use_is_applied_itself_and_another_rate_uses_the_next_stricter() -> None:
    rates = {float(rate): Rate(due_ms=1e9) for rate in range(1, RATES_PER_TARGET + 1)}
    most = float(RATES_PER_TARGET)
    assert rates_for(rates, [2.0], now_ms=0, nodes=1) == {2.0}
    assert rates_for(rates, [2.5, most + 9], now_ms=0, nodes=1) == {2.0, most}
    assert rates_for(rates, [], now_ms=0, nodes=1) == set()
    assert rates_for(rates, [0.5], now_ms=0, nodes=1) == {0.5}
    assert sorted(rates) == [0.5, *(float(rate) for rate in range(1, RATES_PER_TARGET))]
