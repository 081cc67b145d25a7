"""Jobs as ``GET /jobs?view=summary`` answers them: what one row of a table needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import UNSET, Meta

from scheduler_api.wire.answers.jobs import (
    HealthName,
    HeldFor,
    Job,
    JobStatus,
    LastFailure,
    LastRun,
    PausedBy,
    show_job,
)
from scheduler_api.wire.answers.runs import HeldBack, OpenRun
from scheduler_api.wire.fields import Cursor, Described, Instant, Maybe
from scheduler_core.model.health import DEFAULT_RULES, HealthRules
from scheduler_core.model.run import RunState
from scheduler_core.triggers.cron_words import describe_trigger

if TYPE_CHECKING:  # the command line shows jobs without loading the use cases
    from scheduler_core.usecases.job_reads import JobView


class OpenRunSummary(Described):
    """A run that is not settled."""

    state: RunState
    since: Annotated[
        Instant | None, Meta(description="When its runner took it, when it started or when a node claimed it.")
    ]
    retry_at: Instant | None


class JobSummary(Described, kw_only=True):
    """The fields of a job that a row of a table needs. If the definition cannot be read, only the state is shown."""

    id: str
    status: JobStatus
    name: Annotated[Maybe[str], Meta(description="Of a schedule.")] = UNSET
    description: Maybe[str] = UNSET
    labels: Maybe[dict[str, str]] = UNSET
    endpoint: Maybe[str] = UNSET
    target: Maybe[str | None] = UNSET
    target_id: Maybe[int] = UNSET
    method: Maybe[str] = UNSET
    fires: Annotated[
        Maybe[str],
        Meta(description="The trigger in words, such as `at 02:00:00 every day`. Times are in `timezone`."),
    ] = UNSET
    cron: Maybe[str | None] = UNSET
    timezone: Maybe[str] = UNSET
    next_fire_time: Annotated[
        Instant | None, Meta(description="null: none, or the trigger is blocked (`held_for`). It can be due already.")
    ]
    held_for: HeldFor
    held_back: Annotated[HeldBack | None, Meta(description="Why a run that is due is not sent yet.")]
    paused_by: PausedBy = UNSET
    paused_until: Maybe[Instant] = UNSET
    pause_note: Maybe[str] = UNSET
    quarantine_reason: str | None
    open_run: OpenRunSummary | None
    last_run: LastRun | None
    health: HealthName
    consecutive_failures: int
    last_success_at: Instant | None
    last_failure: LastFailure | None


class JobSummaryPage(Described):
    """A page of the list of jobs with `view=summary`."""

    jobs: list[JobSummary]
    next: Cursor
    examined: Annotated[int, Meta(description="How many jobs were looked at for this page.")]


def show_summary(view: JobView, *, rules: HealthRules = DEFAULT_RULES) -> JobSummary:
    """Show a job as a row of a table."""
    shown = show_job(view, with_payload=False, rules=rules)
    fires = UNSET if view.job is None else describe_trigger(view.job.trigger, view.job.id)
    return JobSummary(
        fires=fires,
        next_fire_time=shown.next_fire_times[0] if shown.next_fire_times else None,
        open_run=_open(shown.open_run),
        **{name: getattr(shown, name) for name in _SAME},
    )


def _open(run: OpenRun | None) -> OpenRunSummary | None:
    if run is None:
        return None
    since = run.taken_at or run.started_at or run.claimed_at or None
    return OpenRunSummary(run.state, since, run.retry_at)


_SAME = [name for name in JobSummary.__struct_fields__ if name in Job.__struct_fields__ and name != "open_run"]
"""The fields that both answers have."""
