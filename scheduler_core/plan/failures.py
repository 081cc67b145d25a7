"""Counts the failures of a job in a row, and keeps the latest one, when a run ends."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from scheduler_core.model.health import FAILED, counts, failures_of
from scheduler_core.model.job_state import Failures, JobState
from scheduler_core.model.run import Run, RunState
from scheduler_core.model.status import is_success

REASON_LENGTH = 100


def failures_after_failure(state: JobState, run: Run) -> Failures | None:
    """Return the failures of a job after ``run``, which ended without success; ``state`` is the one before.

    A run that was cancelled or superseded, a backfill and a replay leave the count as it is. The job then stores when
    it last succeeded, because ``JobState.last`` no longer says it.
    """
    before = failures_of(state)
    last = state.last
    success_ms = None if before is None else before.success_ms
    if last is not None and last.state is RunState.SUCCEEDED:
        success_ms = last.ended_at_ms
    failed = run.state in FAILED
    if failed and counts(run.reason):
        ended_ms = run.ended_at_ms or run.fire_time_ms
        since_ms = None if before is None else before.since_ms
        count = 1 if before is None else before.count + 1
        return Failures(
            count,
            ended_ms if since_ms is None else since_ms,
            run.id,
            ended_ms,
            reason_of(run),
            success_ms,
        )
    if before is not None:
        return replace(before, success_ms=success_ms)
    if success_ms is None and not failed:
        return None
    # Without this, a failed backfill in ``JobState.last`` would look like a failure that an earlier version stored.
    return Failures(0, success_ms=success_ms)


def failures_after_success(failures: Failures, run: Run) -> Failures | None:
    """Return the failures of a job after a run that succeeded. A backfill and a replay do not clear the count."""
    if not failures.run_id:
        return None  # none has failed, and ``JobState.last`` has the latest success
    if not failures.count or not counts(run.reason):
        return failures
    return replace(failures, count=0, since_ms=None)


def failures_in(runs: Iterable[Run]) -> Failures:
    """Return the failures that these settled runs of a job show, newest first: for a job with ``overlap: allow``, whose
    state does not have them. The count is no larger than the number of runs given."""
    count, since_ms, success_ms = 0, None, None
    latest: Run | None = None
    in_a_row = True
    for run in runs:
        ended_ms = run.ended_at_ms or run.fire_time_ms
        if run.state is RunState.SUCCEEDED:
            success_ms = ended_ms if success_ms is None else success_ms
            in_a_row = in_a_row and not counts(run.reason)
        elif run.state in FAILED and counts(run.reason):
            latest = run if latest is None else latest
            if in_a_row:
                count, since_ms = count + 1, ended_ms
    if latest is None:
        return Failures(0, success_ms=success_ms)
    ended_ms = latest.ended_at_ms or latest.fire_time_ms
    return Failures(count, since_ms, latest.id, ended_ms, reason_of(latest), success_ms)


def reason_of(run: Run) -> str:
    """Return why a run failed, in at most ``REASON_LENGTH`` characters: how its last attempt ended if that decided,
    else its message."""
    last = run.attempts[-1] if run.attempts else None
    by_attempt = run.state is RunState.FAILED and last is not None and not is_success(last.status)
    text = how_it_failed(run) if by_attempt or not run.message else run.message
    return text if len(text) <= REASON_LENGTH else f"{text[: REASON_LENGTH - 3]}..."


def how_it_failed(run: Run) -> str:
    """Return how the last attempt of a run ended, and how many attempts it had."""
    last = run.attempts[-1] if run.attempts else None
    if last is None:
        return f"its run ended as {run.state.value}"
    answer = f"the answer was {last.status}" if last.status is not None else last.message or last.outcome.value
    return f"after {run.attempt} attempts: {answer}" if run.attempt > 1 else answer
