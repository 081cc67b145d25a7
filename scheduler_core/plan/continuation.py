"""What a runner's answer asks for: further runs of the same job.

The body of a 2xx answer may be a JSON object with the member ``continue``: one object, or an array of them, each with
an optional ``payload`` (absent: the job's own) and either ``after_seconds`` or ``not_before``. A body that is no JSON
object, or has no such member, asks for nothing. A body that contains the name ``"continue"`` and cannot be read, and a
request that cannot be understood, fail the run: a continuation is never lost silently.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from datetime import datetime
from typing import Any

import msgspec

from scheduler_core.model.job import Pending
from scheduler_core.model.run import Reason, Run, derived_run_id

SOONEST_MS = 1_000
"""How long after the answer a continuation starts at the earliest: a runner that always continues is no busy loop."""
LATEST_MS = 366 * 86_400_000
"""How far ahead a continuation may lie."""
MOST_AT_ONCE = 20
PAYLOAD_BYTES = 65_536
"""The largest payload of a continuation. It is kept in the job's state, which is written with every run."""
PENDING_LIMIT = 100
"""How many runs may wait for one job."""
PENDING_BYTES = 4 << 20
"""How much payload they may have together."""


class BadContinuation(Exception):
    """What a runner asked for cannot be understood or kept; the text says why."""


class _Continuation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: msgspec.Raw = msgspec.Raw()
    after_seconds: float | None = None
    not_before: datetime | None = None


class _Answer(msgspec.Struct, frozen=True):
    value: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="continue")


_NAME = "continue"
_KEY = re.compile(b'"' + b"".join(rb"(?:%c|\\u00%x)" % (ord(one), ord(one)) for one in _NAME) + b'"', re.IGNORECASE)
"""The member's name as JSON may spell it in UTF-8: each letter as itself or escaped. (Case is ignored for the digits of
an escape; a name in other letters than these is found as well and then does no harm.)"""
_WIDE_KEYS = tuple(f'"{_NAME}"'.encode(encoding).rstrip(b"\0") for encoding in ("utf-16-le", "utf-32-le"))
"""The name in UTF-16 and UTF-32. Without the last zeros, this is found in either order of bytes."""

_answer_decoder = msgspec.json.Decoder(_Answer)
_continuations_decoder = msgspec.json.Decoder(list[_Continuation] | _Continuation | None)


def continuations_in(body: bytes, run: Run, *, now_ms: int) -> tuple[Pending, ...]:
    """The entries that the answer ``body`` to ``run`` asks for.

    Raises BadContinuation, also for a body that contains the name ``"continue"`` and is not JSON in UTF-8: nobody can
    say whether it asks for something. A byte order mark before the JSON is skipped.
    """
    names = len(_KEY.findall(body))
    if not names:
        if any(key in body for key in _WIDE_KEYS):
            raise BadContinuation('the answer contains "continue" in UTF-16 or UTF-32; answer in UTF-8')
        return ()
    text = body.removeprefix(BOM_UTF8)
    try:
        value = _continue_value(text) if names == 1 else _single_continue_value(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise BadContinuation(f'the answer contains "continue" and cannot be read as JSON: {reason}') from None
    return read_continuations(value, run, now_ms=now_ms) if value else ()


def _continue_value(text: bytes) -> bytes:
    """The value of ``continue``; empty if ``text`` is an object without it, or another JSON value."""
    try:
        return bytes(_answer_decoder.decode(text).value)
    except msgspec.ValidationError:
        msgspec.json.decode(text)  # not an object; raises unless it is JSON to its end
        return b""


def _single_continue_value(text: bytes) -> bytes:
    """The same for a text in which the name occurs several times. Raises ValueError if the object has it twice: only
    one of the two would be taken up."""
    value = _continue_value(text)

    def members(pairs: list[tuple[str, Any]]) -> int:
        return sum(name == _NAME for name, _ in pairs)

    # The hook is called for the outermost object last, so its result is what loads returns.
    if value and json.loads(text, object_pairs_hook=members) > 1:
        raise ValueError('the member "continue" is given twice')
    return value


def read_continuations(value: bytes, run: Run, *, now_ms: int) -> tuple[Pending, ...]:
    """The entries that the JSON text ``value``, the value of ``continue``, asks for. Raises BadContinuation."""
    try:
        found = _continuations_decoder.decode(value)
        value.decode("utf-8")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadContinuation(f"its continuation cannot be read: {error}") from None
    if found is None:
        return ()
    several = found if isinstance(found, list) else [found]
    if len(several) > MOST_AT_ONCE:
        raise BadContinuation(f"it asks for {len(several)} continuations; at most {MOST_AT_ONCE} are taken at once")
    return tuple(_entry(one, run, index, now_ms=now_ms) for index, one in enumerate(several))


def _entry(continuation: _Continuation, run: Run, index: int, *, now_ms: int) -> Pending:
    if continuation.after_seconds is not None and continuation.not_before is not None:
        raise BadContinuation("its continuation has both after_seconds and not_before")
    wait_ms = 0.0
    if continuation.after_seconds is not None:
        wait_ms = continuation.after_seconds * 1000
    elif continuation.not_before is not None:
        if continuation.not_before.tzinfo is None:
            raise BadContinuation("the not_before of its continuation has no offset from UTC")
        wait_ms = continuation.not_before.timestamp() * 1000 - now_ms
    if wait_ms > LATEST_MS or (continuation.after_seconds is not None and wait_ms < 0):
        raise BadContinuation("the time of its continuation is not from now to a year ahead")
    payload = bytes(continuation.payload) or None
    if payload is not None and len(payload) > PAYLOAD_BYTES:
        raise BadContinuation(f"the payload of its continuation is longer than {PAYLOAD_BYTES} bytes")
    not_before_ms = now_ms + max(SOONEST_MS, int(-(-wait_ms // 1)))
    run_id = derived_run_id(not_before_ms, run.id, run.attempt, index)
    return Pending(run_id, not_before_ms, payload, Reason.CONTINUATION)
