"""The verdicts of the soak test must detect a leak."""

from __future__ import annotations

import random

import pytest

from benchmarks.soak_watch import SIZES, Bound, Sample, judge_bounds, least_squares, slopes_of


def samples(size: str, values: list[float]) -> list[Sample]:
    """Samples of one size, one every ten seconds; all other sizes stay constant."""
    usual = {name: 1000.0 for name, _ in SIZES}
    return [Sample(10.0 * number, {**usual, size: value}) for number, value in enumerate(values)]


def verdict(size: str, values: list[float]) -> str:
    return next(one.verdict for one in slopes_of(samples(size, values)) if one.size == size)


def noise(number: int) -> float:
    return random.Random(number).uniform(-20, 20)


def test_a_size_that_grows_by_a_tenth_in_ten_minutes_rises() -> None:
    assert verdict("records", [10_000 + 1000 * n / 60 + noise(n) for n in range(72)]) == "RISES"


def test_a_constant_size_with_noise_is_flat() -> None:
    assert verdict("records", [10_000 + noise(n) for n in range(72)]) == "flat"


def test_a_warm_up_that_ends_in_the_first_third_does_not_count() -> None:
    assert verdict("records", [min(n, 20) * 500 + noise(n) for n in range(72)]) == "flat"


def test_too_few_samples_give_no_verdict() -> None:
    assert verdict("records", [10_000, 12_000, 9_000]) == "cannot tell"


def test_a_saw_tooth_is_not_taken_for_a_rise() -> None:
    assert verdict("aof MB", [100 + 10 * (n % 7) for n in range(72)]) != "RISES"


def test_the_slope_is_that_of_the_line_and_exact_points_have_no_error() -> None:
    slope, error = least_squares([(x, 3 * x + 1) for x in range(10)])
    assert slope == pytest.approx(3)
    assert error == pytest.approx(0, abs=1e-9)


def test_a_bound_is_exceeded_only_above_the_tolerance_for_a_sweep() -> None:
    held = judge_bounds(samples("records", [50, 99, 104, 106]), [Bound("records", 100, slack=5)])[0]
    assert (held.highest, held.at_bound, held.over, held.broken) == (106, 3, 1, 1)
    assert not held.holds
