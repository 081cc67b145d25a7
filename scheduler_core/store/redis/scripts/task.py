"""Bindings of the scripts in ``lua/task``."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from scheduler_core.store.redis.scripts.record import RECORD_KEYS
from scheduler_core.store.redis.scripts.script import (
    BatchScript,
    Bytes,
    Count,
    EpochMs,
    Flag,
    HistoryKeys,
    Ms,
    OptionalCount,
    OptionalEpochMs,
    Score,
    Script,
    Text,
)

OptionalMs = Annotated[int | str, "ms or empty"]


class TakeArgs(NamedTuple):
    now: EpochMs
    node: Text
    token: Count
    dead_after: Ms
    slots: Count
    base_interval_ms: Ms
    http_callback_timeout_ms: Ms
    select_size: Count
    max_retries: Count


TAKE = Script("task/take", keys="fresh failed running tasks batch settings meta nodes", args=TakeArgs)


class SettleArgs(NamedTuple):
    now: EpochMs
    node: Text
    fence: Count
    delivered_kept: Count
    stale_kept: Count
    history_kept: Count
    failures_kept: Count
    retention: Ms
    channel: Text


class SettleItem(NamedTuple):
    task: Text
    operation: Text
    document: Bytes
    n: Count


SETTLE = BatchScript(
    "task/settle",
    keys=f"fresh failed running tasks delivered stale batch {RECORD_KEYS} dismissed",
    args=SettleArgs,
    item_keys=HistoryKeys,
    item=SettleItem,
)


class ReturnArgs(NamedTuple):
    node: Text
    fence: OptionalCount
    ended: OptionalEpochMs
    channel: Text


RETURN = Script("task/return", keys="fresh failed running tasks batch", args=ReturnArgs)


class InsertArgs(NamedTuple):
    channel: Text


class InsertItem(NamedTuple):
    execute_at: EpochMs
    document: Bytes


INSERT = BatchScript("task/insert", keys="fresh tasks meta", args=InsertArgs, item=InsertItem)


class ReadArgs(NamedTuple):
    task: Text


READ = Script("task/read", keys="tasks fresh failed running stale delivered", args=ReadArgs)


class PageKeys(NamedTuple):
    """The set that is read."""

    tasks_of_status: Annotated[str, "sorted set"]


class PageArgs(NamedTuple):
    reverse: Flag
    score: Score
    task: Text
    limit: Count


PAGE = Script("task/page", keys="tasks", args=PageArgs, call_keys=PageKeys)


class DeleteArgs(NamedTuple):
    history_kept: Count
    failures_kept: Count
    retention: Ms


class DeleteItem(NamedTuple):
    task: Text
    expected: Bytes
    n: Count


DELETE = BatchScript(
    "task/delete",
    keys=f"fresh failed running tasks delivered stale {RECORD_KEYS} dismissed",
    args=DeleteArgs,
    item_keys=HistoryKeys,
    item=DeleteItem,
)


class ReviveArgs(NamedTuple):
    task: Text
    expected: Bytes
    document: Bytes
    execute_at: EpochMs
    channel: Text


REVIVE = Script("task/revive", keys="failed tasks stale dismissed", args=ReviveArgs)


class SettingsArgs(NamedTuple):
    channel: Text
    default_base_interval_ms: Ms
    default_http_callback_timeout_ms: Ms
    default_select_size: Count
    default_max_retries: Count
    base_interval_ms: OptionalMs
    http_callback_timeout_ms: OptionalMs
    select_size: OptionalCount
    max_retries: OptionalCount


SETTINGS = Script("task/settings", keys="settings", args=SettingsArgs)


class DismissArgs(NamedTuple):
    task: Text
    expected: Bytes
    now: EpochMs


DISMISS = Script("task/dismiss", keys="tasks stale dismissed", args=DismissArgs)
