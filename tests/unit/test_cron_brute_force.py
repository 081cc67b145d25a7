"""Fire times around changes of the clocks, against a walk through every minute or second of them.

The reference here shares nothing with the code under test: it takes fields as sets of numbers (no text is parsed),
asks zoneinfo what the clocks show at each tick, and does at each tick what Debian's cron daemon does when it wakes up
and compares that with its virtual time. It is slow, obvious, and has no idea of "next".
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler_core.triggers.cron import parse_cron
from tests.support.examples import examples

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Zones and dates (UTC) on which their clocks change, forwards and back; by whole hours, half hours, three hours and
# 44 minutes 30 seconds; at midnight, around it and elsewhere; on the first and last day of a month.
CHANGES = [
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Europe/London", "2026-03-29"),
    ("Europe/London", "2026-10-25"),
    ("Europe/Dublin", "2027-03-28"),
    ("Europe/Dublin", "2027-10-31"),
    ("Australia/Lord_Howe", "2026-04-04"),
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Africa/Casablanca", "2026-02-15"),
    ("Africa/Casablanca", "2026-03-22"),
    ("Asia/Beirut", "2026-03-28"),
    ("Asia/Beirut", "2026-10-24"),
    ("Africa/Cairo", "2026-04-23"),
    ("Africa/Cairo", "2026-10-29"),
    ("America/Havana", "2026-03-08"),
    ("America/Havana", "2026-11-01"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Santiago", "2026-04-05"),
    ("America/Nuuk", "2026-03-29"),
    ("America/Nuuk", "2026-10-25"),
    ("Antarctica/Troll", "2026-03-29"),
    ("Antarctica/Troll", "2026-10-25"),
    ("Antarctica/Casey", "2010-03-04"),
    ("Antarctica/Casey", "2009-10-17"),
    ("Asia/Pyongyang", "2015-08-14"),
    ("Asia/Pyongyang", "2018-05-04"),
    ("Asia/Kathmandu", "1985-12-31"),
    ("Asia/Tehran", "2022-03-21"),
    ("Asia/Tehran", "2022-09-21"),
    ("Africa/Monrovia", "1972-01-07"),
    ("America/Caracas", "2007-12-09"),
    ("America/Caracas", "2016-05-01"),
    ("Pacific/Chatham", "2026-04-04"),
    ("Pacific/Chatham", "2026-09-26"),
    ("UTC", "2026-03-29"),
]


class Pattern(NamedTuple):
    """An expression as sets, with the text that means them."""

    text: str
    second: frozenset[int]
    minute: frozenset[int]
    hour: frozenset[int]
    day_of_month: frozenset[int]
    month: frozenset[int]
    day_of_week: frozenset[int]
    wild: bool
    both_days: bool

    def allows(self, shown: datetime) -> bool:
        weekday = shown.isoweekday() % 7 in self.day_of_week
        date = shown.day in self.day_of_month
        return (
            shown.second in self.second
            and shown.minute in self.minute
            and shown.hour in self.hour
            and shown.month in self.month
            and ((weekday and date) if self.both_days else (weekday or date))
        )


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, likely: list[int]) -> tuple[str, frozenset[int]]:
    """The text of one field and, made beside it, what it stands for."""
    every = range(low, high + 1)
    kind = draw(st.sampled_from(["star", "star", "star step", "values", "values", "values", "range", "range step"]))
    if kind == "star":
        return "*", frozenset(every)
    if kind == "star step":
        step = draw(st.integers(1, high - low + 2))
        return f"*/{step}", frozenset(every[::step])
    if kind == "values":
        chosen = draw(st.lists(st.sampled_from(likely) | st.integers(low, high), min_size=1, max_size=4))
        return ",".join(map(str, chosen)), frozenset(chosen)
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, 9)) if kind == "range step" else 1
    return f"{first}-{last}" + (f"/{step}" if kind == "range step" else ""), frozenset(range(first, last + 1, step))


@st.composite
def patterns(draw: st.DrawFn, day: datetime, *, seconds: bool) -> Pattern:
    """Mostly expressions that fire near ``day``: otherwise most examples would say nothing."""
    second, second_set = draw(fields(0, 59, [0, 30, 59])) if seconds else ("0", frozenset({0}))
    minute, minute_set = draw(fields(0, 59, [0, 15, 30, 45, 59]))
    hour, hour_set = draw(fields(0, 23, [0, 1, 2, 3, 23]))
    dates = [(day + timedelta(days=n)).day for n in (-1, 0, 1)]
    weekdays = [(day + timedelta(days=n)).isoweekday() % 7 for n in (-1, 0, 1)]
    date, date_set = draw(st.just(("*", frozenset(range(1, 32)))) | fields(1, 31, dates))
    month, month_set = draw(st.just(("*", frozenset(range(1, 13)))) | fields(1, 12, [day.month]))
    weekday, weekday_set = draw(st.just(("*", frozenset(range(7)))) | fields(0, 7, weekdays))
    both_days = date.startswith("*") or weekday.startswith("*")
    if both_days:  # else it never fires, and is refused
        assume(any(n <= monthrange(2024, m)[1] for n in date_set for m in month_set))
    return Pattern(
        text=f"{second} {minute} {hour} {date} {month} {weekday}",
        second=second_set,
        minute=minute_set,
        hour=hour_set,
        day_of_month=date_set,
        month=month_set,
        day_of_week=frozenset(value % 7 for value in weekday_set),
        wild=minute.startswith("*") or hour.startswith("*"),
        both_days=both_days,
    )


@cache
def clocks(zone: str, start: int, end: int, tick: int) -> list[tuple[int, datetime]]:
    """Each tick and what the clocks show at it, as a date without zone."""
    info = ZoneInfo(zone)
    return [
        (instant, (EPOCH + timedelta(seconds=instant)).astimezone(info).replace(tzinfo=None, fold=0))
        for instant in range(start, end, tick)
    ]


def walk(pattern: Pattern, ticks: list[tuple[int, datetime]], tick: int) -> list[int]:
    """Return the fire times in epoch seconds, by waking up at every tick after the first, as the daemon does."""
    found: set[int] = set()
    step, replayed = timedelta(seconds=tick), timedelta(hours=3)
    virtual = ticks[0][1]
    for instant, shown in ticks[1:]:
        if pattern.wild:
            if pattern.allows(shown):
                found.add(instant)
            continue
        if shown - virtual > replayed + step:
            virtual = shown - step  # the calendar was changed
        while virtual < shown:
            virtual += step
            if pattern.allows(virtual):
                found.add(instant)
    return sorted(found)


def change_instant(zone: str, date: str) -> int:
    """Return the second of the first change of offset on that date (UTC), or noon where there is none."""
    info = ZoneInfo(zone)
    day = int(datetime.fromisoformat(date + "T00:00:00Z").timestamp())
    shown = [
        (EPOCH + timedelta(seconds=instant)).astimezone(info).utcoffset() for instant in range(day, day + 86_401, 30)
    ]
    changes = [day + 30 * n for n in range(1, len(shown)) if shown[n] != shown[n - 1]]
    return changes[0] if changes else day + 43_200


def check(pattern: Pattern, zone: str, start: int, end: int, tick: int) -> None:
    expected = [instant * 1000 for instant in walk(pattern, clocks(zone, start, end, tick), tick)]
    trigger = parse_cron(pattern.text, zone)
    first, last = start * 1000, (end - tick) * 1000
    # Forwards, one by one.
    found: list[int] = []
    at = trigger.next_after(first)
    while at is not None and at <= last:
        found.append(at)
        at = trigger.next_after(at)
    assert found == expected
    # Backwards, with nothing remembered: the last one up to just before the one before.
    fresh = parse_cron(pattern.text, zone)
    backwards: list[int] = []
    until = last
    while (at := fresh.last_in(first, until)) is not None:
        backwards.append(at)
        until = at - 1
    assert backwards[::-1] == expected


def test_the_dates_above_are_those_of_changes() -> None:
    for zone, date in CHANGES:
        info = ZoneInfo(zone)
        instant = change_instant(zone, date)
        before = (EPOCH + timedelta(seconds=instant - 31)).astimezone(info).utcoffset()
        after = (EPOCH + timedelta(seconds=instant)).astimezone(info).utcoffset()
        assert (before != after) == (zone != "UTC"), (zone, date)


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_around_a_change_fire_times_are_those_of_a_walk_through_every_minute(data: st.DataObject) -> None:
    zone, date = data.draw(st.sampled_from([change for change in CHANGES if change[0] != "Africa/Monrovia"]))
    change = change_instant(zone, date)
    pattern = data.draw(patterns(EPOCH + timedelta(seconds=change), seconds=False))
    try:
        check(pattern, zone, change - 30 * 3600, change + 30 * 3600, 60)
    except Exception as error:
        error.add_note(f"{pattern.text!r} in {zone} around {date}")
        raise


@pytest.mark.slow
@settings(max_examples=examples(15), deadline=None)
@given(data=st.data())
def test_around_a_change_fire_times_are_those_of_a_walk_through_every_second(data: st.DataObject) -> None:
    zone, date = data.draw(st.sampled_from(CHANGES))
    change = change_instant(zone, date)
    pattern = data.draw(patterns(EPOCH + timedelta(seconds=change), seconds=True))
    try:
        check(pattern, zone, change - 4000, change + 8000, 1)
    except Exception as error:
        error.add_note(f"{pattern.text!r} in {zone} around {date}")
        raise


@pytest.mark.parametrize("zone", ["Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati"])
def test_a_lost_day_is_not_made_up_for_in_a_walk_through_every_minute(zone: str) -> None:
    date = {"Pacific/Apia": "2011-12-30", "Pacific/Kwajalein": "1993-08-21", "Pacific/Kiritimati": "1994-12-31"}[zone]
    change = change_instant(zone, date)
    every = {"second": frozenset({0}), "day_of_month": frozenset(range(1, 32)), "month": frozenset(range(1, 13))}
    for text, minute, hour, wild in [
        ("0 30 11 * * *", {30}, {11}, False),
        ("0 0 0,23 * * *", {0}, {0, 23}, False),
        ("0 0 * * * *", {0}, set(range(24)), True),
    ]:
        pattern = Pattern(
            text=text,
            minute=frozenset(minute),
            hour=frozenset(hour),
            day_of_week=frozenset(range(7)),
            wild=wild,
            both_days=True,
            **every,
        )
        check(pattern, zone, change - 40 * 3600, change + 40 * 3600, 60)
