"""Operations on many jobs or runs as the API answers them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from scheduler_api.wire.fields import Cursor, Described, Instant, Maybe, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.usecases.operation_spec import OperationError as Error
from scheduler_core.usecases.operation_spec import OperationVerb
from scheduler_core.usecases.operations import OperationView

StateOfOperation = Annotated[
    Literal["running", "waiting", "cancelling", "done", "cancelled", "failed"],
    Meta(description="waiting: no node carries it now. failed: it could not continue; its last error has the reason."),
]
Skipped = Annotated[
    dict[str, int],
    Meta(
        description="How many jobs or runs match and were left as they are, by the reason, such as `unchanged`, "
        "`schedule`, `run_not_settled`, `not_due`, `too_soon`, `paused`, `quarantined`, `already_replayed`, "
        "`definition_changed`, `record_trimmed`, `gone`."
    ),
]
Matched = Annotated[int, Meta(description="The sum of `changed`, `failed` and all of `skipped`.")]
Changed = Annotated[int, Meta(description="With `dry_run`: how many would be changed.")]
Failed = Annotated[int, Meta(description="How many jobs or runs had an error.")]


class OperationError(Described):
    """Why the operation failed for one job or run."""

    job_id: str
    run_id: Maybe[str]
    code: str
    detail: str
    at: Instant


Errors = Annotated[list[OperationError], Meta(description="The first 100.")]


class OperationResult(Described):
    """The counts of an operation that ended within about a second."""

    operation: str
    dry_run: bool
    matched: Matched
    changed: Changed
    skipped: Skipped
    failed: Failed
    errors: Errors


class OperationAccepted(Described):
    """An operation that continues in the background."""

    operation: str


class Operation(Described):
    """An operation on many jobs or runs: what it does, and how far it is."""

    id: str
    verb: OperationVerb
    state: StateOfOperation
    dry_run: bool
    select: Annotated[dict[str, Any], Meta(description="As it was sent.")]
    created_at: Instant
    updated_at: Annotated[Instant | None, Meta(description="When its position was stored last.")]
    ended_at: Annotated[Instant | None, Meta(description="It is kept for a day from then on.")]
    matched: Annotated[int, Meta(description="So far. The sum of `changed`, `failed` and all of `skipped`.")]
    changed: Changed
    skipped: Skipped
    failed: Failed
    errors: Errors
    position: Annotated[str | None, Meta(description="The last job that was reached, in the order of ids.")]
    per_second: Annotated[float | None, Meta(description="Jobs or runs handled per second of work; null: unknown.")]
    seconds_left: Annotated[
        int | None, Meta(description="Estimated from the share of all ids that was passed; null: unknown, or it ended.")
    ]
    carried_by: Annotated[str | None, Meta(description="The process that works on it now.")]


class OperationPage(Described):
    """A page of the list of operations, newest first."""

    operations: list[Operation]
    next: Cursor


def show_result(view: OperationView) -> OperationResult:
    """Show the counts of an operation that has ended."""
    progress = view.progress
    return OperationResult(
        view.id,
        view.spec.dry_run,
        progress.matched,
        progress.changed,
        progress.skipped,
        progress.failed,
        [_show_error(error) for error in progress.errors],
    )


def show_operation(view: OperationView) -> Operation:
    """Show an operation."""
    spec, progress = view.spec, view.progress
    seconds = progress.worked_ms / 1000
    return Operation(
        view.id,
        spec.verb,
        view.state,  # type: ignore[arg-type]
        spec.dry_run,
        msgspec.json.decode(spec.shown),
        rfc3339(spec.created_at_ms),
        instant(progress.updated_at_ms or None),
        instant(view.ended_at_ms),
        progress.matched,
        progress.changed,
        progress.skipped,
        progress.failed,
        [_show_error(error) for error in progress.errors],
        progress.position or None,
        round(progress.matched / seconds, 1) if seconds >= 0.1 else None,
        None if view.left_ms is None else -(-view.left_ms // 1000),
        view.carrier,
    )


def _show_error(error: Error) -> OperationError:
    run_id = UNSET if error.run_id is None else error.run_id
    return OperationError(error.job_id, run_id, error.code, error.detail, rfc3339(error.at_ms))
