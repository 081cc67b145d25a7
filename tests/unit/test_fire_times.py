"""Intervals, single fire times, and the effect of a job's bounds and jitter on a trigger."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.policies import Policies
from scheduler_core.plan.fire_times import BoundedTrigger, jitter_offset_ms, same_fire_times, trigger_of
from scheduler_core.triggers.interval import LAST_INSTANT_MS, IntervalTrigger
from scheduler_core.triggers.trigger import AtSpec, CronSpec, IntervalSpec, Trigger, TriggerSpec, compile_trigger
from tests.support.examples import examples
from tests.support.factories import make_job

MIDNIGHT = 1_793_491_200_000  # 2026-11-01T00:00:00Z
DAY = 86_400_000
YEAR = 366 * DAY


def walk(trigger: Trigger, after: int, until: int, most: int = 60) -> tuple[list[int], bool]:
    """Return the fire times in (after, until] one by one, and whether that is all of them."""
    series: list[int] = []
    found = trigger.next_after(after)
    while found is not None and found <= until:
        if len(series) == most:
            return series, False
        assert not series or found > series[-1]
        series.append(found)
        found = trigger.next_after(found)
    return series, True


def check_series(trigger: Trigger, after: int, until: int) -> None:
    """All three questions are about one series."""
    series, complete = walk(trigger, after, until)
    assert all(after < found <= until for found in series)
    latest = trigger.last_in(after, until)
    count = trigger.count_in(after, until, 16)
    if complete:
        assert latest == (series[-1] if series else None)
        assert count is None or count == len(series)
        assert count is not None or len(series) > 16
        assert trigger.count_in(after, until, 60) == len(series)
    else:
        assert latest is not None
        assert latest >= series[-1]
        following = trigger.next_after(latest)
        assert following is None or following > until
        assert trigger.next_after(latest - 1) == latest
        assert count is None or count > len(series)


# ---- intervals and single times --------------------------------------------------------------------------------------


def test_an_interval_fires_one_distance_after_its_anchor_and_then_on_that_grid() -> None:
    trigger = compile_trigger(IntervalSpec(10_000, MIDNIGHT + 123))
    assert trigger.next_after(0) == MIDNIGHT + 10_123
    assert trigger.next_after(MIDNIGHT + 123) == MIDNIGHT + 10_123
    assert trigger.next_after(MIDNIGHT + 10_122) == MIDNIGHT + 10_123
    assert trigger.next_after(MIDNIGHT + 10_123) == MIDNIGHT + 20_123
    assert trigger.last_in(0, MIDNIGHT + 10_122) is None
    assert trigger.last_in(0, MIDNIGHT + 30_122) == MIDNIGHT + 20_123
    assert trigger.count_in(0, MIDNIGHT + 30_123, 0) == 3


def test_the_end_of_an_interval_is_a_fire_time_if_it_lies_on_the_grid() -> None:
    on_the_grid = compile_trigger(IntervalSpec(10_000, MIDNIGHT, MIDNIGHT + 30_000))
    assert walk(on_the_grid, 0, LAST_INSTANT_MS)[0] == [MIDNIGHT + ms for ms in (10_000, 20_000, 30_000)]
    just_before = compile_trigger(IntervalSpec(10_000, MIDNIGHT, MIDNIGHT + 29_999))
    assert walk(just_before, 0, LAST_INSTANT_MS)[0] == [MIDNIGHT + 10_000, MIDNIGHT + 20_000]
    assert just_before.last_in(0, LAST_INSTANT_MS) == MIDNIGHT + 20_000


@pytest.mark.parametrize("end", [MIDNIGHT + 9_999, MIDNIGHT, MIDNIGHT - 1, 0])
def test_an_interval_that_ends_before_its_first_fire_time_never_fires(end: int) -> None:
    trigger = compile_trigger(IntervalSpec(10_000, MIDNIGHT, end))
    assert trigger.next_after(0) is None
    assert trigger.next_after(MIDNIGHT) is None
    assert trigger.last_in(0, LAST_INSTANT_MS) is None
    assert trigger.count_in(0, LAST_INSTANT_MS, 16) == 0


def test_an_interval_of_a_millisecond_is_counted_over_millennia_in_one_step() -> None:
    trigger = compile_trigger(IntervalSpec(1, 0))
    assert trigger.count_in(0, LAST_INSTANT_MS, 16) == LAST_INSTANT_MS
    assert trigger.last_in(5, 10**18) == LAST_INSTANT_MS
    assert trigger.next_after(LAST_INSTANT_MS) is None


def test_an_interval_longer_than_all_time_never_fires() -> None:
    trigger = compile_trigger(IntervalSpec(10**18, MIDNIGHT))
    assert trigger.next_after(0) is None
    assert trigger.next_after(10**18 + MIDNIGHT - 1) is None
    assert trigger.last_in(0, 10**19) is None


@pytest.mark.parametrize("every", [0, -1, -10_000])
def test_an_interval_must_be_positive(every: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        compile_trigger(IntervalSpec(every, MIDNIGHT))
    assert caught.value.field == "interval_seconds"


def test_a_single_time_fires_once() -> None:
    trigger = compile_trigger(AtSpec(MIDNIGHT))
    assert trigger.next_after(MIDNIGHT - 1) == MIDNIGHT
    assert trigger.next_after(MIDNIGHT) is None
    assert trigger.last_in(0, MIDNIGHT) == MIDNIGHT
    assert trigger.last_in(MIDNIGHT, MIDNIGHT + 1) is None
    assert trigger.count_in(0, MIDNIGHT - 1, 16) == 0
    assert trigger.count_in(0, MIDNIGHT, 16) == 1


intervals = st.builds(
    IntervalSpec,
    st.integers(1, 50) | st.integers(1_000, 100_000) | st.sampled_from([DAY, 7 * YEAR, 10**13, 10**16]),
    st.integers(0, 2 * MIDNIGHT),
    st.none() | st.integers(-1_000, 2 * MIDNIGHT),
)
crons = st.builds(
    CronSpec,
    st.sampled_from(
        [
            "*/10 * * * * *",
            "*/7 * * * *",
            "30 1 * * *",
            "30 2 * * *",
            "0 0,12 * * *",
            "0 0 29 2 *",
            "* 59 1 * * *",
            "0 */2 * * fri",
            "5,35 * * * *",
            "*/10 * * * * * 2026-2027",
        ]
    ),
    st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
)
singles = st.builds(AtSpec, st.integers(0, 2 * MIDNIGHT))
specs = st.one_of(intervals, crons, singles)
lengths = st.integers(-5, 100) | st.integers(0, 200_000) | st.sampled_from([DAY, 3 * DAY, YEAR, 300 * YEAR])


@settings(max_examples=examples(60), deadline=None)
@given(spec=specs, after=st.integers(-1_000, 3 * MIDNIGHT), length=lengths)
def test_next_last_and_count_are_about_one_series(spec: TriggerSpec, after: int, length: int) -> None:
    check_series(compile_trigger(spec), after, after + length)


@settings(max_examples=examples(60), deadline=None)
@given(spec=intervals, k=st.integers(-3, 3), d=st.integers(-2, 2), length=lengths)
def test_an_interval_is_one_series_around_its_edges(spec: IntervalSpec, k: int, d: int, length: int) -> None:
    for edge in (spec.anchor_ms, spec.end_ms, LAST_INSTANT_MS):
        if edge is not None:
            check_series(compile_trigger(spec), edge + k * spec.every_ms + d, edge + k * spec.every_ms + d + length)


# ---- how many fire times of an expression ----------------------------------------------------------------------------


def test_a_day_of_an_expression_is_counted_by_arithmetic_and_a_year_of_scattered_days_is_not() -> None:
    every_ten_seconds = compile_trigger(CronSpec("*/10 * * * * *"))
    assert every_ten_seconds.count_in(MIDNIGHT, MIDNIGHT + DAY, 0) == 8_640
    assert every_ten_seconds.count_in(MIDNIGHT - 1, MIDNIGHT + 30 * YEAR, 0) == 30 * 366 * 8_640 + 1
    fridays = compile_trigger(CronSpec("0 0 * * fri"))
    assert fridays.count_in(MIDNIGHT, MIDNIGHT + 14 * DAY, 16) == 2
    assert fridays.count_in(MIDNIGHT, MIDNIGHT + YEAR, 16) is None
    assert fridays.count_in(MIDNIGHT, MIDNIGHT + YEAR, 60) == 52


@settings(max_examples=examples(50), deadline=None)
@given(
    expression=st.sampled_from(["*/10 * * * *", "30 * * * *", "30 1 * * *", "59 0,1,2 * * *", "0 0 1,2 * * *"]),
    zone=st.sampled_from(["America/New_York", "Australia/Lord_Howe", "Europe/London", "Africa/Cairo"]),
    shift=st.integers(-3 * DAY, 3 * DAY),
    change=st.sampled_from([1_772_953_200_000, 1_793_509_200_000, 1_792_847_700_000, 1_776_981_600_000]),
    length=st.integers(0, 3 * DAY // 2),
)
def test_a_count_near_changes_of_clocks_is_exact_or_none(
    expression: str, zone: str, shift: int, change: int, length: int
) -> None:
    trigger = compile_trigger(CronSpec(expression, zone))
    after = change + shift
    series, complete = walk(trigger, after, after + length, most=10_000)
    assert complete
    assert trigger.count_in(after, after + length, 16) in {len(series), None}


# ---- bounds and jitter -----------------------------------------------------------------------------------------------


def test_a_job_without_bounds_and_jitter_gets_the_shared_trigger_itself() -> None:
    shared = compile_trigger(CronSpec("1 2 3 4 *"))
    assert trigger_of(make_job(trigger=CronSpec("1 2 3 4 *"))) is shared
    assert trigger_of(make_job(trigger=CronSpec("1 2 3 4 *"), policies=Policies(timeout_ms=5))) is shared
    assert isinstance(trigger_of(make_job(trigger=IntervalSpec(5, 0))), IntervalTrigger)


def test_both_bounds_are_fire_times_themselves() -> None:
    job = make_job(policies=Policies(starts_at_ms=MIDNIGHT, ends_at_ms=MIDNIGHT + 30_000))
    times = [MIDNIGHT + ms for ms in (0, 10_000, 20_000, 30_000)]
    assert walk(trigger_of(job), 0, LAST_INSTANT_MS)[0] == times
    assert trigger_of(job).next_after(MIDNIGHT + 30_000) is None
    assert trigger_of(job).count_in(0, LAST_INSTANT_MS, 16) == 4


def test_bounds_are_those_of_the_time_before_it_is_shifted() -> None:
    job = make_job("a job", policies=Policies(starts_at_ms=MIDNIGHT, ends_at_ms=MIDNIGHT, jitter_ms=9_000))
    offset = jitter_offset_ms("a job", 9_000)
    assert offset > 0
    assert walk(trigger_of(job), 0, LAST_INSTANT_MS)[0] == [MIDNIGHT + offset]


def test_jitter_shifts_all_fire_times_of_a_job_by_one_offset() -> None:
    plain, shifted = make_job("x"), make_job("x", policies=Policies(jitter_ms=60_000))
    offset = jitter_offset_ms("x", 60_000)
    assert walk(trigger_of(shifted), MIDNIGHT + offset, MIDNIGHT + offset + 200_000)[0] == [
        found + offset for found in walk(trigger_of(plain), MIDNIGHT, MIDNIGHT + 200_000)[0]
    ]


def test_the_offset_of_an_id_never_changes() -> None:
    """A node of another version must fire a job at the same times, so these offsets must not change."""
    assert {job_id: jitter_offset_ms(job_id, 60_000) for job_id in KNOWN_OFFSETS} == KNOWN_OFFSETS
    assert jitter_offset_ms("a", 0) == jitter_offset_ms("a", 1) == 0


KNOWN_OFFSETS = {"a": 24_710, "b": 30_367, "schedule_1": 10_113, "größer": 3_049, "x" * 40: 4_772}


@given(st.text(min_size=1, max_size=255).filter(lambda text: text.isprintable()), st.integers(1, 10**12))
def test_an_offset_lies_within_the_jitter(job_id: str, jitter: int) -> None:
    assert 0 <= jitter_offset_ms(job_id, jitter) < jitter


def test_offsets_spread_over_the_whole_jitter() -> None:
    tenths = [jitter_offset_ms(f"job-{number}", 10) for number in range(2_000)]
    assert all(150 < tenths.count(tenth) < 250 for tenth in range(10))


@settings(max_examples=examples(60), deadline=None)
@given(
    spec=specs,
    starts=st.none() | st.integers(0, 2 * MIDNIGHT),
    width=st.none() | st.integers(-10_000, 10_000_000),
    offset=st.sampled_from([0, 1, 999, 3_600_000]),
    shift=st.integers(-200_000, 200_000),
    near_start=st.booleans(),
    length=lengths,
)
def test_a_bounded_and_shifted_trigger_is_one_series(
    spec: Any, starts: int | None, width: int | None, offset: int, shift: int, near_start: bool, length: int
) -> None:
    ends = None if width is None else (starts or MIDNIGHT) + width
    base = compile_trigger(spec)
    trigger = BoundedTrigger(base, starts_at_ms=starts, ends_at_ms=ends, offset_ms=offset)
    after = (starts or MIDNIGHT) + shift if near_start or ends is None else ends + shift
    check_series(trigger, after, after + length)
    for found in walk(trigger, after, after + length, most=5)[0]:
        nominal = found - offset
        assert base.next_after(nominal - 1) == nominal
        assert starts is None or nominal >= starts
        assert ends is None or nominal <= ends


def test_two_definitions_have_the_same_fire_times_unless_trigger_bounds_or_jitter_differ() -> None:
    job = make_job()
    assert same_fire_times(job, make_job(payload=b"2", policies=Policies(timeout_ms=1)))
    assert not same_fire_times(job, make_job(trigger=CronSpec("* * * * *")))
    for other in (Policies(starts_at_ms=1), Policies(ends_at_ms=1), Policies(jitter_ms=1)):
        assert not same_fire_times(job, make_job(policies=other))
        assert same_fire_times(make_job(policies=other), make_job(policies=other))
