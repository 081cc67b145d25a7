"""Judges an HTTP answer for its run: the verdict, the requested wait, and whether the plan can read its body."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from msgspec.structs import replace

from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict

RETRY_STATUSES: Final = frozenset({408, 425, 429, 502, 503, 504})
"""Answers that mean "not now". All other answers but 2xx and 409 mean "not like this"."""
CONFLICT_STATUS: Final = 409
FINAL_KINDS: Final = frozenset({OutcomeKind.BLOCKED, OutcomeKind.PROTOCOL})
"""Failures that the next attempt would repeat: a refused address, an answer that is not HTTP."""
SHOWN_CHARACTERS: Final = 50


def with_verdict(outcome: Outcome, retry_statuses: tuple[int, ...], *, now_ms: int) -> Outcome:
    """Return ``outcome`` with its verdict and the wait that its headers request.

    ``retry_statuses`` are those that the job retries in addition to ``RETRY_STATUSES``.
    """
    if outcome.kind is not OutcomeKind.RESPONSE or outcome.status is None:
        return replace(outcome, verdict=Verdict.REFUSED if outcome.kind in FINAL_KINDS else Verdict.RETRY)
    verdict = _verdict_of(outcome.status, retry_statuses)
    if verdict is Verdict.ACCEPTED:
        return replace(outcome, verdict=verdict, unreadable=_unreadable(outcome))
    wait_ms = parse_retry_after(outcome.header("retry-after"), now_ms=now_ms)
    return replace(outcome, verdict=verdict, retry_after_ms=wait_ms)


def _verdict_of(status: int, retry_statuses: tuple[int, ...]) -> Verdict:
    if 200 <= status < 300:
        return Verdict.ACCEPTED
    if status == CONFLICT_STATUS:
        return Verdict.BUSY
    return Verdict.RETRY if status in RETRY_STATUSES or status in retry_statuses else Verdict.REFUSED


def _unreadable(outcome: Outcome) -> str:
    encoding = (outcome.header("content-encoding") or "identity").strip().lower()
    return "" if encoding in ("", "identity") else f"the answer has the Content-Encoding {encoding[:SHOWN_CHARACTERS]}"


def parse_retry_after(value: str | None, *, now_ms: int) -> int | None:
    """Return the milliseconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or an HTTP date).

    None if the header is absent or cannot be parsed. A date in the past is 0.
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
