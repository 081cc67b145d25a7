"""Counts and logs the entries that are added to the history of a job."""

from __future__ import annotations

import logging

from scheduler_core.base.events import FIRES_MISSED, RUN_SETTLED, get_logger, instant, log_often
from scheduler_core.base.log_lines import rfc3339
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.run import Miss, MissReason, Reason, Run, RunState

log = get_logger(__name__)

WENT_WRONG = frozenset({RunState.FAILED, RunState.LOST, RunState.CONFLICT})
"""Final states that are logged as warnings."""


def start_series(metrics: Metrics) -> None:
    """Show the counters of runs and misses with 0, so that an alert sees the first run that is lost."""
    for state in RunState:
        if state not in (RunState.OPEN, RunState.RETRYING, RunState.TAKEN):
            for reason in Reason:
                metrics.runs.start(state.value, reason.value)
    for miss in MissReason:
        metrics.misses.labels(miss.value)


def report_record(metrics: Metrics, job_id: str, record: Run | Miss) -> None:
    """Count and log one entry of a job's history."""
    if isinstance(record, Miss):
        metrics.misses.labels(record.reason.value).inc()
        metrics.missed.add_many(1 if record.count is None else record.count, record.reason.value)
        log.info(
            FIRES_MISSED,
            job_id=job_id,
            reason=record.reason.value,
            first=instant(record.first_ms),
            last=instant(record.last_ms),
        )
        return
    state, reason = str(record.state), str(record.reason)
    metrics.runs.add(state, reason)
    if metrics.run_ended is not None:
        metrics.run_ended(job_id, record)
    last = record.attempts[-1] if record.attempts else None
    log_often(
        RUN_SETTLED,
        {
            "job_id": job_id,
            "run_id": record.id,
            "state": state,
            "reason": reason,
            "fire_time": rfc3339(record.fire_time_ms),
            "lateness_ms": record.lateness_ms,
            "attempt": record.attempt,
            "outcome": None if last is None else str(last.outcome),
            "status": None if last is None else last.status,
            "latency_ms": None if last is None else last.latency_ms,
        },
        detail=record.message or (last.message if last else ""),
        level=logging.WARNING if record.state in WENT_WRONG else logging.INFO,
    )
