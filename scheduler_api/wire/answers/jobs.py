"""Jobs as the API answers them, and the answers to changes of jobs."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, defstruct

from scheduler_api.wire.answers.pending import Pending, Replay, show_pending, show_replay
from scheduler_api.wire.answers.runs import HeldBack, MetInFlight, OpenRun, show_hold, show_in_flight, show_open
from scheduler_api.wire.fields import Cursor, Described, Instant, Maybe, Yes, instant
from scheduler_api.wire.labels import show_labels
from scheduler_api.wire.policies import described_policies, show_policies
from scheduler_api.wire.policy_row import seconds
from scheduler_api.wire.request_fields import REQUEST_ROWS, show_request
from scheduler_api.wire.triggers import show_trigger
from scheduler_core.base.instants import rfc3339
from scheduler_core.model import job as model
from scheduler_core.model import job_state
from scheduler_core.model.health import DEFAULT_RULES, Health, HealthRules
from scheduler_core.model.job_state import JobState
from scheduler_core.model.pause import PauseTerms
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import MissReason, RunState
from scheduler_core.plan.fire_times import jitter_offset_ms, trigger_of
from scheduler_core.triggers.cron import CronTrigger
from scheduler_core.triggers.trigger import IntervalSpec, Trigger

if TYPE_CHECKING:  # the command line shows jobs without loading the use cases
    from scheduler_core.usecases.job_reads import JobView

FIRE_TIMES_SHOWN = 5

Changed = Annotated[bool, Meta(description="False: the same definition was stored already.")]


HealthName = Annotated[
    str,
    Meta(
        extra_json_schema={"enum": [health.value for health in Health]},
        description="The first of these that applies. `stuck`: a run is taken or waits for a retry for longer than "
        "10 minutes and than 10 mean run times, or its node has not ended it 30 s after its deadline. `late`: due, "
        "not paused, and not started for longer than `CRONPOST_LATE_AFTER_SECONDS` and than 10 s. "
        "`never_succeeded`: runs have failed, none has succeeded. `failing`: the last run failed. `ok`: it "
        "succeeded. `unknown`: no run has succeeded or failed.",
    ),
]


class JobStatus(StrEnum):
    """The first of these that applies: quarantined (stopped, because nodes died with it or its definition cannot be
    read), running (a request is open), paused, taken (a run waits for its runner's callback), retrying (a run waits for
    its next attempt), completed (its fire times are over and nothing waits), active."""

    ACTIVE = "active"
    RUNNING = "running"
    RETRYING = "retrying"
    TAKEN = "taken"
    PAUSED = "paused"
    QUARANTINED = "quarantined"
    COMPLETED = "completed"


HeldFor = Annotated[
    Annotated[str, Meta(extra_json_schema={"enum": ["paused", "quarantined", "held"]})] | None,
    Meta(description="Why no runs start at fire times at present; `held`: a continuation waits."),
]
PausedBy = Annotated[
    Annotated[Maybe[str], Meta(extra_json_schema={"enum": ["job", "all"]})],
    Meta(description="With held_for `paused`: `all` if everything is paused (`POST /pause`), else `job`."),
]


class LastRun(Described):
    """A summary of the latest settled run of a job."""

    id: str
    fire_time: Instant
    state: RunState
    status_code: int | None
    ended_at: Instant


class LastFailure(Described):
    """The latest run of a job that failed and counts: no backfill and no replay."""

    run_id: str
    reason: Annotated[str, Meta(description="At most 100 characters.")]
    at: Annotated[Instant, Meta(description="When the run ended.")]


class RunTotals(Described):
    """All runs since the job was created, trimmed ones included."""

    runs: int
    succeeded: int


class _Definition(Described):
    id: str
    status: JobStatus
    name: Annotated[Maybe[str], Meta(description="Of a schedule.")] = UNSET
    endpoint: Maybe[str] = UNSET
    payload: Annotated[Maybe[Raw], Meta(description="Any JSON value. In lists only with `view=full`.")] = UNSET
    target_id: Annotated[Maybe[int], Meta(description="Of a schedule, instead of endpoint and payload.")] = UNSET
    cron: Annotated[
        Maybe[str | None],
        Meta(description="null: the job runs only on request. Absent beside `every_seconds` or `at`."),
    ] = UNSET
    timezone: Maybe[str] = UNSET
    every_seconds: Maybe[float] = UNSET
    at: Annotated[Maybe[Instant], Meta(description="Also the instant for which `now` stood.")] = UNSET
    interval_seconds: Annotated[Maybe[float], Meta(description="Of a schedule, instead of cron.")] = UNSET
    interval_from: Maybe[Instant] = UNSET
    interval_until: Maybe[Instant | None] = UNSET
    retry_already_running: Maybe[int | None] = UNSET
    recovery_check: Maybe[bool] = UNSET
    labels: Maybe[dict[str, str]] = UNSET
    description: Maybe[str] = UNSET


if TYPE_CHECKING:
    _WithPolicies = _Definition
else:
    _WithPolicies = defstruct("_WithPolicies", [*REQUEST_ROWS, *described_policies(sent=False)], bases=(_Definition,))


class Job(_WithPolicies, kw_only=True):
    """A job: definition, state, next fire times and last run. If the definition cannot be read, only the state is
    shown."""

    jitter_offset_seconds: Annotated[
        Maybe[float], Meta(description="All fire times of the job are shifted by this delay.")
    ] = UNSET
    version: Maybe[int] = UNSET
    created_at: Maybe[Instant] = UNSET
    updated_at: Maybe[Instant] = UNSET
    next_fire_times: Annotated[
        Maybe[list[Instant]], Meta(description="Empty while the trigger is blocked (`held_for`).")
    ] = UNSET
    held_for: HeldFor
    held_back: Annotated[
        HeldBack | None, Meta(description="Why a run that is due is not sent yet; null: it is not held back.")
    ]
    paused_at: Instant | None
    paused_by: PausedBy = UNSET
    paused_until: Annotated[Maybe[Instant], Meta(description="When the paused job resumes by itself.")] = UNSET
    pause_note: Annotated[Maybe[str], Meta(description="The note of the job's pause.")] = UNSET
    completed_at: Annotated[Maybe[Instant], Meta(description="Only of a completed job.")] = UNSET
    quarantine_reason: str | None
    open_run: OpenRun | None
    pending: list[Pending]
    replays: list[Replay]
    last_run: LastRun | None
    last_success: Annotated[Instant | None, Meta(description="The fire time of the latest run that succeeded.")]
    health: HealthName
    consecutive_failures: Annotated[
        int,
        Meta(description="Runs in a row that ended as failed, lost or conflict. Backfills and replays do not count."),
    ]
    failing_since: Annotated[Instant | None, Meta(description="When the first of these runs ended.")]
    last_success_at: Annotated[Instant | None, Meta(description="When the latest successful run ended.")]
    last_failure: LastFailure | None
    totals: Annotated[RunTotals | None, Meta(description="Null with overlap allow: these runs are not counted.")]
    open_runs: Annotated[
        Maybe[list[OpenRun]],
        Meta(description="All open runs of a job with overlap allow. Only in the answer about one job."),
    ] = UNSET
    in_flight: MetInFlight = UNSET


class JobPage(Described):
    """A page of the list of jobs."""

    jobs: list[Job]
    next: Cursor
    examined: Annotated[int, Meta(description="How many jobs were looked at for this page.")]


class Upserted(Described):
    """A job that was stored."""

    id: str
    changed: Changed
    version: int
    next_fire_time: Instant | None
    in_flight: MetInFlight = UNSET

    EXAMPLES = (
        {"id": "job-scheduler-unique-id", "changed": True, "version": 1, "next_fire_time": "2030-01-31T12:00:10Z"},
        {
            "id": "job-scheduler-unique-id",
            "changed": True,
            "version": 2,
            "next_fire_time": "2030-01-31T12:00:20Z",
            "in_flight": {"run_id": "01M7Y1325RZKATKCS8J93T7HX0", "fire_time": "2030-01-31T12:00:10Z"},
        },
    )


class BatchResult(Described):
    """The result of one element of a batch: the fields of an upsert, or those of a problem."""

    id: Annotated[str | None, Meta(description="Null if no id could be read.")]
    status: Annotated[int, Meta(description="The status that POST / would have answered: 202, 400, 413, 422 or 429.")]
    changed: Maybe[Changed] = UNSET
    version: Maybe[int] = UNSET
    next_fire_time: Maybe[Instant | None] = UNSET
    in_flight: MetInFlight = UNSET
    title: Maybe[str] = UNSET
    detail: Maybe[str] = UNSET
    code: Maybe[str] = UNSET
    field: Annotated[Maybe[str], Meta(description="The invalid field.")] = UNSET


class Deleted(Described):
    """A job that was removed."""

    id: str
    deleted: Yes
    in_flight: MetInFlight = UNSET


def next_fire_time(job: model.Job, state: JobState) -> str | None:
    """Return the first of ``next_fire_times``, or None."""
    if state.trigger_blocked_by is not None or state.next_fire_ms is None:
        return None
    if job.policies.max_runs is not None and state.fired >= job.policies.max_runs:
        return None
    return _rfc3339_kept(state.next_fire_ms)


# A separate cache for upserts: many jobs have the same next fire time.
_rfc3339_kept = lru_cache(maxsize=4096)(rfc3339)


def next_fire_times(job: model.Job, state: JobState, count: int = FIRE_TIMES_SHOWN) -> list[str]:
    """Return the next fire times with the job's jitter offset, or none while the trigger is blocked. The first can be
    due already."""
    if state.trigger_blocked_by is not None:
        return []
    trigger = trigger_of(job)
    if job.policies.max_runs is not None:
        count = min(count, job.policies.max_runs - state.fired)
    if isinstance(trigger, CronTrigger) and state.next_fire_ms is not None:
        return list(_times_from(trigger, state.next_fire_ms, count))
    return _times(trigger, state.next_fire_ms, count)


def _times(trigger: Trigger, at_ms: int | None, count: int) -> list[str]:
    times: list[str] = []
    while at_ms is not None and len(times) < count:
        times.append(rfc3339(at_ms))
        at_ms = trigger.next_after(at_ms)
    return times


@lru_cache(maxsize=1024)
def _times_from(trigger: CronTrigger, at_ms: int, count: int) -> tuple[str, ...]:
    """Return fire times of a trigger that jobs with the same expression and zone share: in a list of jobs they were
    half of the work."""
    return tuple(_times(trigger, at_ms, count))


def show_job(view: JobView, *, with_payload: bool = True, rules: HealthRules = DEFAULT_RULES) -> Job:
    """Show a job as ``GET /jobs/{id}`` answers it. If its document cannot be read, only the state is shown."""
    try:
        return _show_job(view, with_payload=with_payload, rules=rules)
    except Exception as error:  # noqa: BLE001 - one document with impossible values must not fail the whole list
        fault = f"the job cannot be shown: {type(error).__name__}: {error}"
        bare = msgspec.structs.replace(view, job=None, state=JobState(), lease=None, fault=view.fault or fault)
        return _show_job(bare, with_payload=with_payload, rules=rules)


def _show_job(view: JobView, *, with_payload: bool, rules: HealthRules) -> Job:
    state, job = view.state, view.job
    definition: dict[str, Any] = {}
    if job is not None:
        definition = show_definition(job)
        definition["next_fire_times"] = [] if view.paused_by_all else next_fire_times(job, state)
        if not with_payload:
            definition.pop("payload", None)
            definition.pop("body", None)
    blocked_by, paused_by = state.trigger_blocked_by, "job"
    if view.paused_by_all and blocked_by is not MissReason.QUARANTINED and view.status != JobStatus.COMPLETED:
        blocked_by, paused_by = MissReason.PAUSED, "all"
    terms = state.pause or PauseTerms()
    counts = job is None or job.overlap is not Overlap.ALLOW  # overlapping runs do not write the job's state
    return Job(
        id=view.id,
        status=JobStatus(view.status),
        **definition,
        held_for=None if blocked_by is None else blocked_by.value,
        held_back=None if blocked_by is not None else show_hold(view),
        paused_at=instant(state.paused_at_ms),
        paused_by=paused_by if blocked_by is MissReason.PAUSED else UNSET,
        paused_until=UNSET if terms.until_ms is None else rfc3339(terms.until_ms),
        pause_note=terms.note or UNSET,
        completed_at=rfc3339(state.completed_at_ms or 0) if view.status == JobStatus.COMPLETED else UNSET,
        quarantine_reason=view.fault or state.quarantine,
        open_run=show_open(view),
        pending=[show_pending(entry, with_payload=with_payload) for entry in state.pending],
        replays=[show_replay(replay) for replay in state.replays],
        last_run=None if state.last is None else show_last(state.last),
        last_success=instant(state.last_success_ms),
        health=view.health(rules).value,
        **show_failures(view),
        totals=RunTotals(state.totals.runs, state.totals.succeeded) if counts else None,
    )


def show_failures(view: JobView) -> dict[str, Any]:
    """Return the fields about failures in a row, the last failure and the last success."""
    failures = view.failures
    shown: dict[str, Any] = {
        "consecutive_failures": 0 if failures is None else failures.count,
        "failing_since": None if failures is None else instant(failures.since_ms),
        "last_success_at": instant(view.last_success_ms),
        "last_failure": None,
    }
    if failures is not None and failures.run_id:
        shown["last_failure"] = LastFailure(failures.run_id, failures.reason, rfc3339(failures.at_ms))
    return shown


def show_changed(view: JobView, rules: HealthRules = DEFAULT_RULES) -> Job:
    """Show a job as the answer to a change of it."""
    shown = show_job(view, rules=rules)
    shown.in_flight = show_in_flight(view.in_flight)
    return shown


def show_last(last: job_state.LastRun) -> LastRun:
    """The latest settled run of a job."""
    return LastRun(last.id, rfc3339(last.fire_time_ms), last.state, last.status, rfc3339(last.ended_at_ms))


def show_definition(job: model.Job) -> dict[str, Any]:
    """Return the stored definition of a job under the field names of a request body, and the computed fields."""
    shown: dict[str, Any] = {} if job.name is None else {"name": job.name}
    if job.target_id is None or job.request is not None:
        shown |= show_request(job)
    else:
        shown["target_id"] = job.target_id
    shown |= _show_interval(job.trigger) if isinstance(job.trigger, IntervalSpec) else show_trigger(job.trigger)
    shown["retry_already_running"] = job.retry_already_running
    shown["recovery_check"] = job.recovery_check
    shown |= show_labels(job)
    shown |= show_policies(job)
    shown["jitter_offset_seconds"] = seconds(jitter_offset_ms(job.id, job.policies.jitter_ms))
    shown["version"] = job.version
    shown["created_at"] = rfc3339(job.created_at_ms)
    shown["updated_at"] = rfc3339(job.updated_at_ms)
    return shown


def _show_interval(spec: IntervalSpec) -> dict[str, Any]:
    """Return the fields of the trigger of a schedule."""
    return {
        "interval_seconds": seconds(spec.every_ms),
        "interval_from": rfc3339(spec.anchor_ms),
        "interval_until": instant(spec.end_ms),
    }
