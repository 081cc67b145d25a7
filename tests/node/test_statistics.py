"""What a node counts in each minute is written once, under the minute in which it happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.run import Miss, MissReason, RunState
from scheduler_core.model.statistics import MINUTE_MS, Minute
from scheduler_core.node.engine import Engine
from scheduler_core.node.loops.statistics import CUT_BEFORE_MS, MOST_KEPT, StatisticsWriter
from scheduler_core.store.redis.statistics import KEPT_MS
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.statistics import KEPT_DAYS
from scheduler_core.usecases.report import report_record
from tests.support.factories import at, settled_run
from tests.support.manual_clock import START_MS, ManualClock
from tests.support.nodes import ScriptedDeliverer
from tests.support.stores import KEYS, opened, until

FIRST = START_MS // MINUTE_MS
"""The number of the minute with which the manual clock begins."""
HOUR = FIRST // 60
IDLE = {"nodes": 1}


class FailingStore:
    """Refuses while ``away``; otherwise keeps what it receives."""

    def __init__(self) -> None:
        self.away = False
        self.tries = 0
        self.minutes: list[Minute] = []

    async def add(self, process: str, minute: Minute) -> bool:
        self.tries += 1
        if self.away:
            raise StoreUnavailable("away")
        self.minutes.append(minute)
        return True

    async def read(self, hours: Sequence[int]) -> list[dict[int, dict[str, int]]]:
        raise NotImplementedError

    @property
    def written(self) -> list[tuple[int, dict[str, int]]]:
        return [(minute.number - FIRST, minute.counts) for minute in self.minutes]


class Setup:
    def __init__(self, *, is_node: bool = True) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.store = FailingStore()
        self.writer = StatisticsWriter("a", self.store, self.clock, self.metrics, is_node=is_node)

    async def sleeps(self) -> None:
        await until(lambda: bool(self.clock.sleeping))

    async def pass_minute(self) -> None:
        """Let the writer's loop cut the minute and try to write it."""
        for _ in range(2):
            await self.sleeps()
            ((wakes, _),) = self.clock.sleeping
            self.clock.advance(round((wakes - self.clock.mono) * 1000))
            await until(lambda: bool(self.clock.sleeping) and self.clock.sleeping[0][0] > self.clock.mono)
        await self.sleeps()

    def count_run(self, state: RunState = RunState.SUCCEEDED, lateness: float = 0.004) -> None:
        self.metrics.runs.add(str(state), "scheduled")
        self.metrics.lateness.observe(lateness)


@pytest.fixture
async def opened_store(redis_url: str) -> AsyncIterator[tuple[RedisStore, Redis]]:
    async with opened(redis_url) as pair:
        yield pair


async def test_each_minute_is_one_write_of_what_was_counted_in_it() -> None:
    setup = Setup()
    setup.count_run()
    setup.count_run(RunState.FAILED, lateness=0.2)
    setup.metrics.task_lateness.observe(400.0)
    setup.writer.start()
    await setup.pass_minute()
    await setup.pass_minute()
    setup.count_run()
    await setup.pass_minute()
    await setup.writer.stop()
    first = {"runs:succeeded": 1, "runs:failed": 1, "lateness:5": 1, "lateness:250": 1, "task_lateness:inf": 1}
    assert setup.store.written == [
        (0, first | IDLE),
        (1, IDLE),
        (2, {"runs:succeeded": 1, "lateness:5": 1} | IDLE),
    ]
    assert setup.store.tries == 3


async def test_runs_of_the_next_full_minute_never_count_in_the_minute_before() -> None:
    setup = Setup()
    setup.writer.start()
    await setup.sleeps()
    setup.clock.advance(MINUTE_MS - CUT_BEFORE_MS)
    await until(lambda: len(setup.clock.sleeping) == 1 and setup.clock.sleeping[0][0] > setup.clock.mono)
    setup.clock.advance(CUT_BEFORE_MS)
    setup.count_run()  # at the full minute, before the earlier minute is written
    for _ in range(3):
        await setup.pass_minute()
    await setup.writer.stop()
    assert setup.store.written[0] == (0, IDLE)
    assert ("runs:succeeded" in setup.store.written[1][1], setup.store.written[1][0]) == (True, 1)


