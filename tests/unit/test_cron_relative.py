"""Days that depend on the month, in every kind of month: seven first weekdays, 28 to 31 days."""

from __future__ import annotations

import pytest

from scheduler_core.triggers.cron_relative import LastDay, LastWeekday, NearestWeekday, NthWeekday

MONTHS = [(first, length) for first in range(7) for length in (28, 29, 30, 31)]


def weekday_of(day: int, first: int) -> int:
    return (first + day - 1) % 7


@pytest.mark.parametrize(("first", "length"), MONTHS)
def test_a_day_before_the_last_is_counted_back_from_the_end(first: int, length: int) -> None:
    days = list(range(1, length + 1))
    for before in range(31):
        expected = days[-1 - before] if before < length else None
        assert LastDay(before).day_in(first, length) == expected


@pytest.mark.parametrize(("first", "length"), MONTHS)
def test_the_nearest_weekday_lies_in_the_month_from_monday_to_friday(first: int, length: int) -> None:
    working = [day for day in range(1, length + 1) if 1 <= weekday_of(day, first) <= 5]
    for day in range(1, 32):
        expected = min(working, key=lambda each: abs(each - day)) if day <= length else None
        assert NearestWeekday(day).day_in(first, length) == expected
    assert NearestWeekday().day_in(first, length) == working[-1]


@pytest.mark.parametrize(("first", "length"), MONTHS)
def test_the_last_and_the_nth_weekday_are_those_of_the_list_of_its_days(first: int, length: int) -> None:
    for weekday in range(7):
        days = [day for day in range(1, length + 1) if weekday_of(day, first) == weekday]
        assert LastWeekday(weekday).day_in(first, length) == days[-1]
        for number in range(1, 6):
            expected = days[number - 1] if number <= len(days) else None
            assert NthWeekday(weekday, number).day_in(first, length) == expected
