"""Child runs of a job that allows overlap, on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import JobNotFound
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job import Job
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Miss, MissReason, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.batch import upsert_many
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import SECOND, answered, at, make_job
from tests.support.manual_clock import ManualClock
from tests.support.nodes import OpenRequest, SteppedNode
from tests.support.stores import KEYS, opened, until


class Setup:
    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.clock = ManualClock()
        self.jobs = JobService(store, self.clock, Metrics())
        self.node = SteppedNode(store, self.clock)

    async def put(self, **policies: object) -> None:
        await self.jobs.upsert(overlapping(**policies))

    async def work(self) -> None:
        """Claim until nothing is due: first the job, then its child run."""
        await self.node.beat()
        while await self.node.claim():
            # A read of the store before the request is answered a moment later.
            await until(lambda: len(self.node.node.in_flight) == len(self.node.deliverer.open))
            await self.node.settle()

    async def answer(self, status: int, index: int = 0) -> None:
        await self.node.answer(answered(status), index)
        await self.node.settle()

    @property
    def open(self) -> list[OpenRequest]:
        return self.node.deliverer.open

    async def records(self) -> list[Run | Miss]:
        return (await self.store.history("a"))[::-1]


def overlapping(**policies: object) -> Job:
    fields = {"overlap": Overlap.ALLOW, "max_concurrent": 2} | policies
    return make_job("a", policies=Policies(**fields))  # type: ignore[arg-type]


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, _):
        setup = Setup(store)
        await setup.node.start()
        yield setup
        await setup.node.crash()


async def test_child_runs_overlap_up_to_the_number_that_the_job_allows(setup: Setup) -> None:
    await setup.put()
    for _ in range(3):
        setup.clock.advance(10 * SECOND)
        await setup.work()
    assert [entry.header("Cronpost-Fire-Time")[-3:] for entry in setup.node.deliverer.open] == ["10Z", "20Z"]
    assert len(await setup.store.children("a")) == 2
    await setup.answer(200)
    assert [(type(one), one.reason.value) for one in await setup.records()] == [(Miss, "overlap"), (Run, "scheduled")]
    assert len(await setup.jobs.children("a")) == 1


async def test_a_runner_receives_the_last_success_and_a_run_now_can_be_too_soon_after_it(setup: Setup) -> None:
    await setup.put(min_interval_ms=60 * SECOND)
    setup.clock.advance(10 * SECOND)
    await setup.work()
    assert not setup.node.deliverer.open[0].has("Cronpost-Last-Success")
    await setup.answer(200)
    assert (await setup.jobs.run_now("a")).skipped == "too_soon"
    setup.clock.advance(10 * SECOND)
    await setup.work()
    first = setup.node.deliverer.seen[0].header("Cronpost-Fire-Time")
    assert setup.node.deliverer.open[0].header("Cronpost-Last-Success") == first


async def test_a_job_that_stops_allowing_overlap_waits_for_its_child_runs(setup: Setup) -> None:
    await setup.put()
    setup.clock.advance(10 * SECOND)
    await setup.work()
    await setup.jobs.upsert(make_job("a"))
    setup.clock.advance(10 * SECOND)
    await setup.work()
    assert len(setup.node.deliverer.open) == 1
    await setup.answer(200)
    setup.clock.advance(10 * SECOND)
    await setup.work()
    assert len(setup.node.deliverer.open) == 1
    assert not await setup.store.children("a")
    missed = [one for one in await setup.records() if isinstance(one, Miss)]
    assert [(one.reason, one.first_ms) for one in missed] == [(MissReason.OVERLAP, at(20))]


async def test_a_job_created_again_waits_until_the_runs_of_the_earlier_one_are_over(setup: Setup) -> None:
    await setup.put()
    setup.clock.advance(10 * SECOND)
    await setup.work()
    await setup.jobs.delete("a")
    await setup.jobs.upsert(make_job("a"))
    setup.clock.advance(10 * SECOND)
    await setup.work()
    assert len(setup.node.deliverer.open) == 1


async def test_a_delete_repeated_ends_what_an_interrupted_one_has_left_waiting(setup: Setup) -> None:
    await setup.put()
    setup.clock.advance(10 * SECOND)
    await setup.work()
    await setup.answer(503)
    stored = await setup.store.read("a")
    assert await setup.store.change("a", stored, Transition(None, remove=True))  # and here the process dies
    assert len(await setup.store.children("a")) == 1
    with pytest.raises(JobNotFound):
        await setup.jobs.delete("a")
    assert not await setup.store.children("a")
    assert [one.state for one in await setup.records() if isinstance(one, Run)] == [RunState.CANCELLED]


@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a batch"])
async def test_an_overlapping_run_that_waits_for_a_retry_is_not_retried_if_its_job_changed(
    setup: Setup, together: bool
) -> None:
    await setup.put()
    setup.clock.advance(10 * SECOND)
    await setup.work()
    await setup.answer(503)
    changed = overlapping(max_concurrent=3)
    if together:
        await upsert_many(setup.jobs, [changed, replace(changed, id="b")])
    else:
        await setup.jobs.upsert(changed)
    assert not await setup.store.children("a")
    (run,) = await setup.records()
    assert (run.state, run.message) == (RunState.CANCELLED, "its job was changed")  # type: ignore[union-attr]


async def test_an_overlapping_run_in_flight_ends_after_a_change_but_is_not_retried(setup: Setup) -> None:
    await setup.put()
    setup.clock.advance(10 * SECOND)
    await setup.work()
    await setup.jobs.upsert(overlapping(max_concurrent=3))
    assert len(await setup.store.children("a")) == 1
    await setup.answer(503)
    assert not await setup.store.children("a")
    assert [one.state for one in await setup.records() if isinstance(one, Run)] == [RunState.CANCELLED]


async def test_a_child_run_that_cannot_be_read_is_lost_and_frees_its_place(setup: Setup) -> None:
    await setup.put(max_concurrent=1)
    setup.clock.advance(10 * SECOND)
    await setup.node.beat()
    await setup.node.claim()
    await setup.node.settle()
    (claim_key,) = await setup.store.children("a")
    await setup.store.client.hset(KEYS.jobs, claim_key, b"no definition")
    await setup.work()
    assert not await setup.store.children("a")
    assert [one.state for one in await setup.records() if isinstance(one, Run)] == [RunState.LOST]
    setup.clock.advance(10 * SECOND)
    await setup.work()
    assert len(setup.node.deliverer.open) == 1


async def test_a_backfill_runs_one_fire_time_at_a_time_beside_the_trigger(setup: Setup) -> None:
    await setup.put(max_concurrent=3)
    setup.clock.advance(60 * SECOND)
    await setup.work()
    await setup.answer(200)
    await setup.jobs.backfill("a", start_ms=at(10), end_ms=at(40), limit=4)
    setup.clock.advance(10 * SECOND)
    await setup.work()
    open_runs = [(entry.header("Cronpost-Reason"), entry.header("Cronpost-Fire-Time")[-3:]) for entry in setup.open]
    assert open_runs == [("scheduled", "10Z"), ("backfill", "10Z")]
    await setup.answer(200, 1)
    setup.clock.advance(SECOND)
    await setup.work()
    assert [entry.header("Cronpost-Reason") for entry in setup.open] == ["scheduled", "backfill"]


async def test_the_account_of_runs_that_overlap_begins_with_the_first_whichever_ends_first(setup: Setup) -> None:
    await setup.put(max_concurrent=3)
    for _ in range(2):
        setup.clock.advance(10 * SECOND)
        await setup.work()
    await setup.answer(200, 1)
    await setup.answer(200, 0)
    account = await setup.store.read_account("a")
    assert account.forgotten_ms is not None
    assert account.forgotten_ms < at(10)
