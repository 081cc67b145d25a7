"""The clock that is set by Redis's TIME: it lags, never leads, and ignores single deviating samples."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_core.base.clock import RedisClock, SystemClock


class Mono:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 500.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def mono(monkeypatch: pytest.MonkeyPatch) -> Mono:
    mono = Mono()
    monkeypatch.setattr("scheduler_core.base.clock.time.monotonic", mono)
    return mono


def sample(clock: RedisClock, mono: Mono, redis_ms: float, *, round_trip: float = 0.0) -> None:
    """Give the clock a sample: Redis answered ``redis_ms`` after ``round_trip`` seconds."""
    mono.seconds += round_trip
    clock.sample(redis_ms, received_at=mono.seconds)


def test_a_clock_that_was_never_set_cannot_be_read() -> None:
    clock = RedisClock()
    assert not clock.is_set
    with pytest.raises(RuntimeError):
        clock.now_ms()


def test_it_runs_on_the_monotonic_clock_from_the_first_sample_on(mono: Mono) -> None:
    clock = RedisClock()
    sample(clock, mono, 1_000_000.0)
    assert clock.is_set
    mono.seconds += 2.5
    assert clock.now_ms() == 1_002_500


@given(st.lists(st.tuples(st.floats(0.0, 0.9), st.floats(0.0, 5.0)), min_size=1, max_size=30))
def test_it_lags_by_the_best_round_trip_of_the_window_and_never_leads(steps: list[tuple[float, float]]) -> None:
    mono = Mono()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduler_core.base.clock.time.monotonic", mono)
        clock = RedisClock()
        trips: list[float] = []
        for round_trip, pause in steps:
            # Redis's clock reads monotonic + 1e9 ms; the answer is on its way for all of the round trip.
            redis_ms = mono.seconds * 1000 + 1e9
            sample(clock, mono, redis_ms, round_trip=round_trip)
            trips.append(round_trip)
            mono.seconds += pause
            truth = mono.seconds * 1000 + 1e9
            assert clock.now_ms() <= truth
            assert clock.now_ms() >= truth - min(trips[-RedisClock.WINDOW :]) * 1000 - 1.01


def test_an_odd_answer_changes_nothing(mono: Mono) -> None:
    clock = RedisClock()
    sample(clock, mono, 1_000_000.0)
    for odd in (9_000_000.0, 1_000.0, 5_000_000.0, 3_000.0):
        sample(clock, mono, odd)
        assert clock.in_doubt
        assert clock.now_ms() == 1_000_000
    sample(clock, mono, 1_000_000.0)
    assert not clock.in_doubt
    assert clock.jumps == 0


@pytest.mark.parametrize("jump", [3_600_000.0, -3_600_000.0])
def test_a_jump_is_accepted_when_three_consecutive_answers_agree(mono: Mono, jump: float) -> None:
    clock = RedisClock()
    sample(clock, mono, 1e9)
    seen = []
    for _ in range(3):
        mono.seconds += 1
        sample(clock, mono, 1e9 + jump + (mono.seconds - 500) * 1000)
        seen.append(clock.now_ms())
    assert seen == [1_000_001_000, 1_000_002_000, 1_000_003_000 + int(jump)]
    assert clock.jumps == 1
    assert clock.jump_ms == pytest.approx(jump)
    assert clock.passed_ms == 1_000_003_000, "the time that it would show without the jump"
    assert not clock.in_doubt


def test_two_answers_that_agree_and_one_that_does_not_are_not_a_jump(mono: Mono) -> None:
    clock = RedisClock()
    sample(clock, mono, 1e9)
    for odd in (5e9, 5e9, 7e9, 7e9):
        sample(clock, mono, odd)
    assert clock.now_ms() == 1_000_000_000


def test_it_never_runs_back_when_its_offset_shrinks(mono: Mono) -> None:
    clock = RedisClock()
    sample(clock, mono, 1e9)
    before = clock.now_ms()
    for _ in range(RedisClock.WINDOW + 1):
        mono.seconds += 0.001
        sample(clock, mono, 1e9 - 900)
        now = clock.now_ms()
        assert now >= before
        before = now


def test_the_system_clock_returns_milliseconds() -> None:
    clock = SystemClock()
    assert clock.now_ms() > 1_700_000_000_000
    assert clock.monotonic() <= clock.monotonic()


@pytest.mark.parametrize("clock", [SystemClock(), RedisClock()])
async def test_it_waits_for_an_event_or_for_a_time(clock: SystemClock | RedisClock) -> None:
    event = asyncio.Event()
    assert not await clock.wait_for(event, 0.001)
    assert not await clock.wait_for(event, 0)
    waiting = asyncio.ensure_future(clock.wait_for(event, None))
    await asyncio.sleep(0)
    assert not waiting.done()
    event.set()
    assert await waiting
    assert await clock.wait_for(event, 0)
