"""Bindings of the scripts in ``lua/job``."""

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
    Msgpack,
    Score,
    Script,
    Size,
    Text,
)


class HistoryKey(NamedTuple):
    """The history of one job."""

    history: Annotated[str, "list"]


class ClaimArgs(NamedTuple):
    now: EpochMs
    limit: Count
    node: Text
    token: Count
    recent: Ms
    dead_after: Ms
    downtime_count: Count
    trial: Flag
    suspect_losses: Count
    reply_bytes: Size
    horizon: EpochMs
    burst: Ms
    pauses: Count


CLAIM = Script(
    "job/claim", keys="due jobs states leases meta nodes claims suspects changed alert_alarming", args=ClaimArgs
)


class RecoverArgs(NamedTuple):
    node: Text
    token: Count
    reply_bytes: Size
    lowest: Score
    highest: Score


RECOVER = Script("job/recover_claims", keys="leases jobs states claims due", args=RecoverArgs)


class SettleArgs(NamedTuple):
    history_kept: Count
    failures_kept: Count
    retention: Ms
    settlements: Msgpack
    index_writes: Bytes
    events: Bytes


class SettleItem(NamedTuple):
    """One settlement. The script receives all of them in one argument (``codec.encode_items``)."""

    claim_key: Text
    holder: Text
    expected_tag: Bytes
    operation: Text
    state: Bytes
    wake: Score
    retrying_since: Score
    extend: Flag
    n: Count


class SpawnArgs(NamedTuple):
    """What follows the records of an item with the operation ``spawn``."""

    child: Text
    child_wake: EpochMs
    child_state: Bytes
    child_limit: Count


SETTLE = BatchScript(
    "job/settle",
    keys=f"due jobs states leases ids retrying children suspects {RECORD_KEYS} events",
    args=SettleArgs,
    item_keys=HistoryKeys,
    item=SettleItem,
)


class ChangeArgs(NamedTuple):
    history_kept: Count
    failures_kept: Count
    retention: Ms
    channel: Text
    answer_key: Text
    answer: Bytes
    now: EpochMs
    answer_until: EpochMs
    index_writes: Bytes
    events: Bytes
    mark: Bytes


class ChangeItem(NamedTuple):
    claim_key: Text
    expected_tag: Bytes
    expected_lease: Bytes
    definition: Bytes
    operation: Text
    state: Bytes
    wake: Score
    retrying_since: Score
    n: Count


CHANGE = BatchScript(
    "job/change",
    keys=f"due jobs states leases ids retrying children answers answered {RECORD_KEYS} events",
    args=ChangeArgs,
    item_keys=HistoryKeys,
    item=ChangeItem,
)


class CreateArgs(NamedTuple):
    channel: Text
    index_writes: Bytes
    events: Bytes


class CreateItem(NamedTuple):
    job_id: Text
    definition: Bytes
    state: Bytes
    wake: Score


CREATE = BatchScript(
    "job/create", keys="due jobs states leases ids meta children events", args=CreateArgs, item=CreateItem
)


class ReadArgs(NamedTuple):
    reply_bytes: Size


class ReadItem(NamedTuple):
    claim_key: Text


READ = BatchScript("job/read", keys="jobs states leases meta children", args=ReadArgs, item=ReadItem)


class ReadBesideArgs(NamedTuple):
    job_id: Text
    claim_key: Text
    part: Count
    parts: Count


READ_BESIDE = Script("job/read_beside", keys="jobs", args=ReadBesideArgs, call_keys=HistoryKey)


class RepairDueArgs(NamedTuple):
    now: EpochMs
    first: Count
    page: Count


REPAIR_DUE = Script("job/repair_due", keys="due ids children leases", args=RepairDueArgs)
