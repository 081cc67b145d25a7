"""What needs a person, as the API answers it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from msgspec import Meta

from scheduler_api.wire.fields import Cursor, Described, Instant, instant
from scheduler_core.model.attention import AttentionKind, AttentionReason
from scheduler_core.model.catalogue import schedule_id_of

if TYPE_CHECKING:  # the command line shows entries without loading the use cases
    from scheduler_core.usecases.attention import AttentionEntry as Entry
    from scheduler_core.usecases.attention import AttentionPage as Page


class ActionName(StrEnum):
    """What a call does."""

    REPLAY = "replay"
    """Run the failed run again: a new run with the same fire time."""
    RUN = "run"
    """Run the job now; a success resolves the entry."""
    RESUME = "resume"
    REVIVE = "revive"
    """Make the pending entry due again."""
    RETRY = "retry"
    """Call the one-off task again, with all its retries."""
    DELETE = "delete"
    DISMISS = "dismiss"
    """Remove the entry from this list and change nothing else."""


class Action(Described):
    """A call of this API that resolves an entry."""

    name: ActionName
    method: str
    path: str


class AttentionEntry(Described):
    """A job, a pending entry, a one-off task or the end of a run that needs a person.

    `reason`: `failed`, `lost`, `conflict`: how the last run of the job ended; `quarantined`: the job is stopped;
    `set_aside`: the pending entry failed for good; `stale`: all calls of the task failed; `not_stored`: Redis refuses
    to store how the run ended, and the job does not run until an operator corrects the key that `detail` names.
    """

    id: Annotated[str, Meta(description="For `POST /attention/{id}/dismiss`.")]
    kind: AttentionKind
    job_id: Annotated[str, Meta(description="The id of the job or of the one-off task.")]
    reason: AttentionReason
    since: Annotated[
        Instant | None,
        Meta(description="When it first failed since the last success; null: before an upgrade of Cronpost."),
    ]
    run_id: Annotated[str | None, Meta(description="The run that failed last.")]
    detail: str
    labels: dict[str, str]
    actions: Annotated[list[Action], Meta(description="Calls that resolve the entry, the usual one first.")]


class Attention(Described):
    """A page of what needs a person."""

    entries: list[AttentionEntry]
    total: Annotated[int, Meta(description="How many jobs, one-off tasks and settlements need a person.")]
    dropped: Annotated[int, Meta(description="How many of them the list leaves out: it ends after 10,000.")]
    next: Cursor


class Dismissed(Described):
    """The answer to a dismissal."""

    id: str
    dismissed: Annotated[bool, Meta(description="False: the entry was not in the list any more.")]


def show_attention(page: Page, cursor: str | None) -> Attention:
    """Show a page of the list."""
    return Attention([show_entry(one) for one in page.entries], page.total, page.dropped, cursor)


def show_entry(entry: Entry) -> AttentionEntry:
    """Show an entry with the calls that resolve it."""
    return AttentionEntry(
        id=entry.id,
        kind=entry.kind,
        job_id=entry.job_id,
        reason=entry.why,
        since=instant(entry.since_ms),
        run_id=entry.run_id,
        detail=entry.detail,
        labels=entry.labels,
        actions=_actions(entry),
    )


def _actions(entry: Entry) -> list[Action]:
    schedule_id = schedule_id_of(entry.job_id)
    job = f"/jobs/{quote(entry.job_id, safe='')}"
    owner = job if schedule_id is None else f"/schedules/{schedule_id}"
    delete = Action(ActionName.DELETE, "DELETE", owner)
    dismiss = Action(ActionName.DISMISS, "POST", f"/attention/{quote(entry.id, safe=':')}/dismiss")
    if entry.kind is AttentionKind.TASK:
        task = f"/api/v1/tasks/{entry.job_id}"
        retry = Action(ActionName.RETRY, "POST", f"{task}/retry")
        return [retry, Action(ActionName.DELETE, "DELETE", task), dismiss]
    if entry.kind is AttentionKind.SETTLEMENT:
        return [dismiss]
    if entry.kind is AttentionKind.PENDING:
        return [Action(ActionName.REVIVE, "POST", f"{job}/pending/{entry.run_id}/revive"), dismiss]
    if entry.unreadable:
        return [delete]
    if entry.why is AttentionReason.QUARANTINED:
        return [Action(ActionName.RESUME, "POST", f"{owner}/resume"), delete, dismiss]
    run = Action(ActionName.RUN, "POST", f"{job}/run")
    if entry.run_id is None:
        return [run, delete, dismiss]
    return [Action(ActionName.REPLAY, "POST", f"/runs/{entry.run_id}/retry"), run, delete, dismiss]
