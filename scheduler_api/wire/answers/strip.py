"""The strip of a job as the API answers it: cells with counts of results."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from scheduler_api.wire.fields import Described, Instant, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.run import MissReason, Reason, RunState
from scheduler_core.plan import strip as plan
from scheduler_core.plan.strip import CellKind, late_by_ms

MESSAGE_SHOWN = 200
_KINDS = [kind.value for kind in CellKind]
_REASONS = [*(reason.value for reason in MissReason), "recovery", "backfill", "replay"]


def _counts(description: str, names: list[str]) -> Meta:
    return Meta(
        description=description,
        extra_json_schema={"propertyNames": {"enum": names}, "additionalProperties": {"type": "integer", "minimum": 1}},
    )


StripKind = Annotated[
    str,
    Meta(
        description="The worst result in the cell, in the order of this list: `lost`, `failed`, `conflict`, `missed`, "
        "`retrying` (an attempt failed, the run waits for the next one), `cancelled`, `superseded`, `waiting` (due, "
        "not started), `late` (succeeded, and its first attempt started later than the rule for late jobs allows), "
        "`retried` (succeeded after more than one attempt), `taken`, `open`, `delivered`, `planned` (lies ahead).",
        extra_json_schema={"enum": _KINDS},
    ),
]


class StripRun(Described):
    """A summary of a run. `GET /runs/{id}` has all fields."""

    id: str
    reason: Annotated[str, Meta(extra_json_schema={"enum": [reason.value for reason in Reason]})]
    state: Annotated[str, Meta(extra_json_schema={"enum": [state.value for state in RunState]})]
    fire_time: Instant
    started_at: Instant | None
    ended_at: Instant | None
    attempts: int
    late_ms: Annotated[
        int | None,
        Meta(
            description="From the fire time to the start of the first attempt; null for backfills and replays, and "
            "before the start."
        ),
    ]
    status_code: int | None
    message: Annotated[str, Meta(description=f"At most {MESSAGE_SHOWN} characters.")]
    trimmed: Annotated[
        bool, Meta(description="The record of the run was trimmed: only its id, reason and success are known.")
    ]


class StripCell(Described):
    """One fire time, or several with the runs that were requested in the same time."""

    first_fire_time: Instant
    last_fire_time: Instant
    kind: StripKind
    fire_times: Annotated[dict[str, int], _counts("The number of fire times of the trigger by result.", _KINDS)]
    requested: Annotated[
        dict[str, int],
        _counts("The same for other runs: manual runs, continuations, backfills and replays.", _KINDS),
    ]
    reasons: Annotated[dict[str, int], _counts("The number of missed and waiting fire times by reason.", _REASONS)]
    run: Annotated[
        StripRun | None, Meta(description="The run with the worst result, the latest of several; null: no run.")
    ]
    settled: Annotated[bool, Meta(description="False: not all of it is recorded; it can still change.")]
    exact: Annotated[
        bool,
        Meta(
            description="False: a range of the cell belongs to an earlier trigger and cannot be divided. `fire_times` "
            "counts the whole range, or 2 if its number is not known."
        ),
    ]


class StripGap(Described):
    """The time before the account begins: nothing is known about its fire times. Both bounds belong to it."""

    from_: Instant = field(name="from")
    to: Instant


class Strip(Described):
    """The fire times of a window as a bounded number of cells, oldest first. Times without a fire time have no cell."""

    job_id: str
    from_: Instant = field(name="from")
    to: Instant
    now: Annotated[Instant, Meta(description="When the strip was read.")]
    created_at: Annotated[
        Instant | None, Meta(description="When the job was created: it has no fire times before. Null: it is deleted.")
    ]
    accounted_from: Instant
    not_kept: StripGap | None
    history_per_job: Annotated[
        int,
        Meta(
            description="Settled runs and misses that are kept of each job: `CRONPOST_HISTORY_PER_JOB` of this server. "
            "What is older is `not_kept`."
        ),
    ]
    late_after_ms: Annotated[int, Meta(description="Runs that start later than this are `late`.")]
    cell_ms: Annotated[
        int | None,
        Meta(
            description="The length of time that a cell stands for; null: each cell is one fire time, or a range that "
            "cannot be divided."
        ),
    ]
    cells: list[StripCell]


def show_strip(
    job_id: str, strip: plan.Strip, cells: list[StripCell], *, late_after_ms: int, history_per_job: int
) -> Strip:
    """Show a strip with the given cells. ``late_after_ms``: the rule for late runs."""
    kept = strip.not_kept
    return Strip(
        job_id,
        rfc3339(strip.from_ms),
        rfc3339(strip.to_ms),
        rfc3339(strip.now_ms),
        instant(strip.created_ms),
        rfc3339(strip.account.from_ms),
        None if kept is None else StripGap(rfc3339(kept[0]), rfc3339(kept[1])),
        history_per_job,
        late_after_ms,
        strip.cell_ms,
        cells,
    )


def show_cell(cell: plan.Cell, trimmed: frozenset[str]) -> StripCell:
    """Show one cell. ``trimmed``: ids of runs whose record was trimmed."""
    run = cell.run
    return StripCell(
        rfc3339(cell.first_ms),
        rfc3339(cell.last_ms),
        cell.kind.value,
        {kind.value: count for kind, count in cell.fire_times.items()},
        {kind.value: count for kind, count in cell.requested.items()},
        cell.reasons,
        None
        if run is None
        else StripRun(
            run.id,
            run.reason,
            run.state,
            rfc3339(run.fire_time_ms),
            instant(run.started_at_ms),
            instant(run.ended_at_ms),
            run.attempt,
            late_by_ms(run),
            run.last_status,
            run.message[:MESSAGE_SHOWN],
            run.id in trimmed,
        ),
        cell.settled,
        cell.exact,
    )
