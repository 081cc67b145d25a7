"""Reads and compares job definitions.

Every value stays the bytes that the server sent, so a payload is sent back byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from scheduler_api.cli.client import Server, job_path
from scheduler_api.cli.errors import EXIT_NOT_FOUND, Failed, local_problem

Fields = dict[str, msgspec.Raw]

READ_ONLY = frozenset(
    {
        "status",
        "next_fire_times",
        "held_for",
        "held_back",
        "paused_at",
        "paused_by",
        "paused_until",
        "pause_note",
        "completed_at",
        "quarantine_reason",
        "open_run",
        "open_runs",
        "pending",
        "replays",
        "last_run",
        "last_success",
        "health",
        "consecutive_failures",
        "failing_since",
        "last_success_at",
        "last_failure",
        "totals",
        "jitter_offset_seconds",
        "version",
        "created_at",
        "updated_at",
    }
)
"""Fields of ``GET /jobs/{id}`` that are not part of the definition. All others are sent back unchanged: a newer server
keeps or refuses a field that is unknown here; it is never lost silently."""

_decoder = msgspec.json.Decoder(Fields)
MAX_SHOWN = 200


class Stored(msgspec.Struct, frozen=True):
    """A stored job: the fields of its definition, and its version."""

    fields: Fields
    version: int | None


def stored_job(server: Server, job_id: str) -> Stored | None:
    """Read a job from the server; None if it does not exist."""
    try:
        answer = server.request("GET", job_path(job_id))
    except Failed as error:
        if error.exit_code == EXIT_NOT_FOUND:
            return None
        raise
    return stored_of(answer.content)


def stored_of(shown: bytes) -> Stored:
    """Read the definition and the version from a response to ``GET /jobs/{id}``."""
    fields = _decoder.decode(shown)
    version = msgspec.json.decode(fields["version"], type=int) if "version" in fields else None
    return Stored(definition_of(fields), version)


def definition_of(fields: Fields) -> Fields:
    """Return the fields that can be sent in a ``PUT``."""
    return {name: raw for name, raw in fields.items() if name not in READ_ONLY}


def is_schedule(fields: Fields) -> bool:
    """Return whether these are the fields of a schedule. A schedule cannot be stored with ``PUT /jobs/{id}``."""
    return "target_id" in fields or "interval_seconds" in fields


def is_unreadable(fields: Fields) -> bool:
    """Return whether the stored document is corrupt, so that the response contains no definition."""
    return "endpoint" not in fields and "target" not in fields and not is_schedule(fields)


def body_of(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """Encode the fields as a JSON object."""
    return b"{" + b", ".join(msgspec.json.encode(name) + b": " + bytes(raw) for name, raw in fields.items()) + b"}"


def fields_of(body: bytes) -> Fields | None:
    """Decode the fields of a body; None if it is not a JSON object."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


class Change(msgspec.Struct, frozen=True):
    """A field that differs. ``before`` or ``after`` is None where the job does not have the field."""

    field: str
    before: msgspec.Raw | None
    after: msgspec.Raw | None

    def line(self) -> str:
        """Format the change as one line."""
        return f"{self.field}: {_shown(self.before)} -> {_shown(self.after)}"


def changes_between(before: Fields, after: Fields) -> list[Change]:
    """List the fields that differ, in the order of ``after``; null counts as absent."""
    return list(_changes(before, after))


def _changes(before: Fields, after: Fields) -> Iterator[Change]:
    for name in dict.fromkeys((*after, *before)):
        old, new = before.get(name), after.get(name)
        if name == "payload":
            differ = (None if old is None else bytes(old)) != (None if new is None else bytes(new))
        else:
            differ = _value(old) != _value(new)
        if differ:
            yield Change(name, old, new)


def _value(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)


def _shown(raw: msgspec.Raw | None) -> str:
    if raw is None or bytes(raw) == b"null":
        return "not set" if raw is None else "null"
    value = bytes(raw)
    text = msgspec.json.decode(raw) if value.startswith(b'"') and value != b'""' else value.decode()
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def no_such_job(job_id: str) -> Failed:
    """Build the error of a command whose job does not exist."""
    detail = f"no job with id {job_id!r}"
    return Failed(detail, exit_code=EXIT_NOT_FOUND, problem=local_problem("Not Found", detail, "job_not_found"))
