"""Reads and checks the bodies and queries of schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeVar

from scheduler_api.wire.bodies import ScheduleBody, names_of
from scheduler_api.wire.json_body import Fields, is_given, required
from scheduler_api.wire.targets import MAX_DIGITS
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.catalogue import ScheduleStatus, ScheduleType

SCHEDULE_FIELDS = names_of(ScheduleBody)

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def status_filter(params: Mapping[str, str]) -> ScheduleStatus | None:
    """Read the status in the query. Raises InvalidInput."""
    if "status_filter" not in params:
        return None
    return _one_of(ScheduleStatus, params["status_filter"], "status_filter")


def type_of(fields: Fields) -> ScheduleType:
    """Read the type: INTERVAL or WINDOW."""
    expected = " or ".join(ScheduleType)
    return _one_of(ScheduleType, required(fields, "schedule_type", str, expected), "schedule_type")


def seconds_of(fields: Fields, name: str) -> int:
    """Read a whole number of seconds above 0. The model checks the upper bound."""
    expected = "a whole number of seconds, at least 1"
    value = required(fields, name, int | float, expected)
    if value % 1 != 0:
        raise InvalidInput(f"{name} must be {expected}", field=name)
    return int(value)


def target_id_of(fields: Fields) -> int:
    """Read the id of a target. An impossible id becomes 0, which does not exist."""
    value = required(fields, "target_id", int, "the id of a target, an integer")
    assert isinstance(value, int)
    return value if 0 <= value < 10**MAX_DIGITS else 0


def if_given(fields: Fields, name: str, read: Callable[[Fields], T]) -> T | None:
    """Read a field with ``read`` if it is present and not null."""
    return read(fields) if is_given(fields, name) else None


def _one_of(kind: type[E], text: str, field: str) -> E:
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(f"{field} must be one of {', '.join(kind)}", field=field) from None
