"""A fault of Cronpost in the middle of a batch fails only the job in which it occurs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import HeldBack
from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict
from scheduler_core.model.policies import Policies
from scheduler_core.model.run import RunState
from scheduler_core.node.dispatch import calls
from scheduler_core.node.dispatch import dispatcher as deliver
from scheduler_core.node.dispatch.limiter import Permit, TargetLimiter
from scheduler_core.node.dispatch.targets import TargetRegistry, TargetState
from scheduler_core.node.loops import settle
from scheduler_core.plan.settle import plan_settle_changed
from scheduler_core.store.loop import Claim
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import answered, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put, until


class Setup:
    """A node and three jobs that are due, each with a target of its own."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store, self.redis = store, redis
        self.clock = ManualClock()
        self.jobs = JobService(store, self.clock, Metrics())
        self.node = SteppedNode(store, self.clock, Metrics(), EngineSettings(public_url="http://cronpost.test"))

    async def start(self, **policies: Any) -> None:
        await self.node.start()
        for name in "abc":
            job = make_job(name, url=f"http://{name}.test/run", policies=Policies(**policies))
            await put(self.redis, job, make_state(0))

    def open(self) -> list[str]:
        return sorted(entry.job_id for entry in self.node.deliverer.open)

    async def retried(self, name: str) -> str:
        """Return the message of the last attempt of a job's run that waits for its retry."""
        await self.node.settle()
        state = (await self.store.read(name)).snapshot.state
        assert state is not None
        assert state.open is not None
        assert state.open.state is RunState.RETRYING
        return state.open.attempts[-1].message


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        yield setup
        await setup.node.crash()


