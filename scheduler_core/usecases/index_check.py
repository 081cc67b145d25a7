"""Checks the index of jobs page by page, and adds entries that it misses.

The scripts that change jobs keep the index complete. A check is needed once after an upgrade, because jobs that an
earlier version stored have no entries, and after nodes of an earlier version ran beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping

from scheduler_core.model.index import UNREADABLE, index_entries
from scheduler_core.store.shards import ShardStore


async def check_index(store: ShardStore, *, after: str, limit: int) -> tuple[str | None, int]:
    """Check up to ``limit`` jobs after ``after``, in the order of ids; return the id to continue from (None: these were
    the last jobs) and how many entries were missing.

    A job that changes between its read and the write is checked again.
    """
    ids = await store.page_ids(after=after, prefix="", limit=limit)
    page: list[tuple[str, bytes, Mapping[str, int]]] = []
    for job_id, stored in zip(ids, await store.read_many(ids), strict=True):
        entries = {UNREADABLE: 0}
        if stored.fault is None:
            entries = index_entries(stored.snapshot.job, stored.snapshot.state)
        page.append((job_id, stored.tag, entries))
    added, is_complete = await store.find_store().add_missing(page)
    if not is_complete:
        return after, added
    return (ids[-1] if len(ids) == limit else None), added
