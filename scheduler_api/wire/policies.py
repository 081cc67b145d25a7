"""The optional fields of a job, one row each: how they are read, shown and described.

The rows are the only place where a field's name, bounds and default stand; bodies, answers, the description for
machines and the command line's options are made from them. Bodies have seconds, RFC 3339 instants and words; a
``Policies`` has milliseconds and enums.

Two rules hold for all of them. What ``GET`` shows can be put again and changes nothing: ``null`` is taken wherever it
is shown, and what would hold anyway is not stored. And a field that has no meaning without another is refused where
that other is not given.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from scheduler_api.wire.json_body import INSTANT_WORDS, Fields, instant_of, nested, required
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.job import DEFAULT_POLICIES, Job, Limits, Overlap, Policies, Recovery, RetryRule

DAY = 86_400
YEAR = 366 * DAY
LEAST_SECONDS = 0.001

Kind = Literal["seconds", "number", "whole", "flag", "instant", "choice", "statuses"]

_JSON_KINDS: dict[Kind, Any] = {
    "seconds": float,
    "number": float,
    "whole": int,
    "flag": bool,
    "instant": str,
    "choice": str,
    "statuses": list[int],
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One field."""

    name: str
    """As clients know it."""
    attribute: str
    """Where it is kept. Seconds and instants are kept in milliseconds."""
    kind: Kind
    meaning: str
    low: float = 0
    high: float = math.inf
    choices: tuple[str, ...] = ()
    default: Any = None
    """What holds when it is not given, as clients see it; None: what ``usual`` says."""
    usual: str = ""
    """What holds when it is not given, where that is no one value."""
    needs: tuple[str, str] | None = None
    """A field, and the value that it must have."""

    @property
    def takes_null(self) -> bool:
        """Whether ``null`` is taken, and shown: for «not given»."""
        return self.needs is not None or (self.default is None and self.kind != "choice")

    @property
    def words(self) -> str:
        """What a value looks like."""
        nouns = {"seconds": "a number of seconds", "number": "a number", "whole": "a whole number"}
        if self.kind in nouns:
            text = f"{nouns[self.kind]} from {self.low:g} to {self.high:.10g}"
        elif self.kind == "choice":
            text = "one of " + ", ".join(self.choices)
        elif self.kind == "statuses":
            text = "a list of statuses from 400 to 599, without 409"
        else:
            text = INSTANT_WORDS if self.kind == "instant" else "true or false"
        return f"{text}, or null" if self.takes_null else text

    def read(self, fields: Fields, *, path: str = "") -> Any:
        """The value in ``fields`` as it is kept; None for null. Raises InvalidInput, naming the field."""
        kind = _JSON_KINDS[self.kind]
        value = required(fields, self.name, kind | None if self.takes_null else kind, self.words, path=path)
        if value is None:
            return None
        field = path + self.name
        if self.kind == "instant":
            return instant_of(value, field=field)
        if self.kind == "statuses":
            good = all(400 <= status <= 599 and status != 409 for status in value)
        elif self.kind == "choice":
            good = value in self.choices
        else:
            good = self.kind == "flag" or self.low <= value <= self.high
        if not good:
            raise InvalidInput(f"{field} must be {self.words}", field=field)
        if self.kind == "seconds":
            return round(value * 1000)
        return tuple(sorted(set(value))) if self.kind == "statuses" else value

    def show(self, kept: Any) -> Any:
        """What is kept, as clients see it."""
        if kept is None:
            return None
        if self.kind == "seconds":
            return seconds(kept)
        if self.kind == "instant":
            return rfc3339(kept)
        return list(kept) if self.kind == "statuses" else kept


