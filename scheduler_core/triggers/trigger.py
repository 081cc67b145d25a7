"""Trigger specs, as job documents store them, and the ``Trigger`` protocol that computes fire times from them.

``compile_trigger`` turns a spec into a ``Trigger``, whose methods take constant time. A fire time is an instant:
integer UTC epoch milliseconds. Cron fire times are whole seconds; those of an interval keep the phase of its anchor.
This module does not apply a job's bounds and jitter; ``plan.fire_times.trigger_of`` does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, TypeAlias

import msgspec

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.cron import CronTrigger, check_fires_again, cron_trigger, zone_of_expression
from scheduler_core.triggers.cron_fields import read_hashed_fields, split_zone
from scheduler_core.triggers.cron_hash import uses_hash
from scheduler_core.triggers.cron_rules import refuse
from scheduler_core.triggers.every import read_every
from scheduler_core.triggers.interval import AtTrigger, IntervalTrigger, NoTrigger
from scheduler_core.triggers.zone import Zone, load_zone

__all__ = [
    "AtSpec",
    "CronSpec",
    "EverySpec",
    "IntervalSpec",
    "OnRequestSpec",
    "Trigger",
    "TriggerSpec",
    "check_fires_again",
    "compile_trigger",
    "depends_on_id",
    "read_cron",
]


class CronSpec(msgspec.Struct, frozen=True, tag="cron", tag_field="k", omit_defaults=True):
    """A cron expression as the client wrote it, and its time zone: that of the expression's prefix, if it has one."""

    expression: str = msgspec.field(name="x")
    timezone: str = msgspec.field(default="UTC", name="z")


class IntervalSpec(msgspec.Struct, frozen=True, tag="interval", tag_field="k", omit_defaults=True):
    """Fire times at ``anchor_ms + k * every_ms`` for k = 1, 2, ..., up to and including ``end_ms`` if that is given."""

    every_ms: int = msgspec.field(name="e")
    anchor_ms: int = msgspec.field(name="a")
    end_ms: int | None = msgspec.field(default=None, name="u")


class EverySpec(msgspec.Struct, frozen=True, tag="every", tag_field="k", omit_defaults=True):
    """Fire times of a job at ``anchor_ms + k * every_ms`` for k = 1, 2, ... (schedules have an ``IntervalSpec``)."""

    every_ms: int = msgspec.field(name="e")
    anchor_ms: int | None = msgspec.field(default=None, name="a")
    """None: not decided yet. The upsert that stores the job decides it (``plan.given``)."""
    expression: str | None = msgspec.field(default=None, name="x")
    """The cron expression that the client wrote (``@every 90s``); None: ``every_seconds``."""


class AtSpec(msgspec.Struct, frozen=True, tag="at", tag_field="k", omit_defaults=True):
    """One fire time."""

    at_ms: int = msgspec.field(name="a")
    now: bool = msgspec.field(default=False, name="n")
    """Whether the client wrote ``now``. ``at_ms`` 0: the upsert that stores the job replaces it (``plan.given``)."""


class OnRequestSpec(msgspec.Struct, frozen=True, tag="request", tag_field="k"):
    """No fire times: the job runs only when a client or a runner requests it."""


TriggerSpec: TypeAlias = CronSpec | IntervalSpec | EverySpec | AtSpec | OnRequestSpec
"""Every kind of spec. The tag of a stored document selects the kind."""


class Trigger(Protocol):
    """Computes fire times. All methods refer to the same strictly increasing series, the one that repeated
    ``next_after`` from ``a`` yields. ``last_in(a, u)`` is its last element up to ``u``; ``count_in(a, u)`` is the
    number of its elements up to ``u``."""

    def next_after(self, after_ms: int) -> int | None:
        """Return the first fire time strictly after ``after_ms``; None: the trigger never fires again."""
        ...

    def last_in(self, after_ms: int, until_ms: int) -> int | None:
        """Return the latest fire time in ``(after_ms, until_ms]``, or None."""
        ...

    def count_in(self, after_ms: int, until_ms: int, limit: int) -> int | None:
        """Return the exact number of fire times in ``(after_ms, until_ms]``, or None if counting is costly: impossible
        both by arithmetic and in ``limit`` steps of ``next_after``."""
        ...

    def count_by_days(self, after_ms: int, until_ms: int, limit: int) -> int | None:
        """Return the exact number of fire times in ``(after_ms, until_ms]``, or None if more than ``limit`` matching
        dates and clock changes lie between. A date with 86,400 fire times costs as much as one with a single one."""
        ...


