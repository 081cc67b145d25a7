"""What is kept of a request and its answer beside a run's record, and with which secrets taken out."""

from __future__ import annotations

from scheduler_core.base.secret_names import MASK, mask_headers
from scheduler_core.model.outcome import Outcome, Request
from scheduler_core.model.run import RunDetail

__all__ = ["DETAIL_BYTES", "MASK", "detail_of"]

DETAIL_BYTES = 10_240
"""How much of each body is kept."""


def detail_of(request: Request | None, outcome: Outcome) -> RunDetail:
    """Return the detail of an attempt, with secrets in headers masked by name."""
    return RunDetail(
        () if request is None else mask_headers(request.headers),
        b"" if request is None else request.body[:DETAIL_BYTES],
        mask_headers(outcome.headers),
        outcome.body[:DETAIL_BYTES],
    )
