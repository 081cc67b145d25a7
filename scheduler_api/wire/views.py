"""What clients see: jobs, runs and misses as JSON values."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from scheduler_api.wire.policies import show_policies
from scheduler_api.wire.policy_row import seconds
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.job import HoldReason, Job, JobState, LastRun, Overlap, Pending, Replay
from scheduler_core.model.run import Attempt, Miss, Record, Run, RunState
from scheduler_core.plan.fire_times import jitter_offset_ms, trigger_of
from scheduler_core.triggers.trigger import CronSpec, IntervalSpec, TriggerSpec

if TYPE_CHECKING:  # the command line uses these views without the services
    from scheduler_core.usecases.jobs import JobView

FIRE_TIMES_SHOWN = 5


def instant(at_ms: int | None) -> str | None:
    """RFC 3339 in UTC with ``Z``."""
    return None if at_ms is None else rfc3339(at_ms)


def next_fire_time(job: Job, state: JobState) -> str | None:
    """The first of ``next_fire_times``."""
    if state.trigger_is_blocked or state.next_fire_ms is None:
        return None
    if job.policies.max_runs is not None and state.fired >= job.policies.max_runs:
        return None
    return _rfc3339_kept(state.next_fire_ms)


# Many jobs have one next fire time.
_rfc3339_kept = lru_cache(maxsize=4096)(rfc3339)


def next_fire_times(job: Job, state: JobState, count: int = FIRE_TIMES_SHOWN) -> list[str]:
    """The fire times that come next; none while the trigger is held. The first may be due already.

    They are those at which the job fires: the offset of its jitter is in them.
    """
    if state.trigger_is_blocked:
        return []
    trigger = trigger_of(job)
    if job.policies.max_runs is not None:
        count = min(count, job.policies.max_runs - state.fired)
    times: list[str] = []
    at_ms = state.next_fire_ms
    while at_ms is not None and len(times) < count:
        times.append(rfc3339(at_ms))
        at_ms = trigger.next_after(at_ms)
    return times


def show_job(view: JobView, *, with_payload: bool = True) -> dict[str, Any]:
    """A job as ``GET /jobs/{id}`` answers it. One whose document cannot be read shows only what is known."""
    try:
        return _show_job(view, with_payload=with_payload)
    except Exception as error:  # noqa: BLE001 - one document with impossible values must not fail the whole list
        fault = f"it cannot be shown: {type(error).__name__}: {error}"
        bare = msgspec.structs.replace(view, job=None, state=JobState(), lease=None, fault=view.fault or fault)
        return _show_job(bare, with_payload=with_payload)


def _show_job(view: JobView, *, with_payload: bool) -> dict[str, Any]:
    state, job = view.state, view.job
    shown: dict[str, Any] = {"id": view.id, "status": view.status}
    if job is not None:
        shown |= show_definition(job)
        if not with_payload:
            shown.pop("payload", None)
        shown["next_fire_times"] = next_fire_times(job, state)
    trigger_blocked_by = state.trigger_blocked_by
    shown |= {
        "held_for": None if trigger_blocked_by is None else trigger_blocked_by.value,
        "held_back": None if trigger_blocked_by is not None else show_hold(view),
        "paused_at": instant(state.paused_at_ms),
        "quarantine_reason": view.fault or state.quarantine,
        "open_run": show_open(view),
        "pending": [show_pending(entry, with_payload=with_payload) for entry in state.pending],
        "replays": [show_replay(replay) for replay in state.replays],
        "last_run": None,
        "last_success": instant(state.last_success_ms),
        "totals": {"runs": state.totals.runs, "succeeded": state.totals.succeeded},
    }
    if state.last is not None:
        shown["last_run"] = show_last(state.last)
    if job is not None and job.overlap is Overlap.ALLOW:
        shown["totals"] = None  # its runs settle beside each other; none of them writes the job's state
    return shown


def show_hold(view: JobView) -> dict[str, Any] | None:
    """Why a run that is due is not sent yet; None: nothing keeps it, or it is being sent."""
    hold = view.state.held_back
    if view.lease is not None and view.lease.waits_as_suspect:
        since = rfc3339(view.lease.lost[-1].at_ms) if view.lease.lost else None
        return {"reason": HoldReason.SUSPECT.value, "target": None, "since": since, "until": None}
    if hold is None or view.status == "running":
        return None
    return {
        "reason": hold.reason.value,
        "target": hold.target,
        "since": rfc3339(hold.since_ms),
        "until": rfc3339(hold.until_ms),
    }


def show_last(last: LastRun) -> dict[str, Any]:
    """The latest settled run of a job, in short."""
    return {
        "id": last.id,
        "fire_time": rfc3339(last.fire_time_ms),
        "state": last.state.value,
        "status_code": last.status,
        "ended_at": rfc3339(last.ended_at_ms),
    }


def show_definition(job: Job) -> dict[str, Any]:
    """What is stored about a job, in the names in which it is sent, and what follows from it."""
    shown: dict[str, Any] = {} if job.name is None else {"name": job.name}
    if job.target_id is None:
        shown |= {"endpoint": job.url, "payload": msgspec.Raw(job.payload)}
    else:
        shown["target_id"] = job.target_id
    return (
        shown
        | show_trigger(job.trigger)
        | {"retry_already_running": job.retry_already_running, "recovery_check": job.recovery_check}
        | show_policies(job)
        | {
            "jitter_offset_seconds": seconds(jitter_offset_ms(job.id, job.policies.jitter_ms)),
            "version": job.version,
            "created_at": instant(job.created_at_ms),
            "updated_at": instant(job.updated_at_ms),
        }
    )


def show_trigger(spec: TriggerSpec) -> dict[str, Any]:
    """The rule for a job's fire times. All but cron are those of schedules."""
    if isinstance(spec, CronSpec):
        return {"cron": spec.expression, "timezone": spec.timezone}
    if isinstance(spec, IntervalSpec):
        return {
            "interval_seconds": seconds(spec.every_ms),
            "interval_from": rfc3339(spec.anchor_ms),
            "interval_until": instant(spec.end_ms),
        }
    return {"at": rfc3339(spec.at_ms)}


