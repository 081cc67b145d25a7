"""A node with several shards on one Redis: it works on all of them, and a fault of one does not affect the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreError
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import Target, Timing, job_id_of
from scheduler_core.model.run import Run
from scheduler_core.node.dispatch.target_cache import TargetCache
from scheduler_core.node.engine import Engine
from scheduler_core.node.loops.catalogue_sweep import COPIES_AFTER_MS, CatalogueSweeper
from scheduler_core.node.loops.heartbeat import STALE_SECONDS, ClockSync, set_clock
from scheduler_core.store.redis.catalogue import RedisCatalogue
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.target_copies import RedisTargetCopies
from scheduler_core.store.shards import Shards
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.targets import TargetService
from tests.support.factories import answered, make_job
from tests.support.manual_clock import ManualClock
from tests.support.nodes import ScriptedDeliverer
from tests.support.stores import until

NAMES = [f"job-{number}" for number in range(16)]
YEARLY = CronSpec("0 0 1 1 *")
"""Far from now, so that no fire time comes between the requests of a test."""


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def shards(redis_url: str) -> AsyncIterator[Shards[RedisStore]]:
    shards = open_shards(redis_url, number=4)
    yield shards
    await shards.aclose()


class Setup:
    """A node, and the services with which a client requests runs."""

    def __init__(self, shards: Shards[RedisStore], settings: EngineSettings) -> None:
        self.shards = shards
        self.clock = RedisClock()
        self.deliverer = ScriptedDeliverer()
        self.metrics = Metrics()
        self.engine = Engine(settings, shards, self.deliverer, self.clock, self.metrics)
        self.jobs = shards.each(lambda store: JobService(store, self.clock, Metrics()))

    async def ask_for(self, *names: str) -> list[str]:
        await set_clock(self.shards, self.clock)
        for name in names:
            await self.jobs.of(name).upsert(make_job(name, trigger=YEARLY))
        return [(await self.jobs.of(name).run_now(name, force=True)).run_id or "" for name in names]

    async def answer_all(self) -> None:
        for entry in list(self.deliverer.open):
            entry.answer.set_result(answered(200))
        await until(lambda: not self.engine.node.in_flight)

    async def is_recorded(self, name: str) -> bool:
        return any(isinstance(one, Run) for one in await self.jobs.of(name).history(name))


@pytest.fixture
async def setup(shards: Shards[RedisStore]) -> AsyncIterator[Setup]:
    setup = Setup(shards, EngineSettings(drain_grace_seconds=0))
    setup.engine.start()
    yield setup
    await setup.engine.stop()


async def test_jobs_of_every_shard_are_fired_and_recorded_there(setup: Setup) -> None:
    await setup.engine.started()
    assert setup.engine.faults() == []
    runs = await setup.ask_for(*NAMES)
    await until(lambda: len(setup.deliverer.open) == len(NAMES))
    assert sorted(entry.run_id for entry in setup.deliverer.open) == sorted(runs)
    assert setup.metrics.registry.get_sample_value("cronpost_in_flight") == len(NAMES)
    await setup.answer_all()
    for name in NAMES:
        await until(partial(setup.is_recorded, name))
    assert len({setup.shards.number_of(name) for name in NAMES}) == 4


async def test_a_shard_with_unusable_keys_does_not_stop_the_others(setup: Setup, redis: Redis) -> None:
    await setup.engine.started()
    broken = setup.shards.all[2].keys
    await redis.delete(broken.due)
    await redis.set(broken.due, "not a sorted set")
    await until(lambda: any("shard 2: claim" in fault for fault in setup.engine.faults()))
    assert all(fault.startswith("shard 2: ") for fault in setup.engine.faults())
    well = [name for name in NAMES if setup.shards.number_of(name) != 2]
    await setup.ask_for(*well)
    await until(lambda: len(setup.deliverer.open) == len(well))
    await setup.answer_all()
    await redis.delete(broken.due)
    await until(lambda: setup.engine.faults() == [])
    others = set(NAMES) - set(well)
    await setup.ask_for(*others)
    await until(lambda: {entry.job_id for entry in setup.deliverer.open} == others)


async def test_a_shard_that_cannot_start_does_not_prevent_the_start_of_the_others(
    shards: Shards[RedisStore], redis: Redis
) -> None:
    keys = shards.all[0].keys
    await redis.set(keys.nodes, "not a sorted set")
    setup = Setup(shards, EngineSettings(drain_grace_seconds=0))
    setup.engine.start()
    await until(lambda: len(setup.engine.faults()) == 1 and "Redis refuses" in setup.engine.faults()[0])
    assert setup.engine.faults()[0].startswith("shard 0: ")
    name = next(name for name in NAMES if shards.number_of(name) == 1)
    await setup.ask_for(name)
    await until(lambda: len(setup.deliverer.open) == 1)
    await redis.delete(keys.nodes)
    await setup.engine.started()
    assert setup.engine.faults() == []
    await setup.engine.stop()
    assert await redis.exists(*(store.keys.nodes for store in shards.all)) == 0, "it has left every shard"


async def test_all_shards_together_stay_within_the_limit_of_the_node(shards: Shards[RedisStore]) -> None:
    setup = Setup(shards, EngineSettings(drain_grace_seconds=0, max_in_flight=3, target_max_in_flight=3))
    setup.engine.start()
    await setup.engine.started()
    await setup.ask_for(*NAMES)
    most = 0
    while len(setup.deliverer.seen) < len(NAMES):
        await until(lambda: bool(setup.deliverer.open))
        most = max(most, len(setup.deliverer.open), len(setup.engine.node.in_flight))
        setup.deliverer.open[0].answer.set_result(answered(200))
        await asyncio.sleep(0)
    assert most <= 3
    assert {entry.job_id for entry in setup.deliverer.seen} == set(NAMES), "no shard was left out"
    await setup.engine.stop()


# ---- the clock ------------------------------------------------------------------------------------------------------


class SampledClock(ManualClock):
    """A clock that records its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[float] = []

    def sample(self, redis_time_ms: float, *, received_at: float) -> None:
        self.samples.append(redis_time_ms)


