"""Fire times worked out by hand, mostly where clocks change. Every instant here was derived from the zone's rules and
the text of the expression, not from a program."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from scheduler_core.triggers.cron import parse_cron


def ms(instant: str) -> int:
    return int(datetime.fromisoformat(instant).replace(tzinfo=UTC).timestamp()) * 1000


def iso(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S").removesuffix(":00")


def fires(expression: str, timezone: str, after: str, count: int) -> list[str]:
    trigger = parse_cron(expression, timezone)
    found: list[str] = []
    at = ms(after)
    while len(found) < count:
        following = trigger.next_after(at)
        assert following is not None
        found.append(iso(following))
        at = following
    return found


# expression, zone, asked after, fire times; all in UTC
VECTORS: dict[str, tuple[str, str, str, str]] = {
    # The position and the meaning of the fields.
    "seconds come first of six": (
        "15 30 9 * * *",
        "UTC",
        "2026-11-01T00:00",
        "2026-11-01T09:30:15 2026-11-02T09:30:15",
    ),
    "the documented example": (
        "*/10 * * * * * *",
        "UTC",
        "2026-11-01T00:00:05",
        "2026-11-01T00:00:10 2026-11-01T00:00:20",
    ),
    "five fields fire at second 0": ("* * * * *", "UTC", "2026-11-01T00:00", "2026-11-01T00:01 2026-11-01T00:02"),
    "the year comes last of seven": ("0 0 0 1 1 * 2028", "UTC", "2026-11-01T00:00", "2028-01-01T00:00"),
    "a single-value range is one value": (
        "0 0 * 3-3 1-1",
        "UTC",
        "2026-11-01T00:00",
        "2027-03-01T00:00 2027-03-08T00:00",
    ),
    "either day if both are restricted": (
        "0 0 13 * fri",
        "UTC",
        "2026-11-01T00:00",
        (
            "2026-11-06T00:00 2026-11-13T00:00 2026-11-20T00:00 2026-11-27T00:00 "
            "2026-12-04T00:00 2026-12-11T00:00 2026-12-13T00:00"
        ),
    ),
    "both days if the day of month starts with a star": (
        "0 12 */2 * mon",
        "UTC",
        "2025-10-06T12:00",
        "2025-10-13T12:00 2025-10-27T12:00 2025-11-03T12:00",
    ),
    "both days if the day of week starts with a star": (
        "0 0 1 * */6",
        "UTC",
        "2026-01-01T00:00",
        "2026-02-01T00:00 2026-03-01T00:00 2026-08-01T00:00 2026-11-01T00:00",
    ),
    "a full range without a star is restricted": (
        "0 0 1-31 * mon",
        "UTC",
        "2026-11-01T00:00",
        "2026-11-02T00:00 2026-11-03T00:00",
    ),
    "a day that only some months have": (
        "0 0 31 * *",
        "UTC",
        "2026-11-01T00:00",
        "2026-12-31T00:00 2027-01-31T00:00 2027-03-31T00:00",
    ),
    "a leap day": ("0 0 29 2 *", "UTC", "2026-11-01T00:00", "2028-02-29T00:00 2032-02-29T00:00"),
    # On a Sunday (0) only, with the star rule: 28 years apart.
    "a leap day on one weekday": (
        "0 0 29 2 */7",
        "UTC",
        "2026-11-01T00:00",
        "2032-02-29T00:00 2060-02-29T00:00 2088-02-29T00:00",
    ),
    # New York: 2026-03-08 02:00 -05 becomes 03:00 -04 (07:00Z); 2026-11-01 02:00 -04 becomes 01:00 -05 (06:00Z).
    "NY gap, fixed: right after it, once": (
        "30 2 * * *",
        "America/New_York",
        "2026-03-07T00:00",
        "2026-03-07T07:30 2026-03-08T07:00 2026-03-09T06:30",
    ),
    "NY gap, several fixed times in it: one fire time": (
        "15,45 2 * * *",
        "America/New_York",
        "2026-03-07T07:45",
        "2026-03-08T07:00 2026-03-09T06:15 2026-03-09T06:45",
    ),
    "NY gap, fixed times in it and at its end: one fire time": (
        "0 2,3 * * *",
        "America/New_York",
        "2026-03-08T00:00",
        "2026-03-08T07:00 2026-03-09T06:00 2026-03-09T07:00",
    ),
    "NY gap, every second of a fixed minute: one fire time": (
        "* 30 2 * * *",
        "America/New_York",
        "2026-03-08T00:00",
        "2026-03-08T07:00 2026-03-09T06:30 2026-03-09T06:30:01",
    ),
    "NY gap, fixed hour with any minute: skipped": (
        "*/30 2 * * *",
        "America/New_York",
        "2026-03-07T07:30",
        "2026-03-09T06:00 2026-03-09T06:30",
    ),
    "NY gap, fixed minute of any hour": (
        "30 * * * *",
        "America/New_York",
        "2026-03-08T06:00",
        "2026-03-08T06:30 2026-03-08T07:30",
    ),
    "NY gap, every two hours": (
        "0 */2 * * *",
        "America/New_York",
        "2026-03-08T04:00",
        "2026-03-08T05:00 2026-03-08T08:00",
    ),
    "NY gap, every second": (
        "* * * * * *",
        "America/New_York",
        "2026-03-08T06:59:58",
        "2026-03-08T06:59:59 2026-03-08T07:00 2026-03-08T07:00:01",
    ),
    "NY fold, fixed: the first time only": (
        "30 1 * * *",
        "America/New_York",
        "2026-10-31T12:00",
        "2026-11-01T05:30 2026-11-02T06:30",
    ),
    "NY fold, several fixed times: the first time only": (
        "0,30 0-2 * * *",
        "America/New_York",
        "2026-11-01T04:30",
        "2026-11-01T05:00 2026-11-01T05:30 2026-11-01T07:00 2026-11-01T07:30",
    ),
    "NY fold, every second of a fixed minute: the first time only": (
        "* 30 1 * * *",
        "America/New_York",
        "2026-11-01T05:30:58",
        "2026-11-01T05:30:59 2026-11-02T06:30",
    ),
    "NY fold, asked in the second pass": ("30 1 * * *", "America/New_York", "2026-11-01T06:10", "2026-11-02T06:30"),
    "NY fold, fixed hour with any minute: both times": (
        "*/30 1 * * *",
        "America/New_York",
        "2026-11-01T00:00",
        "2026-11-01T05:00 2026-11-01T05:30 2026-11-01T06:00 2026-11-01T06:30 2026-11-02T06:00",
    ),
    "NY fold, fixed minute of any hour: both times": (
        "30 * * * *",
        "America/New_York",
        "2026-11-01T05:00",
        "2026-11-01T05:30 2026-11-01T06:30 2026-11-01T07:30",
    ),
    "NY fold, the end of the repeated hour": ("0 2 * * *", "America/New_York", "2026-11-01T00:00", "2026-11-01T07:00"),
    # London: 2026-03-29 and 2026-10-25 at 01:00Z. Dublin changes with it, though its winter time is the "saving" one.
    "London gap, fixed": ("30 1 * * *", "Europe/London", "2026-03-28T12:00", "2026-03-29T01:00 2026-03-30T00:30"),
    "London fold, fixed": ("30 1 * * *", "Europe/London", "2026-10-24T12:00", "2026-10-25T00:30 2026-10-26T01:30"),
    "Dublin gap, fixed": ("30 1 * * *", "Europe/Dublin", "2026-03-28T12:00", "2026-03-29T01:00 2026-03-30T00:30"),
    "Dublin fold, fixed": ("30 1 * * *", "Europe/Dublin", "2026-10-24T12:00", "2026-10-25T00:30 2026-10-26T01:30"),
    # Lord Howe: half an hour. 2026-04-05 02:00 +11 becomes 01:30 +10:30 (15:00Z);
    # 2026-10-04 02:00 +10:30 becomes 02:30 +11 (15:30Z the day before).
    "Lord Howe fold, fixed": (
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T00:00",
        "2026-04-04T14:45 2026-04-05T15:15",
    ),
    "Lord Howe fold, any minute": (
        "*/7 1-3 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T14:49",
        (
            "2026-04-04T14:56 2026-04-04T15:05 2026-04-04T15:12 2026-04-04T15:19 "
            "2026-04-04T15:26 2026-04-04T15:30 2026-04-04T15:37"
        ),
    ),
    "Lord Howe gap, fixed": (
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00",
        "2026-10-03T15:30 2026-10-04T15:15",
    ),
    "Lord Howe gap, any hour": (
        "15,45 * * * *",
        "Australia/Lord_Howe",
        "2026-10-03T15:00",
        "2026-10-03T15:15 2026-10-03T15:45 2026-10-03T16:15",
    ),
    # Casablanca leaves +01 for Ramadan: 2026-02-15 03:00 becomes 02:00 (02:00Z);
    # 2026-03-22 02:00 becomes 03:00 (02:00Z).
    "Casablanca fold, fixed": (
        "30 2 * * *",
        "Africa/Casablanca",
        "2026-02-14T12:00",
        "2026-02-15T01:30 2026-02-16T02:30",
    ),
    "Casablanca gap, fixed": (
        "30 2 * * *",
        "Africa/Casablanca",
        "2026-03-21T12:00",
        "2026-03-22T02:00 2026-03-23T01:30",
    ),
    # A gap that starts at midnight: the day begins at 01:00.
    "Beirut gap at midnight": ("0 0 * * *", "Asia/Beirut", "2026-03-28T00:00", "2026-03-28T22:00 2026-03-29T21:00"),
    "Beirut gap at midnight, within": (
        "30 0 * * *",
        "Asia/Beirut",
        "2026-03-28T00:00",
        "2026-03-28T22:00 2026-03-29T21:30",
    ),
    "Cairo gap at midnight": ("@daily", "Africa/Cairo", "2026-04-23T00:00", "2026-04-23T22:00 2026-04-24T21:00"),
    "Cairo fold before midnight": (
        "30 23 * * *",
        "Africa/Cairo",
        "2026-10-29T00:00",
        "2026-10-29T20:30 2026-10-30T21:30",
    ),
    "Cairo fold before midnight, midnight itself": (
        "0 0 * * *",
        "Africa/Cairo",
        "2026-10-29T00:00",
        "2026-10-29T22:00 2026-10-30T22:00",
    ),
    "Havana gap at midnight": ("0 0 * * *", "America/Havana", "2026-03-07T12:00", "2026-03-08T05:00 2026-03-09T04:00"),
    "Havana fold after midnight": (
        "0 0 * * *",
        "America/Havana",
        "2026-10-31T12:00",
        "2026-11-01T04:00 2026-11-02T05:00",
    ),
    "Havana gap, weekday of the day that begins late": (
        "0 0 * * sun",
        "America/Havana",
        "2026-03-02T00:00",
        "2026-03-08T05:00 2026-03-15T04:00",
    ),
    # Apia had no 2011-12-30: from 23:59:59 -10 on the 29th to 00:00 +14 on the 31st (2011-12-30T10:00Z).
    "Apia lost day, fixed: nothing is made up for": (
        "0 12 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00",
        "2011-12-29T22:00 2011-12-30T22:00",
    ),
    "Apia lost day, the date itself": ("0 0 12 30 12 * *", "Pacific/Apia", "2011-01-01T00:00", "2012-12-29T22:00"),
    "Apia lost day, midnight after it": (
        "0 0 * * *",
        "Pacific/Apia",
        "2011-12-29T10:00",
        "2011-12-30T10:00 2011-12-31T10:00",
    ),
    "Apia lost day, any hour": (
        "0 */12 * * *",
        "Pacific/Apia",
        "2011-12-29T10:00",
        "2011-12-29T22:00 2011-12-30T10:00 2011-12-30T22:00",
    ),
    # Casey set its clocks forward by three hours: 2009-10-18 02:00 +08 became 05:00 +11 (18:00Z the day before).
    "Casey gap of three hours": (
        "30 3 * * *",
        "Antarctica/Casey",
        "2009-10-16T20:00",
        "2009-10-17T18:00 2009-10-18T16:30",
    ),
    # Offsets that are not whole hours or not whole minutes.
    "Kathmandu": ("0 6 * * *", "Asia/Kathmandu", "2026-11-01T00:00", "2026-11-01T00:15 2026-11-02T00:15"),
    "Kathmandu, every two hours": (
        "0 */2 * * *",
        "Asia/Kathmandu",
        "2026-11-01T00:00",
        "2026-11-01T00:15 2026-11-01T02:15",
    ),
    "Monrovia, 44 minutes and 30 seconds": ("0 12 * * *", "Africa/Monrovia", "1971-06-01T00:00", "1971-06-01T12:44:30"),
    # On 1972-01-07 at 00:00 the clocks went forward to 00:44:30.
    "Monrovia, the gap of 44 minutes and 30 seconds": (
        "30 0 * * *",
        "Africa/Monrovia",
        "1972-01-06T12:00",
        "1972-01-07T00:44:30 1972-01-08T00:30",
    ),
    "Monrovia, any hour around that gap": (
        "15,45 * * * *",
        "Africa/Monrovia",
        "1972-01-06T23:00",
        "1972-01-06T23:29:30 1972-01-06T23:59:30 1972-01-07T00:29:30 1972-01-07T00:45",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_fire_times_are_those_worked_out_by_hand(name: str) -> None:
    expression, timezone, after, expected = VECTORS[name]
    times = expected.split()
    assert fires(expression, timezone, after, len(times)) == times


@pytest.mark.parametrize("name", VECTORS)
def test_the_last_fire_time_up_to_each_one_is_itself(name: str) -> None:
    expression, timezone, after, expected = VECTORS[name]
    trigger = parse_cron(expression, timezone)
    for instant in map(ms, expected.split()):
        assert trigger.last_in(ms(after), instant) == instant
        assert trigger.last_in(instant - 1, instant) == instant
        assert trigger.last_in(instant, instant) is None


def test_nothing_fires_after_the_last_year() -> None:
    trigger = parse_cron("* * * * * *")
    last = ms("2099-12-31T23:59:59")
    assert trigger.next_after(last - 1) == last
    assert trigger.next_after(last) is None
    assert trigger.next_after(10**17) is None
    assert trigger.last_in(0, 10**17) == last


def test_nothing_fires_before_the_epoch() -> None:
    for zone in ("UTC", "Asia/Tokyo"):
        assert parse_cron("* * * * * *", zone).next_after(-(10**17)) == 0
        assert parse_cron("* * * * * *", zone).next_after(0) == 1000
    # West of Greenwich the local year 1970, the first that counts, began later.
    assert parse_cron("* * * * * *", "America/New_York").next_after(-(10**17)) == 5 * 3_600_000


def test_milliseconds_are_counted_towards_the_next_second() -> None:
    trigger = parse_cron("* * * * * *")
    assert trigger.next_after(999) == 1000
    assert trigger.next_after(1000) == 2000
    assert trigger.next_after(1001) == 2000
    assert trigger.last_in(0, 1999) == 1000
    assert trigger.last_in(1000, 1999) is None
    assert trigger.last_in(999, 1000) == 1000
    assert trigger.last_in(5000, 1000) is None