RETRY_ROWS = (
    Row(
        name="attempts",
        attribute="attempts",
        kind="whole",
        low=1,
        high=1000,
        usual="as many as the age allows",
        meaning="Attempts of a run in all, the first one counted; 1: never tried again.",
    ),
    Row(
        name="first_delay_seconds",
        attribute="first_delay_ms",
        kind="seconds",
        low=0.1,
        high=DAY,
        usual="1 s",
        meaning="The delay before the second attempt, and before the third.",
    ),
    Row(
        name="factor",
        attribute="factor",
        kind="number",
        low=1,
        high=10,
        usual="2",
        meaning="How much longer each further delay is than the one before.",
    ),
    Row(
        name="max_delay_seconds",
        attribute="cap_ms",
        kind="seconds",
        low=0.1,
        high=DAY,
        usual="CRONPOST_RETRY_MAX_DELAY_SECONDS",
        meaning="The longest delay.",
    ),
    Row(
        name="statuses",
        attribute="statuses",
        kind="statuses",
        usual="none",
        meaning="Answers that are retried besides 408, 425, 429, 502, 503 and 504.",
    ),
    Row(
        name="max_age_seconds",
        attribute="max_age_ms",
        kind="seconds",
        low=LEAST_SECONDS,
        high=30 * DAY,
        usual="CRONPOST_RETRY_FOR_MAX_SECONDS",
        meaning="How long after its first attempt a run is still retried.",
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
        usual="CRONPOST_TARGET_MAX_IN_FLIGHT",
        meaning="A request of the job begins only while a node has fewer open to its host, of whatever job.",
    ),
    Row(
        name="rate",
        attribute="rate",
        kind="number",
        low=0.001,
        high=1_000_000,
        usual="CRONPOST_TARGET_RATE",
        meaning="Requests a second to its host over all nodes, of whatever job, beyond which those of the job wait.",
    ),
)
LIMIT_FIELDS = tuple(row.name for row in LIMIT_ROWS)

ROWS = (
    Row(
        name="overlap",
        attribute="overlap",
        kind="choice",
        choices=tuple(choice.value for choice in Overlap),
        usual="queue_one with retry_already_running, else skip",
        meaning="What becomes of a fire time that arrives while the run before it is not settled.",
    ),
    Row(
        name="max_concurrent",
        attribute="max_concurrent",
        kind="whole",
        low=1,
        high=1000,
        default=10,
        needs=("overlap", "allow"),
        meaning="The most runs of the job at the same time.",
    ),
    Row(
        name="recovery",
        attribute="recovery",
        kind="choice",
        choices=tuple(choice.value for choice in Recovery),
        usual="latest with recovery_check, else none",
        meaning="What becomes of fire times that passed while no node was alive.",
    ),
    Row(
        name="catch_up_limit",
        attribute="catch_up_limit",
        kind="whole",
        low=1,
        high=1000,
        default=10,
        needs=("recovery", "all"),
        meaning="The most fire times that one recovery catches up: the latest ones.",
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
        usual="CRONPOST_ATTEMPT_TIMEOUT_SECONDS",
        meaning="Total deadline of one attempt.",
    ),
    Row(
        name="starts_at",
        attribute="starts_at_ms",
        kind="instant",
        usual="now",
        meaning="No fire time lies before it.",
    ),
    Row(
        name="ends_at",
        attribute="ends_at_ms",
        kind="instant",
        usual="never",
        meaning="No fire time lies after it.",
    ),
    Row(
        name="max_runs",
        attribute="max_runs",
        kind="whole",
        low=1,
        high=1_000_000_000,
        usual="without end",
        meaning="After so many runs of its trigger the job is done.",
    ),
    Row(
        name="jitter_seconds",
        attribute="jitter_ms",
        kind="seconds",
        high=DAY,
        default=0,
        meaning="All fire times come later by one offset below this, which the id decides.",
    ),
    Row(
        name="continuations",
        attribute="continuations",
        kind="flag",
        default=False,
        meaning="A 2xx answer may ask for further runs.",
    ),
    Row(
        name="min_interval_seconds",
        attribute="min_interval_ms",
        kind="seconds",
        high=YEAR,
        default=0,
        meaning="POST .../run starts nothing so soon after the last start that led to success.",
    ),
    Row(
        name="completion",
        attribute="callback",
        kind="choice",
        choices=("response", "callback"),
        default="response",
        meaning="callback: a 2xx means «taken», and the runner says later how the run ended.",
    ),
    Row(
        name="run_timeout_seconds",
        attribute="run_timeout_ms",
        kind="seconds",
        low=LEAST_SECONDS,
        high=30 * DAY,
        default=3600,
        needs=("completion", "callback"),
        meaning="A run that is not completed so long after it was taken is lost.",
    ),
    Row(
        name="heartbeat_timeout_seconds",
        attribute="heartbeat_timeout_ms",
        kind="seconds",
        low=LEAST_SECONDS,
        high=30 * DAY,
        usual="no heartbeat is expected",
        needs=("completion", "callback"),
        meaning="A run without a sign of life for so long is lost.",
    ),
)
"""All but ``retry`` and ``limits``, which are objects of ``RETRY_ROWS`` and ``LIMIT_ROWS``."""
BY_NAME = {row.name: row for row in ROWS}
POLICY_FIELDS = (*BY_NAME, "retry", "limits")


