"""Schedules on a real store, with stepped nodes and a manual clock: fire times and requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import InvalidInput, ScheduleNotFound, TargetNotFound, WrongStatus
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import ScheduleStatus, ScheduleType, Target, Timing, job_id_of
from scheduler_core.model.job_state import JobState
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.run import Miss, MissReason, Record, Run, RunState
from scheduler_core.node.dispatch.target_cache import TargetCache
from scheduler_core.store.redis.catalogue import RedisCatalogue
from scheduler_core.store.redis.codec import encode_state
from scheduler_core.store.redis.settlements import score
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.schedules import ScheduleChange, ScheduleService
from scheduler_core.usecases.targets import TargetService
from tests.support.factories import answered, at, failed
from tests.support.manual_clock import START_MS, ManualClock
from tests.support.nodes import OpenRequest, SteppedNode
from tests.support.stores import KEYS, opened, until

TARGET = Target(id=0, name="t", url="http://runner.test/t", method="POST", body_template='{"a": 1}')
OK = answered(200)
SECOND = 1_000


class Setup:
    """A catalogue, a node and a clock."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.catalogue = RedisCatalogue(store)
        self.schedules = ScheduleService(Shards.of_one(store), self.clock, Metrics())
        self.targets = TargetService(Shards.of_one(store), self.clock, self.schedules)
        self.node = SteppedNode(store, self.clock)

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return (self.clock.now - START_MS) / SECOND

    async def begin(self, timing: Timing, *, target: Target = TARGET) -> int:
        """Start a node, add a target and a schedule for it, and return the schedule's id."""
        await self.node.start()
        stored = await self.targets.add(target)
        return (await self.schedules.add("s", stored.id, timing)).id

    async def until(self, second: float, answer: Outcome | None = OK) -> list[float]:
        """Step the node once a second until ``second``; return the fire times (in seconds) of its requests.
        ``answer`` None leaves requests open."""
        before = len(self.node.deliverer.seen)
        while self.now < second:
            self.clock.advance(min(SECOND, round((second - self.now) * SECOND)))
            await self.node.beat()
            await self.fire(answer)
        return [self.fire_time(entry) for entry in self.node.deliverer.seen[before:]]

    async def fire(self, answer: Outcome | None = OK) -> int:
        """Claim all due jobs and answer their requests; return the number of requests."""
        before = len(self.node.deliverer.seen)
        while await self.node.claim():
            # A target that is not in the cache is read first.
            await until(lambda: len(self.node.deliverer.open) == len(self.node.node.in_flight))
            while answer is not None and self.node.deliverer.open:
                await self.node.answer(answer)
            await self.node.settle()
        return len(self.node.deliverer.seen) - before

    def fire_time(self, entry: OpenRequest) -> float:
        text = entry.header("Cronpost-Fire-Time")
        minutes, seconds = text.removesuffix("Z").split(":")[1:]
        return (int(minutes) - 50) % 60 * 60 + float(seconds)

    async def records(self, schedule_id: int) -> list[Record]:
        return list(reversed(await self.schedules.jobs.lead.history(job_id_of(schedule_id))))

    async def misses(self, schedule_id: int) -> list[tuple[str, float, float]]:
        return [
            (one.reason.value, (one.first_ms - at(0)) / SECOND, (one.last_ms - at(0)) / SECOND)
            for one in await self.records(schedule_id)
            if isinstance(one, Miss)
        ]

    async def status(self, schedule_id: int) -> ScheduleStatus:
        return (await self.schedules.get(schedule_id)).status


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        yield setup
        await setup.node.crash()


# ---- the grid -------------------------------------------------------------------------------------------------------


async def test_it_fires_one_interval_after_its_creation_and_then_on_that_grid(setup: Setup) -> None:
    await setup.begin(Timing(7))
    assert await setup.until(30) == [7, 14, 21, 28]


