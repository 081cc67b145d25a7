"""The runs and misses of a job as the API answers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET, Meta

from scheduler_api.wire.fields import Cursor, Described, Instant, Maybe, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.model import run as runs
from scheduler_core.model.job_state import HoldReason
from scheduler_core.model.outcome import RECORDED_KINDS
from scheduler_core.model.run import NEXT_FIRE_TIME, MissReason, Reason, RunState

if TYPE_CHECKING:  # the command line shows jobs without loading the use cases
    from scheduler_core.usecases.job_reads import JobView

OutcomeName = Annotated[str, Meta(extra_json_schema={"enum": [kind.value for kind in RECORDED_KINDS]})]
AttemptCount = Annotated[int, Meta(description="Attempts that have ended.")]
TakenAt = Annotated[Instant | None, Meta(description="When the runner took the run (completion by callback).")]
HeardAt = Annotated[Instant | None, Meta(description="When the runner last sent a heartbeat.")]
Deadline = Annotated[
    Instant | None,
    Meta(description="When a taken run becomes lost unless its runner sends a heartbeat or a completion before."),
]
Progress = Annotated[float, Meta(ge=0, le=1)]
EndedBy = Annotated[
    Literal["next_fire_time"] | None,
    Meta(description="What ended the run before its retries were over: the next fire time. Null: nothing did."),
]
ReplayOf = Annotated[str | None, Meta(description="Of a replay: the run that it runs again.")]
ReplayedBy = Annotated[str | None, Meta(description="The latest run that runs this one again.")]


class Attempt(Described):
    """One request that the runner may have received."""

    number: int
    started_at: Instant
    latency_ms: float
    outcome: OutcomeName
    status_code: int | None
    message: str


KeptAttempts = Annotated[list[Attempt], Meta(description="The first and the latest ones.")]


class Run(Described, tag_field="kind", tag="run"):
    """One execution of a job. `taken_at` to `note` belong to completion by callback."""

    id: str
    fire_time: Instant
    reason: Reason
    state: RunState
    job_version: int
    started_at: Instant | None
    ended_at: Instant | None
    lateness_ms: int | None
    status_code: int | None
    attempt: AttemptCount
    retry_at: Instant | None
    message: str
    answer_excerpt: str
    taken_at: TakenAt
    heard_at: HeardAt
    deadline: Deadline
    progress: Progress | None
    note: str
    ended_by: EndedBy
    replay_of: ReplayOf
    replayed_by: ReplayedBy
    attempts: KeptAttempts


class HeldBack(Described):
    """Why a run that is due is not sent yet."""

    reason: HoldReason
    target: Annotated[str | None, Meta(description="The host that the run waits for; null: it waits for a node.")]
    since: Instant | None
    until: Annotated[Instant | None, Meta(description="When the run is tried again; null: not known.")]


class OpenRun(Described, kw_only=True):
    """A run that is not settled. During its first attempt, only the fields `state`, `attempt` and `retry_at` of a Run
    are known."""

    kind: Maybe[Literal["run"]] = UNSET
    id: Maybe[str] = UNSET
    fire_time: Maybe[Instant] = UNSET
    reason: Maybe[Reason] = UNSET
    state: RunState
    job_version: Maybe[int] = UNSET
    started_at: Maybe[Instant | None] = UNSET
    ended_at: Maybe[Instant | None] = UNSET
    lateness_ms: Maybe[int | None] = UNSET
    status_code: Maybe[int | None] = UNSET
    attempt: AttemptCount
    retry_at: Instant | None
    message: Maybe[str] = UNSET
    answer_excerpt: Maybe[str] = UNSET
    taken_at: Maybe[TakenAt] = UNSET
    heard_at: Maybe[HeardAt] = UNSET
    deadline: Maybe[Deadline] = UNSET
    progress: Maybe[Progress | None] = UNSET
    note: Maybe[str] = UNSET
    ended_by: Maybe[EndedBy] = UNSET
    replay_of: Maybe[ReplayOf] = UNSET
    replayed_by: Maybe[ReplayedBy] = UNSET
    attempts: Maybe[KeptAttempts] = UNSET
    node: Annotated[Maybe[str], Meta(description="The node that executes the run; absent: no node does.")] = UNSET
    claimed_at: Maybe[Instant] = UNSET
    held_back: Annotated[Maybe[HeldBack | None], Meta(description="Only in `open_runs`.")] = UNSET


class InFlight(Described):
    """A run in flight: its request is open, or can no longer be stopped."""

    run_id: str
    fire_time: Instant


MetInFlight = Annotated[
    Maybe[InFlight],
    Meta(
        description="Only in the answer to a change: the run that it met in flight. Absent: no request for a later "
        "fire time starts under the old definition."
    ),
]


class Miss(Described, tag_field="kind", tag="miss"):
    """Fire times without a run. Both bounds belong to the range."""

    reason: MissReason
    first_fire_time: Instant
    last_fire_time: Instant
    count: Annotated[int | None, Meta(description="The number of fire times; null where counting is costly.")]
    recorded_at: Instant


class JobRuns(Described):
    """A page of a job's history."""

    open_run: Annotated[OpenRun | None, Meta(description="The run that is not settled.")]
    runs: list[Run | Miss]
    next: Cursor


