"""Completes the trigger of a job that a client sent (the anchor of an interval, the instant of ``now``), and checks it.

Both parts depend on the instant of the upsert and on the stored job, so that repeating an upsert changes nothing.
"""

from __future__ import annotations

from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.job import Job
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.triggers.trigger import (
    AtSpec,
    CronSpec,
    EverySpec,
    OnRequestSpec,
    check_fires_again,
    compile_trigger,
)

__all__ = ["check_fires", "completed_trigger", "first_fire_ms", "starts_now"]


def completed_trigger(new: Job, old: Job | None, *, now_ms: int) -> Job:
    """Return ``new`` with a complete trigger. ``old``: the stored definition whose anchor or instant stays; None: none.

    The anchor of an interval is ``starts_at``, which is a fire time itself, or else the upsert that set or changed the
    interval. ``now`` stands for the instant of the upsert that replaced another trigger by it. An instant that equals
    the stored one is the stored one, also if the client wrote ``now`` then.
    """
    trigger = new.trigger
    stored = None if old is None else old.trigger
    if (
        isinstance(trigger, AtSpec)
        and isinstance(stored, AtSpec)
        and stored.now
        and (trigger.now or trigger.at_ms == stored.at_ms)
    ):
        return replace(new, trigger=stored)
    if isinstance(trigger, AtSpec) and trigger.now and not trigger.at_ms:
        return replace(new, trigger=replace(trigger, at_ms=now_ms))
    if isinstance(trigger, EverySpec) and trigger.anchor_ms is None:
        anchor_ms = now_ms
        if new.policies.starts_at_ms is not None:
            anchor_ms = new.policies.starts_at_ms - trigger.every_ms
        elif isinstance(stored, EverySpec) and stored.every_ms == trigger.every_ms and stored.anchor_ms is not None:
            anchor_ms = stored.anchor_ms
        return replace(new, trigger=replace(trigger, anchor_ms=anchor_ms))
    return new


def starts_now(job: Job, now_ms: int) -> bool:
    """Return whether the job's trigger is ``now``, and ``now_ms`` is the instant that it stands for."""
    trigger = job.trigger
    return type(trigger) is AtSpec and trigger.now and trigger.at_ms == now_ms


def first_fire_ms(job: Job, now_ms: int) -> int | None:
    """Return the first fire time of a trigger that an upsert sets at ``now_ms``: a later one, or now for ``now``."""
    if type(job.trigger) is AtSpec and starts_now(job, now_ms):
        now_ms -= 1
    return trigger_of(job).next_after(now_ms)


def check_fires(job: Job, now_ms: int) -> None:
    """Raise InvalidInput, naming the field, if a job whose trigger is complete has no fire time after now.

    A job that runs only on request needs none. ``now`` is a fire time at the instant that it stands for; as the
    unchanged trigger of a stored job it stands for an earlier one.
    """
    spec = job.trigger
    if type(spec) is CronSpec:
        check_fires_again(compile_trigger(spec, job.id), now_ms)
    elif isinstance(spec, OnRequestSpec):
        return
    elif isinstance(spec, AtSpec) and not starts_now(job, now_ms):
        if spec.now:
            return
        if spec.at_ms <= now_ms:
            raise InvalidInput(
                f'at is {rfc3339(spec.at_ms)}, which has passed: send a later one or "now", or run the stored job '
                "with POST /jobs/{id}/run",
                field="at",
            )
    if first_fire_ms(job, now_ms) is None:
        starts_ms = job.policies.starts_at_ms
        if isinstance(spec, AtSpec) and starts_ms is not None and spec.at_ms < starts_ms:
            raise InvalidInput("at must not be earlier than starts_at", field="starts_at")
        raise InvalidInput("the job has no fire time between now and ends_at", field="ends_at")
