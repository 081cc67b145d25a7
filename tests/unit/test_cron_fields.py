"""The accepted dialect of cron expressions, and every refusal."""

from __future__ import annotations

import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron import check_fires_again, parse_cron
from scheduler_core.triggers.cron_fields import MACROS, read_expression

NOV_2026 = 1_793_491_200_000  # 2026-11-01T00:00:00Z


def refusal(expression: str, timezone: str = "UTC") -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse_cron(expression, timezone)
    return caught.value


@pytest.mark.parametrize(
    ("expression", "field", "values"),
    [
        ("5 * * * *", "minute", {5}),
        ("5 * * * *", "second", {0}),
        ("7 5 * * * *", "second", {7}),
        ("7 5 * * * * 2030", "year", {2030}),
        ("* * * * * * 2030-2034/2", "year", {2030, 2032, 2034}),
        ("*/10 * * * * * *", "second", {0, 10, 20, 30, 40, 50}),
        ("05,007 * * * *", "minute", {5, 7}),
        ("5-5 * * * *", "minute", {5}),
        ("1-10/4 * * * *", "minute", {1, 5, 9}),
        ("*/90 * * * *", "minute", {0}),
        ("5,*/20 * * * *", "minute", {0, 5, 20, 40}),
        ("0 0 */10 * *", "day_of_month", {1, 11, 21, 31}),
        ("0 0 * JAN,mAr-may *", "month", {1, 3, 4, 5}),
        ("0 0 * * Sun", "day_of_week", {0}),
        ("0 0 * * 7", "day_of_week", {0}),
        ("0 0 * * 5-7", "day_of_week", {0, 5, 6}),
        ("0 0 * * sun-tue", "day_of_week", {0, 1, 2}),
        ("0 0 * * fri-7", "day_of_week", {0, 5, 6}),
        ("0 0 * * */2", "day_of_week", {0, 2, 4, 6}),
        (" \t5\t *  * * * ", "minute", {5}),
    ],
)
def test_a_field_of_the_dialect_is_read(expression: str, field: str, values: set[int]) -> None:
    assert set(getattr(read_expression(expression), field).values) == values


@pytest.mark.parametrize("macro", sorted(MACROS))
def test_a_macro_in_any_case_means_its_five_fields(macro: str) -> None:
    assert read_expression(macro.upper()) == read_expression(macro) == read_expression(MACROS[macro])


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        # A value out of range, and what is allowed there.
        ("60 * * * *", "minute field '60' has '60'; allowed are 0 to 59"),
        ("* 24 * * *", "hour field '24' has '24'; allowed are 0 to 23"),
        ("* * 0 * *", "day of month field '0' has '0'; allowed are 1 to 31"),
        ("* * 32 * *", "day of month"),
        ("* * * 0 *", "month field '0' has '0'; allowed are 1 to 12, or jan to dec"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of week field '8' has '8'; allowed are 0 to 7"),
        ("60 * * * * *", "second"),
        ("* * * * * * 1969", "year field '1969' has '1969'; allowed are 1970 to 2099"),
        ("* * * * * * 2100", "year"),
        ("1-60 * * * *", "minute"),
        ("99999999999999999999999999 * * * *", "minute"),
        ("-5 * * * *", "minute"),
        ("+5 * * * *", "minute"),
        ("5.0 * * * *", "minute"),
        ("0x5 * * * *", "minute"),
        ("1_0 * * * *", "minute"),
        # Backward ranges.
        ("50-10 * * * *", "backward range '50-10'"),
        ("* * * * fri-mon", "backward range 'fri-mon'"),
        ("* * * * sat-sun", "Sunday is also 7"),
        ("* * * dec-feb *", "month"),
        ("* * * * 7-1", "day of week"),
        # Steps.
        ("*/0 * * * *", "a step is a number from 1"),
        ("5-10/0 * * * *", "minute"),
        ("*/ * * * *", "minute"),
        ("*/-5 * * * *", "minute"),
        ("*/5/5 * * * *", "minute"),
        ("* * * * */mon", "day of week"),
        ("5/10 * * * *", "write '5-59/10'"),
        ("0/10 * * * *", "minute"),
        ("/10 * * * *", "minute"),
        # Names where there are none, wrong names, names that are too long.
        ("mon * * * *", "minute"),
        ("* * jan * *", "day of month"),
        ("* * * mon *", "month"),
        ("* * * * jan", "day of week"),
        ("* * * * monday", "day of week"),
        ("* * * january *", "month"),
        ("* * * * tues", "day of week"),
        # Lists and ranges that are not complete.
        (", * * * *", "empty list item"),
        ("1,,2 * * * *", "empty list item"),
        ("1, * * * *", "empty list item"),
        (",1 * * * *", "empty list item"),
        ("1- * * * *", "minute"),
        ("- * * * *", "minute"),
        ("1-2-3 * * * *", "minute"),
        ("*-5 * * * *", "minute"),
        ("** * * * *", "minute"),
        ("*5 * * * *", "minute"),
        ("5* * * * *", "minute"),
        # Signs of other crons.
        ("? * * * *", "'?'"),
        ("0 0 ? * MON", "'?'"),
        ("0 0 L * *", "'L'"),
        ("0 0 l * *", "'L'"),
        ("0 0 L-3 * *", "'L'"),
        ("0 0 * * 5L", "'L'"),
        ("0 0 15W * *", "'W'"),
        ("0 0 LW * *", "'L'"),
        ("0 0 * * 5#2", "'#'"),
        ("0 0 * * fri#2", "'#'"),
        ("H * * * *", "'H'"),
        ("H/5 * * * *", "'H'"),
        ("H(0-29) * * * *", "'H'"),
        ("R * * * *", "'R'"),
        ("!5 * * * *", "minute"),
        ("~ * * * *", "minute"),
        # The number of fields.
        ("", "empty"),
        ("   ", "empty"),
        ("*", "has 1 field;"),
        ("* * * *", "has 4 fields;"),
        ("* * * * * * * *", "has 8 fields;"),
        # Macros.
        ("@reboot", "@reboot"),
        ("@every 5m", "@every"),
        ("@", "macro"),
        ("@dayly", "@daily"),
        ("@daily *", "macro"),
        ("* @daily", "has 2 fields"),
        # Characters.
        ("* * * * *\n", r"'\n'"),
        ("\n* * * * *", r"'\n'"),
        ("*\n* * * *", r"'\n'"),
        ("* * * * *\r", r"'\r'"),
        ("* * * * *\x00", r"'\x00'"),
        ("*\x0b* * * *", r"'\x0b'"),
        ("*\u00a0* * * *", r"'\xa0'"),
        ("٥ * * * *", r"'\u0665'"),
        ("５ * * * *", r"'\uff15'"),
        ("²  * * * *", r"'\xb2'"),
        ("* * * * ＊", r"'\uff0a'"),
        # Days that no month has.
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 2,4,6,9,11 *", "never fires"),
        ("0 0 31 4 */2", "never fires"),
        ("0 0 0 29 2 * 2027", "never fires"),
        ("0 0 0 29 2 * 1970-1971", "never fires"),
        ("0 0 0 30 2 * 2028", "never fires"),
    ],
)  # fmt: skip
def test_an_expression_outside_the_dialect_is_refused_with_the_reason(expression: str, named: str) -> None:
    error = refusal(expression)
    assert error.field == "cron"
    assert named in error.detail


