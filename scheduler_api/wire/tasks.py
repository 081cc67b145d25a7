"""Reads and checks the bodies of one-off tasks.

Clients of this part of the API send additional fields, with any Content-Type: unknown fields are ignored.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from scheduler_api.wire.bodies import MAX_TASKS, TaskBody, names_of
from scheduler_api.wire.json_body import WHITESPACE, instant_of, refuse_repeated
from scheduler_core.base.config import BY_NAME
from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.registry import installed_kinds
from scheduler_core.model.task import Task
from scheduler_core.store.tasks import PARTS, RULES, Place

EXECUTE_AT_FORMAT = "an RFC 3339 instant with its offset, such as 2030-01-31T12:00:00Z"

_BELOW_A_MILLISECOND = re.compile(r"\.\d{3}\d*[1-9]")
_CURSOR = re.compile(r"([a-z]+)-([0-9]{1,15})-([0-9]{1,15})\Z", re.ASCII)


class _Sent(msgspec.Struct):
    """The fields of a task before their check."""

    webhook_url: Any = msgspec.field(default=msgspec.UNSET, name="webhookUrl")
    webhook_auth: Any = msgspec.field(default=None, name="webhookAuth")
    execute_at: Any = msgspec.field(default=msgspec.UNSET, name="executeAt")


SENT = frozenset(names_of(TaskBody))

_items_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_sent_decoder = msgspec.json.Decoder(_Sent)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def tasks_of(body: bytes, guard: AddressGuard) -> tuple[list[Task], bool, set[str]]:
    """Read the tasks in a body. Returns also whether the body is an array, and the ignored fields.

    Raises InvalidInput for the first invalid task; in an array, the field's name starts with its index (from 0).
    """
    text = _json_text(body, "an object, or an array of 1 to 1000 of them")
    if not text.startswith(b"["):
        return [_task_of(text, guard)], False, _unknown(text)
    try:
        items = _items_decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _no_json(error) from None
    if not 1 <= len(items) <= MAX_TASKS:
        raise InvalidInput(f"the array must hold 1 to {MAX_TASKS} tasks, and holds {len(items)}")
    tasks: list[Task] = []
    unknown: set[str] = set()
    for place, item in enumerate(items):
        try:
            tasks.append(_task_of(bytes(item), guard))
            unknown |= _unknown(item)
        except InvalidInput as error:
            field = f"[{place}]" if error.field is None else f"[{place}].{error.field}"
            raise InvalidInput(f"element {place} (the first is 0): {error.detail}", field=field) from None
    return tasks, True, unknown


def _unknown(task: bytes | msgspec.Raw) -> set[str]:
    """Find the unknown fields of a valid task."""
    return _fields_decoder.decode(task).keys() - SENT


def rules_of(body: bytes) -> tuple[dict[str, int], set[str]]:
    """Read the settings that a body changes, and the ignored fields. Raises InvalidInput."""
    text = _json_text(body, f"an object with some of {', '.join(RULES)}")
    try:
        fields = _fields_decoder.decode(text)
    except msgspec.ValidationError:
        raise InvalidInput(f"the body must be a JSON object with some of {', '.join(RULES)}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _no_json(error) from None
    refuse_repeated(text)
    changes: dict[str, int] = {}
    for name in RULES:
        if name in fields:
            setting = BY_NAME[name]
            try:
                changes[name] = msgspec.json.decode(fields[name], type=setting.convert_to)
            except (msgspec.MsgspecError, RecursionError):
                raise InvalidInput(f"{name} must be {setting.kind}", field=name) from None
    return changes, set(fields) - set(RULES)


def execute_at_of(text: str) -> int:
    """Read ``executeAt`` as epoch milliseconds, rounded up so that the call is not early."""
    at_ms = instant_of(text, field="executeAt")
    return at_ms + 1 if _BELOW_A_MILLISECOND.search(text) else at_ms


def write_cursor(place: Place) -> str:
    """Encode where the next page begins."""
    return f"{place.part}-{place.score}-{place.number}"


def read_cursor(cursor: str, parts: tuple[str, ...]) -> Place:
    """Decode the text of ``write_cursor`` for a list of ``parts``. Raises InvalidInput."""
    match = _CURSOR.match(cursor)
    if match is None or match[1] not in PARTS or match[1] not in parts:
        raise InvalidInput("not a cursor of this list; use next of an earlier page, or none", field="cursor")
    return Place(match[1], int(match[2]), int(match[3]))


def _json_text(body: bytes, expected: str) -> bytes:
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidInput("the body starts with a byte order mark; send UTF-8 without one")
    try:
        # msgspec does not check the strings that it skips.
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: byte {error.start} ({error.reason})") from None
    text = body.strip(WHITESPACE)
    if not text:
        raise InvalidInput(f"the body is empty; it must be {expected}")
    return text


def _no_json(error: Exception) -> InvalidInput:
    return InvalidInput(
        "the body is nested too deeply" if isinstance(error, RecursionError) else f"the body is not JSON: {error}"
    )


def _task_of(text: bytes, guard: AddressGuard) -> Task:
    try:
        sent = _sent_decoder.decode(text)
    except msgspec.ValidationError:
        raise InvalidInput("a task must be a JSON object") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _no_json(error) from None
    refuse_repeated(text)
    if sent.webhook_url is msgspec.UNSET:
        raise InvalidInput("the field 'webhookUrl' is missing: an absolute http or https URL", field="webhookUrl")
    if not isinstance(sent.webhook_url, str):
        raise InvalidInput("webhookUrl must be an absolute http or https URL", field="webhookUrl")
    kinds = installed_kinds()
    kinds.check_url(sent.webhook_url, field="webhookUrl")
    kinds.check_allowed(guard, sent.webhook_url, field="webhookUrl")
    auth = sent.webhook_auth
    if auth is not None:
        if not isinstance(auth, str):
            raise InvalidInput("webhookAuth must be a string or null", field="webhookAuth")
        kinds.check_headers(sent.webhook_url, {"Authorization": auth}, field="webhookAuth")
    if sent.execute_at is msgspec.UNSET:
        raise InvalidInput(f"the field 'executeAt' is missing: {EXECUTE_AT_FORMAT}", field="executeAt")
    if not isinstance(sent.execute_at, str):
        raise InvalidInput(f"executeAt must be {EXECUTE_AT_FORMAT}", field="executeAt")
    return Task(sent.webhook_url, execute_at_of(sent.execute_at), 0, "", auth=auth)
