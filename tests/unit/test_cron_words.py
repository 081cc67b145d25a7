"""Descriptions of expressions in English: a short form where it is exact, otherwise each field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron_words import describe


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("* * * * * *", "every second"),
        ("*/10 * * * * * *", "every 10 seconds"),
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("30 */5 * * * *", "every 5 minutes at second 30"),
        ("0 * * * *", "every hour"),
        ("30 * * * *", "every hour at minute 30"),
        ("0 */2 * * *", "every 2 hours"),
        ("30 3 * * 1-5", "at 03:30:00 on weekdays (Monday to Friday)"),
        ("30 3 * * *", "at 03:30:00 every day"),
        ("@daily", "at 00:00:00 every day"),
        ("@weekly", "at 00:00:00 on Sundays"),
        ("@monthly", "at 00:00:00 on day 1 of the month"),
        ("@yearly", "at 00:00:00 on day 1 of the month in January"),
        ("0 12 * * sat,sun", "at 12:00:00 on weekends (Saturday and Sunday)"),
        ("0 12 * * mon,wed,7", "at 12:00:00 on Mondays, Wednesdays and Sundays"),
        ("0 9,17 * * *", "at 09:00:00 and 17:00:00 every day"),
        ("*/5 9-17 * * mon-fri", "every 5 minutes during hours 9 to 17 on weekdays (Monday to Friday)"),
        # Written for "once a day", but it is not.
        ("* 0 * * *", "every minute during hour 0"),
        # Steps that do not close the circle are not "every n".
        ("*/7 * * * *", "at every 7th minute from 0 to 56 of the hour"),
        ("*/50 * * * * *", "at seconds 0 and 50 of every minute"),
        ("*/90 * * * *", "every hour"),
        # Both days restricted: either; one with a star: both.
        ("0 0 1,15 * mon", "at 00:00:00 on days 1 and 15 of the month and also on Mondays"),
        ("0 0 */10 * mon,tue", "at 00:00:00 on days 1, 11, 21 and 31 of the month if it is a Monday or Tuesday"),
        ("0 0 1-31 * mon", "at 00:00:00 every day"),
        ("0 12 * 6-8,12 0", "at 12:00:00 on Sundays in June to August and December"),
        ("0 0 0 1 1 * 2030", "at 00:00:00 on day 1 of the month in January in the year 2030"),
        ("* 5-7 9 * * *", "every second during minutes 5 to 7 of the hour during hour 9"),
        # Days have names, so that nobody wonders whether 1 is Sunday or Monday.
        ("0 0 * * 0", "at 00:00:00 on Sundays"),
        ("0 0 * * 7", "at 00:00:00 on Sundays"),
        ("0 0 * * 1", "at 00:00:00 on Mondays"),
        ("0 0 ? * mon/2", "at 00:00:00 on Mondays, Wednesdays and Fridays"),
        ("0 0 * * fri-mon", "at 00:00:00 on Mondays, Fridays, Saturdays and Sundays"),
        ("0 0 * * 6-7", "at 00:00:00 on weekends (Saturday and Sunday)"),
        # Forms of other crons.
        ("0/15 * * * *", "every 15 minutes"),
        ("5/15 * * * *", "at minutes 5, 20, 35 and 50 of the hour"),
        ("0 22-2/2 * * *", "at 00:00:00, 02:00:00 and 22:00:00 every day"),
        ("0 0 12 ? * ?", "at 12:00:00 every day"),
        ("0 0 L * *", "at 00:00:00 on the last day of the month"),
        ("0 0 L-1 * *", "at 00:00:00 on the 1st day before the last day of the month"),
        ("0 0 L-22 * ?", "at 00:00:00 on the 22nd day before the last day of the month"),
        ("0 0 15W * ?", "at 00:00:00 on the weekday (Monday to Friday) nearest to day 15 of the month"),
        ("0 0 LW * ?", "at 00:00:00 on the last weekday (Monday to Friday) of the month"),
        ("0 0 1,L * *", "at 00:00:00 on day 1 of the month and the last day of the month"),
        ("0 0 ? * 5L", "at 00:00:00 on the last Friday of the month"),
        ("0 0 ? * 7L", "at 00:00:00 on the last Sunday of the month"),
        ("0 0 ? * MON#1", "at 00:00:00 on the 1st Monday of the month"),
        ("0 0 * * 0#3", "at 00:00:00 on the 3rd Sunday of the month"),
        ("0 0 * * 6,1,fri#2,wedL", (
            "at 00:00:00 on Mondays, Saturdays, the 2nd Friday of the month and the last Wednesday of the month"
        )),
        ("0 0 * 6 fri#5", "at 00:00:00 on the 5th Friday of the month in June"),
        ("0 0 L * fri", "at 00:00:00 on the last day of the month and also on Fridays"),
        ("0 0 13 * friL", "at 00:00:00 on day 13 of the month and also on the last Friday of the month"),
        ("0 0 */2 * friL", (
            "at 00:00:00 on every 2nd day from 1 to 31 of the month if it is the last Friday of the month"
        )),
        ("0 0 */16 * 2,mon#1", (
            "at 00:00:00 on days 1 and 17 of the month if it is a Tuesday or the 1st Monday of the month"
        )),
        ("0 0 *,L * *", "at 00:00:00 every day"),
        ("0 0 L-3 * 0-6", "at 00:00:00 every day"),
        ("CRON_TZ=Europe/Berlin 0 3 * * *", "at 03:00:00 every day"),
        ("TZ=Asia/Tokyo @weekly", "at 00:00:00 on Sundays"),
        ("@every 1m", "every minute"),
        ("@every 1h", "every hour"),
        ("@every 90s", "every 1 minute and 30 seconds"),
        ("@every 26h", "every 26 hours"),
        ("@every 1h1m1s1ms", "every 1 hour, 1 minute, 1 second and 1 millisecond"),
        ("@every 100ms", "every 100 milliseconds"),
    ],
)  # fmt: skip
def test_an_expression_is_described_in_words(expression: str, words: str) -> None:
    assert describe(expression) == words


def test_h_is_described_by_the_values_of_the_id() -> None:
    assert describe("H 3 * * *", "a") == "at 03:13:00 every day (H: chosen by the job's id)"
    assert describe("H 3 * * *", "b") == "at 03:45:00 every day (H: chosen by the job's id)"
    assert describe("TZ=UTC 0 0 ? * H", "b") == "at 00:00:00 on Fridays (H: chosen by the job's id)"
    with pytest.raises(InvalidInput) as caught:
        describe("H 3 * * *")
    assert caught.value.field == "id"


def test_an_invalid_expression_cannot_be_described() -> None:
    with pytest.raises(InvalidInput):
        describe("61 * * * *")


fields = [
    st.sampled_from(["*", "0", "59", "*/5", "*/7", "1,2,3", "5-30", "3-50/11"]),
    st.sampled_from(["*", "0", "59", "*/5", "*/7", "1,2,3", "5-30", "3-50/11"]),
    st.sampled_from(["*", "0", "23", "*/2", "*/5", "1-5,9", "3-20/4"]),
    st.sampled_from(["*", "1", "31", "*/2", "1-15", "1-31"]),
    st.sampled_from(["*", "1", "2-5", "*/3"]),
    st.sampled_from(["*", "0", "1-5", "*/2", "0-7"]),
    st.sampled_from(["*", "2030", "2030-2040/2"]),
]


@given(parts=st.tuples(*fields))
def test_every_restricted_field_appears_in_the_description(parts: tuple[str, ...]) -> None:
    words = describe(" ".join(parts))
    assert words == words.strip()
    assert "  " not in words
    if parts[4] != "*":
        assert " in " in words
    if parts[6] != "*":
        assert "2030" in words
    either = not (parts[3].startswith("*") or parts[5].startswith("*"))
    if parts[5] in ("0", "1-5", "*/2") and not (either and parts[3] == "1-31"):
        assert "day" in words.replace("every day", "").replace("on day", "")
