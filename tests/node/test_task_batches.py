"""One-off tasks, step by step: batches, order, spacing, retries, crashes, stop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings, TaskSettings
from scheduler_core.base.errors import StoreUnavailable, TaskNotFound, TaskNotStale
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import RunState
from scheduler_core.model.task import TaskStatus
from scheduler_core.node.loops.task_batches import TaskWakeupSubscriber
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from scheduler_core.store.tasks import SettledBatch, TaskSettlement
from scheduler_core.usecases.tasks import TaskService
from tests.support.factories import answered, failed
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, opened, until
from tests.support.task_nodes import SteppedTaskNode, ids, make_task, task_sets

RULES = TaskSettings(base_interval_ms=1000, http_callback_timeout_ms=5000, select_size=3, max_retries=2)

MakeNode = Callable[..., SteppedTaskNode]


@pytest.fixture
async def opened_store(redis_url: str) -> AsyncIterator[tuple[RedisStore, Redis]]:
    async with opened(redis_url) as pair:
        yield pair


@pytest.fixture
def store(opened_store: tuple[RedisStore, Redis]) -> RedisStore:
    return opened_store[0]


@pytest.fixture
def client(opened_store: tuple[RedisStore, Redis]) -> Redis:
    return opened_store[1]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tasks(store: RedisStore, clock: ManualClock) -> TaskService:
    return TaskService(RedisTasks(store, RULES), clock, Metrics())


@pytest.fixture
async def make_node(store: RedisStore, clock: ManualClock) -> AsyncIterator[MakeNode]:
    nodes: list[SteppedTaskNode] = []

    def make(**options: object) -> SteppedTaskNode:
        nodes.append(SteppedTaskNode(store, clock, task_settings=RULES, **options))  # type: ignore[arg-type]
        return nodes[-1]

    yield make
    for node in nodes:
        await node.batcher.stop()
        await node.crash()


@pytest.fixture
async def node(make_node: MakeNode) -> SteppedTaskNode:
    node = make_node()
    await node.start()
    return node


async def test_a_batch_has_the_due_tasks_by_time_then_arrival_up_to_select_size(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock
) -> None:
    await tasks.add([make_task(0), make_task(-5), make_task(-5), make_task(0), make_task(10)])
    assert await node.round(answered(200)) == ids(2, 3, 1)
    clock.advance(1000)
    assert await node.round(answered(200)) == ids(4)
    clock.advance(1000)
    assert await node.take() == "empty"


async def test_tasks_that_never_failed_come_first(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, client: Redis
) -> None:
    await tasks.add([make_task(-9), make_task(-8)])
    assert await node.round(failed()) == ids(1, 2)
    await tasks.add([make_task(0), make_task(0)])
    clock.advance(1000)
    assert await node.round(answered(200)) == ids(3, 4, 1)
    assert (await task_sets(client)) == {"fresh": [], "failed": [2], "running": [], "stale": [], "delivered": [1, 3, 4]}


async def test_the_next_batch_starts_base_interval_after_the_end_of_the_last(
    node: SteppedTaskNode, make_node: MakeNode, tasks: TaskService, clock: ManualClock
) -> None:
    other = make_node()
    await other.start()
    await tasks.add([make_task(0) for _ in range(9)])
    assert await node.take() == "ok"
    clock.advance(2500)
    assert await other.take() == "busy"
    await node.answer_task("task_1", answered(200))
    await node.answer_task("task_2", answered(200))
    await node.settle_calls()
    assert await other.take() == "busy", "one of the batch is still called"
    await node.answer_task("task_3", answered(204))
    await node.settle_calls()
    clock.advance(999)
    assert await other.take() == "wait"
    assert await node.take() == "wait"
    clock.advance(1)
    assert await other.take() == "ok"
    assert other.called == ids(4, 5, 6)


async def test_nothing_is_called_before_its_time(node: SteppedTaskNode, tasks: TaskService, clock: ManualClock) -> None:
    await tasks.add([make_task(0.250)])
    clock.advance(249)
    assert await node.take() == "empty"
    clock.advance(1)
    assert await node.take() == "ok"


@pytest.mark.parametrize("status", [200, 202, 204, 299])
async def test_any_2xx_settles_a_task(node: SteppedTaskNode, tasks: TaskService, status: int) -> None:
    await tasks.add([make_task(0)])
    await node.round(answered(status))
    assert (await tasks.get("task_1")).status is TaskStatus.DELIVERED


@pytest.mark.parametrize("outcome", [answered(199), answered(302), answered(409), answered(500), failed()])
async def test_any_other_answer_is_retried_until_the_task_is_stale(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, store: RedisStore, outcome: object
) -> None:
    await tasks.add([make_task(0)])
    seen = []
    for calls in range(1, 4):
        assert await node.round(outcome) == ids(1)  # type: ignore[arg-type]
        stored = await tasks.get("task_1")
        assert stored.task is not None
        assert stored.task.run is not None
        seen.append((stored.status.value, stored.task.retries, stored.task.run.attempt))
        assert stored.task.run.attempt == calls
        clock.advance(1000)
    assert seen == [("pending", 1, 1), ("pending", 2, 2), ("stale", 2, 3)], "one call and max_retries retries"
    clock.advance(3_600_000)
    await node.beat()
    assert await node.take() == "empty", "it is never called again"
    (run,) = await store.history("task_1")
    assert run.state is RunState.FAILED  # type: ignore[union-attr]
    assert run.attempt == 3  # type: ignore[union-attr]


async def test_the_request_has_the_headers_that_a_receiver_needs(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock
) -> None:
    await tasks.add([make_task(0, auth="Bearer abc"), make_task(0.001)])
    clock.advance(1)
    await node.take()
    first, second = (entry.request for entry in node.deliverer.open)
    headers = dict(first.headers)
    assert (first.method, first.url, first.body) == ("POST", "http://hook.test/", b'{"token":"Bearer abc"}')
    assert first.timeout_ms == 5000
    assert headers["Authorization"] == "Bearer abc"
    assert headers["Content-Type"] == "application/json"
    assert headers["Cronpost-Job-Id"] == "task_1"
    assert headers["Cronpost-Fire-Time"] == "2026-12-31T23:50:00Z"
    assert (headers["Cronpost-Attempt"], headers["Cronpost-Reason"]) == ("1", "scheduled")
    assert second.body == b"{}"
    assert "Authorization" not in dict(second.headers)
    assert dict(second.headers)["Cronpost-Fire-Time"] == "2026-12-31T23:50:00.001Z"
    await node.answer_all(failed())
    await node.settle_calls()
    clock.advance(1000)
    await node.take()
    again = dict(node.deliverer.open[0].request.headers)
    assert again["Idempotency-Key"] == headers["Idempotency-Key"], "all attempts of a run carry the same id"
    assert again["Cronpost-Attempt"] == "2"
    assert int(again["Cronpost-Fence"]) > int(headers["Cronpost-Fence"])


async def test_a_secret_is_not_in_the_record_of_a_run(
    node: SteppedTaskNode, tasks: TaskService, client: Redis, clock: ManualClock
) -> None:
    await tasks.change_rules({"max_retries": 0})
    await tasks.add([make_task(0, auth="geheim")])
    await node.round(answered(500))
    for key in (KEYS.records, KEYS.details):
        (stored,) = (await client.hgetall(key)).values()
        assert b"geheim" not in stored


async def test_changed_settings_apply_from_the_next_batch_on(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock
) -> None:
    await tasks.add([make_task(0) for _ in range(9)])
    await node.take()
    changes = {"base_interval_ms": 50, "http_callback_timeout_ms": 70, "select_size": 2, "max_retries": 0}
    assert msgspec.structs.asdict(await tasks.change_rules(changes)) == changes
    assert node.called == ids(1, 2, 3)
    await node.answer_all(failed())
    await node.settle_calls()
    stored = await tasks.get("task_1")
    assert stored.status is TaskStatus.PENDING, "this batch was taken when there were two retries"
    clock.advance(49)
    assert await node.take() == "wait"
    clock.advance(1)
    assert await node.take() == "ok"
    assert node.called == ids(4, 5)
    assert {entry.request.timeout_ms for entry in node.deliverer.open} == {70}
    await node.answer_all(failed())
    await node.settle_calls()
    assert (await tasks.get("task_4")).status is TaskStatus.STALE


async def test_one_setting_can_be_changed_alone(tasks: TaskService) -> None:
    before = msgspec.structs.asdict(await tasks.rules())
    assert before["select_size"] == 3
    await tasks.change_rules({"select_size": 7})
    assert msgspec.structs.asdict(await tasks.rules()) == {**before, "select_size": 7}


async def test_a_batch_is_never_larger_than_what_a_node_may_have_open(make_node: MakeNode, tasks: TaskService) -> None:
    small = make_node(settings=EngineSettings(max_in_flight=2))
    await small.start()
    await tasks.add([make_task(0) for _ in range(5)])
    await small.take()
    assert small.called == ids(1, 2)


# ---- crashes ----------------------------------------------------------------------------------------------------


async def live(clock: ManualClock, *nodes: SteppedTaskNode, seconds: int) -> None:
    for _ in range(seconds):
        clock.advance(1000)
        for node in nodes:
            await node.beat()


async def test_calls_of_a_dead_node_are_repeated_and_count_no_retry(
    node: SteppedTaskNode, make_node: MakeNode, tasks: TaskService, clock: ManualClock, client: Redis
) -> None:
    await tasks.add([make_task(0) for _ in range(3)])
    await node.round(failed())
    await tasks.add([make_task(0)])
    clock.advance(1000)
    assert await node.take() == "ok"
    assert node.called == ids(4, 1, 2)
    runs = [entry.run_id for entry in node.deliverer.open]
    await node.answer_task("task_1", answered(200))
    await node.settle_calls()
    await node.crash()
    other = make_node()
    await other.start()
    assert await other.take() == "busy"
    await live(clock, other, seconds=6)
    assert await other.take() == "void", "it releases the batch, and takes again"
    assert (await task_sets(client))["running"] == []
    assert await other.take() == "wait", "the batch ended when it was released"
    clock.advance(1000)
    assert await other.take() == "ok"
    assert other.called == ids(4, 2, 3)
    assert [entry.run_id for entry in other.deliverer.open][:2] == [runs[0], runs[2]]
    stored = await tasks.get("task_2")
    assert stored.task is not None
    assert (stored.status, stored.task.retries) == (TaskStatus.RUNNING, 1)


async def test_a_frozen_node_that_thaws_is_refused(
    node: SteppedTaskNode, make_node: MakeNode, tasks: TaskService, clock: ManualClock, client: Redis
) -> None:
    await tasks.add([make_task(0), make_task(0)])
    await node.take()
    other = make_node()
    await other.start()
    await live(clock, other, seconds=6)
    assert await other.take() == "void"
    await node.answer_task("task_1", answered(200))
    await node.settle_calls()
    assert not node.has_batch
    assert node.called == [], "its other calls were cancelled: another node calls these tasks"
    assert (await task_sets(client)) == {"fresh": [1, 2], "failed": [], "running": [], "stale": [], "delivered": []}
    clock.advance(1000)
    assert await other.round(answered(200)) == ids(1, 2)


async def test_a_sole_node_waits_for_no_other_after_an_immediate_restart(
    node: SteppedTaskNode, make_node: MakeNode, tasks: TaskService, clock: ManualClock
) -> None:
    await tasks.add([make_task(0)])
    await node.take()
    await node.crash()
    sole = make_node(sole=True)
    await sole.start(sole=True)
    assert await sole.take() == "void"
    clock.advance(1000)
    assert await sole.round(answered(200)) == ids(1)


async def test_a_take_whose_answer_was_lost_is_repeated_and_gets_the_same_batch(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock
) -> None:
    await tasks.add([make_task(0) for _ in range(6)])
    lost = await node.task_store.take(now_ms=clock.now_ms(), node=node.node.id, token=1, dead_after_ms=5000, slots=100)
    assert [row.number for row in lost.rows] == [1, 2, 3]
    assert await node.take() == "ok"
    assert node.called == ids(1, 2, 3)
    await node.answer_all(answered(200))
    await node.settle_calls()
    clock.advance(1000)
    late = await node.task_store.take(now_ms=clock.now_ms(), node=node.node.id, token=1, dead_after_ms=5000, slots=100)
    assert late.result == "void", "the first one arrives once more, late"


async def test_a_node_whose_lease_has_expired_calls_nothing(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, client: Redis
) -> None:
    await tasks.add([make_task(0)])
    clock.advance(5000)
    assert await node.take() == "ok", "the store still takes its beat for good"
    assert node.called == []
    await node.settle_calls()
    assert (await task_sets(client))["fresh"] == [1]
    clock.advance(1)
    assert await node.take() == "beat"


async def test_results_that_redis_does_not_accept_are_kept_and_tried_again(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tasks.add([make_task(0), make_task(0)])
    settle, tries = node.task_store.settle, []

    async def away_then_mute(settlements: Sequence[TaskSettlement], **context: Any) -> SettledBatch:
        tries.append([one.number for one in settlements])
        if len(tries) == 1:
            raise StoreUnavailable("Redis is away")
        answer = await settle(settlements, **context)
        if len(tries) == 2:
            raise StoreUnavailable("the answer was lost", effect_unknown=True)
        return answer

    monkeypatch.setattr(node.task_store, "settle", away_then_mute)
    node.batcher.start()
    await until(lambda: node.called == ids(1, 2))
    await node.answer_all(answered(200))
    await until(lambda: node.batcher.fault is not None)
    await until(lambda: _advance(clock, 100) and not node.has_batch)
    assert tries == [[1, 2]] * 3
    assert (await tasks.get("task_2")).status is TaskStatus.DELIVERED
    metrics = node.batcher.metrics.registry
    assert metrics.get_sample_value("cronpost_runs_total", {"state": "succeeded", "reason": "scheduled"}) == 2


def _advance(clock: ManualClock, ms: int) -> bool:
    clock.advance(ms)
    return True


# ---- delete and revive ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [answered(200), failed()])
async def test_a_task_that_is_deleted_during_its_call_is_not_called_again(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, client: Redis, store: RedisStore, outcome: object
) -> None:
    await tasks.add([make_task(0), make_task(0)])
    await node.take()
    await tasks.delete("task_1")
    with pytest.raises(TaskNotFound):
        await tasks.get("task_1")
    await node.answer_all(outcome)  # type: ignore[arg-type]
    await node.settle_calls()
    assert not node.has_batch
    found = await task_sets(client)
    assert 1 not in {number for numbers in found.values() for number in numbers}
    assert await client.hlen(KEYS.tasks("tasks")) == 1
    (run,) = await store.history("task_1")
    expected = RunState.SUCCEEDED if outcome == answered(200) else RunState.CANCELLED
    assert run.state is expected  # type: ignore[union-attr]


async def test_a_task_that_is_deleted_while_its_node_dies_is_gone(
    node: SteppedTaskNode, make_node: MakeNode, tasks: TaskService, clock: ManualClock, client: Redis
) -> None:
    await tasks.add([make_task(0)])
    await node.take()
    await tasks.delete("task_1")
    await node.crash()
    other = make_node()
    await other.start()
    await live(clock, other, seconds=6)
    assert await other.take() == "void"
    assert not any((await task_sets(client)).values())


async def test_deleting_a_task_that_waits_for_a_retry_records_its_run_as_cancelled(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, store: RedisStore, client: Redis
) -> None:
    await tasks.add([make_task(0)])
    await node.round(failed(OutcomeKind.CONNECTION))
    await tasks.delete("task_1")
    (run,) = await store.history("task_1")
    assert (run.state, run.attempt) == (RunState.CANCELLED, 1)  # type: ignore[union-attr]
    assert not any((await task_sets(client)).values())
    with pytest.raises(TaskNotFound):
        await tasks.delete("task_1")


async def test_a_stale_task_is_revived_with_all_retries_and_a_new_run(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, store: RedisStore
) -> None:
    await tasks.change_rules({"max_retries": 1})
    await tasks.add([make_task(0), make_task(5)])
    first = await tasks.get("task_1")
    with pytest.raises(TaskNotStale):
        await tasks.retry("task_1")
    for _ in range(2):
        await node.round(failed())
        clock.advance(1000)
    assert (await tasks.get("task_1")).status is TaskStatus.STALE
    revived = await tasks.retry("task_1")
    assert revived.task is not None
    assert first.task is not None
    assert (revived.status, revived.task.retries) == (TaskStatus.PENDING, 0)
    assert revived.task.run_id != first.task.run_id
    clock.advance(3000)
    await node.beat()
    assert await node.take() == "ok"
    assert node.called == ids(2, 1), "it has failed before"
    assert dict(node.deliverer.open[1].request.headers)["Cronpost-Reason"] == "manual"
    await node.answer_all(answered(200))
    await node.settle_calls()
    assert [run.state.value for run in await store.history("task_1")] == ["succeeded", "failed"]  # type: ignore[union-attr]


async def test_settled_tasks_are_kept_up_to_their_bounds_and_the_oldest_removed(
    store: RedisStore, clock: ManualClock, client: Redis
) -> None:
    bounds = TaskSettings(max_retries=0, tasks_keep_delivered=2, tasks_keep_stale=3, base_interval_ms=1)
    metrics = Metrics()
    node = SteppedTaskNode(store, clock, metrics, task_settings=bounds)
    tasks = TaskService(node.task_store, clock, metrics)
    await node.start()
    for outcome in (answered(200), failed()):
        for _ in range(5):
            await tasks.add([make_task(0)])
            await node.round(outcome)
            clock.advance(1)
    assert (await task_sets(client)) == {
        "fresh": [],
        "failed": [],
        "running": [],
        "stale": [8, 9, 10],
        "delivered": [4, 5],
    }
    assert await client.hlen(KEYS.tasks("tasks")) == 5
    assert metrics.registry.get_sample_value("cronpost_stale_tasks_removed_total") == 2


async def test_a_task_that_cannot_be_read_is_stale_and_the_others_are_called(
    node: SteppedTaskNode, tasks: TaskService, client: Redis
) -> None:
    await tasks.add([make_task(0), make_task(0)])
    await client.hset(KEYS.tasks("tasks"), f"{1:016d}", b"\xc1")
    assert await node.round(answered(200)) == ids(2)
    assert (await task_sets(client))["stale"] == [1]
    assert (await tasks.get("task_1")).fault is not None
    await tasks.delete("task_1")
    assert (await task_sets(client))["stale"] == []


# ---- the loop ---------------------------------------------------------------------------------------------------


async def test_the_loop_keeps_a_small_pause_to_the_millisecond(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock
) -> None:
    await tasks.change_rules({"base_interval_ms": 5, "select_size": 1})
    await tasks.add([make_task(0) for _ in range(4)])
    node.batcher.start()
    started = []
    for number in range(1, 5):
        await until(lambda n=number: node.called == ids(n))  # type: ignore[misc]
        started.append(clock.now_ms())
        await node.answer_all(answered(200))
        await until(lambda: not node.has_batch and bool(clock.waiting))
        clock.advance(4)
        await asyncio.sleep(0.01)
        assert node.called == []
        clock.advance(1)
    assert [after - before for before, after in itertools.pairwise(started)] == [5, 5, 5]


async def test_a_sleeping_loop_is_woken_by_a_new_task_and_by_its_time(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, client: Redis
) -> None:
    listener = TaskWakeupSubscriber(node.task_store, node.batcher, clock, Metrics())
    listener.start()
    node.batcher.start()
    try:

        async def listens() -> bool:
            channels: list[Any] = await client.pubsub_numsub(KEYS.tasks("wake"))
            return bool(channels[0][1] == 1)

        await until(listens)
        await until(lambda: bool(clock.waiting))
        await tasks.add([make_task(0.4)])
        await until(lambda: any(round(end - clock.mono, 6) == 0.4 for end, _ in clock.waiting))
        clock.advance(400)
        await until(lambda: node.called == ids(1))
    finally:
        await listener.stop()


async def test_an_empty_task_queue_is_asked_once_a_second_at_most(
    node: SteppedTaskNode, clock: ManualClock, client: Redis
) -> None:
    node.batcher.start()
    await until(lambda: bool(clock.waiting))
    before = (await client.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    for _ in range(3):
        clock.advance(1000)
        await until(lambda: len(clock.waiting) == 1 and clock.waiting[0][0] > clock.mono)
    after = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
    assert after - before == 3


async def test_a_stopping_node_waits_for_its_calls(
    node: SteppedTaskNode, tasks: TaskService, clock: ManualClock, client: Redis
) -> None:
    await tasks.add([make_task(0) for _ in range(5)])
    node.batcher.start()
    await until(lambda: node.called == ids(1, 2, 3))
    node.batcher.stop_taking()
    finishing = asyncio.create_task(node.batcher.finish(grace_seconds=30, settle_seconds=5))
    await node.answer_all(answered(200))
    await until(lambda: tick(clock, finishing))
    assert finishing.result()
    assert (await task_sets(client)) == {
        "fresh": [4, 5],
        "failed": [],
        "running": [],
        "stale": [],
        "delivered": [1, 2, 3],
    }


async def test_a_stopping_node_releases_calls_that_do_not_end_in_time(
    node: SteppedTaskNode, make_node: MakeNode, tasks: TaskService, clock: ManualClock, client: Redis
) -> None:
    await tasks.add([make_task(0) for _ in range(5)])
    node.batcher.start()
    await until(lambda: node.called == ids(1, 2, 3))
    await node.answer_task("task_2", failed())
    node.batcher.stop_taking()
    finishing = asyncio.create_task(node.batcher.finish(grace_seconds=0, settle_seconds=5))
    await until(lambda: tick(clock, finishing))
    assert finishing.result()
    assert (await task_sets(client)) == {
        "fresh": [1, 3, 4, 5],
        "failed": [2],
        "running": [],
        "stale": [],
        "delivered": [],
    }
    other = make_node()
    await other.start()
    clock.advance(1000)
    assert await other.round(answered(200)) == ids(1, 3, 4)


def tick(clock: ManualClock, task: asyncio.Task[bool]) -> bool:
    """Let a little time pass; returns whether ``task`` has ended."""
    clock.advance(5)
    return task.done()