def read_cron(text: str, timezone: str | None, job_id: str | None) -> CronSpec | EverySpec:
    """Read the fields ``cron`` and ``timezone`` (None: absent) of a job. The text is kept as the client wrote it.

    ``@every`` yields an interval without an anchor: ``plan.given`` sets it. Raises ``InvalidInput`` with the field
    ``cron`` or ``timezone``; ``id`` if the expression uses ``H`` and there is no id.
    """
    spec = _read_cron(text, timezone)
    if depends_on_id(spec):
        compile_trigger(spec, job_id)
    return spec


def depends_on_id(spec: TriggerSpec) -> bool:
    """Return whether jobs with this spec and other ids have other fire times: whether its expression uses ``H``."""
    return isinstance(spec, CronSpec) and isinstance(_compile_cron(spec.expression, spec.timezone), _HashedCron)


def compile_trigger(spec: TriggerSpec, job_id: str | None = None) -> Trigger:
    """Return the trigger of a spec. All jobs with the same cron expression and zone share one trigger; those with ``H``
    share one if ``H`` stands for the same values. Interval triggers are not shared: their anchors differ between jobs,
    and creating one costs less than a cache lookup.

    Raises ``InvalidInput`` with the field ``cron``, ``timezone`` or ``interval_seconds``; ``id`` if the expression uses
    ``H`` and there is no id.
    """
    if isinstance(spec, CronSpec):
        trigger = _compile_cron(spec.expression, spec.timezone)
        if isinstance(trigger, CronTrigger):
            return trigger
        return _compile_for_id(spec.expression, spec.timezone, job_id)
    if isinstance(spec, IntervalSpec):
        return IntervalTrigger(spec.every_ms, spec.anchor_ms, spec.end_ms)
    if isinstance(spec, EverySpec):
        return IntervalTrigger(spec.every_ms, spec.anchor_ms or 0)
    return AtTrigger(spec.at_ms) if isinstance(spec, AtSpec) else _NO_TRIGGER


_NO_TRIGGER = NoTrigger()


@lru_cache(maxsize=16_384)
def _read_cron(text: str, timezone: str | None) -> CronSpec | EverySpec:
    prefix, rest = split_zone(text)
    every_ms = read_every(rest)
    if every_ms is None:
        zone, _ = zone_of_expression(text, timezone)
        spec = CronSpec(text, zone.name)
        _compile_cron(text, zone.name)
        return spec
    if prefix is not None:
        refuse("a time zone is not allowed before @every: an interval is elapsed time, the same in all zones")
    if timezone is not None:
        raise InvalidInput(
            "timezone is not allowed beside @every: an interval is elapsed time, the same in all zones",
            field="timezone",
        )
    return EverySpec(every_ms, expression=text)


class _HashedCron:
    """An expression with ``H``. Its trigger depends on the job's id."""

    __slots__ = ("_fields", "_text", "_zone")

    def __init__(self, text: str, zone: Zone) -> None:
        self._text = text
        self._fields = read_hashed_fields(text)
        self._zone = zone

    def trigger_of(self, job_id: str | None) -> CronTrigger:
        if job_id is None:
            raise InvalidInput("the value of H in the expression depends on the job's id: give the id", field="id")
        try:
            return _compile_fields(self._fields.text_of(job_id), self._zone.name)
        except InvalidInput:
            # Refuse it in the words of the client: that text has no H any more.
            return cron_trigger(self._text, self._zone, job_id)


# Compiling takes 20 to 200 microseconds, a call to the compiled trigger 0.1 to 10; a cache entry is half a kilobyte.
@lru_cache(maxsize=16_384)
def _compile_cron(expression: str, timezone: str) -> CronTrigger | _HashedCron:
    zone, text = zone_of_expression(expression, timezone)
    return _HashedCron(text, zone) if uses_hash(text) else cron_trigger(text, zone)


# A run needs its trigger several times, and the values of an id take ten microseconds.
@lru_cache(maxsize=16_384)
def _compile_for_id(expression: str, timezone: str, job_id: str | None) -> CronTrigger:
    trigger = _compile_cron(expression, timezone)
    return trigger if isinstance(trigger, CronTrigger) else trigger.trigger_of(job_id)


@lru_cache(maxsize=16_384)
def _compile_fields(fields: str, timezone: str) -> CronTrigger:
    return cron_trigger(fields, load_zone(timezone))