async def test_one_server_sets_the_clock_until_it_is_unavailable_then_another_does() -> None:
    clock = SampledClock()
    sweeper = ClockSync(clock, Metrics())

    def answered_by(*shards: int) -> list[float]:
        clock.samples.clear()
        for shard in shards:
            sweeper.take(shard, shard)
        return clock.samples

    assert answered_by(0, 1, 2, 0, 2) == [0, 0], "the first does it for all"
    clock.advance(int(STALE_SECONDS * 1000) + 1)
    assert answered_by(1, 2, 1) == [1, 1], "the first is away"
    assert answered_by(0, 1, 2) == [0], "and the first again once it is back"


# ---- copies of targets ----------------------------------------------------------------------------------------------


class Catalogue:
    """Operations of clients on targets, and the copies that a node reads on each shard."""

    def __init__(self, shards: Shards[RedisStore]) -> None:
        self.shards = shards
        self.clock = ManualClock()
        self.schedules = ScheduleService(shards, self.clock, Metrics())
        self.targets = TargetService(shards, self.clock, self.schedules)
        self.sweeper = CatalogueSweeper(shards, self.clock, Metrics())
        self.store = RedisCatalogue(shards.lead)
        self.copies = [RedisTargetCopies(store, self.store) for store in shards.all[1:]]

    async def add(self) -> Target:
        return await self.targets.add(Target(0, "t", "http://a.test/"))

    async def revisions(self, target_id: int) -> list[int | None]:
        return [(await one.revisions([target_id]))[0] for one in self.copies]

    async def urls(self, target_id: int) -> list[str | None]:
        found = [(await one.read_targets([target_id]))[0] for one in self.copies]
        return [None if one is None else one.target.url for one in found]

    async def change(self, target_id: int, url: str) -> Target:
        self.clock.advance(1)
        return await self.targets.change(target_id, lambda old: replace(old, url=url))


@pytest.fixture
def catalogue(shards: Shards[RedisStore]) -> Catalogue:
    return Catalogue(shards)


async def test_every_shard_has_a_target_before_its_change_is_answered(catalogue: Catalogue, redis: Redis) -> None:
    target = await catalogue.add()
    assert await catalogue.revisions(target.id) == [target.updated_at_ms] * 3
    before = [int(await redis.hget(store.keys.meta, "targets_version") or 0) for store in catalogue.shards.all]
    changed = await catalogue.change(target.id, "http://b.test/")
    assert await catalogue.revisions(target.id) == [changed.updated_at_ms] * 3
    assert await catalogue.urls(target.id) == ["http://b.test/"] * 3
    after = [int(await redis.hget(store.keys.meta, "targets_version") or 0) for store in catalogue.shards.all]
    assert all(new > old for old, new in zip(before, after, strict=True)), "a claim makes every node read it again"
    assert await catalogue.store.marks(before_ms=2**50, limit=10) == []
    await catalogue.targets.delete(target.id)
    assert await catalogue.revisions(target.id) == [None] * 3
    assert await catalogue.store.marks(before_ms=2**50, limit=10) == []


