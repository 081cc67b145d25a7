"""``@every`` with a duration."""

from __future__ import annotations

import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.every import read_every
from scheduler_core.triggers.trigger import EverySpec, read_cron


@pytest.mark.parametrize(
    ("text", "length_ms"),
    [
        ("@every 90s", 90_000),
        ("@every 1h30m", 5_400_000),
        ("@every 1h30m10s500ms", 5_410_500),
        ("@every 1.5h", 5_400_000),
        ("@every 0.1s", 100),
        ("@every 100ms", 100),
        ("@every 1.001s", 1001),
        ("@every 90m", 5_400_000),
        ("@every 10s1h", 3_610_000),
        ("@every 1m1m", 120_000),
        ("@every 99.5ms0.5ms", 100),
        ("@EVERY \t 5m", 300_000),
        ("@every 878400h", 878_400 * 3_600_000),
    ],
)
def test_a_duration_is_read_as_go_reads_it(text: str, length_ms: int) -> None:
    assert read_every(text) == length_ms


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("@every 5", "units h, m, s and ms"),
        ("@every", "units h, m, s and ms"),
        ("@every 5d", "'5d'"),
        ("@every 5us", "'5us'"),
        ("@every 5 m", "'5 m'"),
        ("@every -5m", "'-5m'"),
        ("@every +5m", "'+5m'"),
        ("@every .5m", "'.5m'"),
        ("@every 5.m", "'5.m'"),
        ("@every 5M", "'5M'"),
        ("@every h", "'h'"),
        ("@every 1h30", "'1h30'"),
        ("@every 5m * * * *", "'5m * * * *'"),
        ("@every 0s", "allowed are 100ms to 878400h"),
        ("@every 99ms", "allowed are 100ms to 878400h"),
        ("@every 878401h", "allowed are 100ms to 878400h"),
        ("@every " + "9" * 200 + "h", "allowed are 100ms to 878400h"),
        ("@every 1.0005s", "whole milliseconds"),
        ("@every 100.5ms", "whole milliseconds"),
    ],
)
def test_any_other_duration_is_refused(text: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_every(text)
    assert caught.value.field == "cron"
    assert named in caught.value.detail


@pytest.mark.parametrize("text", ["@every5m", "every 5m", "@everyday", "@daily", "* * * * *"])
def test_text_without_a_duration_after_every_is_no_interval(text: str) -> None:
    assert read_every(text) is None


def test_every_in_the_cron_of_a_job_is_an_interval_that_keeps_its_text() -> None:
    assert read_cron(" @every 1h30m ", None, "a") == EverySpec(5_400_000, expression=" @every 1h30m ")


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "Nowhere"])
def test_a_time_zone_beside_every_is_refused(timezone: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_cron("@every 5m", timezone, "a")
    assert caught.value.field == "timezone"
    with pytest.raises(InvalidInput) as caught:
        read_cron(f"TZ={timezone} @every 5m", None, "a")
    assert caught.value.field == "cron"
