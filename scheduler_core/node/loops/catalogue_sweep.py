"""Goes on with what was cut: schedules of which only a half is there, targets whose deletion was not ended.

A process that dies between two steps of ``catalogue`` leaves a half behind: a name without
its schedule, a schedule without its name, a count that is one off. None of them fires twice or stays unseen for ever.
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
from scheduler_core.usecases.job_list import page_of_jobs
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.targets import TargetService

log = get_logger(__name__)

PERIOD_SECONDS = 10.0
HALVES_AFTER_MS = 60_000
"""How long whoever creates a schedule or deletes a target is left to it."""
COPIES_AFTER_MS = 10_000
"""How long whoever changes a target is left to copying it to all shards."""
TURN_MS = 600_000
"""How often all schedules are compared with their jobs, by one of the nodes."""
PAGE = 200
"""Schedules read at once: few enough that the loop is not held up while they are decoded."""


class CatalogueSweeper(Service):
    """Looks every ten seconds for halves, which costs one command when there are none."""

    name = "catalogue"

    def __init__(self, shards: Shards[ShardStore], clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._shards = shards
        self._catalogue = shards.lead.catalogue_store()
        self._schedules = ScheduleService(shards, clock, metrics)
        self._targets = TargetService(shards, clock, self._schedules)
        self._lane = shards.lead.task_store()
        self._looked_at = [0] * len(shards)
        """For each shard the rank of the next id whose entry in the due set is looked for."""

    async def run_once(self) -> None:
        await self.clock.sleep(PERIOD_SECONDS)
        await self.repair()
        await self.sweep()

    async def repair(self) -> int:
        """Put right wake-ups that no job or task can have; how many. Without it, such a job would never fire."""
        repaired = await self._lane.repair()
        for number, store in enumerate(self._shards.all):
            count, self._looked_at[number] = await store.repair_due(
                now_ms=self.clock.now_ms(), first=self._looked_at[number]
            )
            if count:
                log.warning(WAKE_UPS_REPAIRED, count=count, shard=number)
            repaired += count
        return repaired

    async def sweep(self) -> int:
        """Do what there is to do now; how many schedules and targets were put right."""
        duties = await self._catalogue.duties(now_ms=self.clock.now_ms(), old_ms=HALVES_AFTER_MS, period_ms=TURN_MS)
        mended = await self._targets.copies.sweep(now_ms=self.clock.now_ms(), old_ms=COPIES_AFTER_MS)
        for target_id in duties.deleting:
            if await self._catalogue.keep(target_id):
                continue
            with contextlib.suppress(TargetNotFound):  # another node was faster
                await self._targets.delete(target_id)
                mended += 1
        for schedule_id in duties.reserved:
            mended += await self._mend(schedule_id)
        if duties.turn:
            mended += await self._compare_jobs()
            mended += await self._compare_schedules()
            mended += await self._targets.copies.compare()
        if mended:
            log.warning(SCHEDULES_SWEPT, count=mended)
        return mended

    async def _compare_jobs(self) -> int:
        """Jobs that are schedules, but not in the catalogue, go. A job is read first, and its row was written before
        it: if there is none then, it was taken away."""
        mended = 0
        cursor: str | None = ""
        while cursor is not None:
            page = await page_of_jobs(self._shards, cursor=cursor, prefix=job_id_of(0)[:-1], limit=PAGE)
            ids = [one for view in page.jobs if (one := schedule_id_of(view.id)) is not None]
            rows = await self._catalogue.rows(ids)
            for schedule_id, row in zip(ids, rows, strict=True):
                mended += row is None and await self._mend(schedule_id)
            cursor = page.cursor
        return mended

    async def _compare_schedules(self) -> int:
        """Schedules without a job go; one whose job says something else than the catalogue is brought in line."""
        mended = 0
        after = 0
        while True:
            ids = await self._catalogue.page_schedules(after=after, skip=0, limit=PAGE)
            if not ids:
                return mended
            for schedule_id in await self._out_of_line(ids):
                mended += await self._mend(schedule_id)
            after = ids[-1]

    async def _out_of_line(self, schedule_ids: Sequence[int]) -> list[int]:
        # The rows first: a row whose job is not there afterwards is of a schedule that was deleted.
        rows = await self._catalogue.rows(schedule_ids)
        now_ms = self.clock.now_ms()
        statuses = await self._catalogue.statuses(schedule_ids, now_ms=now_ms)
        views = await self._schedules.views([job_id_of(one) for one in schedule_ids])
        return [
            schedule_id
            for schedule_id, row, status, view in zip(schedule_ids, rows, statuses, views, strict=True)
            if not _agree(row, status, view, now_ms)
        ]

    async def _mend(self, schedule_id: int) -> bool:
        try:
            await self._schedules.align(schedule_id)
        except StoreError:
            raise
        except CronpostError:
            return False  # a schedule that cannot be read: the others are swept all the same
        return True


def _agree(row: Row | None, status: object, view: JobView | None, now_ms: int) -> bool:
    if row is None or view is None:
        return False
    job = view.job
    if job is None:
        return True  # it cannot be read, and waits for someone
    same_row = (row.name, row.target_id) == (job.name, job.target_id)
    return same_row and status is schedule_status(job, view.state, now_ms)
