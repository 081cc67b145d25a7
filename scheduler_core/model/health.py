"""The health of a job, derived from its last runs and its waiting run."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from scheduler_core.model.job import Job
from scheduler_core.model.job_state import Failures, JobState
from scheduler_core.model.lease import Lease
from scheduler_core.model.run import Reason, Run, RunState
from scheduler_core.model.transition import next_wake_ms, startable

FAILED = frozenset({RunState.FAILED, RunState.LOST, RunState.CONFLICT})
"""The final states that count as a failure."""
_UNCOUNTED = frozenset({"backfill", "replay"})
LATE_AFTER_MS = 10_000
"""The least time after which a due job counts as late."""
STUCK_AFTER_MS = 600_000
"""The least time after which a run that is taken or waits for a retry counts as stuck."""
STUCK_FACTOR = 10
"""Such a run counts as stuck after this many mean run times of its job, if that is longer."""
LEASE_MARGIN_MS = 30_000
"""How much older than the deadline of its attempt a lease may be."""


class Health(StrEnum):
    """The health of a job: the first of these that applies."""

    STUCK = "stuck"
    """A run is taken or waits for a retry for far longer than usual, or its node does not end it in time."""
    LATE = "late"
    """The job is due and not started, although it is not paused."""
    NEVER_SUCCEEDED = "never_succeeded"
    """Runs have failed, and none has succeeded."""
    FAILING = "failing"
    """The last run that counts failed."""
    OK = "ok"
    UNKNOWN = "unknown"
    """No run has succeeded or failed yet."""


PRECEDENCE = tuple(Health)
"""Each health before those that apply only if it does not."""


class HealthRules(msgspec.Struct, frozen=True):
    """The settings that health depends on."""

    late_after_ms: int = LATE_AFTER_MS
    attempt_timeout_ms: int = 30_000
    """The deadline of an attempt of a job without its own timeout."""


DEFAULT_RULES = HealthRules()


def counts(reason: Reason) -> bool:
    """Return whether the end of a run with this reason raises or clears the number of failures in a row."""
    return reason not in _UNCOUNTED


def failures_of(state: JobState) -> Failures | None:
    """Return the failures of a job; None: no run has failed.

    A state that an earlier version wrote has only its last run: if that failed, it counts as one.
    """
    last = state.last
    if state.failures is not None or last is None or last.state not in FAILED:
        return state.failures
    reason = f"the answer was {last.status}" if last.status is not None else f"its run ended as {last.state.value}"
    return Failures(1, last.ended_at_ms, last.id, last.ended_at_ms, reason)


def last_success_ms(state: JobState) -> int | None:
    """Return when the latest successful run ended; its start if an earlier version stored only that."""
    last = state.last
    if last is not None and last.state is RunState.SUCCEEDED:
        return last.ended_at_ms
    known = None if state.failures is None else state.failures.success_ms
    return (state.last_success_start_ms or None) if known is None else known


def health_of(
    job: Job | None,
    state: JobState,
    lease: Lease | None,
    *,
    now_ms: int,
    rules: HealthRules = DEFAULT_RULES,
    paused: bool = False,
    failures: Failures | None = None,
    mean_ms: float | None = None,
) -> Health:
    """Return the health of a job, or of one of its child runs, at ``now_ms``. ``paused``: a pause of everything holds
    its runs back, so it is not late, and a run that waits for its retry is not stuck.

    ``failures`` and ``mean_ms`` (the mean run time) replace those of the state: the state of a job with
    ``overlap: allow`` does not have them, because its child runs end beside it.
    """
    if stuck_since_ms(job, state, lease, now_ms=now_ms, rules=rules, paused=paused, mean_ms=mean_ms) is not None:
        return Health.STUCK
    if late_since_ms(state, lease, now_ms=now_ms, rules=rules, paused=paused) is not None:
        return Health.LATE
    found = failures_of(state) if failures is None else failures
    if never_succeeded(state, found):
        return Health.NEVER_SUCCEEDED
    if found is not None and found.count:
        return Health.FAILING
    return Health.OK if _has_succeeded(state, found) else Health.UNKNOWN


def never_succeeded(state: JobState, failures: Failures | None = None) -> bool:
    """Return whether runs of the job have failed and none has succeeded, backfills and replays included.
    ``failures``: those of the job; None: those of its state."""
    found = failures_of(state) if failures is None else failures
    if found is None or _has_succeeded(state, found):
        return False
    return bool(found.run_id) or (state.last is not None and state.last.state in FAILED)


def _has_succeeded(state: JobState, failures: Failures | None) -> bool:
    return state.last_success_ms is not None or (failures is not None and failures.success_ms is not None)


def late_since_ms(
    state: JobState, lease: Lease | None, *, now_ms: int, rules: HealthRules = DEFAULT_RULES, paused: bool = False
) -> int | None:
    """Return since when the job is due although no node has started it; None: it is not late.

    A paused job is never late, nor is a quarantined one. A run that is held back counts from its first wake-up.
    """
    due_ms = due_since_ms(state, lease, paused=paused)
    return due_ms if due_ms is not None and now_ms - due_ms > max(LATE_AFTER_MS, rules.late_after_ms) else None


def due_since_ms(state: JobState, lease: Lease | None, *, paused: bool = False) -> int | None:
    """Return when the job is to start, or was, as ``late_since_ms`` counts; None: a node holds it, or it does not
    wake."""
    if paused or state.paused_at_ms is not None or (lease is not None and lease.node != "-"):
        return None
    held_back = state.held_back
    return next_wake_ms(state if held_back is None or held_back.is_pause else replace(state, held_back=None))


def stuck_since_ms(
    job: Job | None,
    state: JobState,
    lease: Lease | None,
    *,
    now_ms: int,
    rules: HealthRules = DEFAULT_RULES,
    paused: bool = False,
    mean_ms: float | None = None,
) -> int | None:
    """Return since when a run of the job is taken or waits for a retry, or a node holds it, if that is too long ago;
    None: the job is not stuck."""
    if lease is not None and lease.node != "-":
        timeout_ms = None if job is None else job.policies.timeout_ms
        claimed_ms = lease.first_claimed_at_ms
        if lease.lost:  # it was claimed again since
            claimed_ms = max(claimed_ms, lease.lost[-1].at_ms)
        limit_ms = (rules.attempt_timeout_ms if timeout_ms is None else timeout_ms) + LEASE_MARGIN_MS
        return claimed_ms if now_ms - claimed_ms > limit_ms else None
    if state.quarantine is not None:
        return None
    since_ms = _waits_since_ms(state, paused=paused)
    if since_ms is None or now_ms - since_ms <= STUCK_AFTER_MS:
        return None
    mean_ms = _mean_ms(state) if mean_ms is None else mean_ms
    return since_ms if now_ms - since_ms > STUCK_FACTOR * mean_ms else None


def _waits_since_ms(state: JobState, *, paused: bool) -> int | None:
    """Return since when the longest waiting run is taken or waits for a retry. Those that a pause holds do not
    count."""
    runs = [entry.run for entry in startable(state, paused=paused)] if state.pending else []
    waiting = state.open
    if waiting is not None and (not paused or waiting.state is RunState.TAKEN):
        runs.append(waiting)
    starts = [_start_ms(run) for run in runs if run is not None and not run.in_flight]
    return min(starts, default=None)


def _start_ms(run: Run) -> int:
    start_ms = run.taken_at_ms if run.state is RunState.TAKEN else run.started_at_ms
    return run.fire_time_ms if start_ms is None else start_ms


def _mean_ms(state: JobState) -> float:
    times, totals = state.callback_times, state.totals
    if times is not None:
        return times.total_ms / times.runs
    return totals.latency_ms / totals.runs if totals.runs else 0.0
