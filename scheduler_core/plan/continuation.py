"""Reads continuations from a runner's answer: requests for further runs of the same job.

The body of a 2xx answer may be a JSON object with the member ``continue``: one object, or an array of objects, each
with an optional ``payload`` (absent: the job's payload) and either ``after_seconds`` or ``not_before``. A body that is
no JSON object, or has no such member, requests nothing. A body that contains the name ``"continue"`` and cannot be
decoded, and an invalid request, fail the run: a continuation is never lost silently.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from datetime import datetime
from typing import Any

import msgspec

from scheduler_core.model.job_state import Pending
from scheduler_core.model.run import Reason, Run, derived_run_id

SOONEST_MS = 1_000
"""The minimum delay of a continuation after the answer, so that a runner that always continues is no busy loop."""
LATEST_MS = 366 * 86_400_000
"""The maximum delay of a continuation."""
MOST_AT_ONCE = 20
PAYLOAD_BYTES = 65_536
"""The largest payload of a continuation. It is kept in the job's state, which is written with every run."""
PENDING_LIMIT = 100
"""The maximum length of a job's pending list."""
PENDING_BYTES = 4 << 20
"""The maximum total payload of a pending list."""


class BadContinuation(Exception):
    """A runner's continuation is invalid or cannot be stored. The text gives the reason."""


class _Continuation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: msgspec.Raw = msgspec.Raw()
    after_seconds: float | None = None
    not_before: datetime | None = None


class _Answer(msgspec.Struct, frozen=True):
    value: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="continue")


_NAME = "continue"
_KEY = re.compile(b'"' + b"".join(rb"(?:%c|\\u00%x)" % (ord(one), ord(one)) for one in _NAME) + b'"', re.IGNORECASE)
"""The member's name as JSON can write it in UTF-8: each letter plain or escaped. (Case is ignored because of the hex
digits of an escape. A name in upper case matches too, which does no harm.)"""
_WIDE_KEYS = tuple(f'"{_NAME}"'.encode(encoding).rstrip(b"\0") for encoding in ("utf-16-le", "utf-32-le"))
"""The name in UTF-16 and UTF-32. Without the trailing zeros it matches in both byte orders."""

_answer_decoder = msgspec.json.Decoder(_Answer)
_continuations_decoder = msgspec.json.Decoder(list[_Continuation] | _Continuation | None)


def continuations_in(body: bytes, run: Run, *, now_ms: int) -> tuple[Pending, ...]:
    """Return the pending entries that the answer ``body`` to ``run`` requests.

    Raises BadContinuation, also for a body that contains the name ``"continue"`` and is not JSON in UTF-8, because it
    may request something. A byte order mark before the JSON is skipped.
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
    """Return the value of ``continue``; empty if ``text`` is an object without it, or another JSON value."""
    try:
        return bytes(_answer_decoder.decode(text).value)
    except msgspec.ValidationError:
        msgspec.json.decode(text)  # not an object; raises unless it is JSON to its end
        return b""


def _single_continue_value(text: bytes) -> bytes:
    """Return the value if the name occurs several times in ``text``. Raises ValueError if the object has it twice,
    because one of the two would be lost."""
    value = _continue_value(text)

    def members(pairs: list[tuple[str, Any]]) -> int:
        return sum(name == _NAME for name, _ in pairs)

    # The hook is called for the outermost object last, so its result is what loads returns.
    if value and json.loads(text, object_pairs_hook=members) > 1:
        raise ValueError('the member "continue" is given twice')
    return value


def read_continuations(value: bytes, run: Run, *, now_ms: int) -> tuple[Pending, ...]:
    """Return the entries that the JSON text ``value`` (the value of ``continue``) requests. Raises BadContinuation."""
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
