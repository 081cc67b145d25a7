"""The trace of a run: one W3C trace for each run, one span for each attempt.

Trace and span ids follow from the run, the fence and the attempt. So all nodes that work on a run, and the API that
ends it, add to the same trace, and nothing about it is stored.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

try:  # CPython's own: less than half the time of OpenSSL's, which hashlib prefers and FIPS builds refuse
    from _md5 import md5 as _md5  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from hashlib import md5 as _md5

from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.run import Run

_SPAN_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF


def trace_id_of(run_id: str) -> str:
    """Return the trace id of a run: the MD5 of its id. Users can compute it, and samplers find its bits random."""
    return str(_md5(run_id.encode()).hexdigest())  # noqa: S324 - not for security


def span_id_of_attempt(fence: int, attempt: int) -> int:
    """Return the span id of an attempt: its number and the lower 48 bits of the fence, because a fence counts
    microseconds since 1970."""
    return (fence << 16 | attempt) & _SPAN_BITS


def traceparent_of(run_id: str, fence: int, attempt: int, *, sampled: bool = True) -> str:
    """Return the W3C trace context of an attempt."""
    trace_id = _md5(run_id.encode()).hexdigest()  # noqa: S324 - not for security
    return f"00-{trace_id}-{(fence << 16 | attempt) & _SPAN_BITS:016x}-{'01' if sampled else '00'}"


class EndedAttempt(msgspec.Struct, frozen=True):
    """An attempt that ended and whose result was sent to Redis."""

    job_id: str
    run: Run
    """As it was before the attempt."""
    node: str
    fence: int
    taken_over: bool
    """Whether an earlier claim of the run was lost with its node."""
    wake_ms: int
    """When the job was due for this attempt."""
    started_at_ms: int
    ended_at_ms: int
    settled_at_ms: int
    is_stored: bool
    """False: Redis refused the result, because the run had a newer owner."""
    outcome: Outcome
    call: Call | None
    """None: it could not be built."""


class Traces(Protocol):
    """Records spans. Its methods never raise and never block."""

    def is_sampled(self, run_id: str) -> bool:
        """Return whether the spans of this run are recorded. All nodes decide the same."""
        ...

    def attempt_ended(self, one: EndedAttempt) -> None:
        """Record the spans of a claim, an attempt and its settlement."""
        ...

    def run_ended(self, job_id: str, run: Run) -> None:
        """Record the span of a run, the parent of all others."""
        ...
