"""The list of jobs, over all shards, in the order of the ids' bytes."""

from __future__ import annotations

import msgspec

from scheduler_core.services.jobs import JobView, exists, view_of
from scheduler_core.store.shards import Shards

EXAMINED = 1000
"""How many jobs one page of a filtered list looks at; it may then be short, and its cursor goes on from there."""
LOOK_AT = 200


class Page(msgspec.Struct, frozen=True):
    """Part of a list. ``cursor``: where the next page begins; None at the end."""

    jobs: list[JobView]
    cursor: str | None


async def page_of_jobs(
    shards: Shards, *, cursor: str = "", prefix: str = "", status: str | None = None, limit: int = 100
) -> Page:
    """Jobs from after ``cursor``: those that start with ``prefix`` and have ``status``.

    A page with a ``status`` looks at a bounded number of jobs, so it may be short and still not be the last. Each shard
    is asked for as many ids as are wanted in all; only the jobs of the first of them are read.
    """
    found: list[JobView] = []
    examined = 0
    while len(found) < limit and examined < EXAMINED:
        wanted = limit - len(found) if status is None else LOOK_AT
        ids = await shards.page_ids(after=cursor, prefix=prefix, limit=wanted)
        for job_id, stored in zip(ids, await shards.read_many(ids), strict=True):
            cursor = job_id
            examined += 1
            if not exists(stored):
                continue  # deleted between the two reads
            view = view_of(job_id, stored)
            if status is None or view.status == status:
                found.append(view)
            if len(found) >= limit:
                return Page(found, cursor)
        if len(ids) < wanted:
            return Page(found, None)
    return Page(found, cursor)
