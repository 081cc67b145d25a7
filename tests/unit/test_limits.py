"""The share of a node's slots that one target can use, and the time of the next try of a held back run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_core.base.urls import origin_of
from scheduler_core.node.dispatch.limits import (
    LONGEST_WAIT_MS,
    RATE_BURST_MS,
    RATES_PER_TARGET,
    WAIT_PER_JOB_MS,
    Rate,
    RetryQueue,
    rates_for,
    slots_for,
)
from tests.support.examples import examples


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://host/", "http://host"),
        ("http://host", "http://host"),
        ("HTTP://Host:80/a/b?c=d:9", "http://host"),
        ("https://host:443?q", "https://host"),
        ("http://host:443/", "http://host:443"),
        ("https://host:8443#x", "https://host:8443"),
        ("http://host:/x", "http://host"),
        ("http://host:0080/", "http://host"),
        ("http://[::1]/x", "http://[::1]"),
        ("http://[::1]:80/x", "http://[::1]"),
        ("http://[2001:DB8::1]:8080/", "http://[2001:db8::1]:8080"),
        ("http://user:pass@host:81/", "http://host:81"),
        ("http://host/path@with:80", "http://host"),
    ],
)
def test_the_origin_of_a_url(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@given(st.text(max_size=40))
def test_any_text_has_an_origin(text: str) -> None:
    assert origin_of(text) == origin_of(text)


def filled(max_in_flight: int, hanging: int, bound: int | None = None) -> list[int]:
    """List the slots that each of ``hanging`` targets holds if none answers and they take slots in turn."""
    held = [0] * hanging
    while True:
        before = list(held)
        for one in range(hanging):
            if sum(held) < max_in_flight and slots_for(held[one], sum(held), max_in_flight, bound) >= 1:
                held[one] += 1
        if held == before:
            return held


@pytest.mark.parametrize(
    ("max_in_flight", "hanging", "bound", "held"),
    [
        (8, 1, None, [4]),
        (9, 2, None, [3, 3]),
        (1000, 1, None, [500]),
        (1000, 3, None, [250, 250, 250]),
        (1000, 9, None, [100] * 9),
        (1, 1, None, [1]),
        (2, 1, None, [1]),
        (1000, 2, 10, [10, 10]),
        (10, 2, 9, [4, 3]),
        (10, 1, 10, [10]),
        (10, 2, 100, [5, 5]),
    ],
)
def test_targets_that_hang_leave_the_others_their_share(
    max_in_flight: int, hanging: int, bound: int | None, held: list[int]
) -> None:
    assert filled(max_in_flight, hanging, bound) == held


@given(st.integers(2, 2000), st.integers(1, 12))
def test_k_targets_that_hang_leave_one_part_in_k_plus_1_free(max_in_flight: int, hanging: int) -> None:
    held = filled(max_in_flight, hanging)
    assert min(held) >= min(1, max_in_flight // hanging)
    if max_in_flight >= hanging * (hanging + 1):
        assert max_in_flight - sum(held) >= max_in_flight // (hanging + 1) - hanging


@pytest.mark.parametrize(
    ("open_to_it", "own", "slots"), [(0, 1, 1), (1, 1, 0), (3, 5, 2), (60, 5, -55), (0, None, 100)]
)
def test_a_job_can_set_a_lower_limit(open_to_it: int, own: int | None, slots: int) -> None:
    assert slots_for(open_to_it, open_to_it, 100 + 2 * open_to_it, None, own) == max(slots, 0)


def test_waiting_runs_try_again_at_the_pace_of_the_targets_recent_requests() -> None:
    line = RetryQueue()
    places = [line.next_slot(1_000.0, service_ms=40.0, parallel=4, jitter=0.0) for _ in range(20)]
    assert places == [1_000 + 10 * number + 1 for number in range(1, 21)]


def test_a_run_that_waits_for_a_hanging_target_tries_again_within_a_second() -> None:
    assert 500 <= RetryQueue().next_slot(0.0, service_ms=30_000.0, parallel=1, jitter=0.0) <= LONGEST_WAIT_MS
    assert RetryQueue().next_slot(0.0, service_ms=30_000.0, parallel=1, jitter=0.999) <= LONGEST_WAIT_MS + 1


@settings(max_examples=examples(15))
@given(st.integers(1, 2_000), st.floats(0.01, 60_000), st.integers(1, 500), st.randoms())
def test_any_number_of_waiting_runs_try_again_at_a_bounded_pace(
    waiting: int, service_ms: float, parallel: int, random: object
) -> None:
    line, now_ms = RetryQueue(), 5_000.0
    places = [
        line.next_slot(now_ms, service_ms=service_ms, parallel=parallel, jitter=random.random())  # type: ignore[attr-defined]
        for _ in range(waiting)
    ]
    assert all(now_ms < place <= now_ms + max(LONGEST_WAIT_MS, WAIT_PER_JOB_MS * waiting) + 1 for place in places)
    if waiting >= 1_000 and service_ms / parallel >= WAIT_PER_JOB_MS:
        # At most a few hundred of them try again in any half second.
        soon = sum(place <= now_ms + 500 for place in places)
        assert soon <= 500 + 0.5 * LONGEST_WAIT_MS / WAIT_PER_JOB_MS


def test_an_empty_queue_starts_again() -> None:
    line = RetryQueue()
    for _ in range(1_000):
        line.next_slot(0.0, service_ms=100.0, parallel=1, jitter=0.5)
    assert line.next_slot(60_000.0, service_ms=20.0, parallel=1, jitter=0.5) == 60_021


def test_the_longest_wait_grows_with_the_number_of_runs_that_wait_for_a_hanging_target() -> None:
    line = RetryQueue()
    places = [line.next_slot(0.0, service_ms=60_000.0, parallel=1, jitter=0.999999) for _ in range(2_000)]
    assert places[0] == LONGEST_WAIT_MS
    assert places[499] == LONGEST_WAIT_MS
    assert places[999] == pytest.approx(1_000 * WAIT_PER_JOB_MS, abs=2)
    assert places[1_999] == pytest.approx(2_000 * WAIT_PER_JOB_MS, abs=2)
    # The queue is empty at the time of its last place, and counts from one again.
    line.last_ms = 4_000.0
    assert line.next_slot(4_000.0, service_ms=60_000.0, parallel=1, jitter=0.0) == 4_000 + LONGEST_WAIT_MS / 2 + 1
    assert line.waiting == 1


@pytest.mark.parametrize(("interval_ms", "idle_after_ms"), [(40.0, 60.0), (100.0, 0.0), (250.0, 0.0)])
def test_a_rate_is_idle_when_it_allows_the_same_requests_as_a_new_one(interval_ms: float, idle_after_ms: float) -> None:
    rate = Rate(due_ms=10_000.0)
    assert not rate.is_idle(10_000.0 + idle_after_ms - 0.5, interval_ms)
    assert rate.is_idle(10_000.0 + idle_after_ms, interval_ms)
    now_ms = 10_000.0 + idle_after_ms
    assert rate.next_ms(now_ms, interval_ms) == Rate().next_ms(now_ms, interval_ms)


def in_use(*rates: float) -> dict[float, Rate]:
    """Rates whose next slot is far in the future."""
    return {rate: Rate(due_ms=1e9) for rate in rates}


def test_a_target_with_room_for_it_gets_every_rate() -> None:
    rates = in_use(*range(2, RATES_PER_TARGET + 1))
    assert rates_for(rates, [50.0], now_ms=0, nodes=1) == {50.0}
    assert rates[50.0] == Rate()
    assert len(rates) == RATES_PER_TARGET


def test_a_rate_beyond_the_limit_uses_the_next_stricter_rate_in_use() -> None:
    rates = in_use(*range(2, RATES_PER_TARGET + 2))
    assert rates_for(rates, [5.5], now_ms=0, nodes=1) == {5.0}
    assert rates_for(rates, [100.0], now_ms=0, nodes=1) == {9.0}
    assert rates_for(rates, [5.5, 3.0], now_ms=0, nodes=1) == {3.0, 5.0}
    assert set(rates) == set(range(2, RATES_PER_TARGET + 2))


def test_the_strictest_rate_of_all_takes_the_place_of_the_least_strict() -> None:
    rates = in_use(*range(2, RATES_PER_TARGET + 2))
    assert rates_for(rates, [1.0], now_ms=0, nodes=1) == {1.0}
    assert set(rates) == set(range(1, RATES_PER_TARGET + 1))


def test_two_new_rates_do_not_replace_each_other() -> None:
    rates = {float(rate): Rate() for rate in range(2, RATES_PER_TARGET + 2)}
    chosen = rates_for(rates, [70.0, 1.5], now_ms=10_000, nodes=1)
    assert chosen == {1.5, 70.0}
    assert chosen <= set(rates)


@pytest.mark.parametrize(("nodes", "idle"), [(1, False), (2, True)])
def test_whether_a_rate_is_idle_depends_on_how_many_nodes_share_it(nodes: int, idle: bool) -> None:
    # 20 a second: one in 50 ms with one node, idle 50 ms after its due time; one in 100 ms with two, idle at once.
    rates = in_use(*range(21, 20 + RATES_PER_TARGET)) | {20.0: Rate(due_ms=1_000.0)}
    chosen = rates_for(rates, [90.0], now_ms=1_049, nodes=nodes)
    assert chosen == ({90.0} if idle else {27.0})
    assert (20.0 in rates) is not idle


@given(st.sampled_from([0.5, 1.0, 3.0, 20.0, 500.0]), st.lists(st.integers(0, 3_000), min_size=1, max_size=200))
def test_no_more_requests_start_than_the_rate_and_its_burst_allow(rate: float, pauses_ms: list[int]) -> None:
    one, now_ms, interval_ms = Rate(), 10_000.0, 1_000 / rate
    begun: list[float] = []
    for pause_ms in pauses_ms:
        now_ms += pause_ms
        at_ms = max(one.next_ms(now_ms, interval_ms), now_ms)
        one.spend(now_ms, interval_ms)
        begun.append(at_ms)
    assert begun == sorted(begun)
    for number, first_ms in enumerate(begun):
        for count, last_ms in enumerate(begun[number:], 1):
            assert count <= (last_ms - first_ms + RATE_BURST_MS) / interval_ms + 1 + 1e-6


def test_requests_that_a_rate_does_not_hold_back_use_only_free_places() -> None:
    rate = Rate()
    for _ in range(1_000):
        rate.count(0.0, 200.0)
    assert rate.next_ms(0.0, 200.0) == 200.0
