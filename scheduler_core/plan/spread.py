"""Suggests a cron expression with ``H`` for jobs that fire together."""

from __future__ import annotations

import re

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron_fields import MACROS, split_zone
from scheduler_core.triggers.cron_hash import uses_hash
from scheduler_core.triggers.trigger import read_cron

_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_STEP = re.compile(r"(?:\*|0)/([0-9]+)", re.ASCII)


def uses_hash_field(expression: str) -> bool:
    """Return whether an expression uses ``H``, so that its jobs are spread already."""
    return uses_hash(split_zone(expression)[1])


def spread_expression(expression: str) -> str | None:
    """Return the expression with ``H`` in its first field that can take it: a fixed minute becomes one of the hour, and
    ``*/5`` begins at one of five minutes. Of an expression with seconds, the second too. None: no such change."""
    start, text = split_zone(expression)
    if text.startswith("@"):
        text = MACROS.get(text.lower(), text)
    fields = text.split()
    if len(fields) not in (5, 6, 7):
        return None
    spread = list(fields)
    minute = 0 if len(fields) == 5 else 1
    if len(fields) > 5:
        spread[0] = _spread(fields[0])
    if len(fields) == 5 and fields[0] == "*":
        spread.insert(0, "H")  # each minute, at a second of its own
    else:
        spread[minute] = _spread(fields[minute])
    if spread == fields:
        return None
    found = " ".join(spread) if start is None else f"TZ={start} {' '.join(spread)}"
    try:
        read_cron(found, None, "any")
    except InvalidInput:
        return None
    return found


def _spread(field: str) -> str:
    if _NUMBER.fullmatch(field):
        return "H"
    step = _STEP.fullmatch(field)
    return field if step is None else f"H/{step[1]}"