def policies_of(fields: Fields) -> Policies:
    """What ``fields`` ask for, each by itself; ``check_policies`` looks at them together."""
    asked = {name: BY_NAME[name].read(fields) for name in fields if name in BY_NAME}
    given = {BY_NAME[name].attribute: value for name, value in asked.items() if value is not None}
    if "overlap" in given:
        given["overlap"] = Overlap(given["overlap"])
        if given["overlap"] is Overlap.ALLOW:
            given.setdefault("max_concurrent", BY_NAME["max_concurrent"].default)
    if "recovery" in given:
        given["recovery"] = Recovery(given["recovery"])
    if "callback" in given:
        given["callback"] = given["callback"] == "callback"
    if "retry" in fields:
        given["retry"] = _retry_of(fields)
    if "limits" in fields:
        given["limits"] = _limits_of(fields)
    policies = Policies(**given)
    return DEFAULT_POLICIES if policies == DEFAULT_POLICIES else policies


def _retry_of(fields: Fields) -> RetryRule | None:
    if bytes(fields["retry"]) == b"null":
        return None
    parts = nested(fields["retry"], RETRY_FIELDS, path="retry")
    asked = {row.attribute: row.read(parts, path="retry.") for row in RETRY_ROWS if row.name in parts}
    rule = RetryRule(**{name: value for name, value in asked.items() if value is not None})
    if rule.cap_ms is not None and rule.first_delay_ms is not None and rule.cap_ms < rule.first_delay_ms:
        raise InvalidInput(
            "retry.max_delay_seconds is less than retry.first_delay_seconds", field="retry.max_delay_seconds"
        )
    return None if rule == RetryRule() else rule


def _limits_of(fields: Fields) -> Limits | None:
    if bytes(fields["limits"]) == b"null":
        return None
    parts = nested(fields["limits"], LIMIT_FIELDS, path="limits")
    limits = Limits(**{row.attribute: row.read(parts, path="limits.") for row in LIMIT_ROWS if row.name in parts})
    return None if limits == Limits() else limits


def check_policies(job: Job, fields: Fields) -> Job:
    """``job`` without what would hold anyway. Raises InvalidInput for fields that do not go together."""
    policies = job.policies
    choices = _choices(job)
    for row in ROWS:
        if row.needs is None or row.name not in fields or bytes(fields[row.name]) == b"null":
            continue
        name, value = row.needs
        if choices[name] != value:
            raise InvalidInput(f"{row.name} has a meaning only with {name} {value!r}", field=row.name)
    if policies.recovery is Recovery.NONE and job.recovery_check:
        raise InvalidInput("recovery 'none' contradicts recovery_check true", field="recovery")
    if policies.continuations and job.overlap is Overlap.ALLOW:
        raise InvalidInput(
            "continuations are worked off one by one, which overlap 'allow' is not", field="continuations"
        )
    starts, ends = policies.starts_at_ms, policies.ends_at_ms
    if starts is not None and ends is not None and ends <= starts:
        raise InvalidInput("ends_at must be later than starts_at", field="ends_at")
    bare = replace(job, policies=replace(policies, overlap=None, recovery=None))
    policies = replace(
        policies,
        overlap=None if policies.overlap == bare.overlap else policies.overlap,
        recovery=None if policies.recovery == bare.recovery else policies.recovery,
    )
    return replace(job, policies=DEFAULT_POLICIES if policies == DEFAULT_POLICIES else policies)


def show_policies(job: Job) -> dict[str, Any]:
    """The optional fields of a job with the values that hold. A field without meaning for the job is null."""
    choices = _choices(job)
    shown: dict[str, Any] = {}
    for row in ROWS:
        if row.name in choices:
            shown[row.name] = choices[row.name]
        elif row.needs is not None and choices[row.needs[0]] != row.needs[1]:
            shown[row.name] = None
        else:
            shown[row.name] = row.show(getattr(job.policies, row.attribute))
    rule = job.policies.retry
    shown["retry"] = None if rule is None else {row.name: row.show(getattr(rule, row.attribute)) for row in RETRY_ROWS}
    limits = job.policies.limits
    shown["limits"] = None
    if limits is not None:
        shown["limits"] = {row.name: row.show(getattr(limits, row.attribute)) for row in LIMIT_ROWS}
    return shown


def _choices(job: Job) -> dict[str, str]:
    return {
        "overlap": job.overlap.value,
        "recovery": job.recovery.value,
        "completion": "callback" if job.policies.callback else "response",
    }


def seconds(duration_ms: int) -> float:
    """Milliseconds as seconds; a whole number where it is one."""
    return duration_ms // 1000 if duration_ms % 1000 == 0 else duration_ms / 1000
