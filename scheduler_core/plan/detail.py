"""What is kept of a request and its answer beside a run's record, and with which secrets taken out."""

from __future__ import annotations

import re

from scheduler_core.outcome import Outcome, Request
from scheduler_core.run import RunDetail

DETAIL_BYTES = 10_240
"""How much of each body is kept."""
MASK = "***"

_SECRET = re.compile(r"authorization|cookie|token|secret|password|api-?key", re.IGNORECASE)


def detail_of(request: Request | None, outcome: Outcome) -> RunDetail:
    """The detail of an attempt. Values of headers whose name says that they are secrets are masked."""
    return RunDetail(
        () if request is None else _masked(request.headers),
        b"" if request is None else request.body[:DETAIL_BYTES],
        _masked(outcome.headers),
        outcome.body[:DETAIL_BYTES],
    )


def _masked(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, MASK if _SECRET.search(name) else value) for name, value in headers)
