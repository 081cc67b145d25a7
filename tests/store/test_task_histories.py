"""Random histories of one-off tasks on a real Redis: several nodes, crashes, freezes, lost answers, changed
settings."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from scheduler_core.base.config import TaskSettings
from scheduler_core.base.errors import StoreUnavailable, TaskNotFound, TaskNotStale
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.task import Task, task_id, task_number
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import HAS_FAILED, RedisTasks
from scheduler_core.store.tasks import PARTS
from scheduler_core.usecases.tasks import TaskService
from tests.store.test_histories import PHASES
from tests.support.examples import examples
from tests.support.factories import answered, failed
from tests.support.manual_clock import START_MS, ManualClock
from tests.support.stores import KEYS, check_keys, dump
from tests.support.task_nodes import SteppedTaskNode, make_task

RULES = TaskSettings(base_interval_ms=1000, select_size=3, max_retries=1)
OUTCOMES: list[Outcome] = [answered(200), answered(204), answered(503), answered(404), failed()]
MOST_NODES = 3
MOST_TASKS = 30

nodes = st.integers(0, MOST_NODES - 1)
numbers = st.integers(1, MOST_TASKS)


class TaskHistory(RuleBasedStateMachine):
    """Each rule is a few awaited operations of one party; nothing happens between two rules."""

    def __init__(self, url: str, happened: Counter[str]) -> None:
        super().__init__()
        self.happened = happened
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.client = Redis.from_url(url)
        self.store = RedisStore(connect(url), retention=Retention(entries=1_000))
        self.task_store = RedisTasks(self.store, RULES)
        self.tasks = TaskService(self.task_store, self.clock, self.metrics)
        self.nodes: list[SteppedTaskNode] = []
        self.added = 0
        self.deleted: set[int] = set()
        self.revived: Counter[int] = Counter()
        self.good: Counter[int] = Counter()
        self.bad: Counter[int] = Counter()
        self.fences: Counter[int] = Counter()
        self.runs: dict[int, set[str]] = {}
        self.late: set[int] = set()
        self.was_out: str | None = None
        """The fence of the batch that is out, as last seen."""
        self.called_fences: set[str] = set()
        self.last_end_ms: int | None = None
        self.run(self.client.flushall())
        self.start()
        self.start()
        self.add([0.0, -3.0, 0.0, 0.0, 2.5])

    def run(self, operation: Any) -> Any:
        return self.runner.run(operation)

    def teardown(self) -> None:
        try:
            self.everything_comes_to_its_end()
        finally:
            for node in self.nodes:
                self.run(node.crash())
            self.run(self.store.aclose())
            self.run(self.client.aclose())
            self.runner.close()

    def everything_comes_to_its_end(self) -> None:
        """A last node, with all others dead, finishes every task: nothing is lost."""
        for node in self.nodes:
            self.run(node.crash())
        self.nodes = []
        self.run(self.tasks.change_rules({"base_interval_ms": 1, "select_size": 100}))
        self.start()
        for _ in range(12):
            self.pass_seconds(1)
        node = self.nodes[0]
        for _ in range(60):
            found = self.scores()
            if not (found["fresh"] or found["failed"] or found["running"]):
                break
            if self.take_with(node) == "ok":
                for entry in list(node.deliverer.open):
                    self.answer_entry(node, entry.job_id, answered(200))
                self.run(node.settle_calls())
            self.clock.advance(1)
        found = self.scores()
        assert not found["fresh"]
        assert not found["failed"]
        assert not found["running"]
        settled = set(found["delivered"]) | set(found["stale"])
        assert settled == set(range(1, self.added + 1)) - self.deleted
        for number in range(1, self.added + 1):
            records = self.run(self.store.history(task_id(number)))
            assert len(records) <= 1 + self.revived[number]
            assert number in self.deleted or len(records) >= 1
            assert len({record.id for record in records}) == len(records)

    def awake(self, index: int) -> SteppedTaskNode | None:
        able = [node for node in self.nodes if not node.frozen]
        return able[index % len(able)] if able else None

    def scores(self) -> dict[str, dict[int, int]]:
        found: dict[str, dict[int, int]] = {}
        for part in PARTS:
            rows = self.run(self.client.zrange(KEYS.tasks(part), 0, -1, withscores=True))
            found[part] = {int(member): int(score) for member, score in rows}
        return found

    # ---- clients ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.added < MOST_TASKS)
    @rule(offsets=st.lists(st.sampled_from([-3.0, 0.0, 0.0, 2.5]), min_size=1, max_size=4))
    def add_tasks(self, offsets: list[float]) -> None:
        self.add(offsets)

    def add(self, offsets: list[float]) -> None:
        offsets = offsets[: MOST_TASKS - self.added]
        now = (self.clock.now - START_MS) / 1000
        ids = self.run(self.tasks.add([make_task(now + offset) for offset in offsets]))
        assert [task_number(one) for one in ids] == list(range(self.added + 1, self.added + 1 + len(offsets)))
        self.added += len(offsets)

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        with contextlib.suppress(TaskNotFound):
            self.run(self.tasks.delete(task_id(number)))
            self.deleted.add(number)

    @rule(number=numbers)
    def retry(self, number: int) -> None:
        with contextlib.suppress(TaskNotFound, TaskNotStale):
            self.run(self.tasks.retry(task_id(number)))
            self.revived[number] += 1
            self.bad[number] = 0

    @rule(interval=st.sampled_from([1, 700, 1000]), size=st.integers(1, 4), retries=st.integers(0, 2))
    def change_settings(self, interval: int, size: int, retries: int) -> None:
        changes = {"base_interval_ms": interval, "select_size": size, "max_retries": retries}
        self.run(self.tasks.change_rules(changes))

    # ---- time ---------------------------------------------------------------------------------------------------

    @rule(milliseconds=st.sampled_from([1, 300, 1000]))
    def wait(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    @rule(count=st.integers(1, 8))
    def live(self, count: int) -> None:
        self.pass_seconds(count)

    def pass_seconds(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(1_000)
            for node in self.nodes:
                if not node.frozen:
                    self.run(node.beat())

    # ---- nodes --------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.nodes) < MOST_NODES)
    @rule()
    def start(self) -> None:
        node = SteppedTaskNode(self.store, self.clock, self.metrics, task_settings=RULES)
        self.run(node.start())
        self.nodes.append(node)

    @rule(index=nodes, milliseconds=st.sampled_from([999, 1000, 3000]))
    def take_later(self, index: int, milliseconds: int) -> None:
        """The pause passes, every node beats, and a node without a batch asks for one."""
        self.clock.advance(milliseconds)
        for node in self.nodes:
            if not node.frozen:
                self.run(node.beat())
        self.take(index)

    @rule(index=nodes, outcome=st.sampled_from(OUTCOMES))
    def whole_batch(self, index: int, outcome: Outcome) -> None:
        self.take_later(index, 1000)
        node = self.awake(index)
        if node is not None and node.has_batch:
            for public_id in node.called:
                self.answer_entry(node, public_id, outcome)
            self.run(node.settle_calls())

    @rule(index=nodes)
    def holder_dies_and_another_takes_over(self, index: int) -> None:
        for node in [node for node in self.nodes if node.has_batch]:
            if index == 0:
                node.frozen = True
            else:
                self.nodes.remove(node)
                self.run(node.crash())
        self.pass_seconds(6)
        self.take(index)
        self.take_later(index, 1000)

    @rule(index=nodes)
    def take(self, index: int) -> None:
        node = self.awake(index)
        if node is not None and not node.has_batch:
            self.take_with(node)

    def take_with(self, node: SteppedTaskNode) -> str:
        before, rules = self.scores(), self.run(self.task_store.rules())
        known = self.run(self.client.hget(KEYS.tasks("batch"), "token"))
        seen = len(node.deliverer.seen)
        result: str = self.run(node.take())
        self.happened[result] += 1
        if result != "ok":
            return result
        new = node.deliverer.seen[seen:]
        batch = node.batcher._batch
        assert batch is not None
        self.called_fences.add(str(batch.fence))
        if before["running"]:
            assert known is not None, "an answer that was lost is given again"
        else:
            due = [
                number
                for part in ("fresh", "failed")
                for number, at_ms in before[part].items()
                if at_ms <= self.clock.now
            ]
            expected = due[: rules.select_size]
            assert [entry.job_id for entry in new] in ([task_id(number) for number in expected], [])
            if self.last_end_ms is not None:
                assert self.clock.now >= self.last_end_ms + rules.base_interval_ms, "the pause was not over"
        for entry in new:
            number = task_number(entry.job_id)
            assert number is not None
            assert number not in self.deleted or before["running"]
            fence = int(entry.header("Cronpost-Fence"))
            assert fence > self.fences[number]
            self.fences[number] = fence
            due_ms = datetime.fromisoformat(entry.header("Cronpost-Fire-Time")).timestamp() * 1000
            assert due_ms <= self.clock.now, "early"
            self.runs.setdefault(number, set()).add(entry.run_id)
            assert len(self.runs[number]) <= 1 + self.revived[number], "calls of one run carry one id"
        return result

    @rule(index=nodes)
    def take_and_lose_the_answer(self, index: int) -> None:
        node = self.awake(index)
        if node is None or node.has_batch:
            return
        take = node.task_store.take

        async def mute(**arguments: Any) -> Any:
            await take(**arguments)
            raise StoreUnavailable("the answer was lost", effect_unknown=True)

        node.task_store.take = mute  # type: ignore[method-assign]
        try:
            with contextlib.suppress(StoreUnavailable):
                self.run(node.take())
        finally:
            node.task_store.take = take  # type: ignore[method-assign]

    @rule(index=nodes, which=st.integers(0, 3), outcome=st.sampled_from(OUTCOMES), at_once=st.booleans())
    def answer(self, index: int, which: int, outcome: Outcome, at_once: bool) -> None:
        able = [node for node in self.nodes if node.deliverer.open and not node.frozen]
        if able:
            node = able[index % len(able)]
            self.answer_entry(node, node.called[which % len(node.called)], outcome)
            if at_once:
                self.run(node.settle_calls())

    @rule(index=nodes, outcome=st.sampled_from(OUTCOMES))
    def answer_all(self, index: int, outcome: Outcome) -> None:
        able = [node for node in self.nodes if node.deliverer.open and not node.frozen]
        if able:
            node = able[index % len(able)]
            for public_id in node.called:
                self.answer_entry(node, public_id, outcome)
            self.run(node.settle_calls())

    def answer_entry(self, node: SteppedTaskNode, public_id: str, outcome: Outcome) -> None:
        number = task_number(public_id)
        assert number is not None
        if outcome.status is not None and outcome.status < 300:
            self.good[number] += 1
        else:
            self.bad[number] += 1
        self.run(node.answer_task(public_id, outcome))

    @rule(index=nodes)
    def settle(self, index: int) -> None:
        node = self.awake(index)
        if node is not None:
            self.run(node.settle_calls())

    @rule(index=nodes)
    def settle_and_lose_the_answer(self, index: int) -> None:
        node = self.awake(index)
        if node is None or not node.has_batch:
            return
        settle = node.task_store.settle

        async def mute(*arguments: Any, **named: Any) -> Any:
            await settle(*arguments, **named)
            raise StoreUnavailable("the answer was lost", effect_unknown=True)

        node.task_store.settle = mute  # type: ignore[method-assign]
        try:
            with contextlib.suppress(StoreUnavailable):
                self.run(node.settle_calls())
        finally:
            node.task_store.settle = settle  # type: ignore[method-assign]

    @rule(index=nodes)
    def beat(self, index: int) -> None:
        node = self.awake(index)
        if node is not None:
            self.run(node.beat())

    @rule(index=nodes)
    def crash(self, index: int) -> None:
        if self.nodes:
            self.run(self.nodes.pop(index % len(self.nodes)).crash())

    @rule(index=nodes)
    def leave(self, index: int) -> None:
        """Stop in good order: calls are cancelled and their tasks released."""
        node = self.awake(index)
        if node is not None:
            self.nodes.remove(node)
            self.run(node.crash())
            self.run(node.settle_calls())
            assert not node.has_batch
            self.run(node.batcher.finish(grace_seconds=0, settle_seconds=0))
            self.run(self.store.leave(node=node.node.id, now_ms=self.clock.now))

    @rule(index=nodes)
    def freeze_or_thaw(self, index: int) -> None:
        if self.nodes:
            node = self.nodes[index % len(self.nodes)]
            node.frozen = not node.frozen

    # ---- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def each_task_is_in_one_place(self) -> None:
        content = self.run(dump(self.client))
        check_keys(content)
        found = self.scores()
        every = [number for part in PARTS for number in found[part]]
        assert len(every) == len(set(every)), "a task is in two places"
        stored = {int(member) for member in content.get(KEYS.tasks("tasks"), {})}
        assert stored == set(range(1, self.added + 1)) - self.deleted
        assert stored == set(every) - (set(found["running"]) & self.deleted)
        out = content.get(KEYS.tasks("batch"), {}).get(b"out") == b"1"
        assert out == bool(found["running"])
        self.note_the_end_of_a_batch(content.get(KEYS.tasks("batch"), {}), out)

    def note_the_end_of_a_batch(self, batch: dict[bytes, bytes], out: bool) -> None:
        fence = batch[b"fence"].decode() if out else None
        if self.was_out is not None and fence != self.was_out and self.was_out in self.called_fences:
            self.last_end_ms = self.clock.now
        self.was_out = fence

    @invariant()
    def no_task_has_two_calls_of_nodes_that_live(self) -> None:
        open_calls: Counter[str] = Counter()
        for node in self.nodes:
            if not node.node.holds_lease():
                self.late.update(id(entry) for entry in node.deliverer.open)
            open_calls.update(entry.job_id for entry in node.deliverer.open if id(entry) not in self.late)
        assert all(count == 1 for count in open_calls.values())

    @invariant()
    def what_a_task_says_of_its_calls_is_what_was_answered(self) -> None:
        found = self.scores()
        documents = self.run(self.client.hgetall(KEYS.tasks("tasks")))
        for member, raw in documents.items():
            number = int(member)
            task = msgspec.msgpack.decode(raw, type=Task)
            attempts = 0 if task.run is None else task.run.attempt
            if number in found["delivered"]:
                assert self.good[number] >= 1
                assert task.retries == attempts - 1 <= self.bad[number]
            elif number in found["stale"]:
                assert task.retries == attempts - 1
                assert attempts <= self.bad[number]
            else:
                assert task.retries == attempts <= self.bad[number]
            if found["running"].get(number, 0) >= HAS_FAILED or number in found["failed"]:
                assert attempts or self.revived[number]


@pytest.mark.random
@pytest.mark.timeout(400)
def test_the_rules_of_one_off_tasks_hold_after_every_step_of_any_history(redis_url: str) -> None:
    happened: Counter[str] = Counter()

    def history() -> TaskHistory:
        return TaskHistory(redis_url, happened)

    run_state_machine_as_test(
        history,  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples(8),
            stateful_step_count=40,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert happened["ok"], "no history came to a batch"
