"""Nodes whose one-off tasks a test steps, and helpers that read the tasks directly from Redis."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings, TaskSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.task import Task, task_id
from scheduler_core.model.trace import Traces
from scheduler_core.node.loops.task_batches import TaskBatcher
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from tests.support.factories import at
from tests.support.manual_clock import ManualClock
from tests.support.nodes import OpenRequest, SteppedNode
from tests.support.stores import KEYS

STEPS = 6
"""Turns of the event loop in which a call ends after it was answered or cancelled."""


def make_task(execute_at: float = 0, **fields: Any) -> Task:
    """Return a task that is due ``execute_at`` seconds after the start of the test's time."""
    return Task("http://hook.test/", at(execute_at), 0, "", **fields)


class SteppedTaskNode(SteppedNode):
    """A node whose task batcher the test steps: it takes, calls and settles only when the test calls its methods."""

    def __init__(
        self,
        store: RedisStore,
        clock: ManualClock,
        metrics: Metrics | None = None,
        settings: EngineSettings | None = None,
        *,
        task_settings: TaskSettings | None = None,
        sole: bool = False,
        traces: Traces | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        super().__init__(store, clock, metrics, settings)
        self.task_store = RedisTasks(store, task_settings)
        self.batcher = TaskBatcher(
            self.node,
            self.task_store,
            self.deliverer,
            clock,
            metrics,
            may_reclaim=self.reaper.may_reclaim,
            sole=sole,
            traces=traces,
        )

    @property
    def has_batch(self) -> bool:
        return self.batcher._batch is not None

    @property
    def called(self) -> list[str]:
        """The tasks with an open call, in the order in which the calls began."""
        return [entry.job_id for entry in self.deliverer.open]

    async def take(self) -> str:
        """Take a batch once and let its calls begin; returns the result of the store."""
        assert not self.has_batch
        taken = await self.batcher.take()
        for _ in range(STEPS):
            await asyncio.sleep(0)
        return taken.result

    async def answer_all(self, outcome: Outcome) -> list[OpenRequest]:
        """Answer every open call and let it end."""
        entries = list(self.deliverer.open)
        for entry in entries:
            entry.answer.set_result(outcome)
        for _ in range(STEPS):
            await asyncio.sleep(0)
        assert not self.deliverer.open
        return entries

    async def answer_task(self, public_id: str, outcome: Outcome) -> None:
        """Answer the open call of one task and let it end."""
        entry = next(entry for entry in self.deliverer.open if entry.job_id == public_id)
        entry.answer.set_result(outcome)
        for _ in range(STEPS):
            await asyncio.sleep(0)

    async def settle_calls(self) -> None:
        """Write all calls that have ended to Redis."""
        while (batch := self.batcher._batch) is not None and (batch.ended or not batch.calls):
            await self.batcher.settle_ended()
        for _ in range(STEPS):
            await asyncio.sleep(0)  # cancelled calls end

    async def round(self, outcome: Outcome) -> list[str]:
        """Take a batch, answer all its calls alike and settle it; returns the called tasks, in order."""
        assert await self.take() == "ok"
        called = self.called
        await self.answer_all(outcome)
        await self.settle_calls()
        assert not self.has_batch
        return called

    async def crash(self) -> None:
        """End like a killed node: send nothing to Redis any more."""
        await super().crash()
        batch = self.batcher._batch
        if batch is not None:
            calls = list(batch.calls)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)


async def task_sets(client: Redis) -> dict[str, list[int]]:
    """Return the task numbers in each set of the task queue, in the order of the set."""
    found = {}
    for part in ("fresh", "failed", "running", "stale", "delivered"):
        members: list[Any] = await client.zrange(KEYS.tasks(part), 0, -1)
        found[part] = [int(member) for member in members]
    return found


def ids(*numbers: int) -> list[str]:
    return [task_id(number) for number in numbers]
