"""Repairs interrupted operations: half-created schedules and unfinished target deletions.

A process that dies between two steps of ``usecases/schedules`` leaves an incomplete entry: a name without its schedule,
a schedule without its name, a count that is off by one. Such a schedule never fires twice, and this loop repairs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import CronpostError, StoreError, TargetNotFound
from scheduler_core.base.events import SCHEDULES_SWEPT, WAKE_UPS_REPAIRED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import job_id_of, schedule_id_of, schedule_status
from scheduler_core.node.loops.service import Service
from scheduler_core.store.catalogue import Row
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.selection import Selection, page_of_selected
from scheduler_core.usecases.targets import TargetService

log = get_logger(__name__)

PERIOD_SECONDS = 10.0
HALVES_AFTER_MS = 60_000
"""How long the creation of a schedule or the deletion of a target may take before it counts as interrupted."""
COPIES_AFTER_MS = 10_000
"""How long copying a changed target to all shards may take before it counts as interrupted."""
TURN_MS = 600_000
"""How often one of the nodes compares all schedules with their jobs."""
PAGE = 200
"""Schedules read at once: few enough that decoding them does not block the event loop."""


class CatalogueSweeper(Service):
    """Looks for interrupted operations every ten seconds; one command if there are none."""

    name = "catalogue"

    def __init__(self, shards: Shards[ShardStore], clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._shards = shards
        self._catalogue = shards.lead.catalogue_store()
        self._schedules = ScheduleService(shards, clock, metrics)
        self._targets = TargetService(shards, clock, self._schedules)
        self._tasks = shards.lead.task_store()
        self._looked_at = [0] * len(shards)
        """For each shard the rank of the next id whose entry in the due set is checked."""

    async def run_once(self) -> None:
        await self.clock.sleep(PERIOD_SECONDS)
        await self.repair()
        await self.sweep()

    async def repair(self) -> int:
        """Repair impossible wake-ups of jobs and tasks, which would never fire; return how many."""
        repaired = await self._tasks.repair()
        for number, store in enumerate(self._shards.all):
            count, self._looked_at[number] = await store.repair_due(
                now_ms=self.clock.now_ms(), first=self._looked_at[number]
            )
            if count:
                log.warning(WAKE_UPS_REPAIRED, count=count, shard=number)
            repaired += count
        return repaired

    async def sweep(self) -> int:
        """Repair what is due for repair now; return how many schedules and targets."""
        duties = await self._catalogue.duties(now_ms=self.clock.now_ms(), old_ms=HALVES_AFTER_MS, period_ms=TURN_MS)
        repaired = await self._targets.copies.sweep(now_ms=self.clock.now_ms(), old_ms=COPIES_AFTER_MS)
        for target_id in duties.deleting:
            if await self._catalogue.keep(target_id):
                continue
            with contextlib.suppress(TargetNotFound):  # another node was faster
                await self._targets.delete(target_id)
                repaired += 1
        for schedule_id in duties.reserved:
            repaired += await self._align(schedule_id)
        if duties.turn:
            repaired += await self._compare_jobs()
            repaired += await self._compare_schedules()
            repaired += await self._targets.copies.compare()
            await self._targets.sweep_notes()
        if repaired:
            log.warning(SCHEDULES_SWEPT, count=repaired)
        return repaired

    async def _compare_jobs(self) -> int:
        """Remove jobs of schedules that are not in the catalogue. The job is read first. Its row was written before it,
        so a missing row was removed."""
        repaired = 0
        cursor: str | None = ""
        schedules = Selection(prefix=job_id_of(0)[:-1])
        while cursor is not None:
            page = await page_of_selected(self._shards, self.clock, schedules, cursor=cursor, limit=PAGE)
            ids = [one for view in page.jobs if (one := schedule_id_of(view.id)) is not None]
            rows = await self._catalogue.rows(ids)
            for schedule_id, row in zip(ids, rows, strict=True):
                repaired += row is None and await self._align(schedule_id)
            cursor = page.cursor
        return repaired

    async def _compare_schedules(self) -> int:
        """Remove schedules without a job, and align those whose job differs from the catalogue."""
        repaired = 0
        after = 0
        while True:
            ids = await self._catalogue.page_schedules(after=after, skip=0, limit=PAGE)
            if not ids:
                return repaired
            for schedule_id in await self._unaligned(ids):
                repaired += await self._align(schedule_id)
            after = ids[-1]

    async def _unaligned(self, schedule_ids: Sequence[int]) -> list[int]:
        # Read the rows first: if a job is missing after that, its schedule was deleted.
        rows = await self._catalogue.rows(schedule_ids)
        now_ms = self.clock.now_ms()
        statuses = await self._catalogue.statuses(schedule_ids, now_ms=now_ms)
        views = await self._schedules.views([job_id_of(one) for one in schedule_ids])
        return [
            schedule_id
            for schedule_id, row, status, view in zip(schedule_ids, rows, statuses, views, strict=True)
            if not _agree(row, status, view, now_ms)
        ]

    async def _align(self, schedule_id: int) -> bool:
        try:
            await self._schedules.align(schedule_id)
        except StoreError:
            raise
        except CronpostError:
            return False  # a schedule that cannot be read must not stop the repair of the others
        return True


def _agree(row: Row | None, status: object, view: JobView | None, now_ms: int) -> bool:
    if row is None or view is None:
        return False
    job = view.job
    if job is None:
        return True  # unreadable: a person has to look at it
    same_row = (row.name, row.target_id) == (job.name, job.target_id)
    return same_row and status is schedule_status(job, view.state, now_ms)