def show_hold(view: JobView) -> HeldBack | None:
    """Return why a run that is due is not sent yet. None: it is not held back, or it is being sent."""
    held = view.state.held_back
    if view.lease is not None and view.lease.waits_as_suspect:
        since = rfc3339(view.lease.lost[-1].at_ms) if view.lease.lost else None
        return HeldBack(HoldReason.SUSPECT, None, since, None)
    if held is None or held.is_pause or view.status == "running":
        return None
    if not held.target:
        return HeldBack(held.shown_reason, None, rfc3339(held.since_ms), None)
    return HeldBack(held.reason, held.target, rfc3339(held.since_ms), rfc3339(held.until_ms))


def show_open(view: JobView) -> OpenRun | None:
    """Show the run that is not settled: in flight on a node, or waiting for its next attempt. None if all are settled.

    If several requested runs wait for an attempt, the one that is due first is shown.
    """
    run, lease = view.state.open, view.lease
    if run is None and lease is None:
        waiting = [entry for entry in view.state.pending if entry.run is not None and entry.failed is None]
        run = min(waiting, key=lambda entry: entry.not_before_ms).run if waiting else None
    if run is not None:
        shown = OpenRun(kind="run", **msgspec.structs.asdict(show_run(run)))
    elif lease is not None:
        # The first attempt is in flight; until it ends, Redis holds only the lease.
        shown = OpenRun(state=RunState.OPEN, attempt=0, retry_at=None)
    else:
        return None
    if lease is not None and lease.node != "-":
        shown.node, shown.claimed_at = lease.node, rfc3339(lease.first_claimed_at_ms)
    return shown


def show_in_flight(run: runs.Run | None) -> Maybe[InFlight]:
    """The run that a change met in flight; absent if it met none."""
    return UNSET if run is None else InFlight(run.id, rfc3339(run.fire_time_ms))


def show_child(view: JobView) -> OpenRun | None:
    """Show one of the open runs of a job with overlap ``allow``."""
    shown = show_open(view)
    if shown is not None:
        shown.held_back = show_hold(view)
    return shown


def show_record(record: runs.Record) -> Run | Miss:
    """An entry of a job's history."""
    return show_miss(record) if isinstance(record, runs.Miss) else show_run(record)


def show_run(run: runs.Run) -> Run:
    """Show a run. A taken run has a ``deadline`` instead of ``retry_at``."""
    is_taken = run.state is RunState.TAKEN
    return Run(
        id=run.id,
        fire_time=rfc3339(run.fire_time_ms),
        reason=run.reason,
        state=run.state,
        job_version=run.job_version,
        started_at=instant(run.started_at_ms),
        ended_at=instant(run.ended_at_ms),
        lateness_ms=run.lateness_ms,
        status_code=run.last_status,
        attempt=run.attempt,
        retry_at=None if is_taken else instant(run.retry_at_ms),
        message=run.message,
        answer_excerpt=run.excerpt,
        taken_at=instant(run.taken_at_ms),
        heard_at=instant(run.heartbeat_at_ms),
        deadline=instant(run.retry_at_ms) if is_taken else None,
        progress=run.progress,
        note=run.note,
        ended_by=NEXT_FIRE_TIME if run.ended_by == NEXT_FIRE_TIME else None,
        replay_of=show_replay_of(run),
        replayed_by=run.replayed_by or None,
        attempts=[show_attempt(attempt) for attempt in run.attempts],
    )


def show_replay_of(run: runs.Run) -> str | None:
    """The id of the run that a replay runs again; None: it is no replay, or its record was trimmed."""
    return None if run.replay_of is None else run.replay_of.run_id or None


def show_attempt(attempt: runs.Attempt) -> Attempt:
    """One request of a run."""
    return Attempt(
        attempt.number,
        rfc3339(attempt.started_at_ms),
        round(attempt.latency_ms, 3),
        attempt.outcome,
        attempt.status,
        attempt.message,
    )


def show_miss(miss: runs.Miss) -> Miss:
    """Show a range of fire times without a run."""
    return Miss(miss.reason, rfc3339(miss.first_ms), rfc3339(miss.last_ms), miss.count, rfc3339(miss.recorded_at_ms))
