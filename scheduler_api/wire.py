"""What clients send: bodies as bytes in, checked values out.

The rules for a body are stricter than most JSON parsers are: UTF-8 without a byte order mark, no NaN, no trailing
text, no key twice in the object of the request, no nesting deeper than :data:`MAX_DEPTH`. The payload inside is
checked by the same parser but never turned into values, so that it can go out byte for byte as it came in.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from scheduler_core.delivery.target import check_url
from scheduler_core.errors import InvalidInput
from scheduler_core.job import Job
from scheduler_core.trigger import CronSpec, compile_trigger

MAX_DEPTH = 64
"""Objects and arrays within each other in a body, the outermost counted. Parsers of runners stop between 100 and
1000, and a deeper one than this is an attack or a mistake."""
MAX_ID_CHARACTERS = 255
MAX_RETRY_SECONDS = 86_400
"""The longest ``retry_already_running``: a day."""

JOB_FIELDS = ("id", "endpoint", "cron", "payload", "retry_already_running", "recovery_check", "timezone")
IGNORED_FIELDS = ("last_run",)
"""Old clients send back what an older server told them."""
RUN_FIELDS = ("force", "payload")

_RESERVED_ID = re.compile(r"(?:schedule|task)_[0-9]+\Z")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_FLAT = re.compile(rb"\[[^][{}]*+\]|\{[^][{}]*+\}")
_NOT_STRUCTURE = bytes(sorted(set(range(256)) - set(b"[]{}:")))
_WHITESPACE = b" \t\r\n"

Fields = dict[str, msgspec.Raw]

_fields_decoder = msgspec.json.Decoder(Fields)


def read_object(body: bytes, known: Iterable[str], *, ignored: Iterable[str] = ()) -> Fields:
    """The fields of the JSON object that ``body`` is, each as the bytes it was sent as.

    Raises InvalidInput for what is no such object, and for a field that is neither ``known`` nor ``ignored``.
    """
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidInput("the body starts with a byte order mark; send UTF-8 without one")
    try:
        # msgspec does not look at the bytes of strings that it passes over, so this is checked apart.
        body.decode("utf-8")
        fields = _fields_decoder.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: byte {error.start} ({error.reason})") from None
    except RecursionError:
        raise _too_deep() from None
    except msgspec.ValidationError:
        raise InvalidInput("the body must be a JSON object") from None
    except msgspec.DecodeError as error:
        empty = not body.strip(_WHITESPACE)
        raise InvalidInput("the body is empty" if empty else f"the body is not JSON: {error}") from None
    if _count_members(body) != len(fields):
        raise _given_twice(body)
    allowed = (*known, *ignored)
    for name in fields:
        if name not in allowed:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise InvalidInput(f"unknown field {name[:100]!r}; {hint}", field=name[:100])
    return fields


def _count_members(body: bytes) -> int:
    """How many members the object ``body`` (valid JSON) has, a key that comes twice counted twice.

    Works on the skeleton of the text, strings taken out, and takes away the innermost brackets until only the outer
    ones are left: no recursion, and as many passes as levels. Raises InvalidInput if there are too many.
    """
    skeleton = _STRING.sub(b"", body).translate(None, _NOT_STRUCTURE)[1:-1]
    for _ in range(MAX_DEPTH):
        if b"[" not in skeleton and b"{" not in skeleton:
            return len(skeleton)
        skeleton = _FLAT.sub(b"", skeleton)
    raise _too_deep()


def _too_deep() -> InvalidInput:
    return InvalidInput(f"the body is nested deeper than {MAX_DEPTH} levels")


def _given_twice(body: bytes) -> InvalidInput:
    def first_repeated(pairs: list[tuple[str, Any]]) -> str:
        names = [name for name, _ in pairs]
        return next((name for name in names if names.count(name) > 1), "")

    # The innermost objects come first, so what is returned in the end is the outermost's.
    name = json.loads(body, object_pairs_hook=first_repeated, parse_int=str, parse_float=str)
    return InvalidInput(f"the field {name[:100]!r} is given twice", field=name[:100])


def required(fields: Mapping[str, msgspec.Raw], name: str, kind: Any, words: str) -> Any:
    """The value of a field that has to be there, as ``kind``, strictly; ``words`` say what was expected."""
    if name not in fields:
        raise InvalidInput(f"the field {name!r} is missing: {words}", field=name)
    try:
        return msgspec.json.decode(fields[name], type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidInput(f"{name} must be {words}", field=name) from None


def job_of(fields: Mapping[str, msgspec.Raw], *, path_id: str | None = None) -> Job:
    """The job that a body asks for. With ``path_id``, its ``id`` may be absent, and must not be another.

    Raises InvalidInput naming the field. Whether the trigger fires again at all is asked when the job is stored.
    """
    if path_id is not None and "id" not in fields:
        job_id = check_id(path_id)
    else:
        job_id = check_id(required(fields, "id", str, "a string of 1 to 255 printable characters"))
        if path_id not in {None, job_id}:
            raise InvalidInput("the id in the body is not the one in the path", field="id")
    url = check_url(required(fields, "endpoint", str, "an absolute http or https URL"), field="endpoint")
    expression = required(fields, "cron", str, "a cron expression of 5, 6 or 7 fields, or a macro such as @daily")
    if "payload" not in fields:
        raise InvalidInput("the field 'payload' is missing: any JSON value, null included", field="payload")
    retry: int | None = None
    if "retry_already_running" in fields:
        words = f"a whole number of seconds from 0 to {MAX_RETRY_SECONDS}, or null"
        retry = required(fields, "retry_already_running", int | None, words)
        if retry is not None and not 0 <= retry <= MAX_RETRY_SECONDS:
            raise InvalidInput(f"retry_already_running must be {words}", field="retry_already_running")
    recovery: bool = "recovery_check" in fields and required(fields, "recovery_check", bool, "true or false")
    timezone = required(fields, "timezone", str, "the IANA name of a time zone") if "timezone" in fields else "UTC"
    trigger = CronSpec(expression, timezone)
    compile_trigger(trigger)
    return Job(
        id=job_id,
        url=url,
        trigger=trigger,
        payload=bytes(fields["payload"]),
        retry_already_running=retry,
        recovery_check=recovery,
    )


def check_id(job_id: str) -> str:
    """``job_id`` if it can be a job's; raises InvalidInput.

    Printable is what ``str.isprintable`` takes: letters, marks, numbers, punctuation, symbols and the plain space. Not
    printable are control and format characters (direction overrides among them), line breaks, other spaces and what
    Unicode has not assigned: an id is shown to people, and must not show as another.
    """
    if not 1 <= len(job_id) <= MAX_ID_CHARACTERS:
        raise InvalidInput(f"id must have 1 to {MAX_ID_CHARACTERS} characters, and has {len(job_id)}", field="id")
    if not job_id.isprintable():
        character = next(character for character in job_id if not character.isprintable())
        raise InvalidInput(f"id holds U+{ord(character):04X}, which is not a printable character", field="id")
    if _RESERVED_ID.match(job_id):
        raise InvalidInput("ids of the form schedule_<digits> and task_<digits> are kept for others", field="id")
    return job_id


def run_request_of(body: bytes) -> tuple[bool, bytes | None]:
    """``force`` and ``payload`` of a request to run a job now; an empty body asks for neither."""
    if not body.strip(_WHITESPACE):
        return False, None
    fields = read_object(body, RUN_FIELDS)
    force: bool = "force" in fields and required(fields, "force", bool, "true or false")
    return force, bytes(fields["payload"]) if "payload" in fields else None
