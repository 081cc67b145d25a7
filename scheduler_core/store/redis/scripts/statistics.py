"""Bindings of the scripts in ``lua/statistics``."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from scheduler_core.store.redis.scripts.script import Count, Ms, Msgpack, Script, Text


class HourKey(NamedTuple):
    """The statistics of one hour."""

    hour: Annotated[str, "hash"]


class AddStatisticsArgs(NamedTuple):
    minute: Count
    process: Text
    sequence: Count
    counts: Msgpack
    kept: Ms


ADD_STATISTICS = Script("statistics/add", keys="", args=AddStatisticsArgs, call_keys=HourKey)
