"""What needs a person: its kinds and reasons, and since when a job does."""

from __future__ import annotations

from enum import StrEnum

from scheduler_core.model.job_state import JobState, Pending


class AttentionKind(StrEnum):
    """What needs a person."""

    JOB = "job"
    PENDING = "pending"
    """A pending entry of a job."""
    TASK = "task"
    SETTLEMENT = "settlement"
    """The end of a run that Redis refuses to store."""


class AttentionReason(StrEnum):
    """Why it needs a person."""

    FAILED = "failed"
    LOST = "lost"
    CONFLICT = "conflict"
    QUARANTINED = "quarantined"
    SET_ASIDE = "set_aside"
    STALE = "stale"
    NOT_STORED = "not_stored"


def attention_since_ms(state: JobState) -> int | None:
    """Return since when a job needs a person, the score of its entry in the index ``attention``.

    None: it does not, or it is quarantined: quarantined jobs are found by their score in the due set. If several things
    failed, the latest one decides.
    """
    if state.quarantine is not None:
        return None
    unresolved = state.unresolved
    since_ms = None if unresolved is None or unresolved.dismissed else unresolved.since_ms
    if state.pending:
        for entry in entries_set_aside(state):
            since_ms = entry.not_before_ms if since_ms is None else max(since_ms, entry.not_before_ms)
    return since_ms


def entries_set_aside(state: JobState) -> list[Pending]:
    """Return the pending entries that failed for good and were not dismissed."""
    return [entry for entry in state.pending if entry.failed is not None and not entry.dismissed]
