"""What a runner's answer asks for: further runs of the same job.

The body of a 2xx answer may be a JSON object with the member ``continue``: one object, or an array of them, each with
an optional ``payload`` (absent: the job's own) and either ``after_seconds`` or ``not_before``. A body that is no JSON
object, or has no such member, asks for nothing. One that asks in a way that cannot be understood fails its run: what a
runner asked for is never dropped in silence.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from scheduler_core.job import Pending
from scheduler_core.run import Reason, Run, derived_run_id

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


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: msgspec.Raw = msgspec.Raw()
    after_seconds: float | None = None
    not_before: datetime | None = None


class _Answer(msgspec.Struct, frozen=True):
    asked: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="continue")


_answer_decoder = msgspec.json.Decoder(_Answer)
_asked_decoder = msgspec.json.Decoder(list[_Asked] | _Asked | None)


def continuations_in(body: bytes, run: Run, *, now_ms: int) -> tuple[Pending, ...]:
    """The entries that the answer ``body`` to ``run`` asks for. Raises BadContinuation."""
    if b'"continue"' not in body:
        return ()
    try:
        asked = bytes(_answer_decoder.decode(body).asked)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    return read_continuations(asked, run, now_ms=now_ms) if asked else ()


def read_continuations(asked: bytes, run: Run, *, now_ms: int) -> tuple[Pending, ...]:
    """The entries that the JSON text ``asked``, the value of ``continue``, asks for. Raises BadContinuation."""
    try:
        found = _asked_decoder.decode(asked)
        asked.decode("utf-8")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadContinuation(f"its continuation cannot be read: {error}") from None
    if found is None:
        return ()
    several = found if isinstance(found, list) else [found]
    if len(several) > MOST_AT_ONCE:
        raise BadContinuation(f"it asks for {len(several)} continuations; at most {MOST_AT_ONCE} are taken at once")
    return tuple(_entry(one, run, index, now_ms=now_ms) for index, one in enumerate(several))


def _entry(asked: _Asked, run: Run, index: int, *, now_ms: int) -> Pending:
    if asked.after_seconds is not None and asked.not_before is not None:
        raise BadContinuation("its continuation has both after_seconds and not_before")
    wait_ms = 0.0
    if asked.after_seconds is not None:
        wait_ms = asked.after_seconds * 1000
    elif asked.not_before is not None:
        if asked.not_before.tzinfo is None:
            raise BadContinuation("the not_before of its continuation has no offset from UTC")
        wait_ms = asked.not_before.timestamp() * 1000 - now_ms
    if wait_ms > LATEST_MS or (asked.after_seconds is not None and wait_ms < 0):
        raise BadContinuation("the time of its continuation is not from now to a year ahead")
    payload = bytes(asked.payload) or None
    if payload is not None and len(payload) > PAYLOAD_BYTES:
        raise BadContinuation(f"the payload of its continuation is longer than {PAYLOAD_BYTES} bytes")
    not_before_ms = now_ms + max(SOONEST_MS, int(-(-wait_ms // 1)))
    run_id = derived_run_id(not_before_ms, run.id, run.attempt, index)
    return Pending(run_id, not_before_ms, payload, Reason.CONTINUATION)
