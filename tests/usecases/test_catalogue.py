"""Targets and schedules under concurrent and interrupted operations: names, ids, repairs and counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import (
    CronpostError,
    DuplicateName,
    JobNotFound,
    ScheduleNotFound,
    StoreUnavailable,
    TargetNotFound,
    WrongStatus,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import ScheduleStatus, Target, Timing, job_id_of, job_of_schedule
from scheduler_core.node.loops.catalogue_sweep import HALVES_AFTER_MS, TURN_MS, CatalogueSweeper
from scheduler_core.store.catalogue import CatalogueCounts, Row
from scheduler_core.store.redis.catalogue import RedisCatalogue
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.schedules import ScheduleChange, ScheduleService
from scheduler_core.usecases.targets import TargetService
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, dump, opened

TARGET = Target(id=0, name="t", url="http://runner.test/t")
EVERY_10 = Timing(10)


class Setup:
    """A catalogue, its service and its sweeper."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.catalogue = RedisCatalogue(store)
        self.schedules = ScheduleService(Shards.of_one(store), self.clock, Metrics())
        self.targets = TargetService(Shards.of_one(store), self.clock, self.schedules)
        self.sweeper = CatalogueSweeper(Shards.of_one(store), self.clock, Metrics())

    async def names(self) -> list[str | None]:
        page = await self.schedules.page(limit=1000)
        return [None if one.view.job is None else one.view.job.name for one in page.schedules]

    async def later(self, milliseconds: int = TURN_MS + HALVES_AFTER_MS) -> int:
        """Advance the clock and sweep; return the number of repairs."""
        self.clock.advance(milliseconds)
        return await self.sweeper.sweep()

    async def check_nothing_is_left(self) -> None:
        """Check that nothing of any target or schedule is stored except the counters."""
        keys = set(await dump(self.redis))
        catalogue = {key.removeprefix(KEYS.catalogue("")) for key in keys if key.startswith(KEYS.catalogue(""))}
        assert catalogue <= {"counters"}
        assert not keys & {KEYS.jobs, KEYS.states, KEYS.due, KEYS.ids}


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        yield Setup(store, redis)


# ---- concurrent operations ------------------------------------------------------------------------------------------


