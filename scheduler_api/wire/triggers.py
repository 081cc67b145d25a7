"""Reads and shows the trigger of a job: ``cron`` with ``timezone``, ``every_seconds``, ``at``, or none of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from scheduler_api.wire.json_body import INSTANT_FORMAT, Fields, instant_of, is_given, required
from scheduler_api.wire.policy_row import seconds
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import rfc3339
from scheduler_core.triggers.every import LONGEST_MS, SHORTEST_MS
from scheduler_core.triggers.trigger import (
    AtSpec,
    CronSpec,
    EverySpec,
    OnRequestSpec,
    TriggerSpec,
    read_cron,
)

TRIGGER_FIELDS = ("cron", "every_seconds", "at")
LEAST_EVERY_SECONDS = SHORTEST_MS / 1000
MAX_EVERY_SECONDS = LONGEST_MS // 1000
NOW = "now"


def trigger_of_fields(fields: Fields, job_id: str) -> TriggerSpec:
    """Read the trigger of a job. Raises InvalidInput with the field.

    ``plan.given`` completes it when the job is stored. Whether it fires again is checked then, too.
    """
    given = [name for name in TRIGGER_FIELDS if is_given(fields, name)]
    if len(given) > 1:
        raise InvalidInput(f"{given[0]} and {given[1]} are two triggers: send one of them", field=given[1])
    if given == ["cron"]:
        expression = required(
            fields, "cron", str, "a cron expression of 5, 6 or 7 fields, a macro such as @daily, or null"
        )
        timezone = required(fields, "timezone", str, "the IANA name of a time zone") if "timezone" in fields else None
        return read_cron(expression, timezone, job_id)
    if not given and "cron" not in fields:
        raise InvalidInput(
            "the field 'cron' is missing: send cron, every_seconds or at; \"cron\": null for a job that runs only on "
            "request",
            field="cron",
        )
    if "timezone" in fields:
        kind = f"beside {given[0]}" if given else "without a cron expression"
        raise InvalidInput(f"timezone has no meaning {kind}: leave it out", field="timezone")
    if not given:
        return OnRequestSpec()
    return _every(fields) if given == ["every_seconds"] else _at(fields)


def _every(fields: Fields) -> EverySpec:
    expected = f"a number of seconds from {LEAST_EVERY_SECONDS} to {MAX_EVERY_SECONDS} with at most three decimals"
    number = required(fields, "every_seconds", float, expected)
    exact = Decimal(bytes(fields["every_seconds"]).decode())
    if not LEAST_EVERY_SECONDS <= number <= MAX_EVERY_SECONDS or exact != round(exact, 3):
        raise InvalidInput(f"every_seconds must be {expected}", field="every_seconds")
    return EverySpec(int(exact * 1000))


def _at(fields: Fields) -> AtSpec:
    text = required(fields, "at", str, f'{INSTANT_FORMAT}, or "{NOW}"')
    return AtSpec(0, now=True) if text == NOW else AtSpec(instant_of(text, field="at"))


def show_trigger(spec: TriggerSpec) -> dict[str, Any]:
    """Return the fields of a job's trigger as they can be sent back."""
    if isinstance(spec, CronSpec):
        return {"cron": spec.expression, "timezone": spec.timezone}
    if isinstance(spec, EverySpec):
        return {"every_seconds": seconds(spec.every_ms)} if spec.expression is None else {"cron": spec.expression}
    return {"at": rfc3339(spec.at_ms)} if isinstance(spec, AtSpec) else {"cron": None}
