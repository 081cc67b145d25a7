"""Keeps named targets alive while jobs use them.

A note on the first shard says that a job uses a target, and a target with a note is not deleted. Note and job may be on
different shards, so they are written one after the other: first a *pin* of this one write, then the job, then the note,
which replaces the pin. So from before a job is written until it is changed, its target has a pin or a note.

A process that dies in between leaves a pin or a note of a job that does not use the target. The job decides: a count
reads the jobs and removes wrong notes. A note can be removed if it was read before the job was, and was not made again:
a job that is written in between has a pin. A pin can be removed when no write can follow it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import CorruptDocument, CronpostError, InvalidInput, StoreError, StoreUnavailable
from scheduler_core.model.catalogue import Target
from scheduler_core.model.job import Job
from scheduler_core.store.catalogue import JobNote, draw_token
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.job_reads import JobView

WRITE_WITHIN_MS = 60_000
"""A job is written within this time after its target was pinned, or not at all."""
PINNED_MS = 2 * WRITE_WITHIN_MS
"""An older pin was left by a process that died: the deadline of its write has passed too."""
PAGE = 200


class JobTargets:
    """Finds the named targets of jobs, and counts the jobs of a target. Every method raises StoreUnavailable or
    StoreRefused if Redis fails."""

    def __init__(self, shards: Shards[ShardStore], clock: Clock) -> None:
        self._shards = shards
        self._catalogue = shards.lead.catalogue_store()
        self._clock = clock

    async def find(self, name: str) -> Target:
        """Return the target with this name. Raises InvalidInput and CorruptDocument."""
        target_id = await self._catalogue.find_target(name)
        stored = None if target_id is None else (await self._catalogue.read_targets([target_id]))[0]
        if stored is None:
            raise InvalidInput(f"no target has the name {name[:255]!r}; POST /targets creates one", field="target")
        if stored.fault is not None:
            raise CorruptDocument(stored.fault)
        return stored.target

    async def named(self, views: Sequence[JobView]) -> list[JobView]:
        """Return the views with the present names of the jobs' targets."""
        jobs = await self.with_names([view.job for view in views])
        return [view if view.job is job else replace(view, job=job) for view, job in zip(views, jobs, strict=True)]

    async def with_names(self, jobs: Sequence[Job | None]) -> list[Job | None]:
        """Return the jobs with the present names of their targets."""
        used = [job.target_id for job in jobs if job is not None and job.request is not None]
        ids = sorted({target_id for target_id in used if target_id is not None})
        if not ids:
            return list(jobs)
        stored = await self._catalogue.read_targets(ids)
        names = {one.target.id: one.target.name for one in stored if one is not None}

        def with_name(job: Job | None) -> Job | None:
            if job is None or job.request is None or job.target_id not in names:
                return job
            return replace(job, request=replace(job.request, target_name=names[job.target_id]))

        return [with_name(job) for job in jobs]

    @asynccontextmanager
    async def using(self, job: Job) -> AsyncIterator[int]:
        """Keep the job's target alive while the job is written, and note that it uses the target afterwards.

        Yields the instant after which the job must not be written any more. Raises InvalidInput if the target is gone.
        """
        assert job.target_id is not None
        pin, now_ms = f"p{draw_token()}{job.id}", self._clock.now_ms()
        if not await self._catalogue.link_job(job.target_id, pin, now_ms=now_ms):
            raise InvalidInput("the target was deleted meanwhile", field="target")
        try:
            yield now_ms + WRITE_WITHIN_MS
        except CronpostError as error:
            if not (isinstance(error, StoreUnavailable) and error.effect_unknown):
                with contextlib.suppress(StoreError):  # the pin expires
                    await self._catalogue.unlink_job(job.target_id, JobNote(pin, now_ms))
            raise
        await self._catalogue.link_job(job.target_id, f"j{job.id}", now_ms=self._clock.now_ms(), replaces=pin)

    async def release(self, target_id: int, job_id: str) -> None:
        """Remove the note of a job that does not use the target any more."""
        note = await self._catalogue.job_note(target_id, f"j{job_id}")
        if note is not None:
            await self._is_used(target_id, note)

    async def users(self, target_id: int) -> int:
        """Count the jobs that use a target. Removes notes that are wrong.

        Reads jobs until it finds a page with one that uses the target; the further notes are counted as they are.
        """
        while notes := await self._catalogue.job_notes(target_id, first=0, limit=PAGE):
            used = await asyncio.gather(*(self._is_used(target_id, note) for note in notes))
            if any(used):
                return await self._catalogue.count_notes(target_id)
        return 0

    async def sweep(self, target_id: int) -> int:
        """Remove old notes of a target that are wrong; return how many were examined."""
        notes = await self._catalogue.job_notes(target_id, first=0, limit=PAGE)
        now_ms = self._clock.now_ms()
        old = [note for note in notes if note.made_at_ms < now_ms - PINNED_MS]
        used = await asyncio.gather(*(self._is_used(target_id, note) for note in old))
        for note, is_used in zip(old, used, strict=True):
            if is_used:  # made again, so that the next sweep examines others
                await self._catalogue.link_job(target_id, note.text, now_ms=now_ms)
        return len(old)

    async def _is_used(self, target_id: int, note: JobNote) -> bool:
        """Return whether the job of a note uses the target, or may be about to; if not, remove the note."""
        stored = await self._shards.of(note.job_id).read(note.job_id)
        job = stored.snapshot.job
        uses = stored.fault is not None or (job is not None and job.target_id == target_id)
        if note.is_pin:
            if note.made_at_ms >= self._clock.now_ms() - PINNED_MS:
                return True
            if uses:
                await self._catalogue.link_job(
                    target_id, f"j{note.job_id}", now_ms=self._clock.now_ms(), replaces=note.text
                )
                return True
        elif uses:
            return True
        await self._catalogue.unlink_job(target_id, note)
        return False


def check_in_time(now_ms: int, until_ms: int) -> None:
    """Raise StoreUnavailable if the pin of a write is too old."""
    if now_ms > until_ms:
        raise StoreUnavailable("storing the job took too long; nothing was changed, send it again")
