"""One attempt is one request: a policy of one attempt sends one, and nothing is sent after the lease has expired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from scheduler_core.delivery.base import Call, OutcomeKind
from scheduler_core.delivery.http.request import request_of
from scheduler_core.model.job import Job
from scheduler_core.model.policies import Policies, RetryRule
from scheduler_core.model.run import Run, RunState
from scheduler_core.node.dispatch.calls import call_of
from scheduler_core.plan.claim import Work
from scheduler_core.store.redis.tasks import RedisTasks
from scheduler_core.usecases.tasks import TaskService
from tests.support.delivery import deliverer
from tests.support.factories import make_job, make_run, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import ScriptedDeliverer, SteppedNode
from tests.support.runners import CloseConnection, Exchange, Runner, answer
from tests.support.stores import opened, put, until
from tests.support.task_nodes import SteppedTaskNode, make_task, task_sets

ONCE = Policies(retry=RetryRule(attempts=1))


@pytest.mark.parametrize(
    ("policies", "run", "repeatable"),
    [
        (Policies(), make_run(), True),
        (ONCE, make_run(), False),
        (Policies(retry=RetryRule(attempts=3)), make_run(attempt=1, failures=1), True),
        (Policies(retry=RetryRule(attempts=3)), make_run(attempt=2, failures=2), False),
        (Policies(retry=RetryRule(first_delay_ms=1)), make_run(attempt=9, failures=9), True),
    ],
)
def test_the_last_attempt_that_a_retry_rule_allows_is_not_repeatable(
    policies: Policies, run: Run, repeatable: bool
) -> None:
    work = Work(make_job(policies=policies), run, make_state(0))
    assert request_of(call_of(work, fence=1, timeout_ms=1000)).repeatable is repeatable


async def test_a_run_of_one_attempt_whose_connection_is_lost_late_is_received_and_recorded_once(
    redis_url: str,
) -> None:
    ends = asyncio.Event()

    async def work_then_close(exchange: Exchange) -> None:
        await ends.wait()
        raise CloseConnection

    async with (
        Runner(answer(), work_then_close, answer()) as runner,
        deliverer() as http,
        opened(redis_url) as (store, redis),
    ):
        node = SteppedNode(store, ManualClock())
        node.dispatcher.start = http.start
        await node.start()

        async def fire(job: Job) -> None:
            await put(redis, job, make_state(0))
            (claimed,) = (await node.claimer._claim(1)).jobs
            node.start_run(claimed)

        await fire(make_job("first", url=runner.url(), policies=ONCE))
        await until(lambda: not node.node.in_flight)
        await fire(make_job("second", url=runner.url(), policies=ONCE))
        await runner.wait_until(lambda runner: len(runner.received) == 2)
        assert [received.connection for received in runner.received] == [1, 1]
        asyncio.get_running_loop().call_later(0.02, ends.set)
        await until(lambda: not node.node.in_flight)
        await node.settle()
        (run,) = [record for record in await store.history("second") if isinstance(record, Run)]
    assert len(runner.received) == 2
    assert run.state is RunState.FAILED
    assert [attempt.outcome for attempt in run.attempts] == [OutcomeKind.CONNECTION]


class Freezing(ScriptedDeliverer):
    """The node is frozen for longer than its lease between the start of an attempt and its first byte."""

    def __init__(self, clock: ManualClock, node: SteppedNode) -> None:
        super().__init__()
        self._clock = clock
        self._node = node

    @asynccontextmanager
    async def connection(self, call: Call) -> AsyncIterator[None]:
        self._clock.advance(self._node.node.dead_after_ms + 1)
        yield


async def test_a_node_that_is_frozen_before_the_first_byte_sends_nothing_and_hands_the_job_back(redis_url: str) -> None:
    clock = ManualClock()
    async with opened(redis_url) as (store, redis):
        node = SteppedNode(store, clock)
        frozen = Freezing(clock, node)
        node.dispatcher.start = frozen.start
        await node.start()
        await put(redis, make_job(), make_state(0))
        (claimed,) = (await node.claimer._claim(1)).jobs
        node.start_run(claimed)
        await until(lambda: not node.node.in_flight)
        await node.settle()
        assert frozen.seen == []
        lease = (await store.read("job")).snapshot.lease
        assert lease is not None
        assert lease.node == "-"


async def test_a_node_that_is_frozen_before_the_first_byte_calls_no_task(redis_url: str) -> None:
    clock = ManualClock()
    async with opened(redis_url) as (store, redis):
        node = SteppedTaskNode(store, clock)
        frozen = Freezing(clock, node)
        node.batcher._deliverer = frozen
        await node.start()
        await TaskService(RedisTasks(store), clock, node.batcher.metrics).add([make_task(0)])
        assert await node.take() == "ok"
        await until(lambda: bool(node.batcher._batch is None or node.batcher._batch.ended))
        await node.settle_calls()
        assert frozen.seen == []
        assert (await task_sets(redis))["fresh"] == [1]
