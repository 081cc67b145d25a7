"""Random histories of jobs with named targets: several processes at once, which die at any write.

After every history: a job's target exists, whatever the order of the writes was; a target without jobs can be deleted,
and one with jobs cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput, JobNotFound, TargetInUse, TargetNotFound, VersionMismatch
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import Target
from scheduler_core.model.job import Job
from scheduler_core.model.request import Content, RequestSpec
from scheduler_core.store.redis.catalogue import RedisCatalogue
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.edits import edit_job
from scheduler_core.usecases.job_targets import PINNED_MS, JobTargets
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.targets import TargetService
from tests.support.examples import examples
from tests.support.manual_clock import ManualClock

JOBS = ("a", "b", "c")
TARGETS = ("t", "u")
STEPS = 12


class Died(BaseException):
    """The process was killed here. A ``BaseException``, so that no code of the project catches it."""


class Process:
    """One process: its services, and how many writes it still makes."""

    def __init__(self, url: str, clock: ManualClock, chance: random.Random) -> None:
        process, self.writes_left, self.chance = self, 1_000, chance

        class Store(RedisStore):
            async def change(self, *args: Any, **named: Any) -> bool:
                return bool(await process.write(super().change(*args, **named)))

            def catalogue_store(self) -> RedisCatalogue:
                return Catalogue(self)

        class Catalogue(RedisCatalogue):
            async def _write(self, *args: Any) -> Any:
                return await process.write(super()._write(*args))

        self.store = Store(connect(url))
        shards = Shards.of_one(self.store)
        self.job_targets = JobTargets(shards, clock)
        self.jobs = JobService(self.store, clock, Metrics(), targets=self.job_targets)
        self.targets = TargetService(shards, clock, ScheduleService(shards, clock, Metrics()))

    async def write(self, operation: Any) -> Any:
        """Make a write, or die before or after it."""
        for _ in range(self.chance.choice([0, 1, 5, 150])):
            await asyncio.sleep(0)
        self.writes_left -= 1
        if self.writes_left > 0:
            return await operation
        if self.chance.random() < 0.5:
            await operation
        else:
            operation.close()
        raise Died

    async def step(self) -> None:
        """Make one random change, and perhaps die in it."""
        self.writes_left = self.chance.choice([1, 2, 3, 4, 1_000, 1_000, 1_000])
        job_id, name = self.chance.choice(JOBS), self.chance.choice(TARGETS)
        with contextlib.suppress(Died, InvalidInput, JobNotFound, TargetInUse, TargetNotFound, VersionMismatch):
            match self.chance.randrange(8):
                case 6 | 7:
                    seen = (await self.store.read(job_id)).snapshot.job
                    etags = None if seen is None or self.chance.random() < 0.5 else {seen.etag}
                    await edit_job(self.jobs, job_id, self.edit, if_match=etags)
                case 0 | 1 | 2:
                    await self.jobs.upsert(await self.job(job_id, name))
                case 3:
                    await self.jobs.upsert(Job(job_id, "http://runner.test/", CronSpec("@daily"), b"1"))
                case 4:
                    await self.jobs.delete(job_id)
                case _:
                    target_id = await self.job_targets._catalogue.find_target(name)
                    await self.targets.delete(target_id or 0)

    async def edit(self, stored: Job) -> Job:
        """Change the trigger alone, or the target."""
        if self.chance.random() < 0.5:
            return replace(stored, trigger=CronSpec(self.chance.choice(["@daily", "@hourly", "@weekly"])))
        return await self.job(stored.id, self.chance.choice(TARGETS))

    async def job(self, job_id: str, name: str) -> Job:
        target = await self.job_targets.find(name)
        spec = RequestSpec(content=Content.NONE)
        return Job(
            job_id, "", CronSpec(self.chance.choice(["@daily", "@hourly"])), b"", target_id=target.id, request=spec
        )


async def targets_of_jobs(process: Process) -> set[int]:
    stored = await process.store.read_many(JOBS)
    return {one.snapshot.job.target_id for one in stored if one.snapshot.job is not None} - {None}  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(examples(15)))
async def test_a_target_exists_as_long_as_a_job_uses_it(redis_url: str, seed: int) -> None:
    chance = random.Random(random.getrandbits(32))  # the seed of the test run, so that it can be repeated
    clock = ManualClock()
    processes = [Process(redis_url, clock, chance) for _ in range(4)]
    async with AsyncExitStack() as stack:
        for process in processes:
            stack.push_async_callback(process.store.aclose)
        await check_history(processes[0], processes[1:], clock, chance)


async def check_history(
    survivor: Process, processes: Sequence[Process], clock: ManualClock, chance: random.Random
) -> None:
    catalogue = survivor.job_targets._catalogue
    for _ in range(STEPS):
        for name in TARGETS:
            if await catalogue.find_target(name) is None:
                await survivor.targets.add(Target(0, name, "http://runner.test/"))
        await asyncio.gather(*(process.step() for process in processes))
        used = await targets_of_jobs(survivor)
        found = await catalogue.read_targets(sorted(used))
        assert None not in found, f"a job uses a target that was deleted: {used}"
        clock.advance(chance.choice([0, 1_000, PINNED_MS]))
    clock.advance(PINNED_MS + 1)
    used = await targets_of_jobs(survivor)
    for name in TARGETS:
        target_id = await catalogue.find_target(name)
        if target_id in used:
            with pytest.raises(TargetInUse):
                await survivor.targets.delete(target_id)
        elif target_id is not None:
            await survivor.targets.delete(target_id)
