"""Reads the items of one field of a cron expression.

    field = "?"  |  item {"," item}
    item  = "*" ["/" step]  |  value ["/" step]  |  value "-" value ["/" step]
          | "H" ["(" value "-" value ")"] ["/" step]
          | "L"  |  "L-" number  |  day "W"  |  "LW"         in day of month
          | value "L"  |  value "#" number                   in day of week
    value = number, or in month and day of week a name of three letters in any case
    step  = number from 1

``?`` is allowed in the two day fields and means ``*``. ``a/n`` counts from a to the end of the field. A range whose
first value is the greater one continues at the start of the field: ``22-2``. Years do not wrap around.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron_hash import HashedItem, hash_of
from scheduler_core.triggers.cron_relative import LastDay, LastWeekday, NearestWeekday, NthWeekday, RelativeDay
from scheduler_core.triggers.cron_rules import (
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    WEEKDAY_NAMES,
    YEAR,
    FieldRule,
    refuse_field,
)

_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_HASHED = re.compile(r"h(?:\(([^()-]*)-([^()-]*)\))?(?:/(.*))?", re.ASCII | re.IGNORECASE)
_LAST_DAY = re.compile(r"l(?:-([0-9]+))?", re.ASCII | re.IGNORECASE)
_NEAREST = re.compile(r"(l|[0-9]+)w", re.ASCII | re.IGNORECASE)
_OF_WEEKDAY = re.compile(r"([0-9]+|[a-z]{3})(?:(l)|#(.*))", re.ASCII | re.IGNORECASE)

_SUNDAY_AS_7 = 7
_MOST_DAYS_BEFORE = 30
_MOST_IN_MONTH = 5
_ALONE = "as a list item of its own, without range or step"
_SIGNS = {
    "?": "'?' is allowed alone, in the day of month and the day of week field",
    "#": f"'#' is allowed in the day of week field, as in 'fri#2', the second Friday, {_ALONE}",
    "l": f"'L' is allowed in day of month ('L', 'L-3', 'LW') and after a day of week ('5L' or 'friL'), {_ALONE}",
    "w": f"'W' is allowed in day of month, after a day ('15W') or after L ('LW'), {_ALONE}",
    "h": "'H' is allowed as 'H', 'H/5', 'H(0-29)' and 'H(0-29)/5'",
    "r": "'R' (a random value) is not part of this dialect; 'H' is a value chosen by the job's id",
}


def read_item(rule: FieldRule, item: str, text: str, job_id: str | None) -> Sequence[int] | RelativeDay:
    """Read one item of the field ``text``: its values, or a day that depends on the month.

    Raises ``InvalidInput``: ``cron``, or ``id`` for an ``H`` without ``job_id``.
    """
    if not item:
        refuse_field(rule, text, "has an empty list item")
    if item[0] in "hH":
        hashed = read_hashed(rule, item, text)
        if job_id is None:
            raise InvalidInput(
                f"the {rule.label} field {text!r} has an H; its value depends on the job's id: give the id",
                field="id",
            )
        return read_item(rule, hashed.text_of(hash_of(job_id, rule.label)), text, job_id)
    relative = _read_relative(rule, item, text)
    if relative is not None:
        return relative
    span, slash, step_text = item.partition("/")
    first, dash, last = span.partition("-")
    step = _read_step(rule, step_text, text) if slash else 1
    if span == "*":
        return range(rule.low, rule.high + 1, step)
    if dash:
        return _read_range(rule, first, last, text)[::step]
    value = _read_value(rule, span, text)
    if rule is DAY_OF_WEEK:
        value %= 7
    return range(value, rule.high + 1, step) if slash else (value,)


def read_hashed(rule: FieldRule, item: str, text: str) -> HashedItem:
    """Read an item that begins with ``H``. Raises InvalidInput."""
    if rule is YEAR:
        refuse_field(rule, text, f"has {item!r}; H is allowed in all other fields")
    parts = _HASHED.fullmatch(item)
    if parts is None:
        refuse_field(rule, text, f"has {item!r}; {_SIGNS['h']}")
    first, last, step_text = parts.groups()
    if first is None:
        # Day 28 is the last one that every month has.
        values: Sequence[int] = range(rule.low, 29 if rule is DAY_OF_MONTH else rule.high + 1)
    else:
        values = _read_range(rule, first, last, text)
        if rule is DAY_OF_WEEK:
            values = tuple(dict.fromkeys(values))  # 0-7 has the Sunday twice
    step = 0
    if step_text is not None:
        step = _read_step(rule, step_text, text)
        if step > len(values):
            refuse_field(rule, text, f"has {item!r}; its step may be 1 to {len(values)}, the number of its values")
    return HashedItem(tuple(values), step)


def _read_range(rule: FieldRule, first: str, last: str, text: str) -> Sequence[int]:
    low, high = _read_value(rule, first, text), _read_value(rule, last, text)
    if rule is DAY_OF_WEEK:
        if high == _SUNDAY_AS_7 and low < high:
            return [value % 7 for value in range(low, high + 1)]
        low, high = low % 7, high % 7
    if low <= high:
        return range(low, high + 1)
    if rule is YEAR:
        refuse_field(rule, text, f"has the backward range '{first}-{last}'; the first year must be the smaller one")
    return [*range(low, rule.high + 1), *range(rule.low, high + 1)]


def _read_step(rule: FieldRule, step: str, text: str) -> int:
    if not _NUMBER.fullmatch(step) or int(step) == 0:
        refuse_field(rule, text, f"has the step {step!r}; a step is a number from 1")
    return int(step)


def _read_value(rule: FieldRule, value_text: str, text: str) -> int:
    value = rule.names.get(value_text.lower())
    if value is not None:
        return value
    if _NUMBER.fullmatch(value_text):
        value = int(value_text)
        if rule.low <= value <= (_SUNDAY_AS_7 if rule is DAY_OF_WEEK else rule.high):
            return value
    return _refuse_value(rule, value_text, text)


def _refuse_value(rule: FieldRule, value: str, text: str) -> NoReturn:
    hint = next((f" ({hint})" for sign, hint in _SIGNS.items() if _has_sign(value, sign)), "")
    refuse_field(rule, text, f"has {value!r}; allowed are {rule.allowed}{hint}")


def _has_sign(text: str, sign: str) -> bool:
    """Return whether ``text`` uses ``sign`` as a sign, instead of being a word with that letter."""
    rest = text.lower().replace(sign, "", 1)
    return sign in text.lower() and (rest in ("", "w") or rest[0] in "(0123456789" or rest[:3] in WEEKDAY_NAMES)


def _read_relative(rule: FieldRule, item: str, text: str) -> RelativeDay | None:
    if rule is DAY_OF_MONTH:
        return _read_day_of_month(item, text)
    if rule is DAY_OF_WEEK:
        return _read_day_of_week(item, text)
    return None


def _read_day_of_month(item: str, text: str) -> RelativeDay | None:
    if last := _LAST_DAY.fullmatch(item):
        before = 0 if last[1] is None else int(last[1])
        if last[1] is not None and not 1 <= before <= _MOST_DAYS_BEFORE:
            refuse_field(DAY_OF_MONTH, text, f"has {item!r}; allowed are L-1 to L-{_MOST_DAYS_BEFORE}")
        return LastDay(before)
    if nearest := _NEAREST.fullmatch(item):
        if nearest[1] in "lL":
            return NearestWeekday()
        day = int(nearest[1])
        if not 1 <= day <= DAY_OF_MONTH.high:
            refuse_field(DAY_OF_MONTH, text, f"has {item!r}; allowed are 1W to {DAY_OF_MONTH.high}W, and LW")
        return NearestWeekday(day)
    return None


def _read_day_of_week(item: str, text: str) -> RelativeDay | None:
    parts = _OF_WEEKDAY.fullmatch(item)
    if parts is None:
        return None
    weekday = _read_value(DAY_OF_WEEK, parts[1], text) % 7
    if parts[2]:
        return LastWeekday(weekday)
    number = parts[3]
    if not _NUMBER.fullmatch(number) or not 1 <= int(number) <= _MOST_IN_MONTH:
        refuse_field(DAY_OF_WEEK, text, f"has {item!r}; after # goes a number from 1 to {_MOST_IN_MONTH}")
    return NthWeekday(weekday, int(number))
