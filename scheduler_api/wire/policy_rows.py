"""The optional fields of a job, one row each.

A field's name, bounds and default are defined only here. Bodies, answers, the OpenAPI document and the command line's
options are generated from the rows.
"""

from __future__ import annotations

from scheduler_api.wire.policy_row import Row
from scheduler_core.model.policies import Overlap, Recovery

DAY = 86_400
YEAR = 366 * DAY
LEAST_SECONDS = 0.001

RETRY_ROWS = (
    Row(
        name="attempts",
        attribute="attempts",
        kind="whole",
        low=1,
        high=1000,
        default_text="as many as the age allows",
        meaning="Maximum attempts of a run, including the first; 1: no retry.",
    ),
    Row(
        name="first_delay_seconds",
        attribute="first_delay_ms",
        kind="seconds",
        low=0.1,
        high=DAY,
        default_text="1 s",
        meaning="The delay before the second attempt, and before the third.",
    ),
    Row(
        name="factor",
        attribute="factor",
        kind="number",
        low=1,
        high=10,
        default_text="2",
        meaning="Each further delay is the one before multiplied by this.",
    ),
    Row(
        name="max_delay_seconds",
        attribute="cap_ms",
        kind="seconds",
        low=0.1,
        high=DAY,
        default_text="CRONPOST_RETRY_MAX_DELAY_SECONDS",
        meaning="Maximum delay.",
    ),
    Row(
        name="statuses",
        attribute="statuses",
        kind="statuses",
        default_text="none",
        meaning="Statuses that are retried in addition to 408, 425, 429, 502, 503 and 504.",
    ),
    Row(
        name="max_age_seconds",
        attribute="max_age_ms",
        kind="seconds",
        low=LEAST_SECONDS,
        high=30 * DAY,
        default_text="CRONPOST_RETRY_FOR_MAX_SECONDS",
        meaning="How long after its first attempt a run is retried.",
    ),
)
RETRY_FIELDS = tuple(row.name for row in RETRY_ROWS)

LIMIT_ROWS = (
    Row(
        name="max_in_flight",
        attribute="max_in_flight",
        kind="whole",
        low=1,
        high=100_000,
        default_text="CRONPOST_TARGET_MAX_IN_FLIGHT",
        meaning="A request of the job starts only while its node has fewer open requests, of all jobs, to the host.",
    ),
    Row(
        name="rate",
        attribute="rate",
        kind="number",
        low=0.001,
        high=1_000_000,
        default_text="CRONPOST_TARGET_RATE",
        meaning="Requests a second to the host, of all jobs and nodes. Above this rate, requests of the job wait.",
    ),
)
LIMIT_FIELDS = tuple(row.name for row in LIMIT_ROWS)

ROWS = (
    Row(
        name="overlap",
        attribute="overlap",
        kind="choice",
        choices=tuple(choice.value for choice in Overlap),
        default_text="queue_one with retry_already_running, else skip",
        meaning="What happens to a fire time that arrives while the previous run is not settled.",
    ),
    Row(
        name="max_concurrent",
        attribute="max_concurrent",
        kind="whole",
        low=1,
        high=1000,
        default=10,
        needs=("overlap", "allow"),
        meaning="Maximum number of runs of the job at the same time.",
    ),
    Row(
        name="recovery",
        attribute="recovery",
        kind="choice",
        choices=tuple(choice.value for choice in Recovery),
        default_text="latest with recovery_check or at, else none",
        meaning="What happens to fire times that passed while no node was alive.",
    ),
    Row(
        name="catch_up_limit",
        attribute="catch_up_limit",
        kind="whole",
        low=1,
        high=1000,
        default=10,
        needs=("recovery", "all"),
        meaning="Maximum number of fire times that one recovery catches up: the latest ones.",
    ),
    Row(
        name="catch_up_window_seconds",
        attribute="catch_up_window_ms",
        kind="seconds",
        low=LEAST_SECONDS,
        high=YEAR,
        default=DAY,
        needs=("recovery", "all"),
        meaning="Older fire times are not caught up.",
    ),
    Row(
        name="timeout_seconds",
        attribute="timeout_ms",
        kind="seconds",
        low=LEAST_SECONDS,
        high=DAY,
        default_text="CRONPOST_ATTEMPT_TIMEOUT_SECONDS",
        meaning="Deadline of one attempt, from name lookup to the last byte.",
    ),
    Row(
        name="starts_at",
        attribute="starts_at_ms",
        kind="instant",
        default_text="now",
        meaning="The job has no fire times before this.",
    ),
    Row(
        name="ends_at",
        attribute="ends_at_ms",
        kind="instant",
        default_text="never",
        meaning="The job has no fire times after this.",
    ),
    Row(
        name="max_runs",
        attribute="max_runs",
        kind="whole",
        low=1,
        high=1_000_000_000,
        default_text="unlimited",
        meaning="The job is completed after this many runs of its trigger.",
    ),
    Row(
        name="after_completion",
        attribute="delete_completed",
        kind="choice",
        choices=("keep", "delete"),
        default="keep",
        meaning="keep: a job without further fire times stays as completed, until the history expires. delete: it is "
        "deleted then.",
    ),
    Row(
        name="jitter_seconds",
        attribute="jitter_ms",
        kind="seconds",
        high=DAY,
        default=0,
        meaning="Each job gets one fixed delay below this, computed from its id, for all its fire times.",
    ),
    Row(
        name="continuations",
        attribute="continuations",
        kind="flag",
        default=False,
        meaning="A 2xx response may request further runs.",
    ),
    Row(
        name="min_interval_seconds",
        attribute="min_interval_ms",
        kind="seconds",
        high=YEAR,
        default=0,
        meaning="POST .../run starts nothing within this time after the start of the last successful run.",
    ),
    Row(
        name="completion",
        attribute="callback",
        kind="choice",
        choices=("response", "callback"),
        default="response",
        meaning="callback: a 2xx means that the run is taken; the runner reports the result later.",
    ),
    Row(
        name="run_timeout_seconds",
        attribute="run_timeout_ms",
        kind="seconds",
        low=LEAST_SECONDS,
        high=30 * DAY,
        default=3600,
        needs=("completion", "callback"),
        meaning="A run that is not completed within this time after it was taken is lost.",
    ),
    Row(
        name="heartbeat_timeout_seconds",
        attribute="heartbeat_timeout_ms",
        kind="seconds",
        low=LEAST_SECONDS,
        high=30 * DAY,
        default_text="no heartbeat is required",
        needs=("completion", "callback"),
        meaning="A run without a heartbeat for this time is lost.",
    ),
)
"""All fields but ``retry`` and ``limits``, which are objects with ``RETRY_ROWS`` and ``LIMIT_ROWS``."""
BY_NAME = {row.name: row for row in ROWS}
POLICY_FIELDS = (*BY_NAME, "retry", "limits")
