"""The list of the runs of all jobs: order, filters, pages during settlements, and unsettled runs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import RunNotFound
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import Run, RunState
from scheduler_core.model.status import RunStatus, status_of
from scheduler_core.model.transition import Spawn, Transition
from scheduler_core.node.loops.sweep import Sweeper
from scheduler_core.node.shard_loops import bounds_of
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.history import Bounds, Place, Query, Stored
from scheduler_core.store.jobs import CompletedBounds
from scheduler_core.store.redis.history import RedisHistory
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.history import FoundRun, HistoryService
from tests.support.factories import answered, at, make_job, make_state, retrying, settled_run
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, beat, claim, opened, put


class Setup(msgspec.Struct):
    """A store, its run list, a stepped node, and a Redis client to check the stored values."""

    store: RedisStore
    redis: Redis
    clock: ManualClock
    node: SteppedNode
    history: HistoryService

    async def settle(self, name: str, *runs: Run) -> None:
        """Record runs of a job."""
        await put(self.redis, make_job(name), make_state(0))
        await beat(self.store, "other")
        (job,) = [one for one in (await claim(self.store, node="other", limit=500)).jobs if one.id == name]
        await self.store.settle([encode_settlement(job, Transition(make_state(86_400), runs))])

    async def pages(self, limit: int, **options: Any) -> list[FoundRun]:
        """Return the whole list, page by page with the cursor."""
        found: list[FoundRun] = []
        before: Place | None = None
        while True:
            page = await self.history.find(Query(), before=before, limit=limit, **options)
            assert len(page.runs) == limit or page.after is None
            found += page.runs
            before = page.after
            if before is None:
                return found


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    clock = ManualClock()
    async with opened(redis_url) as (store, redis):
        node = SteppedNode(store, clock)
        await node.start()
        yield Setup(store, redis, clock, node, HistoryService(Shards.of_one(store), clock))


def ids(runs: list[FoundRun]) -> list[str]:
    return [one.run.id for one in runs]


CODES = (200, 500, 200, None, 404)


async def seeded(setup: Setup, count: int = 40) -> list[Run]:
    """Runs of five jobs, newest first; some started in the same millisecond."""
    runs = [settled_run(number, CODES[number % 5], started_at_ms=at(number - number % 3)) for number in range(count)]
    shuffled = random.Random(7).sample(runs, count)
    for run in shuffled:
        await setup.settle(f"job{int(run.id[3:]) // 1000 % 5}", run)
    return sorted(runs, key=lambda run: (run.started_at_ms, run.id), reverse=True)


async def test_runs_are_listed_newest_first_in_any_order_of_settlement(setup: Setup) -> None:
    runs = await seeded(setup)
    page = await setup.history.find(Query(), limit=1000)
    assert [one.run for one in page.runs] == runs
    assert page.after is None
    assert {one.job_id for one in page.runs} == {f"job{number}" for number in range(5)}


@pytest.mark.slow
async def test_filters_alone_and_together_find_the_same_runs_as_a_scan(setup: Setup) -> None:
    runs = await seeded(setup)
    for status in (None, *RunStatus):
        for start, end in ((None, None), (10, None), (None, 20), (9, 21), (12, 12), (30, 20)):
            query = Query(status, None if start is None else at(start), None if end is None else at(end))
            wanted = [
                run
                for run in runs
                if (status is None or status_of(run) is status) and query.covers(Place(run.started_at_ms or 0, b""))
            ]
            for skip, limit in ((0, 1000), (0, 3), (2, 3), (39, 5), (1000, 5)):
                page = await setup.history.find(query, skip=skip, limit=limit)
                assert [one.run for one in page.runs] == wanted[skip : skip + limit], (query, skip, limit)
                assert (page.after is not None) == (len(wanted) > skip + limit)
                of_job = [run for run in wanted if int(run.id[3:]) // 1000 % 5 == 1]
                page = await setup.history.find(query, job_id="job1", skip=skip, limit=limit)
                assert [one.run for one in page.runs] == of_job[skip : skip + limit]


async def test_a_page_of_one_job_reads_no_more_records_than_it_shows(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [settled_run(number) for number in range(60)]
    await setup.settle("job", *runs)
    read: list[int] = []
    records = RedisHistory.records

    async def counted(self: RedisHistory, run_ids: Sequence[str]) -> list[Stored | None]:
        read.append(len(run_ids))
        return await records(self, run_ids)

    monkeypatch.setattr(RedisHistory, "records", counted)
    page = await setup.history.find(Query(), job_id="job", skip=10, limit=5)
    assert [one.run.id for one in page.runs] == [run.id for run in reversed(runs)][10:15]
    assert sum(read) == 5


async def test_records_that_cannot_be_read_do_not_shorten_a_page_of_a_job(setup: Setup) -> None:
    runs = [settled_run(number) for number in range(10)]
    await setup.settle("job", *runs)
    for number in (5, 8, 9):
        await setup.redis.hset(KEYS.records, runs[number].id, b"\xc1")
    page = await setup.history.find(Query(), job_id="job", limit=3)
    assert [one.run.id for one in page.runs] == [runs[7].id, runs[6].id, runs[4].id]
    assert (await setup.history.find(Query(), limit=3)).runs == page.runs


@pytest.mark.parametrize("limit", [1, 2, 7, 39, 40, 41])
async def test_pages_by_cursor_are_the_whole_list(setup: Setup, limit: int) -> None:
    runs = await seeded(setup)
    assert ids(await setup.pages(limit)) == [run.id for run in runs]
    of_job = [run.id for run in runs if int(run.id[3:]) // 1000 % 5 == 2]
    assert ids(await setup.pages(limit, job_id="job2")) == of_job


async def test_many_runs_of_one_millisecond_do_not_break_a_page(setup: Setup) -> None:
    runs = [settled_run(number, CODES[number % 5], started_at_ms=at(0)) for number in range(120)]
    await setup.settle("job", *runs)
    for limit in (7, 50):
        assert ids(await setup.pages(limit)) == sorted((run.id for run in runs), reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("job_id", [None, "job1"])
async def test_paging_while_runs_are_settled_shows_each_earlier_run_exactly_once(
    setup: Setup, job_id: str | None
) -> None:
    runs = await seeded(setup)
    there = {run.id for run in runs if job_id is None or int(run.id[3:]) // 1000 % 5 == 1}
    dice = random.Random(3)
    found: list[str] = []
    before: Place | None = None
    number = 1_000
    while True:
        page = await setup.history.find(Query(), job_id=job_id, before=before, limit=3)
        found += ids(page.runs)
        before = page.after
        if before is None:
            break
        for _ in range(5):  # some newer than all, some older than the shown ones, some between them
            number += 1
            run = settled_run(number, dice.choice(CODES), started_at_ms=at(dice.randrange(0, 60)))
            await setup.settle(f"job{dice.randrange(5)}", run)
    assert len(found) == len(set(found))
    assert there <= set(found)


async def test_a_run_trimmed_between_index_and_record_does_not_shorten_the_page(setup: Setup) -> None:
    runs = await seeded(setup)
    gone = {run.id for run in runs[3:20]}
    await setup.redis.hdel(KEYS.records, *gone)
    page = await setup.history.find(Query(), limit=10)
    assert [one.run.id for one in page.runs] == [run.id for run in runs if run.id not in gone][:10]


# ---- runs that are not settled --------------------------------------------------------------------------------------


async def test_a_run_is_in_the_list_from_its_claim_to_its_end_and_never_twice(setup: Setup) -> None:
    await setup.settle("old", settled_run(-50))
    await put(setup.redis, make_job("job"), make_state(0))
    assert await setup.node.claim() == 1
    run_id = setup.node.deliverer.open[0].run_id
    for job_id in (None, "job"):
        first = (await setup.history.find(Query(), job_id=job_id)).runs[0]
        assert (first.run.id, first.job_id, first.run.state) == (run_id, "job", RunState.OPEN)
        assert status_of(first.run) is None
        assert first.run.started_at_ms is not None
    assert (await setup.history.get(run_id)).run.state is RunState.OPEN
    for status in RunStatus:
        assert run_id not in ids((await setup.history.find(Query(status))).runs), "it matches no status"
    assert (await setup.history.totals()).runs == 1, "it counts in no total"

    await setup.node.answer(answered(503))
    await setup.node.settle()
    for job_id in (None, "job"):
        found = ids((await setup.history.find(Query(), job_id=job_id)).runs)
        assert found.count(run_id) == 1
    waiting = await setup.history.get(run_id)
    assert (waiting.run.state, waiting.run.attempt) == (RunState.RETRYING, 1)

    setup.clock.advance(2_000)
    await setup.node.beat()
    assert await setup.node.claim() == 1
    for job_id in (None, "job"):
        found = ids((await setup.history.find(Query(), job_id=job_id)).runs)
        assert found.count(run_id) == 1, "waiting and leased, it shows once"
    await setup.settle("between", settled_run(1))
    assert ids(await setup.pages(1)) == [settled_run(1).id, run_id, settled_run(-50).id]
    assert (await setup.history.get(run_id)).run.state is RunState.OPEN

    await setup.node.answer(answered(200))
    await setup.node.settle()
    for job_id in (None, "job"):
        found = ids((await setup.history.find(Query(), job_id=job_id)).runs)
        assert found.count(run_id) == 1
    ended = await setup.history.get(run_id)
    assert (ended.run.state, status_of(ended.run)) == (RunState.SUCCEEDED, RunStatus.SUCCESS)
    assert (await setup.history.totals()).runs == 3


async def test_waiting_runs_are_ordered_among_the_others_by_their_start(setup: Setup) -> None:
    for number in (0, 20, 40):
        await setup.settle(f"ended{number}", settled_run(number))
    for number in (10, 30):
        state = JobState(next_fire_ms=at(86_400), open=retrying(number, 3_600, id=f"WAITS{number}"))
        await put(setup.redis, make_job(f"waits{number}"), make_state(0))
        stored = await setup.store.read(f"waits{number}")
        assert await setup.store.change(f"waits{number}", stored, Transition(state))
    everything = [settled_run(40).id, "WAITS30", settled_run(20).id, "WAITS10", settled_run(0).id]
    assert ids((await setup.history.find(Query())).runs) == everything
    assert ids(await setup.pages(1)) == ids(await setup.pages(2)) == everything
    assert ids((await setup.history.find(Query(start_ms=at(10), end_ms=at(30)))).runs) == everything[1:4]
    assert ids((await setup.history.find(Query(), job_id="waits10")).runs) == ["WAITS10"]


async def test_all_overlapping_runs_are_in_the_list_of_their_job(setup: Setup) -> None:
    await put(setup.redis, make_job("job"), make_state(0))
    await beat(setup.store)
    (job,) = (await claim(setup.store)).jobs
    run = settled_run(0, state=RunState.OPEN, attempts=(), attempt=0, started_at_ms=None, ended_at_ms=None)
    await setup.store.settle([encode_settlement(job, Transition(make_state(86_400), spawn=Spawn(run, 3)))])
    (child,) = (await claim(setup.store)).jobs
    assert child.id == child_id("job", run.id)
    for job_id in (None, "job"):
        (found,) = (await setup.history.find(Query(), job_id=job_id)).runs
        assert (found.run.id, found.job_id) == (run.id, "job")


async def test_an_unknown_run_is_not_found_for_any_form_of_id(setup: Setup) -> None:
    await seeded(setup, 3)
    for run_id in ("", "x", "0" * 26, "Z" * 26, "é" * 26, "01M7Y0QHE26MV820XVD6PKCPQ3", "a b\x1f"):
        with pytest.raises(RunNotFound):
            await setup.history.get(run_id)


# ---- the sweeper ----------------------------------------------------------------------------------------------------


async def test_a_sweeper_trims_until_nothing_is_beyond_the_bounds(setup: Setup) -> None:
    await seeded(setup)
    metrics = Metrics()
    sweeper = Sweeper(setup.store, Bounds(successes=4, failures=3), CompletedBounds(), setup.clock, metrics)
    assert await sweeper.sweep() == 33
    assert len((await setup.history.find(Query())).runs) == 7
    assert await sweeper.sweep() == 0
    assert metrics.registry.get_sample_value("cronpost_runs_trimmed_total") == 33


def test_the_sweeper_uses_the_history_bounds_of_the_settings() -> None:
    settings = EngineSettings(
        history_retention_days=1, history_failure_retention_days=2, history_max_runs=3, history_max_megabytes=4
    )
    assert bounds_of(settings) == Bounds(
        success_age_ms=86_400_000, failure_age_ms=172_800_000, successes=3, failures=3, bytes=4 * 1024 * 1024
    )
    assert bounds_of(EngineSettings()) == Bounds()