def show_pending(entry: Pending, *, with_payload: bool = True) -> dict[str, Any]:
    """A run that was asked for and has not ended. Without ``payload``, it is sent the job's own."""
    shown: dict[str, Any] = {
        "run_id": entry.run_id,
        "reason": entry.reason.value,
        "not_before": rfc3339(entry.not_before_ms),
        "attempts": 0 if entry.run is None else entry.run.attempt,
        "failed": entry.failed,
    }
    if entry.payload is None or not with_payload:
        return shown
    return shown | {"payload": msgspec.Raw(entry.payload)}


def show_replay(replay: Replay) -> dict[str, Any]:
    """Fire times of the past that are run one by one; both bounds are fire times."""
    return {
        "reason": replay.reason.value,
        "next": rfc3339(replay.next_ms),
        "last": rfc3339(replay.last_ms),
        "left": replay.left,
    }


def show_open(view: JobView) -> dict[str, Any] | None:
    """The run that is not settled: in flight on a node, or waiting for its next attempt; None if there is none.

    Of runs that were asked for, several can wait for an attempt; shown is the one whose turn is next.
    """
    run, lease = view.state.open, view.lease
    if run is None and lease is None:
        waiting = [entry for entry in view.state.pending if entry.run is not None and entry.failed is None]
        run = min(waiting, key=lambda entry: entry.not_before_ms).run if waiting else None
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


def show_unit(view: JobView) -> dict[str, Any] | None:
    """One of the runs of a job that allows overlap."""
    shown = show_open(view)
    return None if shown is None else shown | {"held_back": show_hold(view)}


def show_record(record: Record) -> dict[str, Any]:
    """An entry of a job's history."""
    return show_miss(record) if isinstance(record, Miss) else show_run(record)


def show_run(run: Run) -> dict[str, Any]:
    """A run. ``attempt`` counts the attempts that have ended; ``attempts`` holds the first and the latest of them.

    ``taken_at`` to ``note`` are of runs that are completed by callback; without a further word, one that is taken is
    lost at its ``deadline``.
    """
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
        "retry_at": None if run.state is RunState.TAKEN else instant(run.retry_at_ms),
        "message": run.message,
        "answer_excerpt": run.excerpt,
        "taken_at": instant(run.taken_at_ms),
        "heard_at": instant(run.heartbeat_at_ms),
        "deadline": instant(run.retry_at_ms) if run.state is RunState.TAKEN else None,
        "progress": run.progress,
        "note": run.note,
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
        "count": miss.count,
        "recorded_at": rfc3339(miss.recorded_at_ms),
    }
