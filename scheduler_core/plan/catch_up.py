"""``recovery: all``: one run for each fire time that passed while no node was alive, within bounds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Replay
from scheduler_core.model.run import Miss, MissReason, Reason
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.misses import make_miss, miss_through
from scheduler_core.triggers.trigger import Trigger

REPLAY_LIMIT = 10
"""The maximum number of waiting backfills of a job, and of waiting recoveries."""


class CatchUp(msgspec.Struct, frozen=True):
    """The decision about the fire times up to the end of the latest downtime among them."""

    state: JobState
    """The state, with a replay of the fire times that get a run."""
    records: tuple[Miss, ...]
    """Misses of the other fire times."""
    rest_ms: int | None
    """The first fire time after the last downtime; None: none up to now, and the position is past them."""


def catch_up(
    job: Job,
    state: JobState,
    due_ms: int,
    latest_ms: int,
    downtimes: Sequence[Downtime],
    *,
    reason: MissReason,
    now_ms: int,
) -> CatchUp | None:
    """Catch up the fire times from ``due_ms`` to ``latest_ms`` (both fire times) that fell into downtimes.

    None: no fire time fell into a downtime. Otherwise the range from the first to the last such fire time is caught up.
    The latest ``catch_up_limit`` of them get a run, none older than ``catch_up_window_ms``, and no more than
    ``max_runs`` allows; the others are misses (``expired``). Fire times before the range are misses for ``reason``.
    Costs at most one evaluation of the trigger per run, once after a downtime.
    """
    trigger = trigger_of(job)
    bounds = _within(trigger, due_ms, latest_ms, downtimes)
    if bounds is None:
        return None
    first_ms, last_ms = bounds
    records = miss_through(trigger, due_ms, first_ms - 1, reason, now_ms=now_ms)
    oldest_ms = max(first_ms, now_ms - job.policies.catch_up_window_ms)
    limit = job.policies.catch_up_limit
    if job.policies.max_runs is not None:
        limit = min(limit, job.policies.max_runs - state.fired)
    beginning_ms, count = last_ms, 1
    while count < limit:
        earlier = trigger.last_in(oldest_ms - 1, beginning_ms - 1)
        if earlier is None:
            break
        beginning_ms, count = earlier, count + 1
    expired_until_ms = last_ms
    if last_ms >= oldest_ms:
        state, overflow = _add(job, state, Replay(Reason.RECOVERY, beginning_ms, last_ms, count), now_ms=now_ms)
        records += overflow
        expired_until_ms = beginning_ms - 1
    records += miss_through(trigger, first_ms, expired_until_ms, MissReason.EXPIRED, now_ms=now_ms)
    rest_ms = trigger.next_after(last_ms)
    if rest_ms is not None and rest_ms > latest_ms:
        rest_ms = None
    if job.policies.max_runs is not None and state.fired >= job.policies.max_runs:
        records += miss_through(trigger, rest_ms, latest_ms, MissReason.EXPIRED, now_ms=now_ms)
        return CatchUp(replace(state, next_fire_ms=None), records, None)
    if rest_ms is None:
        state = replace(state, next_fire_ms=trigger.next_after(latest_ms))
    return CatchUp(state, records, rest_ms)


def _add(job: Job, state: JobState, replay: Replay, *, now_ms: int) -> tuple[JobState, tuple[Miss, ...]]:
    """Return ``state`` with one more range to catch up. If too many wait already, the oldest one expires."""
    replays = state.replays
    expired: tuple[Miss, ...] = ()
    waiting = [one for one in replays if one.reason is Reason.RECOVERY]
    if len(waiting) >= REPLAY_LIMIT:
        oldest = waiting[0]
        replays = tuple(one for one in replays if one is not oldest)
        expired = (make_miss(trigger_of(job), oldest.next_ms, oldest.last_ms, MissReason.EXPIRED, now_ms=now_ms),)
    fired = state.fired if job.policies.max_runs is None else state.fired + replay.left
    return replace(state, replays=(*replays, replay), fired=fired), expired


def _within(trigger: Trigger, due_ms: int, latest_ms: int, downtimes: Sequence[Downtime]) -> tuple[int, int] | None:
    """Return the first and the last fire time in [due, latest] that fell into a downtime."""
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
