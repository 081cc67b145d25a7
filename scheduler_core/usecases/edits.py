"""Changes single fields of a job, and plans changes of its definition without storing them."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from scheduler_core.base.errors import StoreUnavailable, VersionMismatch
from scheduler_core.model.job import Job
from scheduler_core.model.kept_secrets import with_kept_secrets
from scheduler_core.store.jobs import StoredJob
from scheduler_core.usecases.if_match import IfMatch, check_existing, requiring
from scheduler_core.usecases.job_reads import JobView, view_after
from scheduler_core.usecases.jobs import TRIES, JobService, step_of_upsert
from scheduler_core.usecases.release import plan_as_of

Edit = Callable[[Job], Awaitable[Job]]
"""Makes the new definition from the stored one, whose secrets it may replace by masks. Raises InvalidInput."""


class Preview(msgspec.Struct, frozen=True):
    """What an upsert would store."""

    before: Job | None
    """None: no job that can be read is stored under the id."""
    after: Job
    changed: bool
    view: JobView
    """The job after the upsert."""


async def edit_job(
    service: JobService, job_id: str, edit: Edit, *, restart: bool = False, if_match: IfMatch | None = None
) -> tuple[JobView, bool]:
    """Replace the definition by the one that ``edit`` makes from it; returns the job, and whether anything changed.

    If the definition changes between the read and the write, ``edit`` is called again with the new one, so no change of
    another client is lost. Raises JobNotFound, VersionMismatch, and RunConflict if the stored job cannot be read.
    """
    for _ in range(TRIES):
        base = _definition(job_id, await service.store.read(job_id), if_match)
        job = await edit(base)
        with contextlib.suppress(VersionMismatch):
            return await service.upsert(job, restart=restart, if_match={base.etag})
    raise StoreUnavailable(f"job {job_id!r} changes too often to be changed now")


async def preview_edit(
    service: JobService, job_id: str, edit: Edit, *, restart: bool = False, if_match: IfMatch | None = None
) -> Preview:
    """Return what ``edit_job`` would store now; stores nothing. Raises what it would raise."""
    stored = await service.store.read(job_id)
    job = await edit(_definition(job_id, stored, if_match))
    return _preview(service, job, stored, restart=restart, if_match=None)


async def preview_upsert(
    service: JobService, job: Job, *, restart: bool = False, if_match: IfMatch | None = None
) -> Preview:
    """Return what ``JobService.upsert`` would store now; stores nothing. Raises what it would raise."""
    return _preview(service, job, await service.store.read(job.id), restart=restart, if_match=if_match)


def _definition(job_id: str, stored: StoredJob, if_match: IfMatch | None) -> Job:
    check_existing(job_id, stored, if_match)
    assert stored.snapshot.job is not None
    return stored.snapshot.job


def _preview(service: JobService, job: Job, stored: StoredJob, *, restart: bool, if_match: IfMatch | None) -> Preview:
    now_ms = service.clock.now_ms()
    step = plan_as_of(stored, requiring(partial(step_of_upsert, job, restart=restart), if_match), now_ms)
    before = stored.snapshot.job
    after = (before if step is None else step.job) or with_kept_secrets(job, before)
    # The last only if the id is kept of a job that was deleted when it completed, or it completes at once.
    return Preview(before, after, step is not None, view_after(job.id, stored, step, now_ms))
