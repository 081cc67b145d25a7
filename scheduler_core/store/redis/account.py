"""Reads what the account of a job is computed from, in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import Miss, Reason, Record, Run
from scheduler_core.store.jobs import StoredAccount
from scheduler_core.store.redis.codec import decode_entry, decode_record, decode_state, is_mark
from scheduler_core.store.redis.documents import read_stored
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.history import READ_ACCOUNT, ReadAccountArgs
from scheduler_core.store.redis.scripts.job import HistoryKey
from scheduler_core.store.redis.shard import RedisShard

CHILDREN_READ = 1000
"""The most open child runs that an account shows."""


class Accounts(RedisShard):
    """Part of ``RedisStore``; ``JobStore`` documents the methods."""

    async def read_account(self, job_id: str) -> StoredAccount:
        downtimes, store_id, pauses, definition, state, lease, positions, rows = await self.run(
            READ_ACCOUNT,
            ReadAccountArgs(job_id=job_id, limit=CHILDREN_READ),
            HistoryKey(history=self._keys.history(job_id)),
        )
        records, forgotten_ms, is_whole = _history(rows)
        children = _states(positions)
        if is_whole and forgotten_ms is not None:
            # No entry has left the list. Of two overlapping runs, the first may end and be recorded after the second.
            known = [*records, *(child.open for child in children if child.open is not None)]
            forgotten_ms = min([forgotten_ms, *(_first_ms(one) - 1 for one in known if _is_of_trigger(one))])
        stored = read_stored(job_id, definition, state, lease, downtimes, store_id, pauses)
        return StoredAccount(stored, records, forgotten_ms, children)

    async def settled_runs(self, run_ids: Sequence[str]) -> dict[str, Run]:
        if not run_ids:
            return {}
        with translated_faults():
            rows: list[Any] = await self._client.hmget(self._keys.records, list(run_ids))
        found: dict[str, Run] = {}
        for run_id, row in zip(run_ids, rows, strict=True):
            try:
                if row is not None:
                    found[run_id] = decode_record(row)[1]
            except CorruptDocument:
                continue  # use its entry instead
        return found


def _history(rows: Sequence[bytes]) -> tuple[tuple[Record, ...], int | None, bool]:
    """Return the records, the latest fire time that may be missing before them, and whether no entry has left the
    list."""
    records: list[Record] = []
    forgotten_ms: int | None = None
    is_whole = False
    for row in rows:
        if is_mark(row):
            forgotten_ms, is_whole = int(row[1:]), row[:1] == b"b"
            continue
        try:
            entry = decode_entry(row)
        except CorruptDocument:
            continue
        records.append(entry if isinstance(entry, Miss) else entry.bare())
    return tuple(records), forgotten_ms, is_whole


def _first_ms(record: Record) -> int:
    return record.first_ms if isinstance(record, Miss) else record.fire_time_ms


def _is_of_trigger(record: Record) -> bool:
    return isinstance(record, Miss) or record.reason in (Reason.SCHEDULED, Reason.RECOVERY)


def _states(rows: Sequence[bytes | None]) -> tuple[JobState, ...]:
    states: list[JobState] = []
    for row in rows:
        try:
            if row is not None:
                states.append(decode_state(row))
        except CorruptDocument:
            continue
    return tuple(states)
