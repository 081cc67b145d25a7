"""The detail of a run: request and answer of its last attempt, bounded and with secrets masked."""

from __future__ import annotations

from scheduler_core.base.secret_names import MASK, mask_headers
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.run import RunDetail

__all__ = ["DETAIL_BYTES", "MASK", "detail_of"]

DETAIL_BYTES = 10_240
"""The maximum length of each stored body."""


def detail_of(call: Call | None, outcome: Outcome) -> RunDetail:
    """Return the detail of an attempt, with secrets in headers masked by name."""
    return RunDetail(
        mask_headers(outcome.sent_headers),
        b"" if call is None else call.payload[:DETAIL_BYTES],
        mask_headers(outcome.headers),
        outcome.body[:DETAIL_BYTES],
    )
