"""Twenty thousand one-off tasks that are due at once: in order, in bounds, at the configured rate."""

from __future__ import annotations

import asyncio
import itertools
import random
import tracemalloc
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import TaskSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import CoroutineDeliverer
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.task import Task, task_id
from scheduler_core.node.loops.task_batches import TaskBatcher
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from scheduler_core.usecases.tasks import TaskService
from tests.support.examples import examples
from tests.support.factories import answered
from tests.support.manual_clock import START_MS, ManualClock
from tests.support.stores import KEYS
from tests.support.task_nodes import SteppedTaskNode, task_sets

TASKS = examples(20_000)
SELECT_SIZE = 200
INTERVAL_MS = 1_000


class Receiver(CoroutineDeliverer[None]):
    """Answers as soon as the other calls of the batch have begun: 503 to the first call of every tenth task."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.called: list[tuple[int, int]] = []
        """Time and task of each call."""
        self.open = 0
        self.most_open = 0

    async def send(self, call: Call, _: None, /) -> Outcome:
        number = int(call.job_id.removeprefix("task_"))
        self.called.append((self._clock.now_ms(), number))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        return answered(503 if number % 10 == 0 and call.attempt == 1 else 200)

    async def aclose(self) -> None:
        pass


@pytest.mark.slow
@pytest.mark.random
@pytest.mark.timeout(180)
async def test_twenty_thousand_tasks_due_at_once_stay_in_order_in_bounds_and_under_the_rate(redis_url: str) -> None:
    clock, metrics = ManualClock(), Metrics()
    rules = TaskSettings(base_interval_ms=INTERVAL_MS, select_size=SELECT_SIZE)
    instants = [START_MS - random.randrange(50_000) for _ in range(TASKS)]
    async with AsyncExitStack() as stack:
        store, client = RedisStore(connect(redis_url)), Redis.from_url(redis_url)
        stack.push_async_callback(store.aclose)
        stack.push_async_callback(client.aclose)
        node = SteppedTaskNode(store, clock, metrics)
        await node.start()
        receiver = Receiver(clock)
        task_store = RedisTasks(store, rules)
        batcher = TaskBatcher(node.node, task_store, receiver, clock, metrics, may_reclaim=lambda: True)
        tasks = TaskService(task_store, clock, metrics)
        for first in range(0, TASKS, 1_000):
            batch = [Task("http://hook.test/", instant, 0, "") for instant in instants[first : first + 1_000]]
            added = await tasks.add(batch)
            assert added[0] == task_id(first + 1)
        assert await client.zcard(KEYS.tasks("fresh")) == TASKS

        tracemalloc.start()
        batches = 0
        most_bytes = 0
        while (taken := await batcher.take()).result != "empty":
            await node.beat()
            if taken.result == "wait":
                clock.advance(1)
                assert taken.until_ms is not None
                clock.advance(taken.until_ms - clock.now_ms())
                continue
            batches += 1
            assert len(taken.rows) <= SELECT_SIZE
            while batcher._batch is not None:
                await asyncio.sleep(0)
                await batcher.settle_ended()
            if batches == 3:  # tracing is slow
                most_bytes = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()

        in_order = sorted(range(1, TASKS + 1), key=lambda number: (instants[number - 1], number))
        again = [number for number in in_order if number % 10 == 0]
        assert [number for _, number in receiver.called] == [*in_order, *again]
        assert batches == (TASKS + len(again)) // SELECT_SIZE
        assert receiver.most_open == SELECT_SIZE
        at = [receiver.called[place][0] for place in range(0, len(receiver.called), SELECT_SIZE)]
        assert all(later - earlier >= INTERVAL_MS for earlier, later in itertools.pairwise(at))
        assert 0 < most_bytes < 4 << 20, "what a node holds is a batch, not the backlog"
        found = await task_sets(client)
        assert {part: len(numbers) for part, numbers in found.items()} == {
            "fresh": 0,
            "failed": 0,
            "running": 0,
            "stale": 0,
            "delivered": TaskSettings().tasks_keep_delivered,
        }
        assert await client.hlen(KEYS.tasks("tasks")) == TaskSettings().tasks_keep_delivered
