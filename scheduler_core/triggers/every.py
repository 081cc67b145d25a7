"""Reads the durations of ``@every``, which are those of Go: ``1h30m10s500ms``, ``90s``, ``1.5h``."""

from __future__ import annotations

import re
from fractions import Fraction

from scheduler_core.triggers.cron_rules import refuse

SHORTEST_MS = 100
LONGEST_MS = 100 * 366 * 86_400_000
"""A hundred years. An interval that is longer than a person lives is a mistake."""

_PART = r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)"
_PARTS = re.compile(_PART, re.ASCII)
_DURATION = re.compile(f"(?:{_PART})+", re.ASCII)
_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_MACRO = re.compile(r"@every(?:[ \t]+(.*))?", re.ASCII | re.IGNORECASE)


def read_every(text: str) -> int | None:
    """Return the milliseconds of ``@every DURATION``; None if ``text`` is no ``@every``.

    Raises ``InvalidInput`` (``cron``) if the duration is not valid, shorter than 0.1 seconds or not whole milliseconds.
    """
    parts = _MACRO.fullmatch(text)
    if parts is None:
        return None
    duration = parts[1] or ""
    if not _DURATION.fullmatch(duration):
        refuse(f"@every has {duration!r}; allowed are numbers with the units h, m, s and ms, as in 1h30m, 90s or 500ms")
    length = sum(Fraction(number) * _UNITS[unit] for number, unit in _PARTS.findall(duration))
    if length.denominator != 1:
        refuse(f"@every has {duration!r}; allowed are whole milliseconds")
    if not SHORTEST_MS <= length <= LONGEST_MS:
        refuse(f"@every has {duration!r}; allowed are 100ms to 878400h (a hundred years)")
    return int(length)
