"""Parses and checks cron expressions: five to seven fields, each a set of numbers.

The dialect is Debian's Vixie cron with a seconds field. The grammar of one field:

    field = item {"," item}
    item  = "*" ["/" step]  |  value  |  value "-" value ["/" step]
    value = number, or in month and day of week a name of three letters in any case
    step  = number from 1

Everything else is refused with an error that names it:

* what Debian's cron refuses: a step after a single value, a step of 0, an empty item, a value out of range;
* what Debian's cron accepts but ignores: a backward range never fires there, text after a complete item is skipped;
* the extensions of other crons: ``L W # ? H R``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from scheduler_core.base.errors import InvalidInput

LONGEST_EXPRESSION = 256
"""In characters; longer text is refused unread."""

FIRST_YEAR, LAST_YEAR = 1970, 2099
"""Fire times lie in these local years. croniter's year field has the same upper end. It lies before 2100, which is not
a leap year; zone rules are not known that far ahead."""

MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = {name: number for number, name in enumerate(MONTH_NAMES, start=1)}
_WEEKDAYS = {name: number for number, name in enumerate(WEEKDAY_NAMES)}

MACROS: Mapping[str, str] = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_ZONE_PREFIX = re.compile(r"(?:CRON_)?TZ=(\S*)")
_BLANKS = re.compile(r"[ \t]+", re.ASCII)
_FOREIGN = {
    "?": "'?' means '*' in other crons; write '*'",
    "#": "'#' (the n-th weekday) is not part of this dialect",
    "l": "'L' (the last day) is not part of this dialect",
    "w": "'W' (the nearest weekday) is not part of this dialect",
    "h": "'H' (a hashed value) is not part of this dialect",
    "r": "'R' (a random value) is not part of this dialect",
}


class FieldRule(NamedTuple):
    """The values that one field allows."""

    label: str
    low: int
    high: int
    names: Mapping[str, int]

    @property
    def allowed(self) -> str:
        """The allowed values, for error messages."""
        if self.names is _MONTHS:
            return "1 to 12, or jan to dec"
        if self.names is _WEEKDAYS:
            return "0 to 7 (0 and 7 are Sunday), or sun to sat"
        return f"{self.low} to {self.high}"


SECOND = FieldRule("second", 0, 59, {})
MINUTE = FieldRule("minute", 0, 59, {})
HOUR = FieldRule("hour", 0, 23, {})
DAY_OF_MONTH = FieldRule("day of month", 1, 31, {})
MONTH = FieldRule("month", 1, 12, _MONTHS)
DAY_OF_WEEK = FieldRule("day of week", 0, 7, _WEEKDAYS)
YEAR = FieldRule("year", FIRST_YEAR, LAST_YEAR, {})

_FIVE = (MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)
_SIX = (SECOND, *_FIVE)
_SEVEN = (*_SIX, YEAR)
_RULES = {len(rules): rules for rules in (_FIVE, _SIX, _SEVEN)}


class Field(NamedTuple):
    """A parsed field: its values in ascending order, and what the day and DST rules need from its text."""

    values: tuple[int, ...]
    starred: bool
    """Whether the text starts with ``*`` (also ``*/5``), which means "not restricted" in Vixie cron."""
    full: bool
    """Whether the field contains every allowed value."""


class CronFields(NamedTuple):
    """A whole expression. ``day_of_week`` holds 0 (Sunday) to 6."""

    second: Field
    minute: Field
    hour: Field
    day_of_month: Field
    month: Field
    day_of_week: Field
    year: Field

    @property
    def follows_elapsed_time(self) -> bool:
        """Debian's "wildcard job": minute or hour starts with ``*``. Decides how a change of the clocks is handled."""
        return self.minute.starred or self.hour.starred

    @property
    def either_day(self) -> bool:
        """Whether day of month *or* day of week is enough. Vixie's star rule: both must match if one is starred."""
        return not (self.day_of_month.starred or self.day_of_week.starred)


