"""Fire times around changes of the clocks, against a walk through every minute or second of them.

The reference here shares nothing with the code under test: it takes fields as sets of numbers (no text is parsed),
asks zoneinfo what the clocks show at each tick, and does at each tick what Debian's cron daemon does when it wakes up
and compares that with its virtual time. It is slow, obvious, and has no idea of "next".
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler_core.base.errors import InvalidInput
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


DateRule = Callable[[datetime], bool]


def is_before_last(shown: datetime, number: int) -> bool:
    """``L-n``: n days later the month ends."""
    last = shown + timedelta(days=number)
    return last.month == shown.month and (last + timedelta(days=1)).month != shown.month


def working_days(shown: datetime) -> list[int]:
    """The days from Monday to Friday of the month."""
    days = range(1, monthrange(shown.year, shown.month)[1] + 1)
    return [day for day in days if shown.replace(day=day).isoweekday() <= 5]


def is_nearest(shown: datetime, day: int) -> bool:
    """``nW``. Two days are never equally near: one lies within a day of Saturday or Sunday, the other does not."""
    if day > monthrange(shown.year, shown.month)[1]:
        return False
    return shown.day == min(working_days(shown), key=lambda each: abs(each - day))


def is_last_weekday(shown: datetime, weekday: int) -> bool:
    return shown.isoweekday() % 7 == weekday and (shown + timedelta(days=7)).month != shown.month


def is_nth_weekday(shown: datetime, weekday: int, number: int) -> bool:
    earlier = [day for day in range(1, shown.day + 1) if shown.replace(day=day).isoweekday() % 7 == weekday]
    return len(earlier) == number and earlier[-1] == shown.day


NAMES = ("sun", "Mon", "TUE", "wed", "thu", "fri", "sat")


@st.composite
def relative_dates(draw: st.DrawFn, days: list[int]) -> tuple[str, DateRule]:
    kind = draw(st.sampled_from(["L", "L-n", "nW", "nW", "LW"]))
    if kind == "L":
        return draw(st.sampled_from("Ll")), lambda shown: is_before_last(shown, 0)
    if kind == "L-n":
        number = draw(st.integers(1, 30))
        return f"L-{number}", lambda shown: is_before_last(shown, number)
    if kind == "nW":
        day = draw(st.sampled_from(days) | st.integers(1, 31))
        return f"{day}W", lambda shown: is_nearest(shown, day)
    return draw(st.sampled_from(["LW", "lw"])), lambda shown: shown.day == working_days(shown)[-1]


@st.composite
def relative_weekdays(draw: st.DrawFn, weekdays: list[int]) -> tuple[str, DateRule]:
    weekday = draw(st.sampled_from(weekdays))
    text = draw(st.sampled_from([str(weekday), NAMES[weekday], "7" if weekday == 0 else str(weekday)]))
    if draw(st.booleans()):
        return f"{text}L", lambda shown: is_last_weekday(shown, weekday)
    number = draw(st.integers(1, 5))
    return f"{text}#{number}", lambda shown: is_nth_weekday(shown, weekday, number)


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
    date_rules: tuple[DateRule, ...] = ()
    weekday_rules: tuple[DateRule, ...] = ()

    def allows(self, shown: datetime) -> bool:
        weekday = shown.isoweekday() % 7 in self.day_of_week or any(rule(shown) for rule in self.weekday_rules)
        date = shown.day in self.day_of_month or any(rule(shown) for rule in self.date_rules)
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
    kind = draw(
        st.sampled_from(
            ["star", "star", "star step", "values", "values", "values", "range", "range step", "value step"]
        )
    )
    if kind == "star":
        return "*", frozenset(every)
    if kind == "star step":
        step = draw(st.integers(1, high - low + 2))
        return f"*/{step}", frozenset(every[::step])
    if kind == "values":
        chosen = draw(st.lists(st.sampled_from(likely) | st.integers(low, high), min_size=1, max_size=4))
        return ",".join(map(str, chosen)), frozenset(chosen)
    first = draw(st.integers(low, high))
    if kind == "value step":
        step = draw(st.integers(1, high - low + 2))
        return f"{first}/{step}", frozenset(every[first - low :: step])
    last = draw(st.integers(low, high))
    step = draw(st.integers(1, 9)) if kind == "range step" else 1
    # Walk from the first value to the last one, over the end of the field if the last one is the smaller.
    walked = [low + (first - low + n) % len(every) for n in range((last - first) % len(every) + 1)]
    return f"{first}-{last}" + (f"/{step}" if kind == "range step" else ""), frozenset(walked[::step])


@st.composite
def patterns(draw: st.DrawFn, day: datetime, *, seconds: bool) -> Pattern:
    """Mostly expressions that fire near ``day``: otherwise most examples would say nothing."""
    second, second_set = draw(fields(0, 59, [0, 30, 59])) if seconds else ("0", frozenset({0}))
    minute, minute_set = draw(fields(0, 59, [0, 15, 30, 45, 59]))
    hour, hour_set = draw(fields(0, 23, [0, 1, 2, 3, 23]))
    dates = [(day + timedelta(days=n)).day for n in (-1, 0, 1)]
    weekdays = [(day + timedelta(days=n)).isoweekday() % 7 for n in (-1, 0, 1)]
    date_rules: tuple[DateRule, ...] = ()
    weekday_rules: tuple[DateRule, ...] = ()
    any_date, any_weekday = frozenset(range(1, 32)), frozenset(range(7))
    date, date_set = draw(st.sampled_from([("*", any_date), ("?", any_date)]) | fields(1, 31, dates))
    month, month_set = draw(st.just(("*", frozenset(range(1, 13)))) | fields(1, 12, [day.month]))
    weekday, weekday_set = draw(st.sampled_from([("*", any_weekday), ("?", any_weekday)]) | fields(0, 6, weekdays))
    if draw(st.booleans()):
        text, rule = draw(relative_dates(dates))
        date, date_set = (text, frozenset()) if date in "*?" or draw(st.booleans()) else (f"{date},{text}", date_set)
        date_rules = (rule,)
    if draw(st.booleans()):
        text, rule = draw(relative_weekdays(weekdays))
        if weekday in "*?" or draw(st.booleans()):
            weekday, weekday_set = text, frozenset()
        else:
            weekday = f"{text},{weekday}" if draw(st.booleans()) else f"{weekday},{text}"
        weekday_rules = (rule,)
    both_days = date[0] in "*?" or weekday[0] in "*?"
    if both_days and not date_rules:  # else it never fires, and is refused
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
        date_rules=date_rules,
        weekday_rules=weekday_rules,
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
    try:
        trigger = parse_cron(pattern.text, zone)
    except InvalidInput as error:
        # Combinations such as the last Sunday of the month on day 1.
        assert "never fires" in error.detail  # noqa: PT017
        assert expected == []
        return
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
@settings(max_examples=examples(30), deadline=None)
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
@settings(max_examples=examples(8), deadline=None)
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


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data(), day=st.integers(0, 128 * 365))  # ends before the last day of 2099
def test_over_a_year_the_days_are_those_of_a_walk_through_every_day(data: st.DataObject, day: int) -> None:
    start = EPOCH + timedelta(days=day)
    pattern = data.draw(patterns(start + timedelta(days=data.draw(st.integers(0, 365))), seconds=False))
    _, _, _, *days = pattern.text.split()
    noon = pattern._replace(
        text=" ".join(["0 0 12", *days]),
        second=frozenset({0}),
        minute=frozenset({0}),
        hour=frozenset({12}),
        wild=True,  # what the clocks do does not matter at noon in UTC
    )
    begin = int(start.timestamp()) + 43_200
    check(noon, "UTC", begin - 86_400, begin + 400 * 86_400, 86_400)


@pytest.mark.parametrize("zone", ["Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati"])
def test_a_lost_day_is_not_made_up_for_in_a_walk_through_every_minute(zone: str) -> None:
    date = {"Pacific/Apia": "2011-12-30", "Pacific/Kwajalein": "1993-08-21", "Pacific/Kiritimati": "1994-12-31"}[zone]
    change = change_instant(zone, date)
    for text, minute, hour, wild in [
        ("0 30 11 * * *", {30}, {11}, False),
        ("0 0 0,23 * * *", {0}, {0, 23}, False),
        ("0 0 * * * *", {0}, set(range(24)), True),
    ]:
        pattern = Pattern(
            text=text,
            second=frozenset({0}),
            minute=frozenset(minute),
            hour=frozenset(hour),
            day_of_month=frozenset(range(1, 32)),
            month=frozenset(range(1, 13)),
            day_of_week=frozenset(range(7)),
            wild=wild,
            both_days=True,
        )
        check(pattern, zone, change - 40 * 3600, change + 40 * 3600, 60)
