"""``recovery: all``: one run for each fire time that passed while no node was alive, within bounds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from scheduler_core.job import Downtime, Job, Replay
from scheduler_core.plan.misses import miss_through
from scheduler_core.run import Miss, MissReason, Reason
from scheduler_core.trigger import Trigger


class CatchUp(msgspec.Struct, frozen=True):
    """What becomes of the fire times up to the end of the latest downtime among them."""

    replays: tuple[Replay, ...]
    """At most one: the fire times that get a run each."""
    records: tuple[Miss, ...]
    """Those before it that do not."""
    rest_ms: int | None
    """The first fire time after all of these; None: there is none up to now."""


def catch_up(
    job: Job,
    trigger: Trigger,
    due_ms: int,
    latest_ms: int,
    downtimes: Sequence[Downtime],
    *,
    reason: MissReason,
    now_ms: int,
) -> CatchUp | None:
    """Look for downtimes among the fire times from ``due_ms`` to ``latest_ms``, both of which are fire times.

    None: none of them fell into one. Otherwise all from the first to the last that did are caught up, of which the
    latest ``catch_up_limit`` and none older than ``catch_up_window_ms`` are run; the others are expired. Those before
    the first are misses for ``reason``. Costs an evaluation of the trigger for each run at most, once after a downtime.
    """
    bounds = _within(trigger, due_ms, latest_ms, downtimes)
    if bounds is None:
        return None
    first_ms, last_ms = bounds
    records = miss_through(trigger, due_ms, first_ms - 1, reason, now_ms=now_ms)
    oldest_ms = max(first_ms, now_ms - job.policies.catch_up_window_ms)
    replays: tuple[Replay, ...] = ()
    beginning_ms, count = last_ms, 1
    while count < job.policies.catch_up_limit:
        earlier = trigger.last_in(oldest_ms - 1, beginning_ms - 1)
        if earlier is None:
            break
        beginning_ms, count = earlier, count + 1
    if last_ms >= oldest_ms:
        replays = (Replay(Reason.RECOVERY, beginning_ms, last_ms, count),)
        records += miss_through(trigger, first_ms, beginning_ms - 1, MissReason.EXPIRED, now_ms=now_ms)
    else:
        records += miss_through(trigger, first_ms, last_ms, MissReason.EXPIRED, now_ms=now_ms)
    rest_ms = trigger.next_after(last_ms)
    return CatchUp(replays, records, rest_ms if rest_ms is not None and rest_ms <= latest_ms else None)


def _within(trigger: Trigger, due_ms: int, latest_ms: int, downtimes: Sequence[Downtime]) -> tuple[int, int] | None:
    """The first and the last fire time in [due, latest] that fell into a downtime."""
    first_ms: int | None = None
    last_ms = due_ms
    for downtime in downtimes:
        if downtime.until_ms <= due_ms or downtime.after_ms >= latest_ms:
            continue
        last = trigger.last_in(max(due_ms - 1, downtime.after_ms), min(latest_ms, downtime.until_ms - 1))
        if last is None:
            continue
        if first_ms is None:
            first_ms = trigger.next_after(max(due_ms - 1, downtime.after_ms))
        last_ms = last
    return None if first_ms is None else (first_ms, last_ms)