async def test_a_minute_that_redis_does_not_accept_is_written_later_under_its_own_minute() -> None:
    setup = Setup()
    setup.store.away = True
    setup.count_run()
    setup.writer.start()
    await setup.pass_minute()
    assert setup.writer.warnings == {"statistics": "statistics are not stored: away"}
    assert setup.writer.fault is None
    setup.count_run(RunState.LOST)
    setup.store.away = False
    await setup.pass_minute()
    await setup.writer.stop()
    assert setup.store.written == [
        (0, {"runs:succeeded": 1, "lateness:5": 1} | IDLE),
        (1, {"runs:lost": 1, "lateness:5": 1} | IDLE),
    ]
    assert setup.writer.warnings == {}


async def test_the_minutes_that_wait_are_bounded_and_lose_no_count() -> None:
    setup = Setup()
    setup.store.away = True
    for number in range(MOST_KEPT + 10):
        setup.count_run()
        setup.writer.cut(FIRST + number)
        await setup.writer.write()
    setup.store.away = False
    await setup.writer.write()
    assert len(setup.store.minutes) == MOST_KEPT
    assert [minute.number - FIRST for minute in setup.store.minutes] == list(range(10, MOST_KEPT + 10))
    assert sum(minute.counts["runs:succeeded"] for minute in setup.store.minutes) == MOST_KEPT + 10
    assert {minute.counts["nodes"] for minute in setup.store.minutes} == {1}


async def test_an_api_without_a_node_writes_only_what_it_counted() -> None:
    setup = Setup(is_node=False)
    setup.writer.start()
    await setup.pass_minute()
    assert setup.store.tries == 0
    setup.count_run()
    await setup.pass_minute()
    await setup.writer.stop()
    assert setup.store.written == [(1, {"runs:succeeded": 1, "lateness:5": 1})]


async def test_a_node_that_stops_writes_its_unfinished_minute() -> None:
    setup = Setup()
    setup.writer.start()
    await setup.sleeps()
    setup.clock.advance(20_000)
    setup.count_run()
    await setup.writer.finish()
    assert setup.store.written == [(0, {"runs:succeeded": 1, "lateness:5": 1} | IDLE)]


async def test_missed_fire_times_are_counted_by_reason() -> None:
    setup = Setup()
    for count in (12, None):
        report_record(setup.metrics, "a", Miss(MissReason.DOWNTIME, at(0), at(120), at(121), count))
    report_record(setup.metrics, "a", Miss(MissReason.OVERLAP, at(0), at(10), at(12), 2))
    report_record(setup.metrics, "a", settled_run(0))
    setup.writer.cut(FIRST)
    await setup.writer.write()
    assert setup.store.written == [(0, {"runs:succeeded": 1, "misses:downtime": 13, "misses:overlap": 2} | IDLE)]


async def test_counts_of_all_nodes_and_versions_add_up_and_none_is_added_twice(
    opened_store: tuple[RedisStore, Redis],
) -> None:
    store, redis = opened_store
    statistics = store.statistics_store()
    assert await statistics.add("a", Minute(FIRST, 1, {"nodes": 1, "runs:failed": 2}))
    assert not await statistics.add("a", Minute(FIRST, 1, {"nodes": 1, "runs:failed": 2}))
    assert await statistics.add("b", Minute(FIRST, 1, {"nodes": 1, "runs:failed": 2**40, "of another version": 3}))
    assert await statistics.add("a", Minute(FIRST + 1, 2, {"nodes": 1}))
    assert await statistics.add("a", Minute(FIRST, 3, {"runs:lost": 1}))  # the clock was set back
    key = KEYS.statistics(HOUR)
    await redis.hset(key, mapping={"59": b"foreign", "58": msgspec.msgpack.encode([1]), "x": b"1"})
    within = FIRST % 60
    assert await statistics.read([HOUR - 1, HOUR]) == [
        {},
        {
            within: {"nodes": 2, "runs:failed": 2**40 + 2, "of another version": 3, "runs:lost": 1},
            within + 1: {"nodes": 1},
        },
    ]
    assert await statistics.add("a", Minute(60 * HOUR + 59, 4, {"nodes": 1}))
    assert (await statistics.read([HOUR]))[0][59] == {"nodes": 1}
    assert KEPT_DAYS * 86_400_000 < await redis.pttl(key) <= KEPT_MS


async def test_an_engine_writes_its_last_minute_when_it_stops(redis_url: str) -> None:
    async with opened(redis_url) as (store, _):
        clock = ManualClock()
        engine = Engine(EngineSettings(), store, ScriptedDeliverer(), clock, metrics := Metrics())
        engine.start()
        await engine.started()
        metrics.runs.add("succeeded", "manual")
        async with asyncio.timeout(20):
            await engine.stop()
        (minutes,) = await store.statistics_store().read([HOUR])
        assert minutes[FIRST % 60] == {"nodes": 1, "runs:succeeded": 1}
