"""The policies of a job: what happens on overlap, downtime, failure and when the trigger ends."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Overlap(StrEnum):
    """The policy for a fire time that arrives while the job's previous run is not settled."""

    SKIP = "skip"
    """The fire time is a miss."""
    QUEUE_ONE = "queue_one"
    """One run follows when the job is free, for the latest such fire time; the others are misses."""
    ALLOW = "allow"
    """It runs at the same time as the others, up to ``max_concurrent`` runs."""


class Recovery(StrEnum):
    """The policy for fire times that passed while no node was alive."""

    NONE = "none"
    LATEST = "latest"
    """One run at once, for the latest fire time."""
    ALL = "all"
    """One run for each fire time, one after the other, within bounds."""


class RetryRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job's own retry settings; None: the global setting applies. Times in milliseconds."""

    attempts: int | None = msgspec.field(default=None, name="n")
    """Maximum attempts of a run, the first one included; 1: no retry."""
    first_delay_ms: int | None = msgspec.field(default=None, name="f")
    factor: float | None = msgspec.field(default=None, name="x")
    cap_ms: int | None = msgspec.field(default=None, name="c")
    statuses: tuple[int, ...] = msgspec.field(default=(), name="s")
    """HTTP statuses that are retried in addition to the default ones."""
    max_age_ms: int | None = msgspec.field(default=None, name="a")


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job's own limits for its target, stricter than the settings; None: only the settings apply.

    The limits count requests of all jobs to the target, but delay only this job's runs."""

    max_in_flight: int | None = msgspec.field(default=None, name="n")
    """A request of this job starts only while the node has fewer open requests to the target than this."""
    rate: float | None = msgspec.field(default=None, name="r")
    """Requests per second to the target, over all nodes."""


class Policies(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job's policies. Fields with their default value are not stored."""

    overlap: Overlap | None = msgspec.field(default=None, name="o")
    """None: ``queue_one`` with ``retry_already_running``, else ``skip``."""
    max_concurrent: int = msgspec.field(default=1, name="n")
    """Runs at the same time with ``overlap: allow``."""
    recovery: Recovery | None = msgspec.field(default=None, name="r")
    """None: ``latest`` with ``recovery_check``, else ``none``."""
    catch_up_limit: int = msgspec.field(default=10, name="l")
    """Maximum runs of one recovery ``all``; the latest fire times are kept."""
    catch_up_window_ms: int = msgspec.field(default=86_400_000, name="w")
    """Recovery ``all`` skips fire times that are older than this."""
    retry: RetryRule | None = msgspec.field(default=None, name="t")
    timeout_ms: int | None = msgspec.field(default=None, name="d")
    """Total deadline of one attempt; None: the setting."""
    starts_at_ms: int | None = msgspec.field(default=None, name="b")
    """No fire time lies before this instant."""
    ends_at_ms: int | None = msgspec.field(default=None, name="e")
    """No fire time lies after this instant."""
    max_runs: int | None = msgspec.field(default=None, name="m")
    """The trigger is exhausted after this many runs."""
    jitter_ms: int = msgspec.field(default=0, name="j")
    """Each job shifts all its fire times by one fixed offset in [0, jitter_ms), computed from its id."""
    continuations: bool = msgspec.field(default=False, name="c")
    """Whether a 2xx answer may request further runs."""
    min_interval_ms: int = msgspec.field(default=0, name="i")
    """A run-now request without payload and time starts no earlier than this after the last successful start."""
    callback: bool = msgspec.field(default=False, name="y")
    """A 2xx answer means ``taken``; the runner reports by callback how the run ended."""
    run_timeout_ms: int = msgspec.field(default=3_600_000, name="u")
    """With ``callback``: a run that is not completed within this time after it was taken is lost."""
    heartbeat_timeout_ms: int | None = msgspec.field(default=None, name="h")
    """With ``callback``: a run without a heartbeat for this long is lost; None: no heartbeat is expected."""
    keep_answers: bool = msgspec.field(default=False, name="k")
    """Whether request and answer of successful runs are kept too."""
    conflict_is_failure: bool = msgspec.field(default=False, name="f")
    """Whether 409 counts as a failure like any other 4xx."""
    keep: bool = msgspec.field(default=False, name="p")
    """Whether the job never completes (schedules): it stays when its trigger is exhausted."""
    limits: Limits | None = msgspec.field(default=None, name="q")
    delete_completed: bool = msgspec.field(default=False, name="a")
    """Whether the job is deleted when its trigger is exhausted."""
    at_most_once: bool = msgspec.field(default=False, name="1")
    """Whether its request is sent once at most: a run whose node died ends as lost, and a run that is not sent in time
    is cancelled (``plan.once``). Only of jobs that try a target; a breaker does not hold them back."""


DEFAULT_POLICIES = Policies()