async def test_an_old_copy_that_arrives_late_changes_nothing(catalogue: Catalogue) -> None:
    target = await catalogue.add()
    old = (await catalogue.store.read_targets([target.id]))[0]
    assert old is not None
    await catalogue.change(target.id, "http://b.test/")
    await catalogue.copies[0].put(old)
    assert await catalogue.urls(target.id) == ["http://b.test/"] * 3


async def test_a_change_that_fails_on_a_shard_raises_and_is_completed_later(catalogue: Catalogue, redis: Redis) -> None:
    target = await catalogue.add()
    await catalogue.sweeper.sweep()  # uses up the turn for the full comparison
    key = catalogue.shards.all[2].keys.catalogue("copies")
    kept = await redis.dump(key)
    await redis.delete(key)
    await redis.set(key, "not a hash")
    with pytest.raises(StoreError):
        await catalogue.change(target.id, "http://b.test/")
    assert (await catalogue.targets.get(target.id)).url == "http://b.test/"
    await redis.delete(key)
    assert kept is not None
    await redis.restore(key, 0, kept)
    assert await catalogue.urls(target.id) == ["http://b.test/", "http://a.test/", "http://b.test/"]
    await catalogue.sweeper.sweep()  # too early: the client's own attempt gets some time first
    assert (await catalogue.urls(target.id))[1] == "http://a.test/"
    catalogue.clock.advance(COPIES_AFTER_MS + 1)
    assert await catalogue.sweeper.sweep() >= 1
    assert await catalogue.urls(target.id) == ["http://b.test/"] * 3
    assert await catalogue.store.marks(before_ms=2**50, limit=10) == []


async def test_wrong_copies_are_repaired_in_the_sweepers_full_comparison(catalogue: Catalogue, redis: Redis) -> None:
    targets = [await catalogue.targets.add(Target(0, f"t{one}", "http://a.test/")) for one in range(3)]
    await redis.delete(catalogue.shards.all[1].keys.catalogue("copies"))
    await redis.hset(catalogue.shards.all[3].keys.catalogue("copies"), str(targets[1].id), b"1 old")
    assert await catalogue.sweeper.sweep() == 3
    for target in targets:
        assert await catalogue.revisions(target.id) == [target.updated_at_ms] * 3


async def test_a_run_reads_the_copy_of_its_own_shard_or_else_of_the_first(catalogue: Catalogue, redis: Redis) -> None:
    target = await catalogue.add()
    cache = TargetCache(catalogue.copies[0])
    await redis.delete(catalogue.shards.lead.keys.catalogue("targets"))
    assert (await cache.get(target.id)) == target, "without the first shard"
    other = await catalogue.targets.add(Target(0, "u", "http://u.test/"))
    await redis.delete(catalogue.shards.all[1].keys.catalogue("copies"))
    cache.saw(None)
    assert (await cache.get(other.id)) == other
    assert await cache.get(99) is None


async def test_schedules_are_stored_on_the_shards_of_their_jobs(catalogue: Catalogue, redis: Redis) -> None:
    target = await catalogue.add()
    made = [await catalogue.schedules.add(f"s{one}", target.id, Timing(60)) for one in range(8)]
    places = {catalogue.shards.number_of(job_id_of(one.id)) for one in made}
    assert len(places) > 1
    for one in made:
        keys = catalogue.shards.of(job_id_of(one.id)).keys
        assert await redis.hexists(keys.jobs, job_id_of(one.id))
    assert (await catalogue.schedules.pause(made[3].id)).status.value == "PAUSED"
    page = await catalogue.schedules.page()
    assert [one.id for one in page.schedules] == [one.id for one in made]
    assert (await catalogue.schedules.counts()).paused == 1
    assert await catalogue.sweeper.sweep() == 0, "catalogue and jobs are in line"
    await catalogue.targets.delete(target.id)
    for store in catalogue.shards.all:
        assert await redis.hlen(store.keys.jobs) == 0
