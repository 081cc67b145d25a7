"""Operations of clients on jobs, with a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import InvalidInput, JobNotFound, RunConflict, StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.run import RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.selection import SelectedPage, Selection, page_of_selected
from tests.support.factories import at, make_job, make_state, pending, retrying
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, dump, opened, put


class Setup:
    """A service and a clock."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.jobs = JobService(store, self.clock, Metrics())

    async def page(self, *, cursor: str = "", limit: int = 100, **conditions: Any) -> SelectedPage:
        shards, selection = Shards.of_one(self.store), Selection(**conditions)
        return await page_of_selected(shards, self.clock, selection, cursor=cursor, limit=limit)


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        yield Setup(store, redis)


async def test_an_identical_upsert_writes_nothing(setup: Setup) -> None:
    view, changed = await setup.jobs.upsert(make_job("a"))
    assert changed
    before = await dump(setup.redis)
    setup.clock.advance(5_000)
    again, changed = await setup.jobs.upsert(make_job("a"))
    assert not changed
    assert await dump(setup.redis) == before
    assert (again.job, again.state) == (view.job, view.state)


async def test_a_trigger_that_never_fires_again_is_refused_and_the_stored_job_stays(setup: Setup) -> None:
    await setup.jobs.upsert(make_job("a"))
    before = await dump(setup.redis)
    with pytest.raises(InvalidInput):
        await setup.jobs.upsert(make_job("a", trigger=CronSpec("0 0 0 1 1 * 2001")))
    assert await dump(setup.redis) == before


async def test_operations_on_a_missing_job_raise_not_found(setup: Setup) -> None:
    for operation in (setup.jobs.get, setup.jobs.delete, setup.jobs.pause, setup.jobs.resume, setup.jobs.run_now):
        with pytest.raises(JobNotFound):
            await operation("nobody")
    assert await dump(setup.redis) == {}


async def test_concurrent_changes_are_applied_one_after_the_other(setup: Setup) -> None:
    await asyncio.gather(*(setup.jobs.upsert(make_job("a", payload=b"%d" % number)) for number in range(20)))
    view = await setup.jobs.get("a")
    assert view.job is not None
    assert view.job.version == 20
    assert await setup.redis.zcard(KEYS.due) == await setup.redis.hlen(KEYS.jobs) == 1


async def test_a_change_that_always_conflicts_fails_as_store_unavailable(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> bool:
        return False

    await setup.jobs.upsert(make_job("a"))
    monkeypatch.setattr(RedisStore, "change", never)
    with pytest.raises(StoreUnavailable):
        await setup.jobs.upsert(make_job("a", payload=b"2"))


async def test_the_status_of_a_job_in_one_word(setup: Setup) -> None:
    node = SteppedNode(setup.store, setup.clock)
    await node.start()
    await setup.jobs.upsert(make_job("a"))
    assert (await setup.jobs.get("a")).status == "active"
    await setup.jobs.run_now("a")
    await node.claim()
    assert (await setup.jobs.get("a")).status == "running"
    with pytest.raises(RunConflict):
        await setup.jobs.run_now("a")
    await setup.jobs.pause("a")
    assert (await setup.jobs.get("a")).status == "running"
    await node.leave()
    assert (await setup.jobs.get("a")).status == "paused"


@pytest.mark.parametrize("state", [RunState.RETRYING, RunState.TAKEN])
async def test_a_paused_job_is_shown_and_listed_as_paused_even_with_waiting_runs(setup: Setup, state: RunState) -> None:
    run = retrying(0, 60, state=state)
    await put(setup.redis, make_job("waits"), make_state(10, open=run, paused_at_ms=at(1)))
    entry = replace(pending("ENTRY", 60), run=retrying(0, 60, on_demand=True))
    await put(setup.redis, make_job("entry"), make_state(10, pending=(entry,), paused_at_ms=at(1)))
    assert [one.id for one in (await setup.page(status="paused")).jobs] == ["entry", "waits"]
    assert not (await setup.page(status="retrying")).jobs
    assert (await setup.jobs.get("waits")).status == "paused"


async def test_a_list_continues_after_the_last_page_and_filters_by_prefix_and_status(setup: Setup) -> None:
    for name in ("a1", "a2", "a3", "b1", "b2"):
        await setup.jobs.upsert(make_job(name))
    await setup.jobs.pause("a2")
    await setup.jobs.pause("b1")
    found, cursor, pages = [], "", 0
    while True:
        page = await setup.page(cursor=cursor, limit=2)
        found += [view.id for view in page.jobs]
        pages += 1
        if page.cursor is None:
            break
        cursor = page.cursor
    assert found == ["a1", "a2", "a3", "b1", "b2"]
    assert pages == 3
    paused = await setup.page(status="paused")
    assert [view.id for view in paused.jobs] == ["a2", "b1"]
    assert [view.id for view in (await setup.page(prefix="a", status="active")).jobs] == ["a1", "a3"]


async def test_a_job_can_be_read_and_deleted_while_redis_is_full(setup: Setup) -> None:
    for name in ("a", "b"):
        await setup.jobs.upsert(make_job(name))
    await setup.redis.config_set("maxmemory", 1)
    assert (await setup.jobs.get("a")).status == "active"
    assert len((await setup.page()).jobs) == 2
    await setup.jobs.delete("a")
    with pytest.raises(JobNotFound):
        await setup.jobs.get("a")
    with pytest.raises(StoreUnavailable):
        await setup.jobs.upsert(make_job("b", payload=b"2"))
    assert (await setup.jobs.get("b")).state.next_fire_ms == at(10)


@pytest.mark.parametrize("half", ["jobs", "states", "leases"])
async def test_a_half_missing_or_unreadable_job_is_shown_as_quarantined_and_can_be_replaced(
    setup: Setup, half: str
) -> None:
    await setup.jobs.upsert(make_job("a"))
    if half == "leases":
        await setup.redis.hset(KEYS.leases, "a", "not a lease")
    else:
        await setup.redis.hdel(getattr(KEYS, half), "a")
    view = await setup.jobs.get("a")
    assert view.status == "quarantined"
    assert view.fault is not None
    page = await setup.page()
    assert [(job.id, job.status) for job in page.jobs] == [("a", "quarantined")]
    with pytest.raises(RunConflict):
        await setup.jobs.pause("a")
    if half != "leases":
        view, changed = await setup.jobs.upsert(make_job("a"))
        assert (view.status, changed) == ("active", True)


@pytest.mark.parametrize("half", ["jobs", "states"])
async def test_a_half_missing_job_can_be_deleted(setup: Setup, half: str) -> None:
    await setup.jobs.upsert(make_job("a"))
    await setup.redis.hdel(getattr(KEYS, half), "a")
    await setup.jobs.delete("a")
    assert await dump(setup.redis) == {}


async def test_a_change_that_keeps_an_exhausted_trigger_is_refused(setup: Setup) -> None:
    job = make_job("a", trigger=CronSpec("0 0 0 1 1 * 2030"))
    await setup.jobs.upsert(job)
    stored = await setup.store.read("a")
    assert stored.snapshot.state is not None
    exhausted = replace(stored.snapshot.state, next_fire_ms=None, paused_at_ms=at(0))
    assert await setup.store.change("a", stored, Transition(exhausted))
    _, changed = await setup.jobs.upsert(job)
    assert not changed
    before = await dump(setup.redis)
    setup.clock.advance(10 * 365 * 86_400_000)
    with pytest.raises(InvalidInput):
        await setup.jobs.upsert(replace(job, payload=b"2"))
    assert await dump(setup.redis) == before
