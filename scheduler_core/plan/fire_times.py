"""The fire times of a job: its trigger's times within the job's bounds, shifted by its jitter.

The rule: a *nominal* time is one that the trigger yields. ``starts_at_ms`` and ``ends_at_ms`` bound the nominal times,
both bounds included. Each remaining time is shifted by the job's offset, which lies in ``[0, jitter_ms)`` and does not
change while ``jitter_ms`` stays the same. The result is the job's fire time everywhere: in the due set, in runs and
misses, in headers. With jitter the first fire time may lie up to ``jitter_ms`` after ``starts_at_ms``, and the last one
as much after ``ends_at_ms``. The shift changes neither the number of fire times nor their distances.
"""

from __future__ import annotations

from hashlib import blake2b

from scheduler_core.model.job import Job
from scheduler_core.model.policies import DEFAULT_POLICIES
from scheduler_core.triggers.interval import LAST_INSTANT_MS
from scheduler_core.triggers.trigger import EverySpec, Trigger, TriggerSpec, compile_trigger

__all__ = ["BoundedTrigger", "jitter_offset_ms", "same_fire_times", "trigger_of"]

_BEFORE_ALL_MS = -(2**63)


def trigger_of(job: Job) -> Trigger:
    """Return the trigger of a job's fire times. A job without bounds and jitter gets the shared compiled trigger.

    Called at every claim and settle. Raises ``InvalidInput``, as ``compile_trigger`` does.
    """
    trigger = compile_trigger(job.trigger, job.id)
    policies = job.policies
    if policies is DEFAULT_POLICIES:
        return trigger
    if policies.starts_at_ms is None and policies.ends_at_ms is None and not policies.jitter_ms:
        return trigger
    return BoundedTrigger(
        trigger,
        starts_at_ms=policies.starts_at_ms,
        ends_at_ms=policies.ends_at_ms,
        offset_ms=jitter_offset_ms(job.id, policies.jitter_ms),
    )


def same_fire_times(one: Job, other: Job) -> bool:
    """Return whether two definitions under one id have the same fire times. An upsert keeps the position only then."""
    a, b = one.policies, other.policies
    return _same_trigger(one.trigger, other.trigger) and (
        a is b or (a.starts_at_ms, a.ends_at_ms, a.jitter_ms) == (b.starts_at_ms, b.ends_at_ms, b.jitter_ms)
    )


def _same_trigger(a: TriggerSpec, b: TriggerSpec) -> bool:
    if isinstance(a, EverySpec) and isinstance(b, EverySpec):
        return (a.every_ms, a.anchor_ms) == (b.every_ms, b.anchor_ms)
    return a == b


def jitter_offset_ms(job_id: str, jitter_ms: int) -> int:
    """Return the offset in ``[0, jitter_ms)`` of this id: the same in every process, version and node.

    A hash spreads the ids evenly over the range. A wider range stretches all offsets alike, so ids keep their order.
    """
    if jitter_ms <= 1:
        return 0
    digest = blake2b(job_id.encode(), digest_size=8, person=b"cronpost jitter").digest()
    return int.from_bytes(digest) * jitter_ms >> 64


class BoundedTrigger:
    """The fire times of ``trigger`` in [starts, ends], each shifted by ``offset_ms``.

    Each of the three is optional. Each answer costs one evaluation of the trigger.
    """

    __slots__ = ("_before_ms", "_end_ms", "_offset_ms", "_trigger")

    def __init__(
        self, trigger: Trigger, *, starts_at_ms: int | None = None, ends_at_ms: int | None = None, offset_ms: int = 0
    ) -> None:
        self._trigger = trigger
        self._offset_ms = offset_ms
        self._before_ms = _BEFORE_ALL_MS if starts_at_ms is None else starts_at_ms - 1
        last = LAST_INSTANT_MS - offset_ms
        self._end_ms = last if ends_at_ms is None else min(ends_at_ms, last)

    def next_after(self, after_ms: int) -> int | None:
        """Return the first fire time later than ``after_ms``, or None after the last one."""
        found = self._trigger.next_after(max(after_ms - self._offset_ms, self._before_ms))
        return None if found is None or found > self._end_ms else found + self._offset_ms

    def last_in(self, after_ms: int, until_ms: int) -> int | None:
        """Return the latest fire time with ``after_ms < t <= until_ms``, or None."""
        after, until = self._nominal(after_ms, until_ms)
        if after >= until:
            return None
        found = self._trigger.last_in(after, until)
        return None if found is None else found + self._offset_ms

    def count_in(self, after_ms: int, until_ms: int, limit: int) -> int | None:
        """Return the number of fire times with ``after_ms < t <= until_ms``; None if the trigger cannot count them."""
        after, until = self._nominal(after_ms, until_ms)
        return 0 if after >= until else self._trigger.count_in(after, until, limit)

    def count_by_days(self, after_ms: int, until_ms: int, limit: int) -> int | None:
        """Return the number of fire times with ``after_ms < t <= until_ms``; None: more than ``limit`` dates match."""
        after, until = self._nominal(after_ms, until_ms)
        return 0 if after >= until else self._trigger.count_by_days(after, until, limit)

    def _nominal(self, after_ms: int, until_ms: int) -> tuple[int, int]:
        return max(after_ms - self._offset_ms, self._before_ms), min(until_ms - self._offset_ms, self._end_ms)
