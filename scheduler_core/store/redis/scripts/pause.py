"""Bindings of the scripts in ``lua/pause``."""

from __future__ import annotations

from typing import NamedTuple

from scheduler_core.store.redis.scripts.script import (
    Bytes,
    Count,
    EpochMs,
    Flag,
    OptionalEpochMs,
    Score,
    Script,
)


class ChangeArgs(NamedTuple):
    now: EpochMs
    expected: Count
    begin: Flag
    until: OptionalEpochMs
    last: Bytes
    entry: Bytes
    kept: Count


CHANGE = Script("pause/change", keys="meta pauses", args=ChangeArgs)


class ClaimedArgs(NamedTuple):
    now: EpochMs
    first: Score
    last: Score
    limit: Count


CLAIMED = Script("pause/claimed", keys="due leases", args=ClaimedArgs)
