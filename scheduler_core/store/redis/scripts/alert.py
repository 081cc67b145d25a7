"""Bindings of the scripts in ``lua/alert``."""

from __future__ import annotations

from typing import NamedTuple

from scheduler_core.store.redis.scripts.script import (
    BatchScript,
    Bytes,
    Count,
    EpochMs,
    Flag,
    Ms,
    Msgpack,
    OptionalEpochMs,
    Score,
    Script,
    Text,
)

SWEEP_KEYS = "changed alert_jobs alert_alarming alert_sweep alert_findings"


class ChangeBookArgs(NamedTuple):
    version: Count
    field: Text
    document: Bytes
    last_id: Count


CHANGE_BOOK = Script("alert/change_book", keys="alert_book", args=ChangeBookArgs)


class ArmArgs(NamedTuple):
    on: Flag
    version: Count
    force: Flag


ARM = Script("alert/arm", keys=SWEEP_KEYS, args=ArmArgs)


class SeedArgs(NamedTuple):
    at: EpochMs


class SeedItem(NamedTuple):
    job_id: Text


SEED = BatchScript("alert/seed", keys="changed", args=SeedArgs, item=SeedItem)


class SaveArgs(NamedTuple):
    version: Count
    progress: Bytes
    findings: Msgpack


class SaveItem(NamedTuple):
    job_id: Text
    score: Score
    look: OptionalEpochMs
    document: Bytes
    alarming: Flag


SAVE = BatchScript("alert/save", keys=SWEEP_KEYS, args=SaveArgs, item=SaveItem)


class TakeArgs(NamedTuple):
    node: Text
    now: EpochMs
    until: EpochMs
    most: Ms


TAKE = Script("alert/take", keys="alert_outbox", args=TakeArgs)


class PostArgs(NamedTuple):
    version: Count
    positions: Msgpack
    kept: Count


class PostItem(NamedTuple):
    id: Text
    document: Bytes
    next: OptionalEpochMs


POST = BatchScript(
    "alert/post", keys="alert_outbox alert_messages alert_waiting alert_sent", args=PostArgs, item=PostItem
)
