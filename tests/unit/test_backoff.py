"""How long a run waits before its next attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_core.delivery.http.verdict import parse_retry_after
from scheduler_core.plan.backoff import RetryPolicy, retry_delay_ms

POLICY = RetryPolicy()
NOW_MS = 1_445_412_480_000  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("failures", "delay_ms"),
    [(1, 1_000), (2, 1_000), (3, 2_000), (4, 4_000), (5, 8_000), (6, 16_000), (7, 32_000), (8, 60_000), (9, 60_000)],
)
def test_the_first_delay_is_used_twice_and_then_doubles_up_to_a_minute(failures: int, delay_ms: int) -> None:
    assert retry_delay_ms(POLICY, failures, retry_after_ms=None, jitter=0.0) == delay_ms


def test_a_run_that_failed_a_million_times_still_waits_a_minute() -> None:
    assert retry_delay_ms(POLICY, 1_000_000, retry_after_ms=None, jitter=0.0) == 60_000


@given(
    failures=st.integers(1, 100),
    retry_after=st.none() | st.integers(0, 10**15),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_jitter_adds_at_most_a_tenth_and_never_shortens_a_delay(
    failures: int, retry_after: int | None, jitter: float
) -> None:
    without = retry_delay_ms(POLICY, failures, retry_after_ms=retry_after, jitter=0.0)
    assert without <= retry_delay_ms(POLICY, failures, retry_after_ms=retry_after, jitter=jitter) <= without * 1.1


def test_jitter_stays_within_the_cap_of_the_delay_and_of_retry_after() -> None:
    assert retry_delay_ms(POLICY, 100, retry_after_ms=None, jitter=0.999) == 60_000
    for wanted_ms in (3_599_999, 3_600_000, 10**12):
        assert retry_delay_ms(POLICY, 1, retry_after_ms=wanted_ms, jitter=0.999) == 3_600_000


@pytest.mark.parametrize(
    ("retry_after_ms", "delay_ms"),
    [(0, 1_000), (999, 1_000), (5_000, 5_000), (3_600_000, 3_600_000), (10**12, 3_600_000)],
)
def test_retry_after_lengthens_the_delay_up_to_its_cap_and_never_shortens_it(
    retry_after_ms: int, delay_ms: int
) -> None:
    assert retry_delay_ms(POLICY, 1, retry_after_ms=retry_after_ms, jitter=0.0) == delay_ms


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        ("0", 0),
        ("120", 120_000),
        (" 7 ", 7_000),
        ("9" * 5_000, 999_999_999_999_000),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30_000),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30_000),
        ("Wed Oct 21 07:28:30 2015", 30_000),
        ("Wed, 21 Oct 2015 09:28:30 +0200", 30_000),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_any_other_value_is_ignored(
    value: str | None, milliseconds: int | None
) -> None:
    assert parse_retry_after(value, now_ms=NOW_MS) == milliseconds


@given(st.text() | st.text(alphabet="WedOctGMT0123456789:-+, ."))
def test_no_retry_after_header_raises(value: str) -> None:
    found = parse_retry_after(value, now_ms=NOW_MS)
    assert found is None or found >= 0
