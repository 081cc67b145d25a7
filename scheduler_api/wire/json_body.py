"""JSON as clients send it: checked bytes in, fields out.

The rules are stricter than those of most JSON parsers: UTF-8 without a byte order mark, no NaN, no trailing text, no
key twice in an object that is read field by field, no nesting deeper than ``MAX_DEPTH``. Values inside are checked
by the same parser, but a payload is never turned into values, so that it can go out byte for byte as it came in.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from scheduler_core.base.errors import InvalidInput

MAX_DEPTH = 64
"""Objects and arrays within each other in a body, the outermost counted. Parsers of runners stop between 100 and
1000, and a deeper one than this is an attack or a mistake."""
INSTANTS_END_MS = 221_845_392_000_000
"""Instants from the year 9000 on are refused: the calendar ends in the year 9999."""
INSTANT_FORMAT = "an RFC 3339 instant with its offset, such as 2030-01-31T12:00:00Z"

WHITESPACE = b" \t\r\n"

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_FLAT = re.compile(rb"\[[^][{}]*+\]|\{[^][{}]*+\}")
_NOT_STRUCTURE = bytes(sorted(set(range(256)) - set(b"[]{}:")))
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d{1,20})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Fields = dict[str, msgspec.Raw]

_fields_decoder = msgspec.json.Decoder(Fields)
_items_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def read_object(body: bytes, known: Iterable[str] | None, *, ignored: Iterable[str] = ()) -> Fields:
    """The fields of the JSON object that ``body`` is, each as the bytes it was sent as.

    Raises InvalidInput for what is no such object, and for a field that is neither ``known`` nor ``ignored``; with
    ``known`` None, any field is taken.
    """
    _check_text(body)
    try:
        fields = _fields_decoder.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except msgspec.ValidationError:
        raise InvalidInput("the body must be a JSON object") from None
    except msgspec.DecodeError as error:
        raise _not_json(body, error) from None
    if _count_members(body) != len(fields):
        raise _repeated(body)
    if known is None:
        return fields
    known = tuple(known)
    allowed = (*known, *ignored)
    for name in fields:
        if name not in allowed:
            close = nearest(name, known)
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(known) or 'none'}"
            raise InvalidInput(f"unknown field {name[:100]!r}; {hint}", field=name[:100])
    return fields


def refuse_repeated(body: bytes, *, path: str = "") -> None:
    """Raise InvalidInput if a key comes twice in ``body``, a valid JSON object: parsers differ in which one they take.

    ``path`` is what leads to the object from the outside, such as ``headers.``.
    """
    if _count_members(body.strip(WHITESPACE)) != len(_fields_decoder.decode(body)):
        error = _repeated(body)
        raise InvalidInput(error.detail, field=f"{path}{error.field}")


def read_array(body: bytes, *, limit: int) -> list[msgspec.Raw]:
    """The elements of the JSON array that ``body`` is, each as the bytes it was sent as; each may be any JSON.

    Raises InvalidInput for what is no such array, and for one that is empty or has more than ``limit`` elements.
    """
    try:
        _check_text(body)
        found = _items_decoder.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except msgspec.ValidationError:
        raise InvalidInput(f"the body must be a JSON array of 1 to {limit} elements") from None
    except msgspec.DecodeError as error:
        raise _not_json(body, error) from None
    if not 1 <= len(found) <= limit:
        raise InvalidInput(f"the body must be an array of 1 to {limit} elements, and has {len(found)}")
    return found


def _check_text(body: bytes) -> None:
    """msgspec does not look at the bytes of strings that it passes over, so this is checked apart."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidInput("the body starts with a byte order mark; send UTF-8 without one")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: byte {error.start} ({error.reason})") from None


def _not_json(body: bytes, error: Exception) -> InvalidInput:
    field = _field_with_half_a_pair(body)
    if field is not None:
        return InvalidInput(f"{field} holds one half of a surrogate pair, which is no character", field=field)
    empty = not body.strip(WHITESPACE)
    return InvalidInput("the body is empty" if empty else f"the body is not JSON: {error}")


def _field_with_half_a_pair(body: bytes) -> str | None:
    """The first field of an object that holds half of a surrogate pair, such as ``\\ud800``; None: there is none.

    msgspec reports the place, not the field.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for name, value in fields.items() if isinstance(fields, dict) else ():
        try:
            json.dumps([name, value], ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return ascii(name)[1:-1][:100]
    return None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most likely meant: one that begins so (``timeout`` for ``timeout_seconds``), or one that
    is spelt much alike."""
    known = tuple(known)
    longer = [one for one in known if name and one.startswith(f"{name}_")]
    return next(iter(longer or difflib.get_close_matches(name, known, n=1)), None)


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


def _repeated(body: bytes) -> InvalidInput:
    def first_repeated(pairs: list[tuple[str, Any]]) -> str:
        names = [name for name, _ in pairs]
        return next((name for name in names if names.count(name) > 1), "")

    # The innermost objects come first, so what is returned in the end is the outermost's.
    name = json.loads(body, object_pairs_hook=first_repeated, parse_int=str, parse_float=str)
    return InvalidInput(f"the field {name[:100]!r} is given twice", field=name[:100])


def is_given(fields: Fields, name: str) -> bool:
    """Whether the field is there and not null."""
    return name in fields and bytes(fields[name]).strip() != b"null"


def required(fields: Mapping[str, msgspec.Raw], name: str, kind: Any, expected: str, *, path: str = "") -> Any:
    """The value of a field that has to be there, as ``kind``, strictly; ``expected`` say what was expected.

    ``path`` is what leads to these fields from the outside, such as ``retry.``.
    """
    field = path + name
    if name not in fields:
        raise InvalidInput(f"the field {field!r} is missing: {expected}", field=field)
    try:
        return msgspec.json.decode(fields[name], type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidInput(f"{field} must be {expected}", field=field) from None


def nested(raw: msgspec.Raw, known: Iterable[str], *, path: str) -> Fields:
    """The fields of an object inside a body that was read with ``read_object``; ``path`` is the object's name."""
    known = tuple(known)
    if not bytes(raw).lstrip(WHITESPACE).startswith(b"{"):
        raise InvalidInput(f"{path} must be an object with some of {', '.join(known)}", field=path)
    try:
        return read_object(bytes(raw), known)
    except InvalidInput as error:
        field = path if error.field is None else f"{path}.{error.field}"
        raise InvalidInput(f"in {path}: {error.detail}", field=field) from None


def items(raw: msgspec.Raw, *, path: str) -> list[msgspec.Raw]:
    """The elements of an array inside a body that was read with ``read_object``, each as its bytes."""
    try:
        return _items_decoder.decode(raw)
    except msgspec.MsgspecError:
        raise InvalidInput(f"{path} must be an array", field=path) from None


def instant_of(text: str, *, field: str) -> int:
    """An RFC 3339 instant with its offset, as epoch milliseconds; raises InvalidInput.

    What is finer than a millisecond is cut off.
    """
    match = _INSTANT.match(text)
    if match is not None:
        day, time, fraction, offset = match.groups()
        try:
            parsed = datetime.fromisoformat(f"{day}T{time}{(fraction or '')[:7]}{offset.upper()}")
            at_ms = (parsed - _EPOCH) // _MILLISECOND
        except ValueError:
            at_ms = -1
        if 0 <= at_ms < INSTANTS_END_MS:
            return at_ms
    raise InvalidInput(
        f"{field} must be an RFC 3339 instant with its offset, such as 2030-01-31T12:00:00Z", field=field
    )
