"""Writes instants as RFC 3339 in UTC, and reads RFC 3339 with an offset. Has only imports that load quickly."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from scheduler_core.base.errors import InvalidInput

LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""Later instants are refused: the calendar ends in the year 9999."""


@lru_cache(maxsize=1024)
def rfc3339(instant_ms: int) -> str:
    """Return an instant in UTC with ``Z``, and with milliseconds unless they are 0.

    Cached, because all jobs that are due in one second send the same two texts, and formatting them takes 10 µs.
    """
    instant = datetime.fromtimestamp(instant_ms / 1000, UTC)
    text = instant.strftime("%Y-%m-%dT%H:%M:%S")
    millis = instant_ms % 1000
    return f"{text}.{millis:03d}Z" if millis else f"{text}Z"


def parse_instant(text: str, *, field: str) -> int:
    """Return an RFC 3339 instant with an offset as epoch milliseconds. Raises InvalidInput."""
    # In a query string, a plus sign means a space; clients rarely escape the plus sign of "+02:00".
    text = text.strip().replace(" ", "+") if "T" in text.upper() else text
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None or not 1970 <= parsed.year < LATEST.year:
        raise InvalidInput(f"{field} must be an RFC 3339 instant such as 2030-01-31T12:00:00Z", field=field)
    return int(parsed.timestamp() * 1000)


def utc(instant_ms: int) -> datetime:
    """Return an instant as a datetime in UTC."""
    return datetime.fromtimestamp(instant_ms / 1000, UTC)
