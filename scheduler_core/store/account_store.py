"""What the account of a job is made from, read in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from scheduler_core.errors import CorruptDocument
from scheduler_core.job import JobState
from scheduler_core.run import Miss, Record, Run
from scheduler_core.store.codec import decode_entry, decode_record, decode_state, is_mark
from scheduler_core.store.faults import translated_faults
from scheduler_core.store.redis_store import RedisStore, StoredJob, read_stored
from scheduler_core.store.scripts import load_script

CHILDREN_READ = 1000
"""Open runs of a job that allows overlap which one account shows."""


class StoredAccount(msgspec.Struct, frozen=True):
    """A job with its history, all of one moment."""

    stored: StoredJob
    records: tuple[Record, ...]
    """Oldest first. Runs are bare: what their entry tells, without attempts."""
    forgotten_ms: int | None
    """The latest fire time that may have left the history; None: there is no history."""
    children: tuple[JobState, ...]

    @property
    def exists(self) -> bool:
        """Whether anything is known under the id."""
        snapshot = self.stored.snapshot
        return not (snapshot.job is None and snapshot.state is None and self.stored.fault is None) or (
            self.forgotten_ms is not None
        )


class AccountStore:
    """Reads on the connections of the store that it is ``beside``. Raises StoreUnavailable or StoreRefused."""

    def __init__(self, beside: RedisStore) -> None:
        self._client = beside.client
        self._keys = beside.keys
        self._read = load_script("read_account")

    async def read(self, job_id: str) -> StoredAccount:
        """The job as it is stored now. Entries of its history that cannot be read are left out."""
        k = self._keys
        with translated_faults():
            downtimes, store_id, definition, state, lease, positions, rows = await self._read.run(
                self._client,
                (k.jobs, k.states, k.leases, k.meta, k.children, k.history(job_id)),
                (job_id, CHILDREN_READ),
            )
        records, forgotten_ms = _history(rows)
        return StoredAccount(
            read_stored(definition, state, lease, downtimes, store_id), records, forgotten_ms, _states(positions)
        )

    async def runs(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """The records of settled runs, as far as they are kept, by id."""
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
                continue  # its entry tells what there is to know
        return found


def _history(rows: Sequence[bytes]) -> tuple[tuple[Record, ...], int | None]:
    records: list[Record] = []
    forgotten_ms: int | None = None
    for row in rows:
        if is_mark(row):
            forgotten_ms = int(row[1:])
            continue
        try:
            entry = decode_entry(row)
        except CorruptDocument:
            continue
        records.append(entry if isinstance(entry, Miss) else entry.bare())
    return tuple(records), forgotten_ms


def _states(rows: Sequence[bytes | None]) -> tuple[JobState, ...]:
    states: list[JobState] = []
    for row in rows:
        try:
            if row is not None:
                states.append(decode_state(row))
        except CorruptDocument:
            continue
    return tuple(states)
