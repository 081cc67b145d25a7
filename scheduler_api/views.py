"""What clients see: jobs, runs and misses as JSON values."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler_core.job import Job, JobState
from scheduler_core.run import Attempt, Miss, Record, Run
from scheduler_core.services.deliver import rfc3339
from scheduler_core.services.jobs import JobView
from scheduler_core.trigger import compile_trigger

FIRE_TIMES_SHOWN = 5


def instant(at_ms: int | None) -> str | None:
    """RFC 3339 in UTC with ``Z``."""
    return None if at_ms is None else rfc3339(at_ms)


def next_fire_times(job: Job, state: JobState, count: int = FIRE_TIMES_SHOWN) -> list[str]:
    """The fire times that come next; none while the trigger is held. The first may be due already."""
    if state.is_held:
        return []
    trigger = compile_trigger(job.trigger)
    times: list[str] = []
    at_ms = state.next_fire_ms
    while at_ms is not None and len(times) < count:
        times.append(rfc3339(at_ms))
        at_ms = trigger.next_after(at_ms)
    return times


def show_job(view: JobView) -> dict[str, Any]:
    """A job as ``GET /jobs/{id}`` answers it. One whose document cannot be read shows only what is known."""
    state, job = view.state, view.job
    shown: dict[str, Any] = {"id": view.id, "status": view.status}
    if job is not None:
        shown |= {
            "endpoint": job.url,
            "cron": job.trigger.expression,
            "timezone": job.trigger.timezone,
            "payload": msgspec.Raw(job.payload),
            "retry_already_running": job.retry_already_running,
            "recovery_check": job.recovery_check,
            "version": job.version,
            "created_at": instant(job.created_at_ms),
            "updated_at": instant(job.updated_at_ms),
            "next_fire_times": next_fire_times(job, state),
        }
    shown |= {
        "paused_at": instant(state.paused_at_ms),
        "quarantine_reason": view.fault or state.quarantine,
        "open_run": show_open(view),
        "pending": [{"run_id": one.run_id, "not_before": rfc3339(one.not_before_ms)} for one in state.pending],
        "last_run": None,
        "last_success": instant(state.last_success_ms),
    }
    if state.last is not None:
        last = state.last
        shown["last_run"] = {
            "id": last.id,
            "fire_time": rfc3339(last.fire_time_ms),
            "state": last.state.value,
            "status_code": last.status,
            "ended_at": rfc3339(last.ended_at_ms),
        }
    return shown


def show_open(view: JobView) -> dict[str, Any] | None:
    """The run that is not settled: in flight on a node, or waiting for its next attempt; None if there is none."""
    run, lease = view.state.open, view.lease
    if run is not None:
        shown = show_run(run)
    elif lease is not None:
        # The first attempt is under way; until it ends, Redis holds no more than who works on it.
        shown = {"state": "open", "attempt": 0, "retry_at": None}
    else:
        return None
    if lease is not None and lease.node != "-":
        shown |= {"node": lease.node, "claimed_at": rfc3339(lease.first_claimed_at_ms)}
    return shown


def show_record(record: Record) -> dict[str, Any]:
    """An entry of a job's history."""
    return show_miss(record) if isinstance(record, Miss) else show_run(record)


def show_run(run: Run) -> dict[str, Any]:
    """A run. ``attempt`` counts the attempts that have ended; ``attempts`` holds the first and the latest of them."""
    return {
        "kind": "run",
        "id": run.id,
        "fire_time": rfc3339(run.fire_time_ms),
        "reason": run.reason.value,
        "state": run.state.value,
        "job_version": run.job_version,
        "started_at": instant(run.started_at_ms),
        "ended_at": instant(run.ended_at_ms),
        "lateness_ms": run.lateness_ms,
        "status_code": run.last_status,
        "attempt": run.attempt,
        "retry_at": instant(run.retry_at_ms),
        "message": run.message,
        "answer_excerpt": run.excerpt,
        "attempts": [show_attempt(attempt) for attempt in run.attempts],
    }


def show_attempt(attempt: Attempt) -> dict[str, Any]:
    """One request of a run."""
    return {
        "number": attempt.number,
        "started_at": rfc3339(attempt.started_at_ms),
        "latency_ms": round(attempt.latency_ms, 3),
        "outcome": attempt.outcome.value,
        "status_code": attempt.status,
        "message": attempt.message,
    }


def show_miss(miss: Miss) -> dict[str, Any]:
    """A range of fire times that became no run; both bounds are in it."""
    return {
        "kind": "miss",
        "reason": miss.reason.value,
        "first_fire_time": rfc3339(miss.first_ms),
        "last_fire_time": rfc3339(miss.last_ms),
        "recorded_at": rfc3339(miss.recorded_at_ms),
    }
