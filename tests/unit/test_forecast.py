"""The forecast of a complete sample is a count of the fire times; that of a part is unbiased."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from math import sqrt

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduler_core.model.job_state import JobState
from scheduler_core.model.pause import PauseTerms
from scheduler_core.model.policies import Policies
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.forecast import ForecastJob, forecast, forecast_job
from scheduler_core.plan.spread import spread_expression, uses_hash_field
from scheduler_core.triggers.per_minute import MINUTE_MS, fires_in
from scheduler_core.triggers.trigger import AtSpec, CronSpec, EverySpec, IntervalSpec, OnRequestSpec, TriggerSpec
from scheduler_core.triggers.zone import load_zone
from scheduler_core.usecases.forecast_process import ForecastRequest, answer
from tests.support.examples import examples
from tests.support.factories import make_job
from tests.unit.test_cron_brute_force import CHANGES

MINUTES = 300
NOON_MS = 1_798_761_600_000 + 43_200_000
FIELDS = {
    "second": ["0", "*", "*/20", "30", "0,15,59", "7-9"],
    "minute": ["0", "*", "*/5", "30", "1,2,59", "H", "H/7", "*/2"],
    "hour": ["*", "*/2", "0", "1,2,3", "0-4", "H"],
    "day": ["*", "*", "*", "1", "L", "*/2", "?"],
    "month": ["*", "*", "*", "3,10,11", "1-6"],
    "weekday": ["*", "*", "*", "sun", "1-5", "0#2"],
}
FAR = [None, None, 0, -30_000, 100_000, 7_200_500, 3 * MINUTES * MINUTE_MS]
"""Distances of an instant from the start of the span."""


EVERY_MS = [100, 700, 1000, 7_000, 30_000, 59_999, 60_000, 61_000, 90_000, 300_000, 7_200_000]


@st.composite
def specs(draw: st.DrawFn, zone: str, start_ms: int) -> TriggerSpec:
    kind = draw(st.sampled_from(["cron", "cron", "cron", "every", "interval", "at", "request"]))
    if kind == "cron":
        parts = [draw(st.sampled_from(options)) for options in FIELDS.values()]
        return CronSpec(" ".join(parts[1:] if draw(st.booleans()) else parts), zone)
    anchor_ms = start_ms + draw(st.integers(-200_000, 400_000))
    every_ms = draw(
        st.sampled_from([100, 700, 1000, 7_000, 30_000, 59_999, 60_000, 61_000, 90_000, 300_000, 7_200_000])
    )
    if kind == "every":
        return EverySpec(every_ms, anchor_ms)
    if kind == "interval":
        end = draw(st.sampled_from(FAR))
        return IntervalSpec(every_ms, anchor_ms, None if end is None else start_ms + abs(end))
    return AtSpec(anchor_ms) if kind == "at" else OnRequestSpec()


@st.composite
def jobs(draw: st.DrawFn) -> tuple[int, list[ForecastJob]]:
    """A span around a change of clocks, and jobs in zones that change then."""
    zone, date = draw(st.sampled_from(CHANGES))
    midnight = datetime.fromisoformat(date).replace(tzinfo=UTC)
    start_ms = round(1000 * midnight.timestamp()) + MINUTE_MS * draw(st.integers(-120, 1440))
    found = []
    for number in range(draw(st.integers(1, 4))):
        bounds = [draw(st.sampled_from(FAR)) for _ in range(3)]
        starts, ends, begins = (None if one is None else start_ms + one for one in bounds)
        found.append(
            ForecastJob(
                f"job{number}",
                "http://a",
                draw(specs(zone, start_ms)),
                begins or 0,
                starts,
                ends,
                draw(st.sampled_from([0, 0, 0, 2, 30_000, 61_500, 200_000])),
                draw(st.sampled_from([None, None, 0, 1, 7])),
            )
        )
    return start_ms, found


def counted(job: ForecastJob, start_ms: int) -> Counter[int]:
    """Count the fire times by stepping through them."""
    policies = Policies(starts_at_ms=job.starts_at_ms, ends_at_ms=job.ends_at_ms, jitter_ms=job.jitter_ms)
    trigger = trigger_of(make_job(job.id, trigger=job.trigger, policies=policies))
    fires = list(fires_in(trigger, max(start_ms, job.from_ms), start_ms + MINUTE_MS * MINUTES))[: job.runs_left]
    return Counter((fire_ms - start_ms) // MINUTE_MS for fire_ms in fires)


@settings(max_examples=examples(150))
@given(jobs())
def test_a_complete_sample_counts_exactly_the_fire_times(given: tuple[int, list[ForecastJob]]) -> None:
    start_ms, sample = given
    found = forecast(sample, sampled=len(sample), jobs=len(sample), start_ms=start_ms, minutes=MINUTES)
    wanted: Counter[int] = sum((counted(job, start_ms) for job in sample), Counter())
    assert {index: fires for index, fires in enumerate(found.fires) if fires} == dict(wanted)
    assert (found.total, found.total_error, set(found.errors)) == (wanted.total(), 0, {0})
    assert found.firing == sum(1 for job in sample if counted(job, start_ms))


AROUND_CHANGES = (
    "* 30 1-3 * * *",
    "30 2 * * *",
    "*/20 0-59/30 0-23 * * *",
    "59 * * * * *",
    "0 0-4 * * *",
    "7-9 */7 * * * *",
)


def change_of(zone: str, date: str) -> int:
    """Return an instant of the date, in ms, at which the clocks of the zone change; its noon for UTC."""
    noon = round(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()) + 43_200
    found = noon
    for at in range(noon - 86_400, noon + 86_400, 3_600):
        segment = load_zone(zone).segment(at)
        if load_zone(zone).segment(segment.end).offset != segment.offset and segment.end < noon + 86_400:
            found = segment.end
    return 1000 * found


@pytest.mark.parametrize("jitter_ms", [0, 45_300])
def test_the_fire_times_around_each_change_of_clocks_are_counted_exactly(jitter_ms: int) -> None:
    for zone, date in CHANGES:
        start_ms = change_of(zone, date) // MINUTE_MS * MINUTE_MS - MINUTE_MS * MINUTES // 2
        for number, expression in enumerate(AROUND_CHANGES):
            job = replace(cron(expression, number, zone), jitter_ms=jitter_ms)
            found = forecast([job], sampled=1, jobs=1, start_ms=start_ms, minutes=MINUTES)
            wanted = counted(job, start_ms)
            assert {index: fires for index, fires in enumerate(found.fires) if fires} == dict(wanted), (
                zone,
                expression,
            )


def every(seconds: float, number: int = 0, **fields: int) -> ForecastJob:
    return ForecastJob(
        f"every{number}", "http://a", EverySpec(round(1000 * seconds), NOON_MS - 10**9 + number), **fields
    )


def cron(expression: str, number: int = 0, zone: str = "UTC", target: str = "http://a") -> ForecastJob:
    return ForecastJob(f"cron{number:03}", target, CronSpec(expression, zone))


def test_a_sample_is_unbiased_and_its_error_is_that_of_its_draws() -> None:
    population = [every(10 + number, number) for number in range(60)]
    population += [cron(f"{number} * * * *", number) for number in range(60)]
    span = {"start_ms": NOON_MS, "minutes": 60}
    exact = forecast(population, sampled=120, jobs=120, **span)
    chance, draws, drawn = random.Random(5), 200, 30
    found = [forecast(chance.sample(population, drawn), sampled=drawn, jobs=120, **span) for _ in range(draws)]
    mean = sum(one.total for one in found) / draws
    spread = sqrt(sum((one.total - exact.total) ** 2 for one in found) / draws)
    assert abs(mean - exact.total) < 3 * spread / sqrt(draws)
    typical = sum(one.total_error for one in found) / draws
    assert 0.85 * spread < typical < 1.15 * spread
    for index in (0, 17, 59):
        own = [one.fires[index] for one in found]
        own_spread = sqrt(sum((one - exact.fires[index]) ** 2 for one in own) / draws)
        assert abs(sum(own) / draws - exact.fires[index]) < 3 * own_spread / sqrt(draws)


def test_jobs_that_do_not_fire_lower_the_estimate() -> None:
    found = forecast([cron("0 * * * *")], sampled=4, jobs=400, start_ms=NOON_MS, minutes=60)
    assert (found.fires[0], found.total, found.firing) == (100, 100, 100)
    assert found.errors[0] == found.total_error == pytest.approx(400 * sqrt(0.25 / 4 * 0.99), abs=0.1)


def test_an_empty_store_has_an_empty_forecast() -> None:
    found = forecast([], sampled=0, jobs=0, start_ms=NOON_MS, minutes=2)
    assert (found.fires, found.errors, found.total, found.peaks) == ([0, 0], [0, 0], 0, [])


def test_a_job_of_every_second_is_not_stepped_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the fire times were stepped through")

    monkeypatch.setattr("scheduler_core.triggers.per_minute.fires_in", fail)
    sample = [cron("* * * * * *"), every(1), every(0.1)]
    found = forecast(sample, sampled=3, jobs=3, start_ms=NOON_MS, minutes=1440)
    assert set(found.fires) == {60 + 60 + 600}
    assert found.peaks == []


def test_a_peak_names_its_instants_targets_and_the_jobs_to_spread() -> None:
    sample = [cron("0 12 * * *", number, target="http://busy") for number in range(12)]
    sample += [cron("0 12 * * *", 50, zone="Asia/Tokyo"), replace(cron("0 12 * * *", 51), jitter_ms=2)]
    sample += [cron("30 0 12 * * *", number) for number in (60, 61)]
    sample += [cron("H * * * *", number) for number in range(70, 80)]
    sample += [every(1)]
    found = forecast(sample, sampled=27, jobs=54, start_ms=NOON_MS, minutes=120)
    peak = found.peaks[0]
    in_minute = sum(1 for number in range(70, 80) if counted(cron("H * * * *", number), NOON_MS)[0])
    assert (peak.at_ms, peak.fires, peak.jobs) == (NOON_MS, 2 * (75 + in_minute), 2 * (16 + in_minute))
    assert peak.instants[:2] == [(NOON_MS, 2 * (13 + in_minute)), (NOON_MS + 30_000, 4)]
    busy = round(12 / (75 + in_minute), 4)
    assert peak.targets == [("http://a", 1 - busy), ("http://busy", busy)]
    first, second = peak.groups
    assert (first.at_ms, first.expression, first.timezone, first.every_ms) == (NOON_MS, "0 12 * * *", "UTC", None)
    assert (first.jobs, first.job_ids, first.suggestion) == (24, [f"cron{n:03}" for n in range(10)], "H 12 * * *")
    assert (second.at_ms, second.jobs, second.suggestion) == (NOON_MS + 30_000, 4, "H H 12 * * *")


def test_the_peaks_are_the_highest_minutes_in_the_order_of_time() -> None:
    sample = [cron(f"{minute} 12 * * *", number) for minute in range(8) for number in range(2 + minute % 5)]
    found = forecast(sample, sampled=len(sample), jobs=len(sample), start_ms=NOON_MS, minutes=600)
    assert [(one.at_ms - NOON_MS) // MINUTE_MS for one in found.peaks] == [1, 2, 3, 4, 7]


def state(**fields: object) -> JobState:
    return replace(JobState(next_fire_ms=NOON_MS), **fields)


@pytest.mark.parametrize(
    ("fields", "from_ms"),
    [
        ({}, NOON_MS),
        ({"paused_at_ms": 5}, None),
        ({"paused_at_ms": 5, "pause": PauseTerms(until_ms=NOON_MS + 7)}, NOON_MS + 7),
        ({"paused_at_ms": 5, "pause": PauseTerms(until_ms=NOON_MS - 7)}, NOON_MS),
        ({"quarantine": "bad"}, None),
        ({"deleted": True}, None),
        ({"next_fire_ms": None}, None),
        ({"next_fire_ms": None, "keep": True}, None),
    ],
)
def test_only_jobs_that_fire_by_themselves_count(fields: dict[str, object], from_ms: int | None) -> None:
    found = forecast_job(make_job(), state(**fields))
    assert (None if found is None else found.from_ms) == from_ms


def test_what_a_forecast_needs_of_a_job() -> None:
    policies = Policies(starts_at_ms=1, ends_at_ms=2, jitter_ms=3, max_runs=10)
    spec = CronSpec("0 * * * *")
    job = make_job("a", trigger=spec, policies=policies, url="https://User@Host:443/path?query")
    assert forecast_job(job, state(fired=4)) == ForecastJob("a", "https://host", spec, NOON_MS, 1, 2, 3, 6)
    found = forecast_job(replace(job, target_id=5), state())
    assert found is not None
    assert found.target == "target 5"
    assert forecast_job(replace(job, trigger=OnRequestSpec()), state()) is None


def test_the_process_answers_what_the_function_does() -> None:
    question = ForecastRequest([cron("0 * * * *")], 1, 1, NOON_MS, 60, 2)
    found = msgspec.msgpack.decode(answer(msgspec.msgpack.encode(question)))
    assert found[0] == NOON_MS
    assert (found[1][0], found[8]) == (1, 2)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("0 0 * * *", "H 0 * * *"),
        ("15 */2 1 * 1-5", "H */2 1 * 1-5"),
        ("*/5 * * * *", "H/5 * * * *"),
        ("* * * * *", "H * * * * *"),
        ("@daily", "H 0 * * *"),
        ("@HOURLY", "H * * * *"),
        ("0 0 0 * * *", "H H 0 * * *"),
        ("*/10 * * * * *", "H/10 * * * * *"),
        ("0 30 6 * * * 2030-2099", "H H 6 * * * 2030-2099"),
        ("TZ=Europe/Rome 0 7 * * *", "TZ=Europe/Rome H 7 * * *"),
        ("0,30 * * * *", None),
        ("* * * * * *", None),
        ("@nonsense", None),
    ],
)
def test_an_expression_that_spreads_jobs_changes_only_minute_and_second(expression: str, wanted: str | None) -> None:
    assert spread_expression(expression) == wanted
    assert not uses_hash_field(expression)
    assert wanted is None or uses_hash_field(wanted)
