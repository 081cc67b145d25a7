"""Reads the optional fields of a job from a body, checks them against each other, shows and describes them.

Bodies have seconds, RFC 3339 instants and strings; a ``Policies`` has milliseconds and enums.

Two rules hold for all fields. The response of ``GET`` can be sent back in a ``PUT`` and changes nothing: ``null`` is
accepted wherever it is shown, and defaults are not stored. A field that requires another is refused without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, defstruct
from msgspec.structs import replace

from scheduler_api.wire.json_body import Fields, nested
from scheduler_api.wire.policy_row import Row
from scheduler_api.wire.policy_rows import BY_NAME, LIMIT_FIELDS, LIMIT_ROWS, RETRY_FIELDS, RETRY_ROWS, ROWS
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job
from scheduler_core.model.policies import DEFAULT_POLICIES, Limits, Overlap, Policies, Recovery, RetryRule


def policies_of(fields: Fields) -> Policies:
    """Read each field by itself; ``check_policies`` checks them together."""
    values = {name: BY_NAME[name].read(fields) for name in fields if name in BY_NAME}
    given = {BY_NAME[name].attribute: value for name, value in values.items() if value is not None}
    if "overlap" in given:
        given["overlap"] = Overlap(given["overlap"])
        if given["overlap"] is Overlap.ALLOW:
            given.setdefault("max_concurrent", BY_NAME["max_concurrent"].default)
    if "recovery" in given:
        given["recovery"] = Recovery(given["recovery"])
    if "callback" in given:
        given["callback"] = given["callback"] == "callback"
    if "delete_completed" in given:
        given["delete_completed"] = given["delete_completed"] == "delete"
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
    values = {row.attribute: row.read(parts, path="retry.") for row in RETRY_ROWS if row.name in parts}
    rule = RetryRule(**{name: value for name, value in values.items() if value is not None})
    if rule.cap_ms is not None and rule.first_delay_ms is not None and rule.cap_ms < rule.first_delay_ms:
        raise InvalidInput(
            "retry.max_delay_seconds must not be less than retry.first_delay_seconds", field="retry.max_delay_seconds"
        )
    return None if rule == RetryRule() else rule


def _limits_of(fields: Fields) -> Limits | None:
    if bytes(fields["limits"]) == b"null":
        return None
    parts = nested(fields["limits"], LIMIT_FIELDS, path="limits")
    limits = Limits(**{row.attribute: row.read(parts, path="limits.") for row in LIMIT_ROWS if row.name in parts})
    return None if limits == Limits() else limits


def check_policies(job: Job, fields: Fields) -> Job:
    """Remove defaults from the policies of ``job``. Raises InvalidInput for fields that contradict each other."""
    policies = job.policies
    choices = _choices(job.policies, job.overlap, job.recovery)
    for row in ROWS:
        if row.needs is None or row.name not in fields or bytes(fields[row.name]) == b"null":
            continue
        name, value = row.needs
        if choices[name] != value:
            raise InvalidInput(f"{row.name} is only allowed with {name} {value!r}", field=row.name)
    if policies.recovery is Recovery.NONE and job.recovery_check:
        raise InvalidInput("recovery 'none' contradicts recovery_check true", field="recovery")
    if policies.continuations and job.overlap is Overlap.ALLOW:
        raise InvalidInput(
            "continuations run one by one, so they cannot be combined with overlap 'allow'", field="continuations"
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
    """Show the optional fields of a job with their effective values; null if one does not apply.

    The answer may be shared: callers copy it.
    """
    if job.policies is DEFAULT_POLICIES:
        return _shown_by_default(job.overlap, job.recovery)
    return _shown(job.policies, job.overlap, job.recovery)


@lru_cache(maxsize=16)
def _shown_by_default(overlap: Overlap, recovery: Recovery) -> dict[str, Any]:
    """Most jobs set no policy: in a list of jobs, this saves a third of the work."""
    return _shown(DEFAULT_POLICIES, overlap, recovery)


def _shown(policies: Policies, overlap: Overlap, recovery: Recovery) -> dict[str, Any]:
    choices = _choices(policies, overlap, recovery)
    shown: dict[str, Any] = {}
    for row in ROWS:
        if row.name in choices:
            shown[row.name] = choices[row.name]
        elif row.needs is not None and choices[row.needs[0]] != row.needs[1]:
            shown[row.name] = None
        else:
            shown[row.name] = row.show(getattr(policies, row.attribute))
    rule = policies.retry
    shown["retry"] = None if rule is None else {row.name: row.show(getattr(rule, row.attribute)) for row in RETRY_ROWS}
    limits = policies.limits
    shown["limits"] = None
    if limits is not None:
        shown["limits"] = {row.name: row.show(getattr(limits, row.attribute)) for row in LIMIT_ROWS}
    return shown


def described_policies(*, sent: bool, partial: bool = False) -> list[tuple[str, Any, Any]]:
    """Return the optional fields of a job for ``defstruct``, as in a body that is ``sent`` or as in an answer.

    ``partial``: as in a body that has only the fields to change.
    """

    def part(name: str, rows: Sequence[Row], description: str) -> tuple[str, Any, Any]:
        fields = [(row.name, row.described(sent=sent), *((UNSET,) if sent else ())) for row in rows]
        schema = msgspec.json.schema(defstruct(name, fields, forbid_unknown_fields=sent))["$defs"][name]
        schema = {"anyOf": [schema, {"type": "null"}]}
        return name, Annotated[Any, Meta(description=description, extra_json_schema=schema)], UNSET

    return [
        *((row.name, row.described(sent=sent, partial=partial), UNSET) for row in ROWS),
        part("retry", RETRY_ROWS, "How a failed run is retried. Parts that are null or absent: the default rule."),
        part("limits", LIMIT_ROWS, "The most that its host receives. Parts that are null or absent: the settings."),
    ]


def _choices(policies: Policies, overlap: Overlap, recovery: Recovery) -> dict[str, str]:
    return {
        "overlap": overlap.value,
        "recovery": recovery.value,
        "completion": "callback" if policies.callback else "response",
        "after_completion": "delete" if policies.delete_completed else "keep",
    }
