"""Decides whether the only request of a job may still be sent (``Policies.at_most_once``).

A person asked for one request to a target and waits for its result. The request is therefore never repeated, and not
sent long after that person stopped waiting.
"""

from __future__ import annotations

import msgspec

from scheduler_core.model.lease import Lease
from scheduler_core.model.run import Run, RunState

SENT_WITHIN_MS = 60_000
"""A request that was not sent within this time after it was requested is not sent."""


class Unsent(msgspec.Struct, frozen=True):
    """How a run ends that is not sent."""

    final: RunState
    why: str


def why_not_sent(run: Run, lease: Lease) -> Unsent | None:
    """Return how a claimed run ends without being sent; None: it is sent now.

    It is lost if an earlier claim may have sent it, and cancelled if its first claim came too late: no node was alive,
    or the limits of its target held it back. Both depend only on the lease, so each claim decides alike.
    """
    if lease.lost:
        return Unsent(RunState.LOST, "its node died or stopped during the request, which is not repeated")
    if lease.first_claimed_at_ms - run.fire_time_ms > SENT_WITHIN_MS:
        return Unsent(
            RunState.CANCELLED,
            f"not sent within {SENT_WITHIN_MS // 1000} s: no node was running, or its target was at its limit",
        )
    return None
