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


class Bench:
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
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    async with opened(redis_url) as (store, redis):
        bench = Bench(store, redis)
        yield bench
        await bench.node.crash()


async def test_results_that_redis_does_not_accept_are_kept_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.claim("a", "b")
    await bench.answer_all()
    settle, failures = RedisStore.settle, 3

    async def failing(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("away", effect_unknown=bool(failures))
        return await settle(self, settlements)

    monkeypatch.setattr(RedisStore, "settle", failing)
    settler = bench.node.settler
    settler.start()
    await until(lambda: settler.fault is not None)
    assert not settler.is_idle

    def recovered() -> bool:
        bench.clock.advance(2_000)
        return settler.is_idle and settler.fault is None

    await until(recovered)
    assert failures == 0
    await settler.stop()
    assert await bench.states("a") == await bench.states("b") == [RunState.SUCCEEDED]


async def test_a_settle_whose_reply_is_lost_is_applied_once(
    redis_server: EmbeddedRedis, bench: Bench, tmp_path: Path
) -> None:
    await bench.claim("a")
    await bench.answer_all()
    async with RedisProxy(redis_server.socket_path, tmp_path) as proxy:
        behind = RedisStore(connect(proxy.url))
        await behind.settle([])
        bench.node.settler._store = behind
        proxy.lose_reply_to(b"EVALSHA")
        with pytest.raises(StoreUnavailable):
            await bench.node.settler.run_once()
        assert not bench.node.settler.is_idle
        await bench.node.settle()
        await behind.aclose()
    assert await bench.states("a") == [RunState.SUCCEEDED]
    assert bench.metrics.refused._value.get() == 0


async def test_a_settler_that_stops_during_a_batch_neither_loses_nor_repeats_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.claim("a", "b")
    await bench.answer_all()
    settle, applied = RedisStore.settle, asyncio.Event()

    async def hanging(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        await settle(self, settlements)
        applied.set()
        await asyncio.Event().wait()
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "settle", hanging)
        bench.node.settler.start()
        await applied.wait()
        await bench.node.settler.stop()
    assert not bench.node.settler.is_idle
    await bench.node.settle()
    assert await bench.states("a") == await bench.states("b") == [RunState.SUCCEEDED]


async def test_a_job_whose_history_cannot_be_written_blocks_no_other(bench: Bench) -> None:
    names = ["a", "bad", "c", "d"]
    await bench.claim(*names)
    await bench.redis.set(KEYS.history("bad"), "no list")
    await bench.answer_all()
    await bench.node.settle()
    for name in names:
        stored = await bench.store.read(name)
        assert stored.snapshot.lease is None
        assert stored.snapshot.state is not None
        assert stored.snapshot.state.next_fire_ms == at(10)
        if name != "bad":
            assert await bench.states(name) == [RunState.SUCCEEDED]
    await bench.redis.delete(KEYS.history("bad"))


async def test_a_refusal_that_lasts_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.claim("a", "b", "c")
    await bench.answer_all()

    async def refused(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        raise StoreRefused("no permission")

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "settle", refused)
        for _ in range(7):
            with pytest.raises(StoreRefused):
                await bench.node.settler.run_once()
    await bench.node.settle()
    for name in ("a", "b", "c"):
        assert await bench.states(name) == [RunState.SUCCEEDED]


async def test_a_settlement_that_redis_always_refuses_is_rejected_and_tried_again_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.claim("a", "bad", "c")
    await bench.answer_all()
    settler, settle = bench.node.settler, RedisStore.settle
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
        assert await bench.states("a") == await bench.states("c") == [RunState.SUCCEEDED]
        assert not settler.is_idle, "while Redis takes no beats either, nothing is wrong with this job alone"
        beats.append("taken")
        await rounds(1)
        assert await settler.flush(0), "nothing else waits"
        assert settler.unsettled == 1
        assert len(settler.lease_ids()) == 1
        # The others go on, and it is tried again now and then.
        await put(bench.redis, make_job("d"), make_state(0))
        assert await bench.node.claim() == 1
        await bench.answer_all()
        await rounds(5)
        assert await bench.states("d") == [RunState.SUCCEEDED]
        bench.clock.advance(11_000)
        await settler.run_once()
        assert settler.unsettled == 1
    bench.clock.advance(11_000)
    await settler.run_once()
    assert settler.unsettled == 0
    assert await bench.states("bad") == [RunState.SUCCEEDED]


async def test_results_that_arrive_during_a_write_form_the_next_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.claim(*[f"job{number}" for number in range(10)])
    sizes: list[int] = []
    settle, limiter = RedisStore.settle, asyncio.Event()

    async def slow(self: RedisStore, settlements: Sequence[Settlement]) -> list[Settled]:
        sizes.append(len(settlements))
        await limiter.wait()
        return await settle(self, settlements)

    monkeypatch.setattr(RedisStore, "settle", slow)
    bench.node.settler.start()
    await bench.node.answer(answered(200))
    await until(lambda: sizes == [1])
    await bench.answer_all()
    limiter.set()
    await until(lambda: bench.node.settler.is_idle)
    await bench.node.settler.stop()
    assert sizes == [1, 9]


async def test_a_late_result_of_a_frozen_node_is_refused_and_counted(bench: Bench) -> None:
    await bench.claim("a")
    other = SteppedNode(bench.store, bench.clock)
    await other.start()
    for _ in range(7):
        bench.clock.advance(1_000)
        await other.beat()
    assert other.node.may_reap
    assert await other.reaper.reap() == 1
    assert await other.claim() == 1
    late, anew = bench.node.deliverer.open[0], other.deliverer.open[0]
    assert anew.run_id == late.run_id
    assert int(anew.header("Cronpost-Fence")) > int(late.header("Cronpost-Fence"))
    await bench.answer_all(500)
    await bench.node.settle()
    assert bench.metrics.refused._value.get() == 1
    assert await bench.states("a") == []
    await other.answer(answered(200))
    await other.settle()
    assert await bench.states("a") == [RunState.SUCCEEDED]


async def test_a_change_while_the_request_is_open_is_planned_again_and_the_new_definition_stays(bench: Bench) -> None:
    await bench.claim("a")
    await bench.jobs.upsert(make_job("a", payload=b"[2]"))
    await bench.answer_all(503)
    await bench.node.settle()
    assert await bench.states("a") == [RunState.CANCELLED]
    view = await bench.jobs.get("a")
    assert view.job is not None
    assert view.job.payload == b"[2]"
    assert (view.state.open, view.lease, view.status) == (None, None, "active")


async def test_a_run_asked_for_during_a_pause_that_ends_before_it_runs_once(bench: Bench) -> None:
    await bench.node.start()
    await bench.jobs.upsert(make_job("a"))
    await bench.jobs.pause("a")
    run_id = (await bench.jobs.run_now("a")).run_id
    assert await bench.node.claim() == 1
    await bench.jobs.resume("a")
    await bench.answer_all()
    await bench.node.settle()
    assert await bench.node.claim() == 0
    assert [entry.run_id for entry in bench.node.deliverer.seen] == [run_id]


async def test_a_claim_without_a_run_that_meets_a_change_is_released(bench: Bench) -> None:
    # The node takes over a tombstone; before it can say so the job is created again.
    await bench.claim("a")
    await bench.jobs.delete("a")
    await bench.node.crash()
    await bench.store.reap(now_ms=at(1), dead_after_ms=5_000, void_all=True)
    successor = SteppedNode(bench.store, bench.clock)
    await successor.start()
    assert await successor.claim() == 1
    assert successor.deliverer.seen == []
    bench.clock.advance(1)
    await bench.jobs.upsert(make_job("a"))
    await successor.settle()
    assert await successor.claim() == 1
    await successor.settle()
    view = await bench.jobs.get("a")
    assert (view.state, view.lease) == (make_state(10), None)
    assert await bench.states("a") == [RunState.LOST]


async def test_a_deleted_job_stays_deleted_when_its_last_run_ends(bench: Bench) -> None:
    await bench.claim("a")
    await bench.jobs.delete("a")
    await bench.answer_all(503)
    await bench.node.settle()
    assert await bench.states("a") == [RunState.CANCELLED]
    content = [await bench.redis.exists(key) for key in (KEYS.due, KEYS.jobs, KEYS.states, KEYS.leases, KEYS.ids)]
    assert content == [0] * 5


async def test_lateness_is_measured_of_scheduled_runs_alone(bench: Bench) -> None:
    reasons: list[str] = []

    async def fire() -> None:
        await bench.node.beat()
        await bench.node.claim()
        reasons.extend(entry.header("Cronpost-Reason") for entry in bench.node.deliverer.open)
        await bench.answer_all()
        await bench.node.settle()

    await bench.node.start()
    await put(bench.redis, make_job("a"), make_state(0))
    await fire()
    bench.clock.advance(10_000)
    await fire()
    bench.clock.advance(1)
    await bench.jobs.backfill("a", start_ms=at(0), end_ms=at(1), limit=1)
    await bench.jobs.run_now("a", force=True)
    while len(reasons) < 4:
        bench.clock.advance(1)
        await fire()
    assert sorted(reasons) == ["backfill", "manual", "scheduled", "scheduled"]
    assert bench.metrics.registry.get_sample_value("cronpost_lateness_seconds_count") == 2


async def test_a_flush_ends_when_all_is_settled_or_its_time_is_over(bench: Bench) -> None:
    await bench.claim("a")
    assert await bench.node.settler.flush(1)
    await bench.answer_all()
    waiting = asyncio.ensure_future(bench.node.settler.flush(1))
    await asyncio.sleep(0)
    bench.clock.advance(2_000)
    assert not await waiting
    bench.node.settler.start()
    assert await bench.node.settler.flush(10**9), "it waits for the settler, and the clock stands still"
    await bench.node.settler.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await bench.node.settler.stop()
