"""The accepted dialect of cron expressions, and every refusal."""

from __future__ import annotations

import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron import check_fires_again, parse_cron
from scheduler_core.triggers.cron_fields import MACROS, CronFields, read_fields, split_zone

NOV_2026 = 1_793_491_200_000  # 2026-11-01T00:00:00Z


def read_expression(expression: str, job_id: str | None = None) -> CronFields:
    return read_fields(split_zone(expression)[1], job_id)


def refusal(expression: str, timezone: str | None = None) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse_cron(expression, timezone, "some job")
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
        # n/step: from n to the end of the field.
        ("0/15 * * * *", "minute", {0, 15, 30, 45}),
        ("5/10 * * * *", "minute", {5, 15, 25, 35, 45, 55}),
        ("5/90 * * * *", "minute", {5}),
        ("59/2 * * * *", "minute", {59}),
        ("10/30 * * * * *", "second", {10, 40}),
        ("0 20/2 * * *", "hour", {20, 22}),
        ("0 0 1/7 * *", "day_of_month", {1, 8, 15, 22, 29}),
        ("0 0 1 2/5 *", "month", {2, 7, 12}),
        ("0 0 1 oct/1 *", "month", {10, 11, 12}),
        ("* * * * * * 2095/2", "year", {2095, 2097, 2099}),
        ("1,50/5 * * * *", "minute", {1, 50, 55}),
        # Weekdays are 0 to 6 before a step counts, and the field ends at 6.
        ("0 0 * * mon/2", "day_of_week", {1, 3, 5}),
        ("0 0 * * 7/2", "day_of_week", {0, 2, 4, 6}),
        ("0 0 * * sun/3", "day_of_week", {0, 3, 6}),
        ("0 0 * * 5/2", "day_of_week", {5}),
        ("0 0 * * 6/1", "day_of_week", {6}),
        ("0 0 * * */3", "day_of_week", {0, 3, 6}),
        ("0 0 * * */7", "day_of_week", {0}),
        ("0 0 * * 0-7", "day_of_week", {0, 1, 2, 3, 4, 5, 6}),
        ("0 0 * * 0-7/2", "day_of_week", {0, 2, 4, 6}),
        ("0 0 * * 1-7", "day_of_week", {0, 1, 2, 3, 4, 5, 6}),
        ("0 0 * * 1-7/2", "day_of_week", {1, 3, 5, 0}),
        ("0 0 * * 5-7/2", "day_of_week", {5, 0}),
        ("0 0 * * 7-7", "day_of_week", {0}),
        ("0 0 * * sun-7", "day_of_week", {0, 1, 2, 3, 4, 5, 6}),
        # Ranges that wrap around, and then step.
        ("50-10 * * * *", "minute", {*range(50, 60), *range(11)}),
        ("50-10/10 * * * *", "minute", {50, 0, 10}),
        ("55-4/2 * * * * *", "second", {55, 57, 59, 1, 3}),
        ("0 22-2/2 * * *", "hour", {22, 0, 2}),
        ("0 22-2 * * *", "hour", {22, 23, 0, 1, 2}),
        ("0 23-22 * * *", "hour", set(range(24))),
        ("0 0 30-2 * *", "day_of_month", {30, 31, 1, 2}),
        ("0 0 29-3/2 * *", "day_of_month", {29, 31, 2}),
        ("0 0 1 dec-feb *", "month", {12, 1, 2}),
        ("0 0 1 11-3/3 *", "month", {11, 2}),
        ("0 0 * * fri-mon", "day_of_week", {5, 6, 0, 1}),
        ("0 0 * * fri-mon/2", "day_of_week", {5, 0}),
        ("0 0 * * sat-sun", "day_of_week", {6, 0}),
        ("0 0 * * 7-1", "day_of_week", {0, 1}),
        ("0 0 * * 7-2/2", "day_of_week", {0, 2}),
        ("0 0 * * 6-1", "day_of_week", {6, 0, 1}),
        # A question mark is a star.
        ("0 0 ? * MON", "day_of_month", set(range(1, 32))),
        ("0 0 1 * ?", "day_of_week", set(range(7))),
        ("0 0 L,15 * *", "day_of_month", {15}),
        ("0 0 * * fri#2,mon", "day_of_week", {1}),
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
        # Years do not wrap around.
        ("0 0 0 1 1 * 2030-2028", "backward range '2030-2028'"),
        # Steps.
        ("*/0 * * * *", "a step is a number from 1"),
        ("5-10/0 * * * *", "minute"),
        ("*/ * * * *", "minute"),
        ("*/-5 * * * *", "minute"),
        ("*/5/5 * * * *", "minute"),
        ("* * * * */mon", "day of week"),
        ("5/0 * * * *", "a step is a number from 1"),
        ("5/ * * * *", "a step is a number from 1"),
        ("5/5/5 * * * *", "a step is a number from 1"),
        ("60/10 * * * *", "allowed are 0 to 59"),
        ("22-2/0 * * * *", "a step is a number from 1"),
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
        # A question mark stands alone, in a day field.
        ("? * * * *", "'?' is allowed alone, in the day of month"),
        ("0 ? * * *", "'?'"),
        ("0 0 * ? *", "'?'"),
        ("? 0 0 * * *", "'?'"),
        ("0 0 0 * * * ?", "'?'"),
        ("0 0 ?/2 * *", "'?'"),
        ("0 0 ?,5 * *", "'?'"),
        ("0 0 * * 5,?", "'?'"),
        ("0 0 ?? * *", "day of month field '??' has '??'"),
        # L, W and # are whole items of their fields.
        ("L * * * *", "minute field 'L' has 'L'; allowed are 0 to 59 ('L' is allowed in day of month"),
        ("0 0 * L *", "'L'"),
        ("0 0 0 * * * L", "'L'"),
        ("0 0 * * L", "day of week field 'L' has 'L'; allowed are 0 to 7 (0 and 7 are Sunday), or sun to sat ('L' is"),
        ("0 0 * * l", "('5L' or 'friL')"),
        ("0 0 * * W", "'W'"),
        ("0 0 W * *", "day of month field 'W' has 'W'; allowed are 1 to 31 ('W' is allowed in day of month"),
        ("0 0 * * 5W", "'W'"),
        ("0 0 * * LW", "'L'"),
        ("0 0 * * L-3", "'L'"),
        ("0 0 * * L5", "'L'"),
        ("0 0 5L * *", "'L'"),
        ("0 0 L5 * *", "'L'"),
        ("0 0 W15 * *", "'W'"),
        ("0 0 L/2 * *", "without range or step"),
        ("0 0 L-3/2 * *", "'L'"),
        ("0 0 1-L * *", "'L'"),
        ("0 0 15W/2 * *", "without range or step"),
        ("0 0 15W-20 * *", "'W'"),
        ("0 0 10-15W * *", "'W'"),
        ("0 0 L-3W * *", "'L'"),
        ("0 0 WL * *", "'LW'"),
        ("0 0 LL * *", "day of month field 'LL' has 'LL'; allowed are 1 to 31"),
        ("0 0 L-0 * *", "allowed are L-1 to L-30"),
        ("0 0 L-31 * *", "allowed are L-1 to L-30"),
        ("0 0 L- * *", "'L'"),
        ("0 0 0W * *", "allowed are 1W to 31W, and LW"),
        ("0 0 32W * *", "allowed are 1W to 31W, and LW"),
        ("0 0 * * 8L", "has '8'; allowed are 0 to 7"),
        ("0 0 * * julL", "has 'jul'; allowed are 0 to 7"),
        ("0 0 * * fridayL", "'L'"),
        ("0 0 * * 5L/2", "without range or step"),
        ("0 0 * * mon-5L", "'L'"),
        ("0 0 * * 5#0", "after # goes a number from 1 to 5"),
        ("0 0 * * 5#6", "after # goes a number from 1 to 5"),
        ("0 0 * * 5#", "after # goes a number from 1 to 5"),
        ("0 0 * * 5#L", "after # goes a number from 1 to 5"),
        ("0 0 * * 5#2/2", "after # goes a number from 1 to 5"),
        ("0 0 * * 5#2-3", "after # goes a number from 1 to 5"),
        ("0 0 * * 5#2#3", "after # goes a number from 1 to 5"),
        ("0 0 * * 8#2", "has '8'; allowed are 0 to 7"),
        ("0 0 * * #2", "'#'"),
        ("0 0 * * *#2", "day of week field '*#2' has '*#2'"),
        ("0 0 5#2 * *", "'#'"),
        ("5#2 * * * *", "'#'"),
        # H.
        ("H(0-60) * * * *", "has '60'; allowed are 0 to 59"),
        ("H(5) * * * *", "'H' is allowed as"),
        ("H() * * * *", "'H' is allowed as"),
        ("H(0-5 * * * *", "'H' is allowed as"),
        ("H(0-5)x * * * *", "'H' is allowed as"),
        ("H(-) * * * *", "has ''; allowed are 0 to 59"),
        ("H5 * * * *", "'H' is allowed as"),
        ("H-5 * * * *", "'H' is allowed as"),
        ("5-H * * * *", "'H' is allowed as"),
        ("5/H * * * *", "a step is a number from 1"),
        ("H/0 * * * *", "a step is a number from 1"),
        ("H/ * * * *", "a step is a number from 1"),
        ("H/H * * * *", "a step is a number from 1"),
        ("H/61 * * * *", "its step may be 1 to 60"),
        ("H(0-9)/11 * * * *", "its step may be 1 to 10"),
        ("0 H/25 * * *", "its step may be 1 to 24"),
        ("0 0 H/29 * *", "its step may be 1 to 28"),
        ("0 0 1 H/13 *", "its step may be 1 to 12"),
        ("0 0 * * H/8", "its step may be 1 to 7"),
        ("0 0 * * H(0-7)/8", "its step may be 1 to 7"),
        ("0 0 0 1 1 * H", "year field 'H' has 'H'; H is allowed in all other fields"),
        ("0 0 0 1 1 * H(2030-2040)", "H is allowed in all other fields"),
        ("0 0 H(30-31) 2 *", "none of its months has the day 'H(30-31)'"),
        ("H 61 * * *", "hour field '61' has '61'"),
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
        ("@every 5m", "no macro '@every 5m'"),
        ("@", "macro"),
        ("@dayly", "@daily"),
        ("@every5m", "@every with a duration"),
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
        ("0 0 30W 2 *", "never fires"),
        ("0 0 31W 2,4,6,9,11 *", "never fires"),
        ("0 0 L-30 2,4 ?", "never fires"),
        ("0 0 L-29 2 *", "never fires"),
        ("0 0 0 ? 2 fri#5 2027", "never fires"),
        ("0 0 0 29W 2 * 2027", "never fires"),
        ("0 0 */31 * 1#2", "never fires"),
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
@pytest.mark.parametrize("rest", ["0 12 * * *", "\t @daily", " 0 0 12 ? * mon#2 *"])
@pytest.mark.parametrize("timezone", [None, "Europe/Paris"])
def test_a_prefix_is_the_time_zone(prefix: str, rest: str, timezone: str | None) -> None:
    trigger = parse_cron(f" {prefix}Europe/Paris {rest}", timezone)
    assert trigger.timezone == "Europe/Paris"
    assert trigger.next_after(NOV_2026) == parse_cron(rest, "Europe/Paris").next_after(NOV_2026)


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "europe/paris"])
def test_another_time_zone_beside_a_prefix_is_refused(timezone: str) -> None:
    error = refusal("TZ=Europe/Paris 0 12 * * *", timezone)
    assert error.field == "timezone"
    assert "'Europe/Paris'" in error.detail
    assert repr(timezone) in error.detail


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("TZ= 0 12 * * *", "''"),
        ("TZ=Europe/Pari 0 12 * * *", "did you mean 'Europe/Paris'?"),
        ("CRON_TZ=Europe/Paris", "empty"),
        ("TZ=Europe/Paris TZ=Europe/Paris @daily", "has 2 fields"),
        ("tz=Europe/Paris 0 12 * * *", "tz=Europe/Paris"),
        ("0 12 * * * TZ=UTC", "TZ=UTC"),
    ],
)
def test_a_bad_prefix_is_refused(expression: str, named: str) -> None:
    error = refusal(expression)
    assert error.field == "cron"
    assert named in error.detail


def test_a_misspelt_zone_is_refused_with_the_nearest_name() -> None:
    assert "did you mean 'Europe/London'?" in refusal("* * * * *", "europe/london").detail
    assert "did you mean 'America/New_York'?" in refusal("* * * * *", "America/NewYork").detail


@pytest.mark.parametrize(
    "name", ["UTC", "Etc/GMT+12", "Pacific/Kiritimati", "America/Argentina/Buenos_Aires", "EST5EDT"]
)
def test_an_iana_name_is_accepted_and_kept(name: str) -> None:
    assert parse_cron("* * * * *", name).timezone == name
