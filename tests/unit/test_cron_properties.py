"""Properties of every expression and every zone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zoneinfo import TZPATH, ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron import CronTrigger, parse_cron
from scheduler_core.triggers.cron_days import CalendarDays, YearlyDays, _yearly_days
from scheduler_core.triggers.cron_fields import CronFields, read_fields
from scheduler_core.triggers.cron_hash import hash_of
from scheduler_core.triggers.zone import DAY, Zone, load_zone, zone_names
from tests.support.examples import examples, sample

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_2099 = 4_102_444_800_000

EXPRESSIONS = [
    f"{second} {minute} {hour} {day}"
    for second in ("0", "*", "59", "*/20")
    for minute in ("*", "0", "30", "*/7", "0,59", "10-50/20", "50/4", "55-5/3")
    for hour in ("*", "0", "1-3", "*/2", "23", "2", "22-2/2")
    for day in (
        "* * *",
        "29 2 *",
        "31 * *",
        "* * mon-fri",
        "1,15 * fri",
        "*/2 * sat",
        "13 6-9 */3",
        "1 1 * 2030-2060/7",
        "30-2 nov-feb fri-mon",
        "L * ?",
        "L-30 * *",
        "31W 1-3,9,11 ?",
        "LW,1W * sat#1",
        "? * friL",
        "*/2 * mon#1,7L",
        "? 2 fri#5 2000-2099",
        "29W 2 * 2024-2072/4",
    )
]
ZONES = sorted(zone_names())


# Strictly increasing, and both questions about one series.


@settings(max_examples=examples(50), deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from(ZONES),
    after=st.integers(0, END_OF_2099 - 1),
)
def test_fire_times_are_whole_seconds_and_strictly_increasing(expression: str, zone: str, after: int) -> None:
    trigger = parse_cron(expression, zone)
    at = after
    for _ in range(10):
        following = trigger.next_after(at)
        if following is None:
            return
        assert following > at
        assert following % 1000 == 0
        # Nothing in between: the answer is the same from just before it.
        assert trigger.next_after(following - 1) == following
        assert parse_cron(expression, zone).next_after((at + following) // 2) == following
        at = following


@pytest.mark.slow
@settings(max_examples=examples(50), deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from(ZONES),
    after=st.integers(0, END_OF_2099 - 1),
    data=st.data(),
)
def test_last_in_is_the_last_that_next_after_reaches(
    expression: str, zone: str, after: int, data: st.DataObject
) -> None:
    walker = parse_cron(expression, zone)
    series: list[int] = []
    at = walker.next_after(after)
    while at is not None and len(series) < 12:
        series.append(at)
        at = walker.next_after(at)
    limit = series[-1] if series else END_OF_2099
    until = data.draw(
        st.integers(after, limit) | st.sampled_from([t + d for t in series for d in (-1, 0, 1)] or [after])
    )
    until = min(until, limit)
    expected = max((t for t in series if t <= until), default=None)
    assert parse_cron(expression, zone).last_in(after, until) == expected


@settings(max_examples=examples(60), deadline=None)
@given(expression=st.sampled_from(EXPRESSIONS), zone=st.sampled_from(ZONES), data=st.data())
def test_a_count_by_days_is_the_number_of_steps(expression: str, zone: str, data: st.DataObject) -> None:
    near = st.integers(-30 * 3600, 8 * 3600)
    instants = [change.instant for change in changes(zone) if change.instant > 0]
    at = data.draw(st.sampled_from(instants) if instants else st.integers(0, END_OF_2099 // 1000))
    after = max(at + data.draw(near), 0) * 1000
    until = after + data.draw(st.integers(0, 4 * 3600) | st.integers(0, 40 * 3600)) * 1000
    walker = parse_cron(expression, zone)
    steps, found = 0, walker.next_after(after)
    while found is not None and found <= until and steps < 4000:
        steps, found = steps + 1, walker.next_after(found)
    until = until if found is None or found > until else found - 1
    assert walker.count_by_days(after, until, 20) == steps


@pytest.mark.parametrize(
    ("expression", "first", "last", "count"),
    [
        ("* * * * * *", "2026-03-29T00:00", "2026-03-30T00:00", 86_400),
        ("*/5 * * * *", "2026-03-28T23:00", "2026-03-29T22:00", 276),  # a day with 23 hours
        ("*/5 * * * *", "2026-10-24T22:00", "2026-10-25T23:00", 300),  # a day with 25 hours
        ("0,30 0-3 * * *", "2026-03-28T23:00", "2026-03-29T22:00", 6),  # 02:00, 02:30 and 03:00 are one instant
        ("15,30 2 * * *", "2026-03-28T23:00", "2026-03-29T22:00", 1),  # both are skipped together
        ("30 2 * * *", "2026-10-24T22:00", "2026-10-25T23:00", 1),  # shown twice, fires once
        ("* * * * * mon-fri", "2026-11-01T23:00", "2026-11-30T23:00", 21 * 86_400),
    ],
)
def test_days_of_23_and_25_hours_are_counted_exactly(expression: str, first: str, last: str, count: int) -> None:
    after, until = (round(datetime.fromisoformat(text + "+00:00").timestamp() * 1000) - 1 for text in (first, last))
    assert parse_cron(expression, "Europe/Berlin").count_by_days(after, until, 40) == count


def test_a_count_by_days_ends_at_its_limit() -> None:
    fridays = parse_cron("* * * * * fri")
    year = 366 * DAY * 1000
    assert fridays.count_by_days(0, year, 53) == 53 * DAY
    assert fridays.count_by_days(0, year, 52) is None
    assert parse_cron("* * * * * *", "Europe/Berlin").count_by_days(0, 60 * year, 40) is None
    assert parse_cron("* * * * * *").count_by_days(-1, 60 * year - 1, 0) == 60 * year // 1000


@settings(max_examples=examples(50), deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from(ZONES),
    until=st.integers(0, END_OF_2099 + DAY * 1000),
)
def test_after_the_last_of_a_long_time_the_next_one_lies_beyond_it(expression: str, zone: str, until: int) -> None:
    trigger = parse_cron(expression, zone)
    last = trigger.last_in(-1, until)
    if last is None:
        following = trigger.next_after(-1)
        assert following is None or following > until
        return
    assert last <= until
    following = parse_cron(expression, zone).next_after(last)
    assert following is None or following > until


@settings(max_examples=examples(30), deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe"]),
    base=st.integers(0, END_OF_2099 - 1),
    questions=st.lists(st.tuples(st.integers(-5000, 5000), st.integers(-1, 90_000)), min_size=2, max_size=12),
)
def test_earlier_queries_do_not_change_an_answer(
    expression: str, zone: str, base: int, questions: list[tuple[int, int]]
) -> None:
    shared = parse_cron(expression, zone)
    for shift, length in questions:
        after = base + shift
        assert shared.next_after(after) == parse_cron(expression, zone).next_after(after)
        assert shared.last_in(after, after + length) == parse_cron(expression, zone).last_in(after, after + length)


# Constant effort.


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Africa/Casablanca"])
@pytest.mark.parametrize(
    "expression",
    [
        *EXPRESSIONS[::67],
        "* * * * * *",
        "0 0 29 2 */7",
        "30 2 * * *",
        "0 0 31W 1,3,12 *",
        "0 0 L-30 1-3 ?",
        "0 0 0 ? 2 fri#5 1970-2099",
        "0 0 0 */28 2,4 7L",
        "0 0 0 29W 2 ? 2096",
    ],
)
def test_a_century_of_backlog_is_not_walked(expression: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = asked = years = 0
    segment, ask, days = Zone.segment, CalendarDays._ask, YearlyDays._days

    def count_segment(self: Zone, instant: int) -> object:
        nonlocal looked_up
        looked_up += 1
        return segment(self, instant)

    def count_ask(self: object, day: int, *, backwards: bool) -> int | None:
        nonlocal asked
        asked += 1
        return ask(self, day, backwards=backwards)  # type: ignore[arg-type]

    def count_year(self: YearlyDays, year: int) -> int:
        nonlocal years
        years += 1
        return days(self, year)

    trigger = parse_cron(expression, zone)
    monkeypatch.setattr(Zone, "segment", count_segment)
    monkeypatch.setattr(YearlyDays, "_days", count_year)
    monkeypatch.setattr(CalendarDays, "_ask", count_ask)
    for until in range(END_OF_2099 // 2, END_OF_2099, END_OF_2099 // 40):
        looked_up = asked = years = 0
        trigger.last_in(0, until)
        trigger.next_after(until)
        assert looked_up <= 40
        assert asked <= 40
        assert years <= 40 + 3 * 130


@pytest.mark.parametrize("days", ["30W 2 *", "L-29 2 *", "? 2 fri#5 2023-2027", "*/31 4 1#2"])
def test_an_expression_that_never_fires_is_refused_after_one_look_at_each_year(
    days: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _yearly_days.cache_clear()
    looked_at: list[int] = []
    made: list[int] = []
    days_of, make = YearlyDays._days, YearlyDays._make_days

    def look_at(self: YearlyDays, year: int) -> int:
        looked_at.append(year)
        return days_of(self, year)

    def make_days(self: YearlyDays, year: int) -> int:
        made.append(year)
        return make(self, year)

    monkeypatch.setattr(YearlyDays, "_days", look_at)
    monkeypatch.setattr(YearlyDays, "_make_days", make_days)
    with pytest.raises(InvalidInput, match="never fires"):
        parse_cron(f"0 0 0 {days}")
    assert len(looked_at) == len(set(looked_at)) <= 130
    assert len(made) <= 14


def test_an_answer_that_does_not_lie_ahead_raises_instead_of_looping(monkeypatch: pytest.MonkeyPatch) -> None:
    trigger = parse_cron("* * * * *")
    monkeypatch.setattr(CronTrigger, "_next_elapsed", lambda self, after: after)
    with pytest.raises(RuntimeError, match="does not come after"):
        trigger.next_after(1_000_000)


# Every zone.


class Change(NamedTuple):
    instant: int
    before: int
    after: int


@cache
def changes(zone: str) -> tuple[Change, ...]:
    """List all changes of offset from 1970 on that the zone's file lists (RFC 8536), read without zoneinfo."""
    found = next((path for root in TZPATH if (path := Path(root) / zone).is_file()), None)
    content = found.read_bytes() if found else resources.files("tzdata").joinpath("zoneinfo", zone).read_bytes()
    header = struct.Struct(">4sc15x6l")

    def sizes(at: int) -> tuple[int, int, int, int, int, int]:
        _, _, utc, standard, leaps, times, types, letters = header.unpack_from(content, at)
        return utc, standard, leaps, times, types, letters

    utc, standard, leaps, times, types, letters = sizes(0)
    at = header.size + times * 5 + types * 6 + letters + leaps * 8 + standard + utc
    _, _, _, times, types, _ = sizes(at)
    at += header.size
    instants = struct.unpack_from(f">{times}q", content, at)
    kinds = struct.unpack_from(f">{times}B", content, at + times * 8)
    offsets = [struct.unpack_from(">l", content, at + times * 9 + 6 * n)[0] for n in range(types)]
    after = [offsets[kind] for kind in kinds]
    before = [offsets[0], *after]
    return tuple(
        Change(*change)
        for change in zip(instants, before, after, strict=False)
        if change[0] > 0 and change[1] != change[2]
    )