async def test_one_of_many_concurrent_creations_of_a_name_succeeds(setup: Setup) -> None:
    answers = await asyncio.gather(*(setup.targets.add(TARGET) for _ in range(10)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in answers) == ["DuplicateName"] * 9 + ["Target"]
    created = [setup.schedules.add("s", 1, EVERY_10) for _ in range(10)]
    found = await asyncio.gather(*created, return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["DuplicateName"] * 9 + ["Schedule"]
    assert await setup.names() == ["s"]
    assert await setup.schedules.counts() == CatalogueCounts(1, 1, 1, 0, 0)


async def test_one_of_many_concurrent_renames_to_a_name_succeeds(setup: Setup) -> None:
    for number in range(6):
        await setup.targets.add(replace(TARGET, name=str(number)))
        await setup.schedules.add(str(number), 1, EVERY_10)

    def rename(target: Target) -> Target:
        return replace(target, name="new")

    changes: list[Any] = [setup.targets.change(one, rename) for one in range(1, 7)]
    changes += [setup.schedules.change(one, ScheduleChange(name="new")) for one in range(1, 7)]
    answers = await asyncio.gather(*changes, return_exceptions=True)
    assert sum(isinstance(one, DuplicateName) for one in answers) == 10
    targets = [one.target.name for one in (await setup.targets.page()).targets]
    assert targets.count("new") == (await setup.names()).count("new") == 1
    assert len(set(targets)) == len(set(await setup.names())) == 6


async def test_concurrent_renames_of_a_schedule_leave_the_same_name_in_job_and_catalogue(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    names = [f"name {number}" for number in range(8)]
    await asyncio.gather(*(setup.schedules.change(1, ScheduleChange(name=name)) for name in names))
    (row,) = await setup.catalogue.rows([1])
    assert row is not None
    assert [row.name] == await setup.names()
    assert await setup.redis.hkeys(KEYS.catalogue("schedule_names")) == [row.name.encode()]


async def test_the_count_after_concurrent_pauses_and_resumes_is_that_of_the_last(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    for _ in range(10):
        schedules = setup.schedules
        operations = [schedules.pause(1), schedules.resume(1), schedules.pause(1), schedules.resume(1)]
        await asyncio.gather(*operations, return_exceptions=True)
        status = (await setup.schedules.get(1)).status
        counts = await setup.schedules.counts()
        assert (counts.active, counts.paused) == ((1, 0) if status is ScheduleStatus.ACTIVE else (0, 1))


class Between:
    """Runs another operation right before one step of an operation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, step: str, other: Callable[[], Any]) -> None:
        original = getattr(kind, step)
        done = False

        async def patched(*args: Any, **options: Any) -> Any:
            nonlocal done
            if not done:
                done = True
                await other()
            return await original(*args, **options)

        monkeypatch.setattr(kind, step, patched)


STEPS: list[tuple[type, str]] = [(RedisCatalogue, "reserve"), (RedisStore, "change"), (RedisCatalogue, "commit")]


async def test_a_resume_that_overtakes_a_pause_leaves_the_count_right(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    Between(monkeypatch, RedisCatalogue, "commit", lambda: setup.schedules.resume(1))
    assert (await setup.schedules.pause(1)).status is ScheduleStatus.ACTIVE
    assert await setup.schedules.counts() == CatalogueCounts(1, 1, 1, 0, 0)


@pytest.mark.parametrize(("kind", "step"), STEPS)
async def test_deleting_a_target_while_a_schedule_is_created_leaves_no_schedule_without_target(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, kind: type, step: str
) -> None:
    await setup.targets.add(TARGET)
    Between(monkeypatch, kind, step, lambda: setup.targets.delete(1))
    with pytest.raises(TargetNotFound):
        await setup.schedules.add("s", 1, EVERY_10)
    await setup.check_nothing_is_left()


@pytest.mark.parametrize(("kind", "step"), [(RedisCatalogue, "change_schedule"), *STEPS[1:]])
async def test_deleting_a_target_while_its_schedule_changes_deletes_the_schedule(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, kind: type, step: str
) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    Between(monkeypatch, kind, step, lambda: setup.targets.delete(1))
    with pytest.raises((ScheduleNotFound, TargetNotFound)):
        await setup.schedules.change(1, ScheduleChange(name="new", interval_seconds=5))
    await setup.check_nothing_is_left()


@pytest.mark.parametrize(("kind", "step"), [(RedisCatalogue, "remove_schedule"), (RedisStore, "change")])
async def test_a_schedule_moved_while_its_old_target_is_deleted_is_complete_or_deleted(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, kind: type, step: str
) -> None:
    await setup.targets.add(TARGET)
    await setup.targets.add(replace(TARGET, name="u"))
    await setup.schedules.add("s", 1, EVERY_10)

    async def move() -> None:
        with contextlib.suppress(ScheduleNotFound, TargetNotFound):
            await setup.schedules.change(1, ScheduleChange(target_id=2))

    Between(monkeypatch, kind, step, move)
    await setup.targets.delete(1)
    await setup.later()
    counts = await setup.schedules.counts()
    assert counts.schedules == len(await setup.names())
    await setup.targets.delete(2)
    await setup.check_nothing_is_left()


async def test_creating_and_deleting_at_random_times_leaves_nothing_incomplete(setup: Setup) -> None:
    for number in range(15):
        await setup.targets.add(replace(TARGET, name=str(number)))
        target = number + 1

        async def create(name: str, target_id: int) -> None:
            await setup.schedules.add(name, target_id, EVERY_10)

        operations: list[Awaitable[Any]] = [create(f"{number} {one}", target) for one in range(4)]
        operations.insert(number % 5, setup.targets.delete(target))
        answers = await asyncio.gather(*operations, return_exceptions=True)
        assert all(isinstance(one, TargetNotFound | int | None) for one in answers), answers
    await setup.check_nothing_is_left()


# ---- interrupted operations -----------------------------------------------------------------------------------------


async def test_a_name_that_was_only_reserved_is_free_again_after_a_minute(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    row = Row(1, "s")
    assert await setup.catalogue.reserve(row, token="a", now_ms=setup.clock.now, patience_ms=1_000) == 1
    assert await setup.later(HALVES_AFTER_MS - 1) == 0
    assert await setup.catalogue.rows([1]) == [row]
    assert await setup.later(1) == 1
    assert await setup.catalogue.rows([1]) == [None]
    assert (await setup.schedules.add("s", 1, EVERY_10)).id == 2
    await setup.targets.delete(1)
    await setup.check_nothing_is_left()


async def test_a_reserved_name_can_be_taken_after_a_second_and_its_first_creator_gets_an_error(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.targets.add(TARGET)
    created: list[int] = []

    async def other() -> None:
        with pytest.raises(DuplicateName):
            await setup.schedules.add("s", 1, EVERY_10)
        setup.clock.advance(1_000)
        created.append((await setup.schedules.add("s", 1, Timing(20))).id)

    Between(monkeypatch, RedisCatalogue, "commit", other)
    with pytest.raises(DuplicateName):
        await setup.schedules.add("s", 1, EVERY_10)
    assert created == [2]
    assert await setup.names() == ["s"]
    assert await setup.redis.hkeys(KEYS.jobs) == [b"schedule_2"]
    assert await setup.targets.delete(1) == 1
    await setup.check_nothing_is_left()


async def test_a_schedule_that_was_written_and_not_committed_is_completed(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    schedule_id = await setup.catalogue.reserve(Row(1, "s"), token="a", now_ms=setup.clock.now, patience_ms=1_000)
    assert isinstance(schedule_id, int)
    job = job_of_schedule(schedule_id, name="s", target_id=1, timing=EVERY_10, now_ms=setup.clock.now)
    await setup.schedules.jobs.lead.upsert(job)
    assert await setup.names() == []
    assert await setup.later() == 1
    assert await setup.names() == ["s"]
    assert await setup.later() == 0


async def test_a_schedule_without_an_entry_in_the_catalogue_is_deleted(setup: Setup) -> None:
    job = job_of_schedule(77, name="s", target_id=1, timing=EVERY_10, now_ms=setup.clock.now)
    await setup.schedules.jobs.lead.upsert(job)
    assert await setup.later() == 1
    with pytest.raises(JobNotFound):
        await setup.schedules.jobs.lead.get(job_id_of(77))
    await setup.check_nothing_is_left()


async def test_a_schedule_without_a_job_is_removed_from_the_catalogue(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    await setup.schedules.jobs.lead.delete("schedule_1")
    assert await setup.later() == 1
    assert await setup.schedules.counts() == CatalogueCounts(1, 0, 0, 0, 0)
    assert (await setup.schedules.add("s", 1, EVERY_10)).id == 2


async def test_an_interrupted_deletion_of_a_schedule_can_be_repeated(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    await setup.schedules.jobs.lead.delete("schedule_1")
    await setup.schedules.delete(1)
    with pytest.raises(ScheduleNotFound):
        await setup.schedules.delete(1)


async def test_an_interrupted_deletion_of_a_target_continues(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    for number in range(3):
        await setup.schedules.add(str(number), 1, EVERY_10)
    await setup.catalogue.drop_target(1, name="t", now_ms=setup.clock.now)
    with pytest.raises(TargetNotFound):
        await setup.targets.get(1)
    with pytest.raises(TargetNotFound):
        await setup.schedules.add("new", 1, EVERY_10)
    assert (await setup.targets.add(TARGET)).id == 2
    assert await setup.later(HALVES_AFTER_MS) == 1
    assert await setup.names() == []
    await setup.targets.delete(2)
    await setup.check_nothing_is_left()


async def test_an_interrupted_deletion_of_a_target_can_be_repeated(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    await setup.catalogue.drop_target(1, name="t", now_ms=setup.clock.now)
    assert await setup.targets.delete(1) == 1
    with pytest.raises(TargetNotFound):
        await setup.targets.delete(1)
    await setup.check_nothing_is_left()


@pytest.mark.slow
async def test_a_target_with_more_schedules_than_one_step_deletes_is_deleted_with_all_of_them(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    for number in range(230):
        await setup.schedules.add(str(number), 1, EVERY_10)
    assert await setup.targets.delete(1) == 230
    await setup.check_nothing_is_left()


@pytest.mark.slow
async def test_a_deletion_of_a_target_that_takes_too_long_is_finished_by_the_sweeper(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    for number in range(230):
        await setup.schedules.add(str(number), 1, EVERY_10)
    found = await setup.targets.delete_within(1, 0.0)
    assert 0 < found.schedules < 230
    assert not found.all_gone
    with pytest.raises(TargetNotFound):
        await setup.schedules.add("one more", 1, EVERY_10)
    assert await setup.later(HALVES_AFTER_MS) == 1
    await setup.check_nothing_is_left()


async def test_a_half_written_pause_window_or_name_is_repaired(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    for number in range(4):
        await setup.schedules.add(str(number), 1, EVERY_10)
    await setup.schedules.jobs.lead.pause("schedule_1")
    await setup.catalogue.change_schedule(2, Row(1, "1"), Row(1, "new"))
    await setup.catalogue.commit(3, end_ms=setup.clock.now, paused=False)
    assert (await setup.schedules.counts()).paused == 0
    assert (await setup.schedules.counts()).stopped == 1
    assert await setup.later() == 3
    assert await setup.schedules.counts() == CatalogueCounts(1, 4, 3, 1, 0)
    assert await setup.names() == ["0", "new", "2", "3"]
    assert await setup.later() == 0


async def test_one_node_compares_in_each_period(setup: Setup) -> None:
    turns = [
        (await setup.catalogue.duties(now_ms=setup.clock.now + after, old_ms=1, period_ms=100)).turn
        for after in (0, 1, 99, 100, 101, 199, 200)
    ]
    assert turns == [True, False, False, True, False, False, True]


async def test_a_clock_that_was_set_back_does_not_stop_the_sweeps(setup: Setup) -> None:
    await setup.catalogue.duties(now_ms=setup.clock.now + 10_000, old_ms=1, period_ms=100)
    assert (await setup.catalogue.duties(now_ms=setup.clock.now, old_ms=1, period_ms=100)).turn


# ---- Redis ----------------------------------------------------------------------------------------------------------


async def test_a_full_redis_refuses_a_new_schedule_without_remains_and_allows_deletions(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    # The calls above load the scripts, so that they need no memory later.
    await setup.redis.config_set("maxmemory", 1)
    for refused in (setup.targets.add(replace(TARGET, name="u")), setup.schedules.add("x", 1, EVERY_10)):
        with pytest.raises(StoreUnavailable):
            await refused
    assert await setup.targets.delete(1) == 1
    await setup.redis.config_set("maxmemory", 0)
    await setup.check_nothing_is_left()


async def test_a_failure_of_redis_in_the_middle_undoes_the_operation(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.targets.add(TARGET)

    async def fail() -> None:
        raise StoreUnavailable("no answer", effect_unknown=True)

    for kind, step in STEPS[1:]:
        with monkeypatch.context() as patched:
            Between(patched, kind, step, fail)
            with pytest.raises(StoreUnavailable):
                await setup.schedules.add("s", 1, EVERY_10)
    assert (await setup.schedules.add("s", 1, EVERY_10)).id == 3


async def test_a_step_whose_answer_was_lost_is_sent_again_and_applied_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RedisCatalogue._write
    lost: list[str] = []

    async def lose(self: RedisCatalogue, script: Any, *call: Any) -> Any:
        answer = await original(self, script, *call)
        if script.name not in lost:
            lost.append(script.name)
            raise StoreUnavailable("no answer", effect_unknown=True)
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(RedisCatalogue, "_write", lose)
        assert (await setup.targets.add(TARGET)).id == 1
        lost.append("catalogue/commit_schedule")
        assert (await setup.schedules.add("s", 1, EVERY_10)).id == 1
    assert lost == ["catalogue/add_target", "catalogue/commit_schedule", "catalogue/reserve_schedule"]
    assert await setup.schedules.counts() == CatalogueCounts(1, 1, 1, 0, 0)


async def test_every_script_sent_twice_has_the_effect_of_one_call(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RedisCatalogue._write

    async def twice(self: RedisCatalogue, *call: Any) -> Any:
        await original(self, *call)
        return await original(self, *call)

    monkeypatch.setattr(RedisCatalogue, "_write", twice)
    assert (await setup.targets.add(TARGET)).id == 1
    assert (await setup.targets.add(replace(TARGET, name="u"))).id == 2
    assert (await setup.targets.change(1, lambda old: replace(old, name="v"))).name == "v"
    assert (await setup.schedules.add("s", 1, EVERY_10)).id == 1
    await setup.schedules.change(1, ScheduleChange(name="n", target_id=2))
    await setup.schedules.pause(1)
    assert await setup.schedules.counts() == CatalogueCounts(2, 1, 0, 1, 0)
    assert await setup.targets.delete(2) == 1
    assert [one.target.name for one in (await setup.targets.page()).targets] == ["v"]
    assert await setup.redis.hget(KEYS.meta, "targets_version") is not None


async def test_a_version_that_a_failover_lost_is_not_used_again(setup: Setup) -> None:
    """Otherwise a node that has read the lost content would take it for the stored content."""
    await setup.targets.add(TARGET)
    await setup.targets.change(1, lambda old: replace(old, name="first"))
    before = await setup.redis.dump(KEYS.meta)
    assert before is not None
    await setup.targets.change(1, lambda old: replace(old, name="lost"))
    lost = await setup.redis.hget(KEYS.meta, "targets_version")
    await setup.redis.restore(KEYS.meta, 0, before, replace=True)
    await setup.targets.change(1, lambda old: replace(old, name="kept"))
    assert int(await setup.redis.hget(KEYS.meta, "targets_version") or 0) > int(lost or 0)


# ---- lists ----------------------------------------------------------------------------------------------------------


async def test_lists_of_one_status_are_ordered_by_id_with_skip_and_cursor(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    for number in range(12):
        timing = Timing(10, 5) if number % 3 == 2 else EVERY_10
        schedule = await setup.schedules.add(str(number), 1, timing)
        if number % 3 == 1:
            await setup.schedules.pause(schedule.id)
    setup.clock.advance(5_000)

    async def ids(**query: Any) -> tuple[list[int], int | None]:
        page = await setup.schedules.page(**query)
        return [one.id for one in page.schedules], page.cursor

    assert await ids(status=ScheduleStatus.ACTIVE) == ([1, 4, 7, 10], None)
    assert await ids(status=ScheduleStatus.PAUSED, skip=1) == ([5, 8, 11], None)
    assert await ids(status=ScheduleStatus.STOPPED, limit=2) == ([3, 6], 6)
    assert await ids(status=ScheduleStatus.STOPPED, limit=2, after=6) == ([9, 12], None)
    assert await ids(status=ScheduleStatus.STOPPED, skip=1, limit=2) == ([6, 9], 9)
    assert await ids(limit=5, skip=2) == ([3, 4, 5, 6, 7], 7)
    assert await ids(skip=100) == ([], None)
    assert await setup.schedules.counts() == CatalogueCounts(1, 12, 4, 4, 4)


async def test_a_page_of_one_status_reads_a_bounded_number_and_continues_by_its_cursor(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_core.usecases.schedules.EXAMINED", 6)
    monkeypatch.setattr("scheduler_core.usecases.schedules.LOOK_AT", 3)
    await setup.targets.add(TARGET)
    for number in range(20):
        await setup.schedules.add(str(number), 1, EVERY_10)
    for schedule_id in (2, 13, 20):
        await setup.schedules.pause(schedule_id)
    found: list[int] = []
    pages = 0
    cursor: int | None = 0
    while cursor is not None:
        page = await setup.schedules.page(status=ScheduleStatus.PAUSED, after=cursor)
        found += [one.id for one in page.schedules]
        pages += 1
        cursor = page.cursor
    assert found == [2, 13, 20]
    assert pages == 4
    page = await setup.schedules.page(status=ScheduleStatus.PAUSED, skip=2)
    found = [one.id for one in page.schedules]
    while page.cursor is not None:
        page = await setup.schedules.page(status=ScheduleStatus.PAUSED, skip=page.skip, after=page.cursor)
        found += [one.id for one in page.schedules]
    assert found == [20]


async def test_a_schedule_that_cannot_be_read_does_not_hide_the_others(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    for number in range(3):
        await setup.schedules.add(str(number), 1, EVERY_10)
    await setup.redis.hset(KEYS.jobs, "schedule_2", b"\xff")
    page = await setup.schedules.page()
    assert [one.view.fault is None for one in page.schedules] == [True, False, True]
    assert page.schedules[1].status is ScheduleStatus.PAUSED
    for operation in (setup.schedules.resume, setup.schedules.pause):
        with pytest.raises(CronpostError):
            await operation(2)
    assert await setup.later() == 0
    await setup.schedules.delete(2)
    assert await setup.names() == ["0", "2"]


async def test_only_an_active_schedule_can_be_paused_and_only_a_paused_one_resumed(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    await setup.schedules.add("s", 1, EVERY_10)
    with pytest.raises(WrongStatus, match="ACTIVE"):
        await setup.schedules.resume(1)
    await setup.schedules.pause(1)
    with pytest.raises(WrongStatus, match="PAUSED"):
        await setup.schedules.pause(1)
    for operation in (setup.schedules.pause, setup.schedules.resume, setup.schedules.get):
        with pytest.raises(ScheduleNotFound):
            await operation(9)