async def test_a_pause_stops_fires_and_a_resume_keeps_the_old_phase_without_catching_up(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    assert await setup.until(13) == [10]
    assert (await setup.schedules.pause(schedule_id)).status is ScheduleStatus.PAUSED
    assert await setup.until(44) == []
    assert (await setup.schedules.resume(schedule_id)).status is ScheduleStatus.ACTIVE
    assert await setup.until(65) == [50, 60]
    assert await setup.misses(schedule_id) == [("paused", 20, 40)]


async def test_a_request_open_at_a_pause_ends_and_is_recorded(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    await setup.until(11, answer=None)
    await setup.schedules.pause(schedule_id)
    await setup.node.answer(OK)
    await setup.node.settle()
    (run,) = await setup.records(schedule_id)
    assert isinstance(run, Run)
    assert run.state is RunState.SUCCEEDED
    assert await setup.until(35) == []


async def test_a_changed_interval_counts_from_the_change(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    assert await setup.until(13) == [10]
    await setup.schedules.change(schedule_id, ScheduleChange(interval_seconds=4))
    assert await setup.until(26) == [17, 21, 25]


async def test_a_rename_keeps_the_grid(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    await setup.until(13)
    await setup.schedules.change(schedule_id, ScheduleChange(name="other", interval_seconds=10))
    assert await setup.until(35) == [20, 30]


# ---- windows --------------------------------------------------------------------------------------------------------


async def test_a_window_fires_to_its_end_and_is_stopped_to_the_second(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10, 30))
    assert await setup.until(29.999) == [10, 20]
    assert await setup.status(schedule_id) is ScheduleStatus.ACTIVE
    setup.clock.advance(1)
    assert await setup.status(schedule_id) is ScheduleStatus.STOPPED
    assert await setup.until(80) == [30]
    shown = await setup.schedules.get(schedule_id)
    assert shown.status is ScheduleStatus.STOPPED
    assert [run.state for run in await setup.records(schedule_id) if isinstance(run, Run)] == [RunState.SUCCEEDED] * 3


async def test_a_window_ends_while_it_is_paused(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10, 35))
    await setup.until(15)
    await setup.schedules.pause(schedule_id)
    assert await setup.until(34.999) == []
    assert await setup.status(schedule_id) is ScheduleStatus.PAUSED
    setup.clock.advance(1)
    assert await setup.status(schedule_id) is ScheduleStatus.STOPPED
    with pytest.raises(WrongStatus, match="STOPPED"):
        await setup.schedules.resume(schedule_id)
    assert await setup.until(90) == []
    assert await setup.misses(schedule_id) == [("paused", 20, 30)]


async def test_a_window_that_is_resumed_after_its_last_fire_time_is_active_until_it_ends(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10, 25))
    await setup.until(5)
    await setup.schedules.pause(schedule_id)
    await setup.until(22)
    assert (await setup.schedules.resume(schedule_id)).status is ScheduleStatus.ACTIVE
    assert await setup.until(24.999) == []
    assert await setup.status(schedule_id) is ScheduleStatus.ACTIVE
    assert await setup.until(60) == []
    assert await setup.status(schedule_id) is ScheduleStatus.STOPPED
    assert await setup.misses(schedule_id) == [("paused", 10, 20)]


async def test_a_window_that_is_shorter_than_its_interval_never_fires_and_stays_listed(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10, 9))
    assert await setup.until(8.999) == []
    assert await setup.status(schedule_id) is ScheduleStatus.ACTIVE
    assert await setup.until(40) == []
    assert await setup.status(schedule_id) is ScheduleStatus.STOPPED


@pytest.mark.parametrize("operation", ["pause", "resume"])
async def test_a_stopped_schedule_can_neither_be_paused_nor_resumed(setup: Setup, operation: str) -> None:
    schedule_id = await setup.begin(Timing(10, 10))
    await setup.until(10)
    with pytest.raises(WrongStatus):
        await getattr(setup.schedules, operation)(schedule_id)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        ScheduleChange(interval_seconds=1),
        ScheduleChange(duration_seconds=500),
        ScheduleChange(type=ScheduleType.INTERVAL),
    ],
)
async def test_a_stopped_schedule_refuses_a_new_timing_and_never_runs_again(
    setup: Setup, change: ScheduleChange
) -> None:
    schedule_id = await setup.begin(Timing(10, 10))
    await setup.until(15)
    before = await setup.schedules.get(schedule_id)
    with pytest.raises(WrongStatus):
        await setup.schedules.change(schedule_id, replace(change, name="other"))
    assert (await setup.schedules.get(schedule_id)).view == before.view
    renamed = await setup.schedules.change(schedule_id, ScheduleChange(name="other", duration_seconds=10))
    assert renamed.view.job is not None
    assert renamed.view.job.name == "other"
    assert await setup.until(600) == []


async def test_a_window_shortened_to_a_past_end_stops_at_once(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10, 100))
    await setup.until(25)
    changed = await setup.schedules.change(schedule_id, ScheduleChange(duration_seconds=20))
    assert changed.status is ScheduleStatus.STOPPED
    assert await setup.until(60) == []