def distinct_zones(*, one_in: int) -> Iterator[str]:
    """One name for each set of changes among one in ``one_in`` names: many names are links."""
    seen: set[object] = set()
    for zone in sample(ZONES, one_in=one_in):
        key = changes(zone) or ZoneInfo(zone).utcoffset(datetime(2000, 1, 1, tzinfo=UTC))
        if key not in seen:
            seen.add(key)
            yield zone


@pytest.mark.slow
@pytest.mark.random
def test_the_offset_table_has_every_change_of_a_zone_to_the_second() -> None:
    for zone in distinct_zones(one_in=5):
        table = load_zone(zone)
        for change in changes(zone):
            segment = table.segment(change.instant)
            assert segment.offset == change.after, (zone, change)
            assert segment.start == change.instant, (zone, change)
            assert table.segment(change.instant - 1).offset == change.before, (zone, change)


@pytest.mark.slow
@pytest.mark.random
def test_between_listed_changes_the_offset_table_has_none() -> None:
    for zone in distinct_zones(one_in=6):
        table = load_zone(zone)
        listed = {change.instant for change in changes(zone)}
        at, end = 0, max(listed, default=0)
        offset = table.segment(0).offset
        while at < end:
            segment = table.segment(at)
            assert segment.offset == offset or segment.start in listed, (zone, segment)
            offset, at = segment.offset, segment.end


