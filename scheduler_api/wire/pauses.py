"""Reads the body of a pause: of one job, of many, or of everything."""

from __future__ import annotations

import msgspec

from scheduler_api.wire import bodies
from scheduler_api.wire.bodies import MAX_NOTE_CHARACTERS, names_of
from scheduler_api.wire.json_body import INSTANT_FORMAT, WHITESPACE, Fields, instant_of, read_object, required
from scheduler_core.base.errors import InvalidInput


class PauseRequest(msgspec.Struct, frozen=True):
    """The body of a pause."""

    note: str = ""
    until_ms: int | None = None


def pause_request_of(body: bytes) -> PauseRequest:
    """Read the body of ``POST /jobs/{id}/pause`` and of ``POST /pause``; an empty one gives neither note nor end."""
    if not body.strip(WHITESPACE):
        return PauseRequest()
    return pause_fields_of(read_object(body, names_of(bodies.Pause)))


def pause_fields_of(fields: Fields) -> PauseRequest:
    """Read the fields ``note`` and ``until``; null means not given. Raises InvalidInput.

    The use case checks that ``until`` lies in the future.
    """
    note = required(fields, "note", str | None, "a string") if "note" in fields else None
    if note is not None and len(note) > MAX_NOTE_CHARACTERS:
        raise InvalidInput(f"note must have at most {MAX_NOTE_CHARACTERS} characters", field="note")
    until = required(fields, "until", str | None, INSTANT_FORMAT) if "until" in fields else None
    return PauseRequest(note or "", None if until is None else instant_of(until, field="until"))