async def test_a_job_whose_limits_fail_does_not_stop_the_others_of_its_batch(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.start()
    acquire = TargetLimiter.acquire

    def broken(limiter: TargetLimiter, url: str | None, *rest: Any, **options: Any) -> Permit | HeldBack:
        if url == "http://a.test/run":
            raise RuntimeError("broken")
        return acquire(limiter, url, *rest, **options)

    monkeypatch.setattr(TargetLimiter, "acquire", broken)
    assert await setup.node.claim() == 3
    assert setup.open() == ["b", "c"]
    assert await setup.retried("a") == "RuntimeError: broken"


async def test_a_job_whose_limits_fail_does_not_stop_the_others_of_its_burst(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.start()
    setup.node.starter.listens(True)
    setup.clock.now -= 100
    assert await setup.node.claim(ahead_ms=100) == 3
    setup.clock.now += 100
    find = TargetRegistry.of

    def broken(targets: TargetRegistry, url: str) -> TargetState:
        if url == "http://a.test/run":
            raise RuntimeError("broken")
        return find(targets, url)

    monkeypatch.setattr(TargetRegistry, "of", broken)
    await setup.node.start_due()
    assert setup.open() == ["b", "c"]
    assert await setup.retried("a") == "RuntimeError: broken"


async def test_a_status_of_a_target_kind_may_be_any_number(setup: Setup) -> None:
    await setup.start()
    await setup.node.claim()
    for status in (1006, -1, 70):
        await setup.node.answer(Outcome(OutcomeKind.RESPONSE, 1.0, status=status, verdict=Verdict.ACCEPTED))
    await setup.node.settle()
    assert await setup.redis.hlen(KEYS.leases) == 0


async def test_a_request_that_cannot_be_built_is_a_failed_attempt_and_frees_its_slot(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.start()
    call_of = calls.call_of

    def broken(work: Any, **options: Any) -> Any:
        if work.job.id == "a":
            raise ValueError("broken")
        return call_of(work, **options)

    monkeypatch.setattr(deliver, "call_of", broken)
    assert await setup.node.claim() == 3
    assert setup.open() == ["b", "c"]
    assert len(setup.node.node.in_flight) == 2
    assert await setup.retried("a") == "ValueError: broken"


async def test_a_result_that_cannot_be_encoded_quarantines_its_job(setup: Setup) -> None:
    await setup.start()
    await setup.node.claim()
    await setup.node.answer(Outcome(OutcomeKind.CONNECTION, 1.0, message="\udcff"))
    await setup.node.answer(answered(200))
    await setup.node.settle()
    faults = [(await setup.store.read(name)).snapshot.state for name in "ab"]
    assert [state is not None and state.quarantine is not None for state in faults] == [True, False]
    assert len(setup.node.node.in_flight) == 1


async def test_a_job_that_cannot_be_planned_again_does_not_stop_the_others_of_its_batch(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.start()
    await setup.node.claim()
    for name in "abc":
        await setup.jobs.delete(name)
    plan = plan_settle_changed

    def broken(job: Any, state: Any, work: Any, *rest: Any) -> Any:
        if work.job.id == "a":
            raise RuntimeError("broken")
        return plan(job, state, work, *rest)

    monkeypatch.setattr(settle, "plan_settle_changed", broken)
    for _ in range(3):
        await setup.node.answer(answered(200))
    await setup.node.settle()
    assert await setup.redis.hkeys(KEYS.leases) == []
    assert await setup.redis.hkeys(KEYS.states) == [b"a"]


async def test_a_run_whose_look_up_is_cancelled_is_released(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    await setup.start(callback=True)

    async def cancelled() -> bytes:
        raise asyncio.CancelledError

    monkeypatch.setattr(setup.store, "secret", cancelled)
    assert await setup.node.claim() == 3
    await setup.node.settle()
    assert setup.open() == []
    assert len(setup.node.node.in_flight) == 0
    assert await setup.redis.zcount(KEYS.due, "-inf", setup.clock.now_ms()) == 3


async def test_nothing_is_sent_when_the_lease_expires_during_a_look_up(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.start(callback=True)
    secret = setup.store.secret

    async def slow() -> bytes:
        setup.clock.advance(setup.node.node.dead_after_ms)
        return await secret()

    monkeypatch.setattr(setup.store, "secret", slow)
    await setup.node.claim()
    assert setup.node.deliverer.seen == []
    await until(lambda: not setup.node.node.in_flight)


async def test_a_shard_whose_redis_does_not_answer_leaves_the_slots_to_the_others(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimer, slots = setup.node.claimer, setup.node.node.slots
    places: list[int] = []
    away, claim = True, setup.store.claim

    async def hung(**options: Any) -> Claim:
        places.append(slots.size - slots.free - len(slots.in_flight))
        if away:
            raise StoreUnavailable("Redis did not answer")
        return await claim(**options)

    monkeypatch.setattr(setup.store, "claim", hung)
    await setup.start()
    claimer.start()
    for count in range(1, 4):
        await until(partial(lambda number: len(places) == number and bool(setup.clock.sleeping), count))
        away = count < 3
        setup.clock.advance(1000)
    await until(lambda: len(setup.open()) == 3)
    await claimer.stop()
    assert places[:5] == [128, 1, 1, 1, 128]


async def test_unreadable_fields_of_an_earlier_claim_are_ignored(setup: Setup) -> None:
    await setup.start()
    await setup.redis.hset(KEYS.leases, "a", "7 - x y z 5 1")
    assert await setup.node.claim() == 3
    assert setup.open() == ["a", "b", "c"]


async def test_an_unreadable_lease_blocks_no_other_settlement(setup: Setup) -> None:
    await setup.start()
    await setup.node.claim()
    lease: Any = await setup.redis.hget(KEYS.leases, "a")
    fence, node, *_ = lease.split(b" ")
    await setup.redis.hset(KEYS.leases, "a", fence + b" " + node)
    for flight in list(setup.node.node.in_flight):
        flight.cancel()
    await setup.node.settle()
    assert setup.node.settler.is_idle
    assert await setup.redis.zcount(KEYS.due, "-inf", setup.clock.now_ms()) == 2
