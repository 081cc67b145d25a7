"""Parses and checks cron expressions: a time zone prefix, and five to seven fields or a macro.

The dialect is Debian's Vixie cron with a seconds field, and the forms that other crons add to it: ``cron_items`` has
the grammar of a field. Everything else is refused with an error that names it, also what Debian's cron accepts but
ignores: text after a complete item.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scheduler_core.triggers.cron_hash import HashedFields, HashedItem, uses_hash
from scheduler_core.triggers.cron_items import read_hashed, read_item
from scheduler_core.triggers.cron_relative import RelativeDay
from scheduler_core.triggers.cron_rules import (
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    FIRST_YEAR,
    FIVE,
    LAST_YEAR,
    SEVEN,
    SIX,
    FieldRule,
    refuse,
)

LONGEST_EXPRESSION = 256
"""In characters; longer text is refused unread."""

MACROS: Mapping[str, str] = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_ZONE_PREFIX = re.compile(r"(?:CRON_)?TZ=([^ \t]*)[ \t]*(.*)", re.ASCII)
_BLANKS = re.compile(r"[ \t]+", re.ASCII)
_RULES = {len(rules): rules for rules in (FIVE, SIX, SEVEN)}


class Field(NamedTuple):
    """A parsed field: its values in ascending order, and what the day and DST rules need from its text."""

    values: tuple[int, ...]
    starred: bool
    """Whether the text starts with ``*`` (also ``*/5``), which means "not restricted" in Vixie cron, or is ``?``."""
    full: bool
    """Whether the field contains every allowed value."""
    relative: tuple[RelativeDay, ...] = ()
    """The days that depend on the month, in the order of the text. With them, ``values`` may be empty."""


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


def split_zone(expression: str) -> tuple[str | None, str]:
    """Return the time zone of a prefix ``TZ=`` or ``CRON_TZ=``, if there is one, and the text after it.

    Raises ``InvalidInput`` (``cron``) for text that is too long, empty, or has characters that no expression has. The
    zone is not checked.
    """
    if len(expression) > LONGEST_EXPRESSION:
        refuse(f"the expression has {len(expression)} characters; at most {LONGEST_EXPRESSION} are allowed")
    for character in expression:
        if not (character == "\t" or " " <= character <= "~"):
            refuse(f"the expression has the character {character!a}; only printable ASCII is allowed")
    text = expression.strip(" \t")
    prefix = _ZONE_PREFIX.fullmatch(text)
    zone, text = (prefix[1], prefix[2]) if prefix else (None, text)
    if not text:
        refuse("the expression is empty; 5, 6 (seconds first) or 7 fields (year last), or a macro are allowed")
    return zone, text


def read_fields(text: str, job_id: str | None = None) -> CronFields:
    """Read 5, 6 or 7 fields or a macro, without a zone. ``job_id``: see ``H``.

    Raises ``InvalidInput``: ``cron``, or ``id`` if the fields use ``H`` and there is no id. Spaces or tabs separate
    fields.
    """
    rules, parts = _split_fields(text)
    read = {rule.label: _read_field(rule, part, job_id) for rule, part in zip(rules, parts, strict=True)}
    # Without a seconds field: second 0. Without a year field: every year.
    second = read.get("second", Field((0,), starred=False, full=False))
    year = read.get("year", Field(tuple(range(FIRST_YEAR, LAST_YEAR + 1)), starred=True, full=True))
    minute, hour, day_of_month, month, day_of_week = (read[rule.label] for rule in FIVE)
    fields = CronFields(second, minute, hour, day_of_month, month, day_of_week, year)
    _check_dates(fields, parts)
    return fields


def read_hashed_fields(text: str) -> HashedFields:
    """Read only the items with ``H``, whose values depend on the job's id. Raises ``InvalidInput`` (``cron``)."""
    rules, parts = _split_fields(text)
    return HashedFields([(rule.label, _hashed_items(rule, part)) for rule, part in zip(rules, parts, strict=True)])


def _hashed_items(rule: FieldRule, text: str) -> list[str | HashedItem]:
    if not uses_hash(text):
        return [text]
    return [read_hashed(rule, item, text) if item[:1] in ("h", "H") else item for item in text.split(",")]


def _split_fields(text: str) -> tuple[Sequence[FieldRule], list[str]]:
    if text.startswith("@"):
        text = _expand_macro(text)
    parts = _BLANKS.split(text)
    rules = _RULES.get(len(parts))
    if rules is None:
        refuse(
            f"the expression has {len(parts)} field{'' if len(parts) == 1 else 's'}; allowed are 5 (minute first), "
            "6 (second first) or 7 (second first, year last), or a macro such as @daily"
        )
    return rules, parts


def _expand_macro(text: str) -> str:
    macro = text.lower()
    if macro == "@reboot":
        refuse("@reboot is not allowed: jobs fire at times of day, not when a machine starts")
    if macro not in MACROS:
        refuse(f"there is no macro {text!r}; allowed are {', '.join(MACROS)} and @every with a duration")
    return MACROS[macro]


def _read_field(rule: FieldRule, text: str, job_id: str | None) -> Field:
    if text == "?" and rule in (DAY_OF_MONTH, DAY_OF_WEEK):
        return Field(tuple(range(rule.low, rule.high + 1)), starred=True, full=True)
    values: set[int] = set()
    relative: dict[RelativeDay, None] = {}
    for item in text.split(","):
        read = read_item(rule, item, text, job_id)
        if isinstance(read, RelativeDay):
            relative[read] = None
        else:
            values.update(read)
    return Field(
        tuple(sorted(values)),
        starred=text.startswith("*"),
        full=len(values) == rule.size,
        relative=tuple(relative),
    )


def _check_dates(fields: CronFields, parts: list[str]) -> None:
    """Refuse a day that none of the months has, such as February 30. (A day that none of the years has, such as
    February 29 in 2027, is refused by the search for the first fire time, and so are days that depend on the month.)"""
    if fields.either_day or fields.day_of_month.relative:
        return
    longest = max(29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31 for month in fields.month.values)
    if fields.day_of_month.values[0] > longest:
        text = parts[2 if len(parts) == len(FIVE) else 3]
        refuse(f"the expression never fires: none of its months has the day {text!r}")
