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
from scheduler_core.usecases.job_list import Page, page_of_jobs
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import at, make_job, make_state, pending, retrying
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, dump, opened, put


class Bench:
    """A service and a clock."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.jobs = JobService(store, self.clock, Metrics())

    async def page(self, **asked: Any) -> Page:
        return await page_of_jobs(Shards.of_one(self.store), **asked)


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    async with opened(redis_url) as (store, redis):
        yield Bench(store, redis)


async def test_an_identical_upsert_writes_nothing(bench: Bench) -> None:
    view, changed = await bench.jobs.upsert(make_job("a"))
    assert changed
    before = await dump(bench.redis)
    bench.clock.advance(5_000)
    again, changed = await bench.jobs.upsert(make_job("a"))
    assert not changed
    assert await dump(bench.redis) == before
    assert (again.job, again.state) == (view.job, view.state)


async def test_a_trigger_that_never_fires_again_is_refused_and_the_stored_job_stays(bench: Bench) -> None:
    await bench.jobs.upsert(make_job("a"))
    before = await dump(bench.redis)
    with pytest.raises(InvalidInput):
        await bench.jobs.upsert(make_job("a", trigger=CronSpec("0 0 0 1 1 * 2001")))
    assert await dump(bench.redis) == before


async def test_operations_on_a_missing_job_raise_not_found(bench: Bench) -> None:
    for operation in (bench.jobs.get, bench.jobs.delete, bench.jobs.pause, bench.jobs.resume, bench.jobs.run_now):
        with pytest.raises(JobNotFound):
            await operation("nobody")
    assert await dump(bench.redis) == {}


async def test_concurrent_changes_are_applied_one_after_the_other(bench: Bench) -> None:
    await asyncio.gather(*(bench.jobs.upsert(make_job("a", payload=b"%d" % number)) for number in range(20)))
    view = await bench.jobs.get("a")
    assert view.job is not None
    assert view.job.version == 20
    assert await bench.redis.zcard(KEYS.due) == await bench.redis.hlen(KEYS.jobs) == 1


async def test_a_change_that_always_conflicts_fails_as_store_unavailable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> bool:
        return False

    await bench.jobs.upsert(make_job("a"))
    monkeypatch.setattr(RedisStore, "change", never)
    with pytest.raises(StoreUnavailable):
        await bench.jobs.upsert(make_job("a", payload=b"2"))


async def test_the_status_of_a_job_in_one_word(bench: Bench) -> None:
    node = SteppedNode(bench.store, bench.clock)
    await node.start()
    await bench.jobs.upsert(make_job("a"))
    assert (await bench.jobs.get("a")).status == "active"
    await bench.jobs.run_now("a")
    await node.claim()
    assert (await bench.jobs.get("a")).status == "running"
    with pytest.raises(RunConflict):
        await bench.jobs.run_now("a")
    await bench.jobs.pause("a")
    assert (await bench.jobs.get("a")).status == "running"
    await node.leave()
    assert (await bench.jobs.get("a")).status == "paused"


@pytest.mark.parametrize("state", [RunState.RETRYING, RunState.TAKEN])
async def test_a_paused_job_is_shown_and_listed_as_paused_even_with_waiting_runs(bench: Bench, state: RunState) -> None:
    run = retrying(0, 60, state=state)
    await put(bench.redis, make_job("waits"), make_state(10, open=run, paused_at_ms=at(1)))
    entry = replace(pending("ENTRY", 60), run=retrying(0, 60, on_demand=True))
    await put(bench.redis, make_job("entry"), make_state(10, pending=(entry,), paused_at_ms=at(1)))
    assert [one.id for one in (await bench.page(status="paused")).jobs] == ["entry", "waits"]
    assert not (await bench.page(status="retrying")).jobs
    assert (await bench.jobs.get("waits")).status == "paused"


async def test_a_list_continues_after_the_last_page_and_filters_by_prefix_and_status(bench: Bench) -> None:
    for name in ("a1", "a2", "a3", "b1", "b2"):
        await bench.jobs.upsert(make_job(name))
    await bench.jobs.pause("a2")
    await bench.jobs.pause("b1")
    found, cursor, pages = [], "", 0
    while True:
        page = await bench.page(cursor=cursor, limit=2)
        found += [view.id for view in page.jobs]
        pages += 1
        if page.cursor is None:
            break
        cursor = page.cursor
    assert found == ["a1", "a2", "a3", "b1", "b2"]
    assert pages == 3
    paused = await bench.page(status="paused")
    assert [view.id for view in paused.jobs] == ["a2", "b1"]
    assert [view.id for view in (await bench.page(prefix="a", status="active")).jobs] == ["a1", "a3"]


async def test_a_job_can_be_read_and_deleted_while_redis_is_full(bench: Bench) -> None:
    for name in ("a", "b"):
        await bench.jobs.upsert(make_job(name))
    await bench.redis.config_set("maxmemory", 1)
    assert (await bench.jobs.get("a")).status == "active"
    assert len((await bench.page()).jobs) == 2
    await bench.jobs.delete("a")
    with pytest.raises(JobNotFound):
        await bench.jobs.get("a")
    with pytest.raises(StoreUnavailable):
        await bench.jobs.upsert(make_job("b", payload=b"2"))
    assert (await bench.jobs.get("b")).state.next_fire_ms == at(10)


@pytest.mark.parametrize("half", ["jobs", "states", "leases"])
async def test_a_half_missing_or_unreadable_job_is_shown_as_quarantined_and_can_be_replaced(
    bench: Bench, half: str
) -> None:
    await bench.jobs.upsert(make_job("a"))
    if half == "leases":
        await bench.redis.hset(KEYS.leases, "a", "not a lease")
    else:
        await bench.redis.hdel(getattr(KEYS, half), "a")
    view = await bench.jobs.get("a")
    assert view.status == "quarantined"
    assert view.fault is not None
    page = await bench.page()
    assert [(job.id, job.status) for job in page.jobs] == [("a", "quarantined")]
    with pytest.raises(RunConflict):
        await bench.jobs.pause("a")
    if half != "leases":
        view, changed = await bench.jobs.upsert(make_job("a"))
        assert (view.status, changed) == ("active", True)


@pytest.mark.parametrize("half", ["jobs", "states"])
async def test_a_half_missing_job_can_be_deleted(bench: Bench, half: str) -> None:
    await bench.jobs.upsert(make_job("a"))
    await bench.redis.hdel(getattr(KEYS, half), "a")
    await bench.jobs.delete("a")
    assert await dump(bench.redis) == {}


async def test_a_change_that_keeps_an_exhausted_trigger_is_refused(bench: Bench) -> None:
    job = make_job("a", trigger=CronSpec("0 0 0 1 1 * 2030"))
    await bench.jobs.upsert(job)
    stored = await bench.store.read("a")
    assert stored.snapshot.state is not None
    exhausted = replace(stored.snapshot.state, next_fire_ms=None, paused_at_ms=at(0))
    assert await bench.store.change("a", stored, Transition(exhausted))
    _, changed = await bench.jobs.upsert(job)
    assert not changed
    before = await dump(bench.redis)
    bench.clock.advance(10 * 365 * 86_400_000)
    with pytest.raises(InvalidInput):
        await bench.jobs.upsert(replace(job, payload=b"2"))
    assert await dump(bench.redis) == before
