"""Adds attempts without a recorded end: their node died or stopped, or a failover of Redis lost the settlement."""

from __future__ import annotations

from msgspec.structs import replace

from scheduler_core.model.lease import Lease, LostCause
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, Run, keep_attempts

LOST_WHY = {
    LostCause.DIED: "the node died or froze before it recorded how the attempt ended",
    LostCause.STOPPED: "the node stopped before the attempt ended",
    LostCause.FORGOTTEN: "Redis lost how the attempt ended",
}


def with_lost_attempts(run: Run, lease: Lease) -> Run:
    """Return ``run`` with the attempts of earlier claims of this lease that have no recorded end.

    Each of these requests may have been sent, so each gets a number. Attempts that ``run`` has already are not added
    again: fences only grow.
    """
    last = run.attempts[-1].fence if run.attempts else 0
    lost = [claim for claim in lease.lost if claim.fence > last]
    if not lost:
        return run
    number, attempts = run.attempt, run.attempts
    if len(lost) == len(lease.lost):
        number += lease.lost_count - len(lost)  # attempts that the lease counts but no longer lists
    for claim in lost:
        number += 1
        lost_attempt = Attempt(number, claim.fence, claim.at_ms, 0.0, OutcomeKind.LOST, message=LOST_WHY[claim.cause])
        attempts = keep_attempts(attempts, lost_attempt)
    return replace(run, attempt=number, attempts=attempts)
