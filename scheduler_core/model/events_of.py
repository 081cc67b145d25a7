"""Derives the events of a transition from the job before it and the step itself.

A pure function, so that each script that applies a transition stores the same events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from scheduler_core.model.event import Change, Event, EventType
from scheduler_core.model.health import Health, health_of
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Miss, Record, Run, RunState
from scheduler_core.model.transition import Transition, is_finished


def events_of(
    job_id: str, job: Job | None, before: JobState | None, step: Transition, *, child: bool = False
) -> list[Event]:
    """Return the events of ``step`` in the order in which they happened.

    ``job`` and ``before``: definition and state that the step was planned from; None: nothing was stored. ``child``:
    the step is one of a child run.
    """
    definition = step.job or job
    labels = {} if definition is None else definition.labels
    events = [event_of_record(job_id, record, labels) for record in step.records]
    events += [_of_retry(job_id, run, labels) for run in _retrying(before, step.state)]
    if not child:
        if step.records:
            events += _of_health(job_id, definition, before, step, labels)
        change = _of_job(job_id, job, before, step, labels)
        events += [] if change is None else [change]
    return events


def event_of_record(job_id: str, record: Record, labels: dict[str, str]) -> Event:
    """Return the event of a run that ends, or of a miss."""
    if isinstance(record, Miss):
        return Event(
            EventType.RUN_MISSED,
            job_id,
            labels=labels,
            reason=record.reason,
            fire_time_ms=record.first_ms,
            last_ms=record.last_ms,
            count=record.count,
        )
    return Event(
        EventType.RUN_SETTLED,
        job_id,
        record.id,
        labels,
        record.state,
        record.reason,
        record.last_status,
        fire_time_ms=record.fire_time_ms,
        attempt=record.attempt,
    )


def event_of_start(job: Job, run: Run, at_ms: int) -> Event:
    """Return the event of a run whose first attempt starts."""
    return Event(
        EventType.RUN_STARTED,
        job.id,
        run.id,
        job.labels,
        RunState.OPEN,
        run.reason,
        at_ms=at_ms,
        fire_time_ms=run.fire_time_ms,
    )


def event_of_new_job(job: Job) -> Event:
    """Return the event of a job that is created."""
    return Event(
        EventType.JOB_CHANGED, job.id, labels=job.labels, state="active", reason=Change.CREATED, version=job.version
    )


def event_of_health(
    job_id: str, labels: Mapping[str, str], health: Health, before: Health | None, at_ms: int | None = None
) -> Event:
    """Return the event of a job whose health changes. ``before``: its health until now; None: not known."""
    return Event(EventType.JOB_HEALTH_CHANGED, job_id, labels=labels, state=health, reason=before or "", at_ms=at_ms)


def _of_health(
    job_id: str, job: Job | None, before: JobState | None, step: Transition, labels: dict[str, str]
) -> list[Event]:
    """Return the event of a job whose health the end of a run changes.

    This is what its runs say: a sweep finds jobs that are late or stuck. The state of a job with ``overlap: allow``
    does not have the results of its child runs.
    """
    if before is None or step.state is None or step.remove or (job is not None and job.overlap is Overlap.ALLOW):
        return []
    # At the beginning of time nothing is late and no run has waited for long.
    earlier, health = (health_of(job, state, None, now_ms=0) for state in (before, step.state))
    return [] if health is earlier else [event_of_health(job_id, labels, health, earlier)]


def _of_retry(job_id: str, run: Run, labels: dict[str, str]) -> Event:
    return Event(
        EventType.RUN_ATTEMPT_FAILED,
        job_id,
        run.id,
        labels,
        run.state,
        run.reason,
        run.last_status,
        fire_time_ms=run.fire_time_ms,
        attempt=run.attempt,
    )


def _retrying(before: JobState | None, after: JobState | None) -> Iterator[Run]:
    """Yield the runs that wait for a retry and have had one more attempt since ``before``."""
    if after is None:
        return
    for run in _unsettled(after):
        if run.state is RunState.RETRYING:
            known = () if before is None else _unsettled(before)
            if run.attempt > max((one.attempt for one in known if one.id == run.id), default=0):
                yield run


def _unsettled(state: JobState) -> Iterator[Run]:
    if state.open is not None:
        yield state.open
    for entry in state.pending:
        if entry.run is not None:
            yield entry.run


def _of_job(
    job_id: str, job: Job | None, before: JobState | None, step: Transition, labels: dict[str, str]
) -> Event | None:
    """Return the event of a changed definition or status; None: neither has changed."""
    if step.remove:
        if before is not None and before.deleted:
            return None  # a tombstone, or the id of a job that was deleted when it completed
        completed = step.state is not None and bool(step.state.digest)
        reason = Change.COMPLETED if completed else Change.DELETED
        return Event(EventType.JOB_DELETED, job_id, labels=labels, reason=reason)
    status = status_of(step.state)
    if step.job is not None:
        reason = Change.CREATED if job is None else Change.CHANGED
        version: int | None = step.job.version
    else:
        if step.state is None or step.state.deleted or status == status_of(before):
            return None
        resumed = Change.CHANGED if status_of(before) == "completed" else Change.RESUMED
        reason, version = _CHANGES.get(status, resumed), None
    return Event(EventType.JOB_CHANGED, job_id, labels=labels, state=status, reason=reason, version=version)


def status_of(state: JobState | None) -> str:
    """Return the status of a job as far as its state alone shows it: without its runs."""
    if state is None:
        return "active"
    if state.quarantine is not None:
        return "quarantined"
    if state.paused_at_ms is not None:
        return "paused"
    return "completed" if state.completed_at_ms is not None and is_finished(state) else "active"


_CHANGES = {"paused": Change.PAUSED, "quarantined": Change.QUARANTINED, "completed": Change.COMPLETED}
"""The change that leads to a status."""
