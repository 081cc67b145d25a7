"""The account of a job as the API answers it: a run or a reason for each fire time."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from scheduler_api.wire.fields import Cursor, Described, Instant, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.model import run as model
from scheduler_core.model.run import MissReason, Reason, RunState
from scheduler_core.plan.account import OF_THE_TRIGGER, Entry

Settled = Annotated[bool, Meta(description="False: not recorded yet; the entry can still change.")]
Again = Annotated[bool, Meta(description="A backfill or a replay: other entries account for these fire times as well.")]
_RUN_REASONS = [reason.value for reason in (*OF_THE_TRIGGER, Reason.BACKFILL, Reason.REPLAY)]
RunReason = Annotated[str, Meta(extra_json_schema={"enum": _RUN_REASONS})]
RangeReason = Annotated[
    str,
    Meta(
        description="`due`: not decided yet; `recovery`, `backfill` and `replay`: still to be run, one by one.",
        extra_json_schema={"enum": [*(reason.value for reason in MissReason), "due", "recovery", "backfill", "replay"]},
    ),
]


class AccountedRun(Described):
    """A summary of a run. `GET /runs/{id}` has all fields."""

    id: str
    reason: RunReason
    state: RunState
    started_at: Instant | None
    ended_at: Instant | None
    attempts: int
    status_code: int | None
    message: str
    trimmed: Annotated[
        bool, Meta(description="The record of the run was trimmed: only its id, reason and success are known.")
    ]


class AccountRun(Described, tag_field="kind", tag="run"):
    """A fire time that has a run."""

    fire_time: Instant
    settled: Settled
    again: Again
    run: AccountedRun


class AccountRange(Described, tag_field="kind", tag="range"):
    """Fire times without a run, or without one yet. Both bounds are fire times and belong to the range."""

    first_fire_time: Instant
    last_fire_time: Instant
    settled: Settled
    again: Again
    reason: RangeReason
    count: Annotated[int | None, Meta(description="The exact number of fire times; null where counting is costly.")]


class Account(Described):
    """A page of the account of a job."""

    job_id: str
    from_: Instant = field(name="from")
    to: Instant
    accounted_from: Instant
    accounted_until: Annotated[
        Instant, Meta(description="The first fire time that is not decided yet, or now if all are decided.")
    ]
    entries: list[AccountRun | AccountRange]
    next: Cursor


def show_entry(entry: Entry, *, trimmed: frozenset[str] = frozenset()) -> AccountRun | AccountRange:
    """Show a run with its fire time, or a range of fire times. ``trimmed``: ids of runs whose record was trimmed."""
    if entry.run is not None:
        shown = _show_run(entry.run, trimmed=entry.run.id in trimmed)
        return AccountRun(rfc3339(entry.first_ms), entry.settled, entry.again, shown)
    reason = "due" if entry.reason is None else entry.reason.value
    if entry.again:
        reason = "replay" if entry.replayed else "backfill"
    elif entry.gets_run:
        reason = "recovery"
    return AccountRange(
        rfc3339(entry.first_ms), rfc3339(entry.last_ms), entry.settled, entry.again, reason, entry.count
    )


def _show_run(run: model.Run, *, trimmed: bool) -> AccountedRun:
    return AccountedRun(
        run.id,
        run.reason,
        run.state,
        instant(run.started_at_ms),
        instant(run.ended_at_ms),
        run.attempt,
        run.last_status,
        run.message,
        trimmed,
    )
