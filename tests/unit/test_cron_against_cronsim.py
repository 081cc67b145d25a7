"""Fire times against cronsim, which was written from Debian's cron by others and shares no code with croniter.

Where cronsim's dialect is another, the expressions below stay out of it, with the reason beside them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron import parse_cron
from tests.support.examples import examples

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = [
    "UTC",
    "America/New_York",
    "America/Santiago",
    "America/Havana",
    "America/St_Johns",
    "Europe/London",
    "Europe/Dublin",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Pacific/Auckland",
]
COMPARED = 6

# No LMT offsets of seconds (before 1973), and within the years that every zone table is explicit about.
starts = st.integers(3 * 365 * 86_400, 67 * 365 * 86_400)


@st.composite
def field_texts(draw: st.DrawFn, low: int, high: int, names: tuple[str, ...] = ()) -> str:
    # No range of one value with a step, which cronsim reads as a single value with one: as "5-59/10".
    items: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["star", "value", "value", "range", "range step", "star step", "value step"]))
        first = draw(st.integers(low, high))
        if kind == "star":
            items.append("*")
        elif kind == "star step":
            # cronsim reads a "*/n" of one value as "first-last/n" too, with the same result.
            items.append(f"*/{draw(st.integers(1, high))}")
        elif kind == "value step" and high != 7:  # cronsim counts to 7 in the weekdays, we to 6
            items.append(f"{first}/{draw(st.integers(1, 12))}")
        elif kind == "value":
            items.append(draw(st.sampled_from([str(first), *names])))
        else:
            last = draw(st.integers(first, high))
            step = f"/{draw(st.integers(1, 12))}" if kind == "range step" and last > first else ""
            items.append(f"{first}-{last}{step}")
    return ",".join(items)


def calendar_texts() -> st.SearchStrategy[tuple[str, str, str]]:
    star = st.just("*")
    months = ("jan", "FEB", "Mar", "apr", "oct", "Nov")
    weekdays = ("sun", "MON", "Tue", "fri", "Sat")
    # Of the days that depend on the month cronsim has L, LW, "5L" and "5#2". A name before L it refuses.
    dates = star | field_texts(1, 31) | field_texts(1, 31, ("L", "LW", "l", "lw"))
    relative = tuple(f"{day}L" for day in range(8)) + tuple(
        f"{day}#{number}" for day in range(8) for number in (1, 3, 5)
    )
    days = star | field_texts(0, 7, weekdays) | field_texts(0, 7, relative) | st.sampled_from(relative)
    return st.tuples(dates, star | field_texts(1, 12, months), days)


def minutes_and_hours() -> st.SearchStrategy[tuple[str, str]]:
    return st.tuples(field_texts(0, 59), field_texts(0, 23) | st.sampled_from(["0", "1", "2", "3", "0-3", "*"]))


def both_refuse(expression: str) -> bool:
    """Return whether the expression names a day that none of its months has. We refuse it at once; cronsim refuses
    some and finds no match for the others."""
    try:
        next(CronSim(expression, EPOCH))
    except (CronSimError, StopIteration):
        with pytest.raises(InvalidInput, match="never fires"):
            parse_cron(expression)
        return True
    return False


def next_of_cronsim(expression: str, start: datetime, count: int) -> list[int]:
    """Without repetitions: of several fixed times in one gap cronsim tells each, at the same instant."""
    found: list[int] = []
    for moment in islice(CronSim(expression, start), 500):
        instant = round(moment.astimezone(UTC).timestamp()) * 1000
        if not found or instant > found[-1]:
            found.append(instant)
        if len(found) == count:
            break
    return found


def next_of_ours(expression: str, zone: str, start: int, count: int) -> list[int]:
    trigger = parse_cron(expression, zone)
    found: list[int] = []
    at = trigger.next_after(start * 1000)
    while at is not None and len(found) < count:
        found.append(at)
        at = trigger.next_after(at)
    return found


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(time=minutes_and_hours(), day=calendar_texts(), zone=st.sampled_from(ZONES), start=starts)
def test_five_fields_fire_when_cronsim_fires(
    time: tuple[str, str], day: tuple[str, str, str], zone: str, start: int
) -> None:
    expression = " ".join([*time, *day])
    begin = (EPOCH + timedelta(seconds=start)).astimezone(ZoneInfo(zone))
    if both_refuse(expression):
        return
    theirs = next_of_cronsim(expression, begin, COMPARED)
    assert next_of_ours(expression, zone, start, len(theirs)) == theirs


@pytest.mark.slow
@settings(max_examples=examples(50), deadline=None)
@given(second=field_texts(0, 59), time=minutes_and_hours(), day=calendar_texts(), start=starts)
def test_six_fields_fire_when_cronsim_fires(
    second: str, time: tuple[str, str], day: tuple[str, str, str], start: int
) -> None:
    # In UTC only: with six fields cronsim does not follow Debian's rules for changed clocks, and we do.
    expression = " ".join([second, *time, *day])
    if both_refuse(expression):
        return
    theirs = next_of_cronsim(expression, EPOCH + timedelta(seconds=start), COMPARED)
    assert next_of_ours(expression, "UTC", start, len(theirs)) == theirs


@settings(max_examples=examples(30), deadline=None)
@given(second=field_texts(0, 59), time=minutes_and_hours(), day=calendar_texts(), start=starts)
def test_the_last_fire_time_is_that_of_cronsim_backwards(
    second: str, time: tuple[str, str], day: tuple[str, str, str], start: int
) -> None:
    expression = " ".join([second, *time, *day])
    if both_refuse(expression):
        return
    # cronsim excludes the moment it starts from; we include it.
    theirs = next(CronSim(expression, EPOCH + timedelta(seconds=start + 1), reverse=True))
    assert parse_cron(expression).last_in(0, start * 1000) == max(0, round(theirs.timestamp()) * 1000)
