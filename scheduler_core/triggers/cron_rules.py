"""The fields of a cron expression: their names, the values that each allows, and the errors that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from scheduler_core.base.errors import InvalidInput

FIRST_YEAR, LAST_YEAR = 1970, 2099
"""Fire times lie in these local years. croniter's year field has the same upper end. It lies before 2100, which is not
a leap year; zone rules are not known that far ahead."""

MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = {name: number for number, name in enumerate(MONTH_NAMES, start=1)}
_WEEKDAYS = {name: number for number, name in enumerate(WEEKDAY_NAMES)}


class FieldRule(NamedTuple):
    """The values that one field allows. ``label`` is also what ``H`` hashes: it never changes."""

    label: str
    low: int
    high: int
    """The highest value of ``*`` and of a range that wraps around. Day of week: 6, though 7 is read as Sunday."""
    names: Mapping[str, int]

    @property
    def allowed(self) -> str:
        """The allowed values, for error messages."""
        if self.names is _MONTHS:
            return "1 to 12, or jan to dec"
        if self.names is _WEEKDAYS:
            return "0 to 7 (0 and 7 are Sunday), or sun to sat"
        return f"{self.low} to {self.high}"

    @property
    def size(self) -> int:
        """The number of different values."""
        return self.high - self.low + 1


SECOND = FieldRule("second", 0, 59, {})
MINUTE = FieldRule("minute", 0, 59, {})
HOUR = FieldRule("hour", 0, 23, {})
DAY_OF_MONTH = FieldRule("day of month", 1, 31, {})
MONTH = FieldRule("month", 1, 12, _MONTHS)
DAY_OF_WEEK = FieldRule("day of week", 0, 6, _WEEKDAYS)
YEAR = FieldRule("year", FIRST_YEAR, LAST_YEAR, {})

FIVE = (MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)
SIX = (SECOND, *FIVE)
SEVEN = (*SIX, YEAR)


def refuse_field(rule: FieldRule, text: str, problem: str) -> NoReturn:
    """Raise InvalidInput that names the field and its text."""
    refuse(f"the {rule.label} field {text!r} {problem}")


def refuse(detail: str) -> NoReturn:
    raise InvalidInput(detail, field="cron")
