"""The status of a settled run in the run list: the result of its last attempt.

A run's *state* is its result for the job (succeeded, conflict, superseded, ...). Its *status* is how its target
answered, for filters. It is computed from the run; only the index stores it.
"""

from __future__ import annotations

from enum import StrEnum

from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, Run, RunState


class RunStatus(StrEnum):
    """How a settled run ended."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    DNS_ERROR = "DNS_ERROR"
    CONNECTION_ERROR = "CONNECTION_ERROR"

    def __init__(self, value: str) -> None:
        self.letter = value[0]
        """The first letter, which the store uses; it differs in all statuses."""


LETTERS = "".join(status.letter for status in RunStatus)

_STATUSES = {
    OutcomeKind.TIMEOUT: RunStatus.TIMEOUT,
    OutcomeKind.DNS: RunStatus.DNS_ERROR,
    OutcomeKind.CONNECTION: RunStatus.CONNECTION_ERROR,
    OutcomeKind.TLS: RunStatus.CONNECTION_ERROR,
}
_ERROR_TYPES = {
    OutcomeKind.TIMEOUT: "timeout",
    OutcomeKind.DNS: "dns",
    OutcomeKind.CONNECTION: "connection",
    OutcomeKind.TLS: "connection",
}


def status_of(run: Run) -> RunStatus | None:
    """Return the status of a run; None while it is not settled.

    A run that succeeded is SUCCESS, whatever its request returned (the runner may report success by callback although
    the connection broke). Any other run has the status of its last attempt. It is FAILED if that attempt was answered
    with 2xx: the answer was too long, or the runner reported a failure by callback or never reported an end.
    """
    if run.state is RunState.SUCCEEDED:
        return RunStatus.SUCCESS
    if not run.is_settled:
        return None
    if not run.attempts:
        return RunStatus.FAILED
    return _STATUSES.get(run.attempts[-1].outcome, RunStatus.FAILED)


def error_type_of(run: Run) -> str | None:
    """Return the kind of error of a settled run; None: no error, or not settled."""
    if not run.is_settled or run.state is RunState.SUCCEEDED:
        return None
    if not run.attempts:
        return "unknown"
    return attempt_error_type(run.attempts[-1]) or "unknown"


def attempt_status(attempt: Attempt) -> RunStatus:
    """Return the status of one attempt, from its answer alone."""
    if attempt.outcome is OutcomeKind.RESPONSE and is_success(attempt.status):
        return RunStatus.SUCCESS
    return _STATUSES.get(attempt.outcome, RunStatus.FAILED)


def attempt_error_type(attempt: Attempt) -> str | None:
    """Return the kind of error of one attempt: ``http_4xx``, ``http_5xx``, ``http_unexpected``, ``timeout``,
    ``connection``, ``dns``, ``unknown``, or None."""
    if attempt.outcome is not OutcomeKind.RESPONSE:
        return _ERROR_TYPES.get(attempt.outcome, "unknown")
    if is_success(attempt.status):
        return None
    return {4: "http_4xx", 5: "http_5xx"}.get((attempt.status or 0) // 100, "http_unexpected")


def is_success(status: int | None) -> bool:
    """Return whether an answer with this HTTP status is a success: any 2xx."""
    return status is not None and 200 <= status < 300