@pytest.mark.random
def test_no_zone_changes_twice_within_the_distance_at_which_offsets_are_sampled() -> None:
    from scheduler_core.triggers.zone import _SAMPLE

    for zone in distinct_zones(one_in=5):
        instants = [change.instant for change in changes(zone)]
        assert all(later - earlier > _SAMPLE for earlier, later in pairwise(instants)), zone


@pytest.mark.slow
@pytest.mark.random
@pytest.mark.parametrize("time_of_day", ["30 2", "0 0", "15 23", "0 3"])
def test_a_fixed_daily_job_fires_once_for_each_local_date_in_a_zone(time_of_day: str) -> None:
    """Around changes of the clocks: the newest five of each zone, and every tenth."""
    minute, hour = map(int, time_of_day.split())
    nominal = timedelta(hours=hour, minutes=minute)
    for zone in distinct_zones(one_in=5):
        info = ZoneInfo(zone)
        trigger = parse_cron(f"{time_of_day} * * *", zone)
        all_changes = changes(zone)
        for change in {*all_changes[-5:], *all_changes[::10]}:
            if change.after - change.before > 3 * 3600:
                continue  # a lost day: see test_cron_vectors
            first_date = (EPOCH + timedelta(seconds=change.instant) - timedelta(days=2)).date()
            dates = [first_date + timedelta(days=n) for n in range(5)]
            # From just before the first date's time; no change is so near to it.
            begin = datetime.combine(dates[0], datetime.min.time(), info) + nominal - timedelta(minutes=1)
            found: list[date] = []
            at = int(begin.timestamp()) * 1000
            for _ in dates:
                following = trigger.next_after(at)
                assert following is not None
                at = following
                local = (EPOCH + timedelta(milliseconds=at)).astimezone(info)
                if (local.hour, local.minute, local.second) == (hour, minute, 0):
                    assert local.fold == 0, (zone, local)
                    found.append(local.date())
                    continue
                # Else it is the first instant after a gap, and belongs to the date on which the gap began.
                assert at == change.instant * 1000, (zone, local)
                assert change.after > change.before, (zone, local)
                found.append((EPOCH + timedelta(seconds=change.instant + change.before)).date())
            assert found == dates, (zone, change)


