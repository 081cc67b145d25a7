"""Schedules: request bodies and queries read into values."""

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
    """The status in the query; raises InvalidInput."""
    if "status_filter" not in params:
        return None
    return _one_of(ScheduleStatus, params["status_filter"], "status_filter")


def type_of(fields: Fields) -> ScheduleType:
    """INTERVAL or WINDOW."""
    expected = " or ".join(ScheduleType)
    return _one_of(ScheduleType, required(fields, "schedule_type", str, expected), "schedule_type")


def seconds_of(fields: Fields, name: str) -> int:
    """A whole number of seconds above 0. How large it may be is said by the model."""
    expected = "a whole number of seconds, at least 1"
    value = required(fields, name, int | float, expected)
    if value % 1 != 0:
        raise InvalidInput(f"{name} must be {expected}", field=name)
    return int(value)


def target_id_of(fields: Fields) -> int:
    """The id of a target; one that no id can be is 0, which is nobody's."""
    value = required(fields, "target_id", int, "the id of a target, an integer")
    assert isinstance(value, int)
    return value if 0 <= value < 10**MAX_DIGITS else 0


def if_given(fields: Fields, name: str, read: Callable[[Fields], T]) -> T | None:
    """What ``read`` makes of a field that is there and not null."""
    return read(fields) if is_given(fields, name) else None


def _one_of(kind: type[E], text: str, field: str) -> E:
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(f"{field} must be one of {', '.join(kind)}", field=field) from None
