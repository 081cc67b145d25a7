"""Reads instants from the command line: RFC 3339, ``now``, or a duration from now such as ``2h`` or ``1d12h``."""

from __future__ import annotations

import re
from typing import Literal

from scheduler_core.base.clock import SystemClock
from scheduler_core.base.instants import rfc3339

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DISTANCE = re.compile(r"(?P<sign>[+-]?)(?P<parts>(?:\d+(?:\.\d+)?[smhdw])+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
PAST_FORMAT = "RFC 3339 instant, or how long ago, such as 2h"
FUTURE_FORMAT = "RFC 3339 instant, or how far ahead, such as 2h"


def instant_option(text: str | None, direction: Literal["ago", "ahead"]) -> str | None:
    """Convert an option to RFC 3339. A duration without a sign counts in ``direction``.

    Other text is returned unchanged: the server checks it, and its error names the field.
    """
    if text is None:
        return None
    if text.strip() == "now":
        return rfc3339(SystemClock().now_ms())
    match = _DISTANCE.fullmatch(text.strip())
    if match is None:
        return text
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(match["parts"]))
    back = match["sign"] == "-" or (not match["sign"] and direction == "ago")
    at_ms = SystemClock().now_ms() + round((-seconds if back else seconds) * 1000)
    return rfc3339(at_ms) if 0 <= at_ms < 221_845_392_000_000 else text