def test_an_expression_of_256_characters_is_read_and_of_257_refused() -> None:
    expression = "1," * 123 + "10 * * * *"
    assert len(expression) == 256
    parse_cron(expression)
    assert "257 characters" in refusal(expression + " ").detail


def test_a_refusal_of_huge_text_does_not_repeat_it() -> None:
    assert len(refusal("1," * 500_000).detail) < 200
    assert len(refusal("* * * * *", "x" * 500_000).detail) < 200


@pytest.mark.parametrize(
    "expression",
    [
        "0 0 30 2 mon",  # either day: the Mondays of February
        "0 0 29 2 *",
        "0 0 29 2 */3",  # both: February 29 on a Sunday, Wednesday or Saturday
        "0 0 0 29 2 * 2028",
        "0 0 31 1-12 *",
        "0 0 */31 2 *",  # the 1st
    ],
)
def test_a_rare_day_is_accepted(expression: str) -> None:
    trigger = parse_cron(expression)
    assert trigger.next_after(NOV_2026) is not None


@pytest.mark.parametrize("expression", ["0 0 0 1 1 * 2020", "* * * * * * 1970-2025", "0 0 0 31 10 * 2026"])
def test_an_expression_that_never_fires_again_is_refused_for_a_new_job(expression: str) -> None:
    trigger = parse_cron(expression)
    with pytest.raises(InvalidInput) as caught:
        check_fires_again(trigger, NOV_2026)
    assert caught.value.field == "cron"
    assert "never fires again" in caught.value.detail


def test_an_expression_with_one_fire_time_left_is_accepted_until_that_time() -> None:
    trigger = parse_cron("0 0 0 1 11 * 2026")
    check_fires_again(trigger, NOV_2026 - 1)
    with pytest.raises(InvalidInput):
        check_fires_again(trigger, NOV_2026)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "UTC ",
        "Mars/Olympus",
        "America",
        "America/",
        "/America/New_York",
        "../UTC",
        "America/../UTC",
        "./UTC",
        "America//New_York",
        "/etc/passwd",
        "localtime",
        "posixrules",
        "posix/UTC",
        "right/UTC",
        "Factory",
        "zone.tab",
        "tzdata.zi",
        "EST5EDT,M3.2.0,M11.1.0",
        "+01:00",
        "UTC+1",
        "Europe/London\n",
        "Europe\x00/London",
        "Europe\\London",
        "Europe/Łódź",
        "x" * 5000,
    ],
)
def test_a_time_zone_that_is_not_an_iana_name_is_refused(name: str) -> None:
    error = refusal("* * * * *", name)
    assert error.field == "timezone"


@pytest.mark.parametrize("prefix", ["TZ=", "CRON_TZ="])
@pytest.mark.parametrize("rest", ["0 12 * * *", "@daily"])
def test_a_time_zone_in_the_expression_is_refused_with_a_hint_to_its_field(prefix: str, rest: str) -> None:
    error = refusal(f"{prefix}Europe/Paris {rest}")
    assert error.field == "cron"
    assert '"timezone": "Europe/Paris"' in error.detail


def test_a_misspelt_zone_is_refused_with_the_nearest_name() -> None:
    assert "did you mean 'Europe/London'?" in refusal("* * * * *", "europe/london").detail
    assert "did you mean 'America/New_York'?" in refusal("* * * * *", "America/NewYork").detail


@pytest.mark.parametrize(
    "name", ["UTC", "Etc/GMT+12", "Pacific/Kiritimati", "America/Argentina/Buenos_Aires", "EST5EDT"]
)
def test_an_iana_name_is_accepted_and_kept(name: str) -> None:
    assert parse_cron("* * * * *", name).timezone == name
