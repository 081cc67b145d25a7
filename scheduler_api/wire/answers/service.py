"""Answers about the server itself: links, health, readiness, breakers, totals, and fire times of an expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import UNSET, Meta

from scheduler_api.wire.answers.pauses import PausedSince
from scheduler_api.wire.fields import Described, Instant, Maybe, Yes
from scheduler_core.base.instants import rfc3339

if TYPE_CHECKING:
    from scheduler_core.node.dispatch.targets import OpenBreaker


class Links(Described):
    """Paths of this API."""

    name: Literal["cronpost"]
    dashboard: Literal["/ui"]
    docs: Literal["/docs"]
    openapi: Literal["/openapi.json"]
    health: Literal["/health"]
    ready: Literal["/ready"]
    jobs: Literal["/jobs"]


LINKS = Links("cronpost", "/ui", "/docs", "/openapi.json", "/health", "/ready", "/jobs")


class Health(Described):
    """The process is alive."""

    status: Literal["healthy"]
    scheduler_running: Yes


class NodeCount(Described):
    """The nodes that this server runs in separate processes."""

    wanted: int
    working: int


class Readiness(Described):
    """Whether the process can do its work."""

    ready: bool
    reasons: Annotated[list[str], Meta(description="Why the process cannot work.")]
    warnings: Annotated[Maybe[list[str]], Meta(description="Problems with which the process still works.")] = UNSET
    nodes: Annotated[
        Maybe[NodeCount], Meta(description="Absent if all nodes of this server run in its own process.")
    ] = UNSET
    paused: Annotated[Maybe[PausedSince], Meta(description="Only while everything is paused: `GET /pause`.")] = UNSET


class Breaker(Described):
    """A target that does not answer a node. The node holds back the runs for it and sends a probe from time to time."""

    target: Annotated[str, Meta(description="Scheme, host and port.")]
    state: Annotated[str, Meta(extra_json_schema={"enum": ["open", "half_open"]})]
    since: Instant
    failures: Annotated[int, Meta(description="Consecutive failures.")]
    probe_at: Instant
    last_error: str
    node: str


def show_breaker(node: str, breaker: OpenBreaker) -> Breaker:
    """Show a breaker of this node that is not closed."""
    return Breaker(
        target=breaker.target,
        state=breaker.state.value,
        since=rfc3339(breaker.since_ms),
        failures=breaker.failures,
        probe_at=rfc3339(breaker.probe_at_ms),
        last_error=breaker.last_error,
        node=node,
    )


class Breakers(Described):
    """The circuit breakers that are not closed."""

    breakers: list[Breaker]
    nodes: Annotated[int, Meta(description="The number of nodes that reported.")]
    detail: Annotated[Maybe[str], Meta(description="Only if this server has no node.")] = UNSET


class Totals(Described):
    """Totals of all runs ever settled, trimmed ones included."""

    total_targets: int
    total_schedules: int
    active_schedules: int
    paused_schedules: int
    stopped_schedules: int
    total_runs: int
    runs_last_hour: Annotated[int, Meta(description="Runs that started in this minute or in one of the 59 before it.")]
    success_rate: Annotated[float, Meta(description="In percent, with two decimals; 0 before the first run.")]
    avg_latency_ms: float | None


class FireTimes(Described):
    """The next fire times of a cron expression."""

    next: list[Instant]
    description: Annotated[str, Meta(description="The expression in words. Days have their names.")]
