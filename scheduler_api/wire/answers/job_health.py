"""The health of a job as ``GET /jobs/{id}/health`` answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from scheduler_api.wire.answers.jobs import HealthName, JobStatus, LastFailure, show_failures
from scheduler_api.wire.fields import Described, Instant, instant
from scheduler_core.model.health import HealthRules, late_since_ms, stuck_since_ms

if TYPE_CHECKING:
    from scheduler_core.usecases.job_health import HealthReport


class Durations(Described):
    """Milliseconds from the start of the first attempt to the end of the run, of the runs that succeeded."""

    p50: int
    p95: int
    p99: int
    longest: int


class KeptRuns(Described):
    """What the kept history of a job shows: at most its latest 1,000 entries."""

    begins_at: Annotated[Instant | None, Meta(description="The fire time of the oldest of these runs.")]
    runs: Annotated[int, Meta(description="Those that were cancelled or superseded included.")]
    succeeded: int
    failed: Annotated[int, Meta(description="Ended as failed, lost or conflict.")]
    success_rate: Annotated[
        float | None, Meta(description="succeeded / (succeeded + failed), rounded to four places; null: no such run.")
    ]
    duration_ms: Durations | None


class JobHealthDetails(Described):
    """The health of a job. `health` to `last_failure` are those of the job."""

    id: str
    status: JobStatus
    health: HealthName
    consecutive_failures: int
    failing_since: Instant | None
    last_success_at: Instant | None
    last_failure: LastFailure | None
    late_since: Annotated[
        Instant | None, Meta(description="When the job became due, if it is late; also if it is stuck as well.")
    ]
    stuck_since: Annotated[
        Instant | None,
        Meta(description="Since when the run is taken, waits for a retry or is claimed, if the job is stuck."),
    ]
    kept_runs: KeptRuns


def show_health(report: HealthReport, rules: HealthRules) -> JobHealthDetails:
    """Show the health of a job and the statistics of its kept runs."""
    view, kept = report.view, report.statistics
    facts = view.child_facts
    mean_ms = None if facts is None else facts.mean_ms
    units = [view, *(() if facts is None else facts.children)]
    late = [late_since_ms(one.state, one.lease, now_ms=one.read_at_ms, rules=rules) for one in units]
    stuck = [
        stuck_since_ms(view.job, one.state, one.lease, now_ms=one.read_at_ms, rules=rules, mean_ms=mean_ms)
        for one in units
    ]
    rate, times = kept.success_rate, kept.durations_ms
    return JobHealthDetails(
        id=view.id,
        status=JobStatus(view.status),
        health=view.health(rules).value,
        **show_failures(view),
        late_since=instant(min((one for one in late if one is not None), default=None)),
        stuck_since=instant(min((one for one in stuck if one is not None), default=None)),
        kept_runs=KeptRuns(
            begins_at=instant(kept.begins_ms),
            runs=kept.runs,
            succeeded=kept.succeeded,
            failed=kept.failed,
            success_rate=None if rate is None else round(rate, 4),
            duration_ms=Durations(times[50], times[95], times[99], kept.longest_ms or 0) if times else None,
        ),
    )
