"""``H`` in cron expressions: the value that a job's id selects, for ever the same, and spread over all ids."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron import cron_trigger
from scheduler_core.triggers.cron_fields import read_fields
from scheduler_core.triggers.trigger import CronSpec, compile_trigger, depends_on_id, read_cron
from scheduler_core.triggers.zone import load_zone
from tests.support.examples import examples

# Jobs are stored with H, so these values must stay the same in every version.
ALL, STEPPED = "H H H H H H", "H(0-29)/10 H/20 H(22-3)/2 H/9 H/5 H(mon-fri)/2"
KNOWN_VALUES = {
    "a": {ALL: "41 13 2 8 5 3", STEPPED: "6,16,26 4,24,44 0,2,22 3,12,21 2,7,12 1,3,5"},
    "b": {ALL: "34 45 3 27 3 5", STEPPED: "5,15,25 15,35,55 0,2,22 9,18,27 2,7,12 2,4"},
    "größer": {ALL: "15 3 3 9 10 3", STEPPED: "2,12,22 1,21,41 0,2,22 3,12,21 5,10 1,3,5"},
    "job-scheduler-unique-id": {ALL: "56 46 12 11 7 3", STEPPED: "9,19,29 15,35,55 1,3,23 4,13,22 3,8 1,3,5"},
    "x" * 255: {ALL: "23 39 19 2 5 4", STEPPED: "3,13,23 13,33,53 1,3,23 1,10,19,28 2,7,12 2,4"},
}

MIDNIGHT = 1_793_491_200_000  # 2026-11-01T00:00:00Z

ids = st.text(min_size=1, max_size=30).filter(str.isprintable)


def values(expression: str, job_id: str, field: str = "minute") -> tuple[int, ...]:
    found: tuple[int, ...] = getattr(read_fields(expression, job_id), field).values
    return found


def test_the_values_of_an_id_never_change() -> None:
    for job_id, known in KNOWN_VALUES.items():
        for expression, expected in known.items():
            fields = read_fields(expression, job_id)
            shown = (fields.second, fields.minute, fields.hour, fields.day_of_month, fields.month, fields.day_of_week)
            assert " ".join(",".join(map(str, field.values)) for field in shown) == expected, (job_id, expression)


@pytest.mark.parametrize(
    ("expression", "field", "low", "high"),
    [
        ("H * * * * *", "second", 0, 59),
        ("H * * * *", "minute", 0, 59),
        ("0 H * * *", "hour", 0, 23),
        ("0 0 H * *", "day_of_month", 1, 28),
        ("0 0 1 H *", "month", 1, 12),
        ("0 0 * * H", "day_of_week", 0, 6),
        ("H(10-19) * * * *", "minute", 10, 19),
        ("h(10-19) * * * *", "minute", 10, 19),
        ("0 0 H(29-31) * *", "day_of_month", 29, 31),
        ("0 0 1 H(jan-mar) *", "month", 1, 3),
        ("0 0 * * H(mon-fri)", "day_of_week", 1, 5),
        ("0 0 * * H(0-7)", "day_of_week", 0, 6),
    ],
)
def test_h_is_one_value_of_its_range_and_every_value_for_some_id(
    expression: str, field: str, low: int, high: int
) -> None:
    found = Counter(values(expression, f"job-{number}", field) for number in range(40 * (high - low + 1)))
    assert sorted(found) == [(value,) for value in range(low, high + 1)]
    assert all(10 <= count <= 90 for count in found.values())


def test_h_without_a_seconds_field_leaves_the_second_at_0() -> None:
    assert {read_fields("H H * * *", job_id).second.values for job_id in KNOWN_VALUES} == {(0,)}


@pytest.mark.parametrize(
    ("expression", "field", "allowed"),
    [
        ("H/15 * * * *", "minute", {tuple(range(start, 60, 15)) for start in range(15)}),
        ("H/60 * * * *", "minute", {(start,) for start in range(60)}),
        ("H/1 * * * *", "minute", {tuple(range(60))}),
        ("H/7 * * * *", "minute", {tuple(range(start, 60, 7)) for start in range(7)}),
        ("0 H/5 * * *", "hour", {tuple(range(start, 24, 5)) for start in range(5)}),
        ("0 0 H/10 * *", "day_of_month", {tuple(range(start, 29, 10)) for start in range(1, 11)}),
        ("0 0 1 H/4 *", "month", {tuple(range(start, 13, 4)) for start in range(1, 5)}),
        ("0 0 * * H/2", "day_of_week", {(0, 2, 4, 6), (1, 3, 5)}),
        ("H(0-29)/10 * * * *", "minute", {tuple(range(start, 30, 10)) for start in range(10)}),
        ("H(5-9)/5 * * * *", "minute", {(5,), (6,), (7,), (8,), (9,)}),
        ("0 H(22-3)/2 * * *", "hour", {(0, 2, 22), (1, 3, 23)}),
        ("0 H(22-3)/6 * * *", "hour", {(22,), (23,), (0,), (1,), (2,), (3,)}),
        ("0 0 * * H(5-7)/2", "day_of_week", {(0, 5), (6,)}),
        ("0 0 * * H(fri-mon)/2", "day_of_week", {(0, 5), (1, 6)}),
    ],
)
def test_h_with_a_step_starts_below_the_step_and_continues_by_it(
    expression: str, field: str, allowed: set[tuple[int, ...]]
) -> None:
    assert {values(expression, f"job-{number}", field) for number in range(500)} == allowed


def test_the_fields_of_one_id_have_values_of_their_own_and_two_h_of_a_field_the_same() -> None:
    ids = [f"job-{number}" for number in range(60)]
    assert len({(values("H H * * *", one, "minute"), values("H H * * *", one, "hour")) for one in ids}) > 50
    for one in ids:
        first, second = values("H(0-29),H(30-59) * * * *", one)
        assert second == first + 30
        assert values("H,H * * * *", one) == values("H * * * *", one)


def test_h_is_no_star() -> None:
    for job_id in KNOWN_VALUES:
        fields = read_fields("H/1 H/1 H/1 * H/1", job_id)
        assert not fields.follows_elapsed_time
        assert fields.either_day
        assert read_fields("*,H 0 * * *", job_id).follows_elapsed_time


def test_h_needs_an_id() -> None:
    for spec in (CronSpec("H * * * *"), CronSpec("CRON_TZ=Europe/Berlin 0 0 * * mon,H", "Europe/Berlin")):
        with pytest.raises(InvalidInput) as caught:
            compile_trigger(spec)
        assert caught.value.field == "id"
    with pytest.raises(InvalidInput) as caught:
        read_fields("H * * * *")
    assert caught.value.field == "id"


def test_only_an_expression_with_h_depends_on_the_id() -> None:
    assert depends_on_id(CronSpec("0 0 * * 1,H(2-3)"))
    assert depends_on_id(CronSpec("TZ=UTC h 0 * * *"))
    for expression in ("@hourly", "0 0 * * thu", "0 0 1 mar *", "TZ=Asia/Ho_Chi_Minh @hourly"):
        assert not depends_on_id(read_cron(expression, None, "a"))


def test_ids_for_which_h_stands_for_the_same_values_share_one_trigger() -> None:
    triggers = {compile_trigger(CronSpec("H * * * *"), f"job-{number}") for number in range(1000)}
    assert len(triggers) == 60
    minute = values("H * * * *", "a")[0]
    assert compile_trigger(CronSpec("H * * * *"), "a") is compile_trigger(CronSpec("H * * * *"), "a")
    assert compile_trigger(CronSpec("H * * * *"), "a").next_after(MIDNIGHT - 1) == MIDNIGHT + minute * 60_000


def test_an_expression_whose_h_never_fires_is_refused_for_those_ids_only() -> None:
    ids = [f"job-{number}" for number in range(12)]
    days = {one: read_fields("0 0 H(29-30) * *", one).day_of_month.values[0] for one in ids}
    assert set(days.values()) == {29, 30}
    for one, day in days.items():
        if day == 29:
            read_cron("0 0 H(29-30) 2 *", None, one)
            continue
        with pytest.raises(InvalidInput) as caught:
            read_cron("0 0 H(29-30) 2 *", None, one)
        assert caught.value.field == "cron"
        assert "'H(29-30)'" in caught.value.detail


H_FIELDS = ("H", "H/2", "H(1-4)", "H(2-6)/3", "h(3-1)", "H,5", "*", "2-4", "?", "1/2", "H(6-2)/2")
TIMES = st.sampled_from([field for field in H_FIELDS if field != "?"])


@settings(max_examples=examples(60), deadline=None)
@given(time=st.tuples(TIMES, TIMES, TIMES), day=st.tuples(*[st.sampled_from(H_FIELDS)] * 3), job_id=ids)
def test_the_shared_trigger_of_an_id_is_that_of_the_fields_as_written(
    time: tuple[str, ...], day: tuple[str, ...], job_id: str
) -> None:
    expression = " ".join((*time, day[0], day[1].replace("?", "*"), day[2]))
    trigger = compile_trigger(CronSpec(expression), job_id)
    fields = read_fields(expression, job_id)
    lists = (fields.second, fields.minute, fields.hour, fields.day_of_month, fields.month, fields.day_of_week)
    written = " ".join("*" if field.starred else ",".join(map(str, field.values)) for field in lists)
    assert trigger.next_after(MIDNIGHT) == cron_trigger(written, load_zone("UTC")).next_after(MIDNIGHT)
