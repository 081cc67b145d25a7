"""Requested runs as the API answers them: pending runs, replays, and the answers to the requests."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw

from scheduler_api.wire.answers.runs import MetInFlight
from scheduler_api.wire.fields import Described, Instant, Maybe
from scheduler_core.base.instants import rfc3339
from scheduler_core.model import job_state as model
from scheduler_core.model.run import Reason, RunState


class Pending(Described):
    """A run that was requested and has not ended."""

    run_id: str
    reason: Reason
    not_before: Instant
    attempts: Annotated[int, Meta(description="Attempts that have ended.")]
    failed: Annotated[str | None, Meta(description="Why the run was set aside; null: it was not set aside.")]
    replay_of: Annotated[Maybe[str], Meta(description="Of a replay: the run that it runs again.")] = UNSET
    fire_time: Annotated[Maybe[Instant], Meta(description="Of a replay: the fire time of that run.")] = UNSET
    payload: Annotated[
        Maybe[Raw], Meta(description="Absent: the payload of the job. In lists of jobs only with `view=full`.")
    ] = UNSET


class PendingList(Described):
    """The pending runs of a job, ordered by their not-before times."""

    pending: list[Pending]
    in_flight: MetInFlight = UNSET


class Replay(Described):
    """Past fire times that are run one by one. Both bounds are fire times."""

    reason: Reason
    next: Instant
    last: Instant
    left: int


class RunAccepted(Described):
    """A run that was requested."""

    run_id: str


class RunSkipped(Described):
    """No run is started: it is not due, or `min_interval_seconds` has not passed."""

    skipped: Annotated[str, Meta(extra_json_schema={"enum": ["not_due", "too_soon"]})]
    next_at: Instant | None


class Backfilled(Described):
    """A backfill that was accepted."""

    first: Instant
    last: Instant
    runs: Annotated[int, Meta(description="How many runs it starts; above 1000, the maximum.")]


class RunCompleted(Described):
    """The state of a run after its runner completed it."""

    run_id: str
    state: RunState


class RunReplayed(Described):
    """A run that was requested again."""

    run_id: Annotated[str, Meta(description="The new run.")]
    job_id: str
    replay_of: Annotated[str, Meta(description="The run that it runs again.")]
    fire_time: Instant


class HeartbeatTaken(Described):
    """A heartbeat that was recorded."""

    run_id: str
    deadline: Annotated[Instant | None, Meta(description="When the run is lost unless its runner sends something.")]


class RunCancelled(Described):
    """A run that was cancelled."""

    run_id: str
    job_id: str
    state: Literal["cancelled"]
    request_cut: Annotated[
        bool | None,
        Meta(
            description="Whether the node that had the request open confirmed that it cut it; null if no request was "
            "open."
        ),
    ]


def show_pending(entry: model.Pending, *, with_payload: bool = True) -> Pending:
    """A pending run."""
    original = entry.replay_of
    return Pending(
        run_id=entry.run_id,
        reason=entry.reason,
        not_before=rfc3339(entry.not_before_ms),
        attempts=0 if entry.run is None else entry.run.attempt,
        failed=entry.failed,
        replay_of=UNSET if original is None else original.run_id,
        fire_time=UNSET if original is None else rfc3339(original.fire_time_ms),
        payload=UNSET if entry.payload is None or not with_payload else Raw(entry.payload),
    )


def show_replay(replay: model.Replay) -> Replay:
    """The rest of a replay."""
    return Replay(replay.reason, rfc3339(replay.next_ms), rfc3339(replay.last_ms), replay.left)
