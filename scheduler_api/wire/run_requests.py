"""Request bodies about the runs of a job: run now, backfill, pending list, and what a runner reports by callback."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from scheduler_api.wire import bodies
from scheduler_api.wire.bodies import DEFAULT_BACKFILL, MAX_BACKFILL, names_of
from scheduler_api.wire.json_body import (
    INSTANT_FORMAT,
    WHITESPACE,
    Fields,
    instant_of,
    items,
    nested,
    read_object,
    required,
)
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.run import RunState
from scheduler_core.plan.continuation import LATEST_MS, PAYLOAD_BYTES, PENDING_LIMIT

MAX_MESSAGE_CHARACTERS = 1000
"""Longer messages of a callback are truncated: a long message must not prevent the completion of a run."""


class RunRequest(msgspec.Struct, frozen=True):
    """The body of ``POST /jobs/{id}/run``."""

    force: bool = False
    payload: bytes | None = None
    not_before_ms: int | None = None


def run_request_of(body: bytes) -> RunRequest:
    """Read the body of ``POST /jobs/{id}/run``; an empty one sets nothing."""
    fields = _fields_if_any(body, names_of(bodies.RunNow))
    return RunRequest(
        force="force" in fields and required(fields, "force", bool, "true or false"),
        payload=bytes(fields["payload"]) if "payload" in fields else None,
        not_before_ms=_instant(fields, "not_before") if "not_before" in fields else None,
    )


class RetryRequest(msgspec.Struct, frozen=True):
    """The body of ``POST /runs/{id}/retry``."""

    current: bool = False
    """Whether the job may have another definition than the run."""
    force: bool = False


def retry_request_of(body: bytes) -> RetryRequest:
    """Read the body of ``POST /runs/{id}/retry``; an empty one sets nothing."""
    fields = _fields_if_any(body, names_of(bodies.RetryRun))
    expected = '"current"; leave it out to refuse a job that was changed since the run'
    current = "definition" in fields
    if current and required(fields, "definition", str, expected) != "current":
        raise InvalidInput(f"definition must be {expected}", field="definition")
    return RetryRequest(current, "force" in fields and required(fields, "force", bool, "true or false"))


class BackfillRequest(msgspec.Struct, frozen=True):
    """The fire times to run again: from ``start_ms`` to ``end_ms``, both included, at most ``limit``."""

    start_ms: int
    end_ms: int
    limit: int


def backfill_of(body: bytes) -> BackfillRequest:
    """Read the body of ``POST /jobs/{id}/backfill``."""
    fields = read_object(body, names_of(bodies.Backfill))
    start_ms, end_ms = _instant(fields, "start"), _instant(fields, "end")
    if end_ms < start_ms:
        raise InvalidInput("end must not be earlier than start", field="end")
    limit = DEFAULT_BACKFILL
    if "limit" in fields:
        expected = f"a whole number from 1 to {MAX_BACKFILL}"
        limit = required(fields, "limit", int, expected)
        if not 1 <= limit <= MAX_BACKFILL:
            raise InvalidInput(f"limit must be {expected}", field="limit")
    return BackfillRequest(start_ms, end_ms, limit)


class PendingEntry(msgspec.Struct, frozen=True):
    """An entry of the pending list. Without a time it may start at once."""

    payload: bytes | None = None
    not_before_ms: int | None = None
    after_ms: int | None = None

    def at_ms(self, now_ms: int) -> int | None:
        """Return its not-before time for a request at ``now_ms``; None: at once."""
        return self.not_before_ms if self.after_ms is None else now_ms + self.after_ms


def pending_of(body: bytes) -> Sequence[PendingEntry]:
    """Read the body of ``PUT /jobs/{id}/pending``: an array of entries, or an object with it as ``pending``."""
    if body.lstrip(WHITESPACE).startswith(b"["):
        # Read by the same rules: text after the array is a second member or invalid JSON, and is refused.
        body = b'{"pending":' + body + b"}"
    fields = read_object(body, names_of(bodies.PendingBody))
    required(fields, "pending", list[msgspec.Raw], "an array of entries")
    entries = items(fields["pending"], path="pending")
    if len(entries) > PENDING_LIMIT:
        raise InvalidInput(
            f"at most {PENDING_LIMIT} runs can be pending for a job, and the list has {len(entries)}", field="pending"
        )
    return [_pending_entry(raw, f"pending[{index}]") for index, raw in enumerate(entries)]


def _pending_entry(raw: msgspec.Raw, path: str) -> PendingEntry:
    fields = nested(raw, names_of(bodies.PendingEntry), path=path)
    payload = bytes(fields["payload"]) if "payload" in fields else None
    if payload is not None and len(payload) > PAYLOAD_BYTES:
        raise InvalidInput(
            f"the payload of a pending run must have at most {PAYLOAD_BYTES} bytes", field=f"{path}.payload"
        )
    if "after_seconds" not in fields:
        not_before_ms = _instant(fields, "not_before", path=f"{path}.") if "not_before" in fields else None
        return PendingEntry(payload, not_before_ms)
    if "not_before" in fields:
        raise InvalidInput("give either not_before or after_seconds", field=f"{path}.after_seconds")
    expected = f"a number of seconds from 0 to {LATEST_MS // 1000}"
    after: float = required(fields, "after_seconds", float, expected, path=f"{path}.")
    if not 0 <= after * 1000 <= LATEST_MS:
        raise InvalidInput(f"{path}.after_seconds must be {expected}", field=f"{path}.after_seconds")
    return PendingEntry(payload, after_ms=round(after * 1000))


class Completion(msgspec.Struct, frozen=True):
    """How a run ended, as its runner reports by callback."""

    state: RunState
    message: str = ""
    continuation: bytes | None = None
    """The JSON text of ``continue``."""


def completion_of(body: bytes) -> Completion:
    """Read the body of ``POST /runs/{id}/complete``."""
    fields = read_object(body, names_of(bodies.Completion))
    expected = '"succeeded" or "failed"'
    state = required(fields, "state", str, expected)
    if state not in {RunState.SUCCEEDED, RunState.FAILED}:
        raise InvalidInput(f"state must be {expected}", field="state")
    continuation = bytes(fields["continue"]) if "continue" in fields else None
    if continuation is not None and state == RunState.FAILED:
        raise InvalidInput(
            "continue is only allowed with state succeeded; to add runs after a failure use PUT .../pending",
            field="continue",
        )
    return Completion(RunState(state), _text(fields, "message"), continuation)


class Heartbeat(msgspec.Struct, frozen=True):
    """The progress of a run, as its runner reports by callback."""

    progress: float | None = None
    note: str = ""


def heartbeat_of(body: bytes) -> Heartbeat:
    """Read the body of ``POST /runs/{id}/heartbeat``; an empty one reports no progress."""
    fields = _fields_if_any(body, names_of(bodies.Heartbeat))
    expected = "a number from 0 to 1, or null"
    progress = required(fields, "progress", float | None, expected) if "progress" in fields else None
    if progress is not None and not 0 <= progress <= 1:
        raise InvalidInput(f"progress must be {expected}", field="progress")
    return Heartbeat(progress, _text(fields, "note"))


def _fields_if_any(body: bytes, known: Sequence[str]) -> Fields:
    return read_object(body, known) if body.strip(WHITESPACE) else {}


def _instant(fields: Fields, name: str, *, path: str = "") -> int:
    return instant_of(required(fields, name, str, INSTANT_FORMAT, path=path), field=path + name)


def _text(fields: Fields, name: str) -> str:
    if name not in fields:
        return ""
    text: str = required(fields, name, str, "a string")
    return text[:MAX_MESSAGE_CHARACTERS]
