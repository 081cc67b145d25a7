"""How a named target answers: one request that tries it, and the statistics of its latest runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from scheduler_api.wire.answers.run_list import ErrorType, RunDetail, error_of, show_found_with_detail
from scheduler_api.wire.answers.runs import HeldBack, show_hold
from scheduler_api.wire.answers.service import Breaker
from scheduler_api.wire.fields import Described, Instant, instant
from scheduler_core.model.run import RunState

if TYPE_CHECKING:
    from scheduler_core.model.run import Run
    from scheduler_core.usecases.history import FoundRun
    from scheduler_core.usecases.job_reads import JobView
    from scheduler_core.usecases.target_statistics import TargetStatistics
    from scheduler_core.usecases.target_tries import TargetTry

OfNodes = Annotated[
    list[Breaker], Meta(description="The breakers of the target that are not closed, of the nodes of this server.")
]


class TargetTried(Described):
    """One request to a target that was asked for."""

    target_id: int
    run_id: Annotated[str, Meta(description="The run: `GET /runs/{run_id}`.")]
    job_id: Annotated[str, Meta(description="The job of the run, which exists until the run has ended.")]
    run: Annotated[RunDetail | None, Meta(description="The run, if it ended within `wait`.")]
    held_back: Annotated[HeldBack | None, Meta(description="Why the request is not sent yet.")]
    breakers: OfNodes


class LatencyMs(Described):
    """Milliseconds of the last requests of the examined runs, if they were answered."""

    p50: float
    p95: float
    longest: float


class FailedRun(Described):
    """A run that ended as failed, lost or conflict."""

    run_id: str
    job_id: str
    ended_at: Instant | None
    state: RunState
    status_code: int | None
    error_type: ErrorType
    error_message: str


class TargetActivity(Described):
    """How a target answered lately. `runs` to `last_failures` are about the examined runs."""

    target_id: int
    jobs: Annotated[int, Meta(description="Jobs that use the target, without schedules.")]
    schedules: int
    users_examined: Annotated[int, Meta(description="Jobs and schedules whose runs were examined: at most 100.")]
    runs: Annotated[int, Meta(description="Runs that were examined: at most 1,000.")]
    begins_at: Annotated[Instant | None, Meta(description="The fire time of the oldest of these runs.")]
    succeeded: int
    failed: Annotated[int, Meta(description="Ended as failed, lost or conflict.")]
    success_rate: Annotated[
        float | None, Meta(description="succeeded / (succeeded + failed), rounded to four places; null: no such run.")
    ]
    latency_ms: LatencyMs | None
    errors: Annotated[dict[ErrorType, int], Meta(description="Failed runs by the kind of error of the last request.")]
    last_failures: Annotated[list[FailedRun], Meta(description="The latest 10, newest first.")]
    breakers: OfNodes


def show_try(tried: TargetTry, found: FoundRun | None, view: JobView | None, breakers: list[Breaker]) -> TargetTried:
    """Show a request to a target. ``found``: its run, if that has ended; ``view``: its job, if it exists still."""
    return TargetTried(
        target_id=tried.target.id,
        run_id=tried.run_id,
        job_id=tried.job_id,
        run=None if found is None else show_found_with_detail(found),
        held_back=None if view is None else show_hold(view),
        breakers=breakers,
    )


def show_statistics(found: TargetStatistics, breakers: list[Breaker]) -> TargetActivity:
    """Show the statistics of a target."""
    runs, latency = found.runs, found.latency
    rate = runs.success_rate
    return TargetActivity(
        target_id=found.target.id,
        jobs=found.jobs,
        schedules=found.schedules,
        users_examined=found.users_examined,
        runs=runs.runs,
        begins_at=instant(runs.begins_ms),
        succeeded=runs.succeeded,
        failed=runs.failed,
        success_rate=None if rate is None else round(rate, 4),
        latency_ms=None
        if latency is None
        else LatencyMs(round(latency.p50, 3), round(latency.p95, 3), round(latency.longest, 3)),
        errors={ErrorType(kind): count for kind, count in found.errors.items()},
        last_failures=[_show_failure(job_id, run) for job_id, run in found.failures],
        breakers=breakers,
    )


def _show_failure(job_id: str, run: Run) -> FailedRun:
    kind, message = error_of(run) or (ErrorType.UNKNOWN, run.state.value)
    return FailedRun(
        run_id=run.id,
        job_id=job_id,
        ended_at=instant(run.ended_at_ms),
        state=run.state,
        status_code=run.last_status,
        error_type=kind,
        error_message=message,
    )