@settings(max_examples=examples(50), deadline=None)
@given(
    text=st.text(max_size=40)
    | st.text(alphabet="0123456789*/-,@ LW#?RHmonja\t\n", max_size=40)
    | st.lists(st.text(alphabet="0123456*/-,LW#?H()fri", min_size=1, max_size=6), min_size=5, max_size=7).map(" ".join)
)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        trigger = parse_cron(text, job_id="a")
    except InvalidInput as error:
        refused_for = error.field
    else:
        refused_for = "cron"
        assert trigger.next_after(0) is not None
    assert refused_for == "cron"


# Mutated expressions: valid ones with one character changed, removed or added.

FORMS = [
    "0/15 * * * *",
    "5-50/5 22-2/2 ? nov-feb fri-mon",
    "0 0 L,L-3,15W,LW,1 * fri",
    "0 0 1W * mon#2,5L,sun",
    "H H(0-5) H/10 * H(mon-fri)/2",
    "0 0 12 ? * MON-FRI 2030-2040/2",
    "TZ=Europe/Berlin 0 3 * * *",
    "CRON_TZ=UTC @daily",
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(FORMS))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(text)))
        sign = draw(st.sampled_from(["", *"0123456789*/-,LW#?H() @=lwhftz"]))
        text = text[:at] + sign + text[at + draw(st.integers(0, 1)) :]
    return text


