"""How long a run waits before its next attempt."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

DAY_MS = 86_400_000
MAX_DOUBLINGS = 32


class RetryPolicy(msgspec.Struct, frozen=True):
    """When a failed attempt is tried again, and how often. All times in milliseconds."""

    statuses: frozenset[int] = frozenset({408, 425, 429, 502, 503, 504})
    """Answers that say «not now», as opposed to «not like this»."""
    first_delay_ms: int = 1_000
    cap_ms: int = 60_000
    jitter: float = 0.1
    """At most this part of the delay is added at random, never subtracted: a delay is a promise to the runner."""
    retry_after_cap_ms: int = 3_600_000
    """The longest wait that a runner's Retry-After header can ask for."""
    max_age_ms: int = DAY_MS
    """A run whose first attempt is longer ago than this is not tried again."""
    conflict_floor_ms: int = 500
    """The shortest wait after 409, for a job that asks to be tried again after 0 seconds."""


def retry_delay_ms(policy: RetryPolicy, failures: int, *, retry_after_ms: int | None, jitter: float) -> int:
    """Milliseconds to wait after the ``failures``-th failure in a row (1 for the first).

    The first delay comes twice, then doubles up to the cap. ``jitter`` is a random number in [0, 1). A Retry-After
    that asks for longer is honoured, up to its own cap.
    """
    doublings = min(max(failures - 2, 0), MAX_DOUBLINGS)
    delay = min(policy.first_delay_ms << doublings, policy.cap_ms)
    if retry_after_ms is not None:
        delay = max(delay, min(retry_after_ms, policy.retry_after_cap_ms))
    return delay + int(delay * policy.jitter * jitter)


def parse_retry_after(value: str | None, *, now_ms: int) -> int | None:
    """Milliseconds that a Retry-After header asks for (RFC 9110 section 10.2.3: seconds or an HTTP date).

    None for an absent header and for one that says nothing sensible; a date in the past is 0.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return int(text[:12]) * 1000
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    try:
        return max(0, int(instant.timestamp() * 1000) - now_ms)
    except (ValueError, OverflowError):
        return None
