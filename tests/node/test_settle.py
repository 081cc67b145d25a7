"""The settler: what Redis does not accept is kept and tried again, and one bad job blocks no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from scheduler_core.base.errors import StoreRefused, StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.run import Run, RunState
from scheduler_core.store.loop import Settled, Settlement
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import answered, at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.redis_proxy import RedisProxy
from tests.support.stores import KEYS, opened, put, until


class Setup:
    """A node with claimed jobs, all on one clock."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.node = SteppedNode(store, self.clock, self.metrics)
        self.jobs = JobService(store, self.clock, self.metrics)

    async def claim(self, *names: str) -> None:
        await self.node.start()
        for name in names:
            await put(self.redis, make_job(name), make_state(0))
        assert await self.node.claim() == len(names)

    async def answer_all(self, status: int = 200) -> None:
        while self.node.deliverer.open:
            await self.node.answer(answered(status))

    async def states(self, name: str) -> list[RunState]:
        return [record.state for record in await self.store.history(name) if isinstance(record, Run)]


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        yield setup
        await setup.node.crash()


async def test_results_that_redis_does_not_accept_are_kept_and_tried_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.claim("a", "b")
    await setup.answer_all()
    settle, failures = RedisStore.settle, 3

    async def failing(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("away", effect_unknown=bool(failures))
        return await settle(self, settlements)

    monkeypatch.setattr(RedisStore, "settle", failing)
    settler = setup.node.settler
    settler.start()
    await until(lambda: settler.fault is not None)
    assert not settler.is_idle

    def recovered() -> bool:
        setup.clock.advance(2_000)
        return settler.is_idle and settler.fault is None

    await until(recovered)
    assert failures == 0
    await settler.stop()
    assert await setup.states("a") == await setup.states("b") == [RunState.SUCCEEDED]


async def test_a_settle_whose_reply_is_lost_is_applied_once(
    redis_server: EmbeddedRedis, setup: Setup, tmp_path: Path
) -> None:
    await setup.claim("a")
    await setup.answer_all()
    async with RedisProxy(redis_server.socket_path, tmp_path) as proxy:
        behind = RedisStore(connect(proxy.url))
        await behind.settle([])
        setup.node.settler._store = behind
        proxy.lose_reply_to(b"EVALSHA")
        with pytest.raises(StoreUnavailable):
            await setup.node.settler.run_once()
        assert not setup.node.settler.is_idle
        await setup.node.settle()
        await behind.aclose()
    assert await setup.states("a") == [RunState.SUCCEEDED]
    assert setup.metrics.refused._value.get() == 0


async def test_a_settler_that_stops_during_a_batch_neither_loses_nor_repeats_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.claim("a", "b")
    await setup.answer_all()
    settle, applied = RedisStore.settle, asyncio.Event()

    async def hanging(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        await settle(self, settlements)
        applied.set()
        await asyncio.Event().wait()
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "settle", hanging)
        setup.node.settler.start()
        await applied.wait()
        await setup.node.settler.stop()
    assert not setup.node.settler.is_idle
    await setup.node.settle()
    assert await setup.states("a") == await setup.states("b") == [RunState.SUCCEEDED]


async def test_a_job_whose_history_cannot_be_written_blocks_no_other(setup: Setup) -> None:
    names = ["a", "bad", "c", "d"]
    await setup.claim(*names)
    await setup.redis.set(KEYS.history("bad"), "no list")
    await setup.answer_all()
    await setup.node.settle()
    for name in names:
        stored = await setup.store.read(name)
        assert stored.snapshot.lease is None
        assert stored.snapshot.state is not None
        assert stored.snapshot.state.next_fire_ms == at(10)
        if name != "bad":
            assert await setup.states(name) == [RunState.SUCCEEDED]
    await setup.redis.delete(KEYS.history("bad"))


async def test_a_refusal_that_lasts_loses_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    await setup.claim("a", "b", "c")
    await setup.answer_all()

    async def refused(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        raise StoreRefused("no permission")

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "settle", refused)
        for _ in range(7):
            with pytest.raises(StoreRefused):
                await setup.node.settler.run_once()
    await setup.node.settle()
    for name in ("a", "b", "c"):
        assert await setup.states(name) == [RunState.SUCCEEDED]


async def test_a_settlement_that_redis_always_refuses_is_rejected_and_tried_again_later(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.claim("a", "bad", "c")
    await setup.answer_all()
    settler, settle = setup.node.settler, RedisStore.settle
    beats: list[str] = []
    settler._takes_writes = lambda: bool(beats)

    async def refused(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        if any(one.claim_key == "bad" for one in settlements):
            raise StoreRefused("its keys cannot be used")
        return await settle(self, settlements)

    async def rounds(count: int) -> None:
        for _ in range(count):
            if not settler.is_idle:
                with contextlib.suppress(StoreRefused):
                    await settler.run_once()

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "settle", refused)
        await rounds(20)
        assert await setup.states("a") == await setup.states("c") == [RunState.SUCCEEDED]
        assert not settler.is_idle, "while Redis takes no beats either, nothing is wrong with this job alone"
        beats.append("taken")
        await rounds(1)
        assert await settler.flush(0), "nothing else waits"
        assert settler.unsettled == 1
        assert len(settler.lease_ids()) == 1
        # The others are settled, and it is tried again at intervals.
        await put(setup.redis, make_job("d"), make_state(0))
        assert await setup.node.claim() == 1
        await setup.answer_all()
        await rounds(5)
        assert await setup.states("d") == [RunState.SUCCEEDED]
        setup.clock.advance(11_000)
        await settler.run_once()
        assert settler.unsettled == 1
    setup.clock.advance(11_000)
    await settler.run_once()
    assert settler.unsettled == 0
    assert await setup.states("bad") == [RunState.SUCCEEDED]


async def test_results_that_arrive_during_a_write_form_the_next_batch(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.claim(*[f"job{number}" for number in range(10)])
    sizes: list[int] = []
    settle, limiter = RedisStore.settle, asyncio.Event()

    async def slow(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        sizes.append(len(settlements))
        await limiter.wait()
        return await settle(self, settlements)

    monkeypatch.setattr(RedisStore, "settle", slow)
    setup.node.settler.start()
    await setup.node.answer(answered(200))
    await until(lambda: sizes == [1])
    await setup.answer_all()
    limiter.set()
    await until(lambda: setup.node.settler.is_idle)
    await setup.node.settler.stop()
    assert sizes == [1, 9]


async def test_a_late_result_of_a_frozen_node_is_refused_and_counted(setup: Setup) -> None:
    await setup.claim("a")
    other = SteppedNode(setup.store, setup.clock)
    await other.start()
    for _ in range(7):
        setup.clock.advance(1_000)
        await other.beat()
    assert other.node.may_reap
    assert await other.reaper.reap() == 1
    assert await other.claim() == 1
    late, anew = setup.node.deliverer.open[0], other.deliverer.open[0]
    assert anew.run_id == late.run_id
    assert int(anew.header("Cronpost-Fence")) > int(late.header("Cronpost-Fence"))
    await setup.answer_all(500)
    await setup.node.settle()
    assert setup.metrics.refused._value.get() == 1
    assert await setup.states("a") == []
    await other.answer(answered(200))
    await other.settle()
    assert await setup.states("a") == [RunState.SUCCEEDED]


async def test_a_change_while_the_request_is_open_is_planned_again_and_the_new_definition_stays(setup: Setup) -> None:
    await setup.claim("a")
    await setup.jobs.upsert(make_job("a", payload=b"[2]"))
    await setup.answer_all(503)
    await setup.node.settle()
    assert await setup.states("a") == [RunState.CANCELLED]
    view = await setup.jobs.get("a")
    assert view.job is not None
    assert view.job.payload == b"[2]"
    assert (view.state.open, view.lease, view.status) == (None, None, "active")


async def test_a_run_asked_for_during_a_pause_that_ends_before_it_runs_once(setup: Setup) -> None:
    await setup.node.start()
    await setup.jobs.upsert(make_job("a"))
    await setup.jobs.pause("a")
    run_id = (await setup.jobs.run_now("a")).run_id
    assert await setup.node.claim() == 1
    await setup.jobs.resume("a")
    await setup.answer_all()
    await setup.node.settle()
    assert await setup.node.claim() == 0
    assert [entry.run_id for entry in setup.node.deliverer.seen] == [run_id]


async def test_a_claim_without_a_run_that_meets_a_change_is_released(setup: Setup) -> None:
    # The node takes over a tombstone; before it settles, the job is created again.
    await setup.claim("a")
    await setup.jobs.delete("a")
    await setup.node.crash()
    await setup.store.reap(now_ms=at(1), dead_after_ms=5_000, void_all=True)
    successor = SteppedNode(setup.store, setup.clock)
    await successor.start()
    assert await successor.claim() == 1
    assert successor.deliverer.seen == []
    setup.clock.advance(1)
    await setup.jobs.upsert(make_job("a"))
    await successor.settle()
    assert await successor.claim() == 1
    await successor.settle()
    view = await setup.jobs.get("a")
    assert (view.state, view.lease) == (make_state(10), None)
    assert await setup.states("a") == [RunState.LOST]


async def test_a_deleted_job_stays_deleted_when_its_last_run_ends(setup: Setup) -> None:
    await setup.claim("a")
    await setup.jobs.delete("a")
    await setup.answer_all(503)
    await setup.node.settle()
    assert await setup.states("a") == [RunState.CANCELLED]
    content = [await setup.redis.exists(key) for key in (KEYS.due, KEYS.jobs, KEYS.states, KEYS.leases, KEYS.ids)]
    assert content == [0] * 5


async def test_lateness_is_measured_of_scheduled_runs_alone(setup: Setup) -> None:
    reasons: list[str] = []

    async def fire() -> None:
        await setup.node.beat()
        await setup.node.claim()
        reasons.extend(entry.header("Cronpost-Reason") for entry in setup.node.deliverer.open)
        await setup.answer_all()
        await setup.node.settle()

    await setup.node.start()
    await put(setup.redis, make_job("a"), make_state(0))
    await fire()
    setup.clock.advance(10_000)
    await fire()
    setup.clock.advance(1)
    await setup.jobs.backfill("a", start_ms=at(0), end_ms=at(1), limit=1)
    await setup.jobs.run_now("a", force=True)
    while len(reasons) < 4:
        setup.clock.advance(1)
        await fire()
    assert sorted(reasons) == ["backfill", "manual", "scheduled", "scheduled"]
    assert setup.metrics.registry.get_sample_value("cronpost_lateness_seconds_count") == 2


async def test_a_flush_ends_when_all_is_settled_or_its_time_is_over(setup: Setup) -> None:
    await setup.claim("a")
    assert await setup.node.settler.flush(1)
    await setup.answer_all()
    waiting = asyncio.ensure_future(setup.node.settler.flush(1))
    await asyncio.sleep(0)
    setup.clock.advance(2_000)
    assert not await waiting
    setup.node.settler.start()
    assert await setup.node.settler.flush(10**9), "it waits for the settler, and the clock stands still"
    await setup.node.settler.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await setup.node.settler.stop()
