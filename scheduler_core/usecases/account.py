"""Reads the account of a job: one read for its history and state, one for the records of the runs on the page."""

from __future__ import annotations

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import JobNotFound
from scheduler_core.plan.account import Account, Entry, make_account
from scheduler_core.store.jobs import JobStore


class AccountPage(msgspec.Struct, frozen=True):
    """A page of an account: the entries of fire times in [from, to], and the key after which the next page begins."""

    from_ms: int
    to_ms: int
    account: Account
    entries: list[Entry]
    trimmed: frozenset[str]
    """Runs whose record was trimmed; only the fields of their entry are known."""
    following: tuple[int, str] | None


async def read_account(
    store: JobStore,
    clock: Clock,
    job_id: str,
    *,
    from_ms: int | None,
    to_ms: int | None,
    after: tuple[int, str] | None,
    limit: int,
) -> AccountPage:
    """Return the entries of fire times from ``from_ms`` (None: from the beginning) to ``to_ms`` (None: now), both
    included, after the entry with the key ``after``.

    Raises JobNotFound if neither a job nor a history is stored under the id.
    """
    read = await store.read_account(job_id)
    if not read.exists:
        raise JobNotFound(job_id)
    now_ms = clock.now_ms()
    account = make_account(
        read.stored.snapshot,
        read.records,
        read.children,
        forgotten_ms=read.forgotten_ms,
        downtimes=read.stored.downtimes,
        store_id=read.stored.store_id,
        now_ms=now_ms,
    )
    last_ms = now_ms if to_ms is None else to_ms
    # An account without history begins with the next fire time, which lies ahead.
    first_ms = min(account.begins_ms, last_ms) if from_ms is None else from_ms
    entries = account.between(first_ms, last_ms, after=after, limit=limit + 1)
    following = entries[limit - 1].key if len(entries) > limit else None
    entries = entries[:limit]
    wanted = [entry.run.id for entry in entries if entry.run is not None and entry.settled]
    runs = await store.settled_runs(wanted)
    whole = [
        msgspec.structs.replace(entry, run=runs.get(entry.run.id, entry.run)) if entry.run is not None else entry
        for entry in entries
    ]
    return AccountPage(first_ms, last_ms, account, whole, frozenset(set(wanted) - set(runs)), following)
