"""Bindings of the scripts in ``lua/operation``."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from scheduler_core.store.redis.scripts.script import Bytes, Count, EpochMs, Script, Text

Hash = Annotated[str, "hash"]
KEYS = "operations open_operations"


class OperationKey(NamedTuple):
    """The document of one operation."""

    operation: Hash


class CreateOperationArgs(NamedTuple):
    id: Text
    spec: Bytes
    progress: Bytes
    carrier: Text
    now: EpochMs
    until: EpochMs
    most_open: Count
    most_kept: Count


CREATE_OPERATION = Script("operation/create", keys=KEYS, args=CreateOperationArgs, call_keys=OperationKey)


class TakeOperationArgs(NamedTuple):
    id: Text
    carrier: Text
    now: EpochMs
    until: EpochMs


TAKE_OPERATION = Script("operation/take", keys=KEYS, args=TakeOperationArgs, call_keys=OperationKey)


class SaveOperationArgs(NamedTuple):
    id: Text
    fence: Count
    progress: Bytes
    state: Text
    until: EpochMs
    ended: EpochMs
    kept_until: EpochMs


SAVE_OPERATION = Script("operation/save", keys=KEYS, args=SaveOperationArgs, call_keys=OperationKey)


class CancelOperationArgs(NamedTuple):
    id: Text
    now: EpochMs
    kept_until: EpochMs


CANCEL_OPERATION = Script("operation/cancel", keys=KEYS, args=CancelOperationArgs, call_keys=OperationKey)
