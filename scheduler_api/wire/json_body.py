"""Reads JSON bodies: checked bytes in, fields as bytes out.

The rules are stricter than those of most JSON parsers: UTF-8 without a byte order mark, no NaN, no trailing text, no
duplicate key in an object that is read field by field, no nesting deeper than ``MAX_DEPTH``. The parser checks the
values inside, but a payload is never decoded, so that it is delivered byte for byte as it arrived.

Own code, because the errors of a typed msgspec decoder name neither the allowed values nor a similar field
(docs/decisions/0036-one-description-of-the-api.md). The check for duplicate keys is our own too: msgspec has none, and
a hook in ``json`` costs several times as much.
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
"""Maximum nesting of objects and arrays, including the outermost. Parsers of runners stop between 100 and 1000 levels;
deeper bodies are attacks or mistakes."""
INSTANTS_END_MS = 221_845_392_000_000
"""Instants from the year 9000 on are refused: the calendar ends with the year 9999."""
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
    """Read the fields of a JSON object, each as the bytes that were sent.

    Raises InvalidInput for anything else, and for a field that is neither ``known`` nor ``ignored``; with ``known``
    None, all fields are accepted.
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
    """Raise InvalidInput for a duplicate key in ``body``, a valid JSON object: parsers differ in which one they use.

    ``path`` is the path to the object, such as ``headers.``.
    """
    if _count_members(body.strip(WHITESPACE)) != len(_fields_decoder.decode(body)):
        error = _repeated(body)
        raise InvalidInput(error.detail, field=f"{path}{error.field}")


def read_array(body: bytes, *, limit: int) -> list[msgspec.Raw]:
    """Read the elements of a JSON array, each as the bytes that were sent.

    Raises InvalidInput for anything else, and for an array that is empty or has more than ``limit`` elements.
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
    """Raise InvalidInput for invalid UTF-8: msgspec does not check the strings that it skips."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidInput("the body starts with a byte order mark; send UTF-8 without one")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: byte {error.start} ({error.reason})") from None


def _not_json(body: bytes, error: Exception) -> InvalidInput:
    field = _field_with_half_a_pair(body)
    if field is not None:
        return InvalidInput(f"{field} contains one half of a surrogate pair, which is not a character", field=field)
    empty = not body.strip(WHITESPACE)
    return InvalidInput("the body is empty" if empty else f"the body is not JSON: {error}")


def _field_with_half_a_pair(body: bytes) -> str | None:
    """Find the first field of an object that contains half of a surrogate pair, such as ``\\ud800``.

    msgspec reports the position, not the field.
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
    """Find the known name that is most likely meant: one that starts so (``timeout`` for ``timeout_seconds``), or one
    with a similar spelling."""
    known = tuple(known)
    longer = [one for one in known if name and one.startswith(f"{name}_")]
    return next(iter(longer or difflib.get_close_matches(name, known, n=1)), None)


def _count_members(body: bytes) -> int:
    """Count the members of the object ``body`` (valid JSON); a duplicate key counts twice.

    Removes all strings from the text, then the innermost brackets, level by level, until only the outer ones are left:
    no recursion, one pass for each level. Raises InvalidInput if there are too many levels.
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

    # Called for the innermost objects first, so the last result belongs to the outermost.
    name = json.loads(body, object_pairs_hook=first_repeated, parse_int=str, parse_float=str)
    return InvalidInput(f"the field {name[:100]!r} is given twice", field=name[:100])


def is_given(fields: Fields, name: str) -> bool:
    """Return whether the field is there and not null."""
    return name in fields and bytes(fields[name]).strip() != b"null"


def required(fields: Mapping[str, msgspec.Raw], name: str, kind: Any, expected: str, *, path: str = "") -> Any:
    """Read a required field as ``kind``, strictly. ``expected`` describes the allowed values in the error.

    ``path`` is the path to these fields, such as ``retry.``.
    """
    field = path + name
    if name not in fields:
        raise InvalidInput(f"the field {field!r} is missing: {expected}", field=field)
    try:
        return msgspec.json.decode(fields[name], type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InvalidInput(f"{field} must be {expected}", field=field) from None


def nested(raw: msgspec.Raw, known: Iterable[str], *, path: str) -> Fields:
    """Read the fields of an object inside a body that was read with ``read_object``; ``path`` is its name."""
    known = tuple(known)
    if not bytes(raw).lstrip(WHITESPACE).startswith(b"{"):
        raise InvalidInput(f"{path} must be an object with some of {', '.join(known)}", field=path)
    try:
        return read_object(bytes(raw), known)
    except InvalidInput as error:
        field = path if error.field is None else f"{path}.{error.field}"
        raise InvalidInput(f"in {path}: {error.detail}", field=field) from None


def items(raw: msgspec.Raw, *, path: str) -> list[msgspec.Raw]:
    """Read the elements of an array inside a body that was read with ``read_object``, each as its bytes."""
    try:
        return _items_decoder.decode(raw)
    except msgspec.MsgspecError:
        raise InvalidInput(f"{path} must be an array", field=path) from None


def instant_of(text: str, *, field: str) -> int:
    """Read an RFC 3339 instant with its offset as epoch milliseconds. Raises InvalidInput.

    Digits beyond milliseconds are cut off.
    """
    match = _INSTANT.match(text)
    if match is not None:
        day, time, fraction, offset = match.groups()
        try:
            parsed = datetime.fromisoformat(f"{day}T{time}{(fraction or '')[:7]}{offset.upper()}")
            at_ms = (parsed - _EPOCH) // _MILLISECOND
        except ValueError:  # no such day or time
            pass
        else:
            if not 0 <= at_ms < INSTANTS_END_MS:
                raise InvalidInput(f"{field} must be from 1970 to 8999", field=field)
            return at_ms
    raise InvalidInput(
        f"{field} must be an RFC 3339 instant with its offset, such as 2030-01-31T12:00:00Z", field=field
    )
