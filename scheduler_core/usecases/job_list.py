"""Lists the jobs of all shards, in the order of the bytes of their ids."""

from __future__ import annotations

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.job_reads import JobView, exists, view_of

EXAMINED = 1000
"""A page of a filtered list examines at most this many jobs; it may be short, and its cursor continues there."""
LOOK_AT = 200
FIRST_READ = 16
PAGE_BYTES = 8 << 20
"""A page reads at most this many bytes of payloads, even if it does not show them. With large payloads it is short."""


class Page(msgspec.Struct, frozen=True):
    """Part of a list. ``cursor``: where the next page begins; None at the end."""

    jobs: list[JobView]
    cursor: str | None


async def page_of_jobs(
    shards: Shards[ShardStore],
    clock: Clock,
    *,
    cursor: str = "",
    prefix: str = "",
    status: str | None = None,
    limit: int = 100,
) -> Page:
    """Return jobs after ``cursor`` whose id starts with ``prefix`` and which have ``status``.

    A page examines a bounded number of jobs and bytes, so a short page need not be the last. Each shard returns as many
    ids as the whole page needs; only the jobs of the first ids are read.
    """
    found: list[JobView] = []
    examined = size = 0
    read_at_once = FIRST_READ
    while len(found) < limit and examined < EXAMINED:
        wanted = limit - len(found) if status is None else LOOK_AT
        ids = await shards.page_ids(after=cursor, prefix=prefix, limit=wanted)
        read = 0
        while read < len(ids):
            part = ids[read : read + read_at_once]
            read += len(part)
            for job_id, stored in zip(part, await shards.read_many(part), strict=True):
                cursor = job_id
                examined += 1
                if not exists(stored):
                    continue  # deleted between the two reads
                view = view_of(job_id, stored, clock.now_ms())
                size += 0 if view.job is None else len(view.job.payload)
                if status is None or view.status == status:
                    found.append(view)
                if len(found) >= limit:
                    return Page(found, cursor)
            if size >= PAGE_BYTES:
                return Page(found, cursor)
            mean = max(1, size // examined)
            read_at_once = min(LOOK_AT, max(1, (PAGE_BYTES - size) // mean))
        if len(ids) < wanted:
            return Page(found, None)
    return Page(found, cursor)
