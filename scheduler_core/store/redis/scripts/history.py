"""Bindings of the scripts in ``lua/history``."""

from __future__ import annotations

from typing import NamedTuple

from scheduler_core.store.redis.scripts.job import HistoryKey
from scheduler_core.store.redis.scripts.record import RECORD_KEYS
from scheduler_core.store.redis.scripts.script import (
    BatchScript,
    Count,
    EpochMs,
    HistoryKeys,
    Script,
    Size,
    Text,
)


class ReadAccountArgs(NamedTuple):
    job_id: Text
    limit: Count


READ_ACCOUNT = Script(
    "history/read_account", keys="jobs states leases meta children", args=ReadAccountArgs, call_keys=HistoryKey
)


class SweepRunsArgs(NamedTuple):
    successes_since: EpochMs
    failures_since: EpochMs
    most_successes: Count
    most_failures: Count
    most_bytes: Size
    minutes_since: Count
    page: Count


SWEEP_RUNS = Script("history/sweep_runs", keys=RECORD_KEYS, args=SweepRunsArgs)


class SweepListsArgs(NamedTuple):
    """No arguments but those of the items."""


class SweepListsItem(NamedTuple):
    job_id: Text


SWEEP_LISTS = BatchScript(
    "history/sweep_lists", keys="jobs records", args=SweepListsArgs, item_keys=HistoryKeys, item=SweepListsItem
)
