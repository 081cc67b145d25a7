"""A request that may have been sent is an attempt, also when its node died or stopped before it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prometheus_client import generate_latest
from redis.asyncio import Redis

from scheduler_core.base.metrics import Metrics
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.policies import Policies, RetryRule
from scheduler_core.model.run import Run, RunState
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import answered, at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put, until

Stored = tuple[RedisStore, Redis]


@pytest.fixture
async def stored(redis_url: str) -> AsyncIterator[Stored]:
    async with opened(redis_url) as (store, redis):
        await put(redis, make_job("a"), make_state(0))
        yield store, redis


async def only_run(store: RedisStore) -> Run:
    (run,) = [record for record in await store.history("a") if isinstance(record, Run)]
    return run


async def started(store: RedisStore, clock: ManualClock, metrics: Metrics | None = None) -> SteppedNode:
    node = SteppedNode(store, clock, metrics)
    await node.start()
    return node


async def test_requests_that_died_with_their_nodes_are_numbered_and_recorded(stored: Stored) -> None:
    store, redis = stored
    clock, metrics = ManualClock(), Metrics()
    seen: list[str] = []
    for _ in range(2):
        node = await started(store, clock)
        await node.claim()
        seen.append(node.deliverer.open[0].header("Cronpost-Attempt"))
        await node.crash()
        clock.advance(7_000)
        await store.reap(now_ms=clock.now, dead_after_ms=5_000)
    node = await started(store, clock, metrics)
    await node.claim()
    seen.append(node.deliverer.open[0].header("Cronpost-Attempt"))
    assert seen == ["1", "2", "3"]
    await node.answer(answered(200))
    await node.settle()
    run = await only_run(store)
    assert run.attempt == 3
    assert [(one.number, one.outcome.value) for one in run.attempts] == [(1, "lost"), (2, "lost"), (3, "response")]
    assert [one.started_at_ms for one in run.attempts] == [at(0), at(7), at(14)]
    # Metrics and totals take what was measured: the attempt that ended.
    text = generate_latest(metrics.registry).decode()
    assert 'cronpost_attempts_total{outcome="response",status="2xx"} 1.0' in text
    assert 'outcome="lost"' not in text
    assert "cronpost_lateness_seconds_count 1.0" in text
    assert run.lateness_ms == 14_000
    assert await redis.hget(KEYS.counts, "untimed") is None


async def test_a_job_with_one_attempt_is_redelivered_after_a_death_and_not_after_an_answer(stored: Stored) -> None:
    store, redis = stored
    await put(redis, make_job("a", policies=Policies(retry=RetryRule(attempts=1))), make_state(0))
    clock = ManualClock()
    first = await started(store, clock)
    await first.claim()
    await first.crash()
    await store.reap(now_ms=clock.now, dead_after_ms=5_000, void_all=True)
    second = await started(store, clock)
    assert await second.claim() == 1
    await second.answer(answered(503))
    await second.settle()
    run = await only_run(store)
    assert (run.state, run.attempt, run.failures) == (RunState.FAILED, 2, 1)


async def test_a_request_that_a_stopping_node_cancels_is_an_attempt(stored: Stored) -> None:
    store, _ = stored
    clock = ManualClock()
    first = await started(store, clock)
    await first.claim()
    clock.advance(500)
    await first.leave()
    second = await started(store, clock)
    await second.claim()
    assert second.deliverer.open[0].header("Cronpost-Attempt") == "2"
    await second.answer(answered(200))
    await second.settle()
    lost = (await only_run(store)).attempts[0]
    assert (lost.outcome, lost.started_at_ms) == (OutcomeKind.LOST, at(0))
    assert "stopped" in lost.message


async def test_a_job_that_is_released_before_its_request_is_sent_keeps_its_attempt_number(stored: Stored) -> None:
    store, _ = stored
    clock = ManualClock()
    first = await started(store, clock)
    (claimed,) = (await first.claimer._claim(1)).jobs
    clock.advance(first.node.dead_after_ms + 1)  # frozen between the claim and the request
    first.start_run(claimed)
    await until(lambda: not first.node.in_flight)
    assert not first.deliverer.seen
    await first.settle()
    second = await started(store, clock)
    await second.claim()
    assert second.deliverer.open[0].header("Cronpost-Attempt") == "1"
    await second.crash()