@settings(max_examples=examples(150), deadline=None)
@given(text=mutated())
def test_a_mutated_expression_is_refused_with_its_text_or_means_what_its_fields_say(text: str) -> None:
    trigger: CronTrigger | None = None
    refused_for, detail = None, ""
    try:
        trigger = parse_cron(text, job_id="a")
    except InvalidInput as error:
        refused_for, detail = error.field, error.detail
    if trigger is None:
        assert refused_for == "cron"
        assert len(detail) < 600
        return
    prefix, _, rest = text.strip().partition(" ") if "TZ=" in text else ("", "", text)
    assert "TZ=" not in rest
    assert prefix.startswith(("TZ=", "CRON_TZ=")) or not prefix
    at = trigger.next_after(0)
    assert at is not None
    fields = read_fields(rest.strip(), "a")
    local = (EPOCH + timedelta(milliseconds=at)).astimezone(ZoneInfo(trigger.timezone))
    assert local.month in fields.month.values
    assert local.year in fields.year.values


# Days that depend on the month.

day_lists = st.lists(st.integers(1, 31), min_size=1, max_size=6, unique=True).map(sorted)
weekday_lists = st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True).map(sorted)
month_lists = st.lists(st.integers(1, 12), min_size=1, max_size=5, unique=True).map(sorted)


def listed(values: list[int] | None) -> str:
    return "*" if values is None else ",".join(map(str, values))


@settings(max_examples=examples(80), deadline=None)
@given(
    dates=st.none() | day_lists,
    months=st.none() | month_lists,
    weekdays=st.none() | weekday_lists,
    years=st.sampled_from(["*", "1970-2099/9", "2030,2033"]),
    starts=st.lists(st.integers(-400, 47_500), min_size=1, max_size=5),
)
def test_the_days_of_whole_years_are_those_that_croniter_finds(
    dates: list[int] | None, months: list[int] | None, weekdays: list[int] | None, years: str, starts: list[int]
) -> None:
    """Plain fields need no table of years. It gives the same answers there, so croniter checks it."""
    pattern = f"0 0 0 {listed(dates)} {listed(months)} {listed(weekdays)}"
    fields = read_fields_or_none(f"{pattern} {years}")
    if fields is None:
        return
    either = fields.either_day
    ours = YearlyDays(fields.day_of_month, fields.month, fields.day_of_week, fields.year, either_day=either)
    theirs = CalendarDays(f"{pattern} {listed(list(fields.year.values))}", either_day=either)
    for start in starts:
        assert ours.first_from(start) == theirs.first_from(start)
        assert ours.last_until(start) == theirs.last_until(start)


def read_fields_or_none(text: str) -> CronFields | None:
    try:
        return read_fields(text)
    except InvalidInput:
        return None


def test_the_number_of_an_id_is_spread_over_64_bits() -> None:
    numbers = [hash_of(f"job-{number}", "minute") for number in range(256)]
    assert len(set(numbers)) == 256
    assert all(0 <= number < 2**64 for number in numbers)
    for bit in range(64):
        assert 80 <= sum(number >> bit & 1 for number in numbers) <= 176
