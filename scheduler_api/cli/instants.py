"""Instants on the command line: RFC 3339, ``now``, or a distance from now such as ``2h`` or ``1d12h``."""

from __future__ import annotations

import re
from typing import Literal

from scheduler_core.base.clock import SystemClock
from scheduler_core.base.instants import rfc3339

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DISTANCE = re.compile(r"(?P<sign>[+-]?)(?P<parts>(?:\d+(?:\.\d+)?[smhdw])+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
PAST_WORDS = "RFC 3339 instant, or how long ago, such as 2h"
FUTURE_WORDS = "RFC 3339 instant, or how far ahead, such as 2h"


def instant_option(text: str | None, direction: Literal["ago", "ahead"]) -> str | None:
    """The instant that an option means, as RFC 3339. A distance counts in ``direction`` unless it has a sign.

    Other text is returned as it is: the server checks it, and its error names the field.
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