def read_expression(expression: str) -> CronFields:
    """Read an expression of 5, 6 or 7 fields or a macro; raises ``InvalidInput`` (``cron``).

    Fields are separated by spaces or tabs; those around the expression are ignored, as in a crontab.
    """
    if len(expression) > LONGEST_EXPRESSION:
        _refuse(f"the expression has {len(expression)} characters; at most {LONGEST_EXPRESSION} are allowed")
    for character in expression:
        if not (character == "\t" or " " <= character <= "~"):
            _refuse(f"the expression has the character {character!a}; only printable ASCII is allowed")
    text = expression.strip(" \t")
    if not text:
        _refuse("the expression is empty; 5, 6 (seconds first) or 7 fields (year last), or a macro are allowed")
    if zone := _ZONE_PREFIX.match(text):
        _refuse(f'a time zone is not allowed in the expression; send it as the field "timezone": {json.dumps(zone[1])}')
    if text.startswith("@"):
        text = _expand_macro(text)
    parts = _BLANKS.split(text)
    rules = _RULES.get(len(parts))
    if rules is None:
        _refuse(
            f"the expression has {len(parts)} field{'' if len(parts) == 1 else 's'}; allowed are 5 (minute first), "
            "6 (second first) or 7 (second first, year last), or a macro such as @daily"
        )
    read = {rule.label: _read_field(rule, part) for rule, part in zip(rules, parts, strict=True)}
    # Without a seconds field: second 0. Without a year field: every year.
    second = read.get("second", Field((0,), starred=False, full=False))
    year = read.get("year", Field(tuple(range(FIRST_YEAR, LAST_YEAR + 1)), starred=True, full=True))
    minute, hour, day_of_month, month, day_of_week = (read[rule.label] for rule in _FIVE)
    fields = CronFields(second, minute, hour, day_of_month, month, day_of_week, year)
    _check_dates(fields, parts)
    return fields


def _expand_macro(text: str) -> str:
    macro = text.lower()
    if macro == "@reboot":
        _refuse("@reboot is not allowed: jobs fire at times of day, not when a machine starts")
    if macro not in MACROS:
        _refuse(f"there is no macro {text!r}; allowed are {', '.join(MACROS)}")
    return MACROS[macro]


def _read_field(rule: FieldRule, text: str) -> Field:
    values: set[int] = set()
    for item in text.split(","):
        values.update(_read_item(rule, item, text))
    size = rule.high - rule.low + 1
    if rule is DAY_OF_WEEK:
        values = {value % 7 for value in values}
        size = 7
    return Field(tuple(sorted(values)), starred=text.startswith("*"), full=len(values) == size)


def _read_item(rule: FieldRule, item: str, field_text: str) -> range:
    if not item:
        _refuse_field(rule, field_text, "has an empty list item")
    span, slash, step_text = item.partition("/")
    first, dash, last = span.partition("-")
    if span == "*":
        low, high = rule.low, rule.high
    elif dash:
        low, high = _read_value(rule, first, field_text), _read_value(rule, last, field_text)
        if low > high:
            hint = "; Sunday is also 7" if rule is DAY_OF_WEEK and high == 0 else ""
            _refuse_field(rule, field_text, f"has the backward range {span!r}{hint}")
    else:
        low = high = _read_value(rule, span, field_text)
        if slash:
            _refuse_field(
                rule, field_text, f"has a step after the single value {span!r}; write '{span}-{rule.high}/{step_text}'"
            )
    step = 1
    if slash:
        if not _NUMBER.fullmatch(step_text) or int(step_text) == 0:
            _refuse_field(rule, field_text, f"has the step {step_text!r}; a step is a number from 1")
        step = int(step_text)
    return range(low, high + 1, step)


def _read_value(rule: FieldRule, text: str, field_text: str) -> int:
    value = rule.names.get(text.lower())
    if value is not None:
        return value
    if _NUMBER.fullmatch(text):
        value = int(text)
        if rule.low <= value <= rule.high:
            return value
    hint = next((why for sign, why in _FOREIGN.items() if _has_sign(text, sign)), "")
    return _refuse_field(rule, field_text, f"has {text!r}; allowed are {rule.allowed}" + (f" ({hint})" if hint else ""))


def _has_sign(text: str, sign: str) -> bool:
    """Return whether ``text`` uses ``sign`` as an extension of another cron, instead of a word with that letter."""
    rest = text.lower().replace(sign, "", 1)
    return sign in text.lower() and (rest in ("", "w") or rest[0] in "(0123456789" or rest[:3] in _WEEKDAYS)


def _check_dates(fields: CronFields, parts: list[str]) -> None:
    """Refuse a day that none of the months has, such as February 30. (A day that none of the years has, such as
    February 29 in 2027, is refused by the search for the first fire time.)"""
    if fields.either_day:
        return
    longest = max(29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31 for month in fields.month.values)
    if fields.day_of_month.values[0] > longest:
        text = parts[2 if len(parts) == len(_FIVE) else 3]
        _refuse(f"the expression never fires: none of its months has the day {text!r}")


def _refuse_field(rule: FieldRule, text: str, problem: str) -> NoReturn:
    _refuse(f"the {rule.label} field {text!r} {problem}")


def _refuse(detail: str) -> NoReturn:
    raise InvalidInput(detail, field="cron")