async def test_a_window_can_be_extended_or_made_endless_on_its_grid(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10, 30))
    await setup.until(25)
    await setup.schedules.change(schedule_id, ScheduleChange(duration_seconds=50))
    assert await setup.until(45) == [30, 40]
    await setup.schedules.change(schedule_id, ScheduleChange(type=ScheduleType.INTERVAL))
    assert await setup.until(75) == [50, 60, 70]


async def test_an_interval_becomes_a_window_only_with_a_duration(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    with pytest.raises(InvalidInput) as error:
        await setup.schedules.change(schedule_id, ScheduleChange(type=ScheduleType.WINDOW))
    assert error.value.field == "duration_seconds"
    change = ScheduleChange(type=ScheduleType.WINDOW, duration_seconds=20)
    await setup.schedules.change(schedule_id, change)
    assert await setup.until(45) == [10, 20]


# ---- failures and downtimes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [answered(500), answered(409), answered(503), failed()], ids=lambda one: one.kind)
async def test_a_run_is_one_attempt_and_a_failure_never_changes_the_status(setup: Setup, outcome: Outcome) -> None:
    schedule_id = await setup.begin(Timing(10))
    assert await setup.until(65, answer=outcome) == [10, 20, 30, 40, 50, 60]
    runs = await setup.records(schedule_id)
    assert [(run.state, run.attempt) for run in runs if isinstance(run, Run)] == [(RunState.FAILED, 1)] * 6
    assert await setup.status(schedule_id) is ScheduleStatus.ACTIVE


async def test_at_most_one_request_is_open_and_fire_times_that_pass_during_it_are_missed(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    assert await setup.until(35, answer=None) == [10]
    assert len(setup.node.deliverer.open) == 1
    await setup.node.answer(OK)
    await setup.node.settle()
    assert await setup.until(45) == [40]
    assert await setup.misses(schedule_id) == [("overlap", 20, 30)]


async def test_after_a_downtime_it_continues_on_its_grid_and_catches_nothing_up(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    await setup.until(12)
    await setup.node.leave()
    setup.clock.advance(33 * SECOND)
    setup.node = SteppedNode(setup.store, setup.clock)
    await setup.node.start()
    assert await setup.fire() == 0
    assert await setup.until(61) == [50, 60]
    assert (MissReason.DOWNTIME.value, 20, 40) in await setup.misses(schedule_id)


async def test_after_a_downtime_a_paused_schedule_stays_paused_and_a_window_that_ended_is_stopped(setup: Setup) -> None:
    paused = await setup.begin(Timing(10))
    window = (await setup.schedules.add("w", 1, Timing(10, 30))).id
    await setup.schedules.pause(paused)
    await setup.until(12)
    await setup.node.leave()
    setup.clock.advance(60 * SECOND)
    setup.node = SteppedNode(setup.store, setup.clock)
    await setup.node.start()
    assert await setup.status(paused) is ScheduleStatus.PAUSED
    assert await setup.status(window) is ScheduleStatus.STOPPED
    assert await setup.until(120) == []


async def test_a_quarantined_schedule_is_shown_as_paused_and_a_resume_revives_it(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    state = (await setup.schedules.get(schedule_id)).view.state
    await put_state(setup.redis, job_id_of(schedule_id), replace(state, quarantine="why"))
    assert await setup.status(schedule_id) is ScheduleStatus.PAUSED
    assert await setup.until(25) == []
    assert (await setup.schedules.resume(schedule_id)).status is ScheduleStatus.ACTIVE
    assert await setup.until(45) == [30, 40]
    assert await setup.misses(schedule_id) == [("quarantined", 10, 20)]


async def put_state(redis: Redis, job_id: str, state: JobState) -> None:
    await redis.hset(KEYS.states, job_id, encode_state(state))
    await redis.zadd(KEYS.due, {job_id: score(state)})


# ---- targets --------------------------------------------------------------------------------------------------------


async def test_a_run_sends_the_request_of_its_target(setup: Setup) -> None:
    await setup.begin(Timing(10), target=replace(TARGET, method="PUT", headers=(("X-Own", "1"),)))
    await setup.until(10)
    request = setup.node.deliverer.seen[0].request
    assert (request.method, request.url, request.body) == ("PUT", "http://runner.test/t", b'{"a": 1}')
    headers = dict(request.headers)
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Own"] == "1"
    assert headers["Cronpost-Job-Id"] == "schedule_1"
    assert len(headers) == len(request.headers)


async def test_a_changed_target_applies_to_all_its_schedules_from_the_next_run(setup: Setup) -> None:
    await setup.begin(Timing(10))
    await setup.schedules.add("s2", 1, Timing(10))
    await setup.until(15)
    await setup.targets.change(1, lambda old: replace(old, url="http://runner.test/new", method="GET"))
    await setup.until(25)
    seen = [(one.job_id, one.request.method, one.request.url) for one in setup.node.deliverer.seen]
    assert sorted(seen[:2]) == [(f"schedule_{one}", "POST", "http://runner.test/t") for one in (1, 2)]
    assert sorted(seen[2:]) == [(f"schedule_{one}", "GET", "http://runner.test/new") for one in (1, 2)]


async def test_a_schedule_with_a_new_target_calls_it(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    other = await setup.targets.add(replace(TARGET, name="u", url="http://runner.test/u"))
    await setup.schedules.change(schedule_id, ScheduleChange(target_id=other.id))
    await setup.until(10)
    assert setup.node.deliverer.seen[0].request.url == "http://runner.test/u"
    assert await setup.targets.delete(1) == 0
    assert await setup.until(20) == [20]
    assert await setup.targets.delete(other.id) == 1
    with pytest.raises(ScheduleNotFound):
        await setup.schedules.get(schedule_id)
    assert await setup.until(40) == []


async def test_a_schedule_refuses_a_target_that_does_not_exist(setup: Setup) -> None:
    schedule_id = await setup.begin(Timing(10))
    with pytest.raises(TargetNotFound):
        await setup.schedules.change(schedule_id, ScheduleChange(target_id=9, name="other"))
    view = (await setup.schedules.get(schedule_id)).view
    assert view.job is not None
    assert (view.job.name, view.job.target_id) == ("s", 1)


# ---- the cache of a node --------------------------------------------------------------------------------------------


class CountedStore(RedisCatalogue):
    """Counts the reads of targets, and can delay an answer."""

    def __init__(self, beside: RedisStore) -> None:
        super().__init__(beside)
        self.reads = 0
        self.gate: Callable[[], Awaitable[None]] | None = None

    async def read_targets(self, target_ids):  # type: ignore[no-untyped-def]
        self.reads += 1
        found = await super().read_targets(target_ids)
        if self.gate is not None:
            await self.gate()
        return found


async def test_a_target_is_read_once_for_all_runs_until_a_claim_sees_another_version(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    store = CountedStore(setup.store)
    cache = TargetCache(store)
    cache.saw(0)
    found = await asyncio.gather(*(cache.get(1) for _ in range(50)))
    assert {one.url for one in found if one is not None} == {TARGET.url}
    cache.saw(0)
    await cache.get(1)
    assert store.reads == 1
    await setup.targets.change(1, lambda old: replace(old, url="http://new.test/"))
    cache.saw(1)
    changed = await cache.get(1)
    assert changed is not None
    assert (changed.url, store.reads) == ("http://new.test/", 2)
    cache.saw(None)
    await cache.get(1)
    assert store.reads == 3


async def test_a_target_read_before_a_change_is_not_cached_after_it(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    store = CountedStore(setup.store)
    cache = TargetCache(store)
    cache.saw(0)
    reading, answered_late = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        store.gate = None
        reading.set()
        await answered_late.wait()

    store.gate = hold
    slow = asyncio.create_task(cache.get(1))
    await reading.wait()
    await setup.targets.change(1, lambda old: replace(old, url="http://new.test/"))
    cache.saw(1)
    answered_late.set()
    old = await slow
    new = await cache.get(1)
    assert old is not None
    assert new is not None
    assert (old.url, new.url) == (TARGET.url, "http://new.test/")


async def test_cancelling_one_run_does_not_cancel_the_read_of_the_target_for_the_others(setup: Setup) -> None:
    await setup.targets.add(TARGET)
    cache = TargetCache(RedisCatalogue(setup.store))
    first, second = asyncio.create_task(cache.get(1)), asyncio.create_task(cache.get(1))
    await asyncio.sleep(0)
    first.cancel()
    found = await second
    assert found is not None
    assert first.cancelled()


async def test_the_cache_is_bounded_and_a_missing_target_is_read_again(setup: Setup) -> None:
    for number in range(4):
        await setup.targets.add(replace(TARGET, name=str(number)))
    store = CountedStore(setup.store)
    cache = TargetCache(store, limit=2)
    for target_id in (1, 2, 3, 2, 3):
        assert await cache.get(target_id) is not None
    assert store.reads == 3
    await cache.get(1)
    assert store.reads == 4
    assert [await cache.get(9), await cache.get(9)] == [None, None]
    assert store.reads == 6
