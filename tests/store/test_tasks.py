"""The scripts of one-off tasks keep their guarantees when they are sent twice, when Redis is full, and with long
lists."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from redis.asyncio import Redis

from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from scheduler_core.store.tasks import PARTS, Place, StoredTask, Taken, TaskBacklog
from tests.support.manual_clock import START_MS
from tests.support.stores import DEAD_AFTER_MS, KEYS, beat, dump
from tests.support.task_nodes import make_task, task_sets

_tokens = itertools.count(1)


@pytest.fixture
async def queue(store: RedisStore) -> RedisTasks:
    await beat(store)
    return RedisTasks(store)


async def take(queue: RedisTasks, *, node: str = "node", now_ms: int = START_MS, slots: int = 100) -> Taken:
    return await queue.take(now_ms=now_ms, node=node, token=next(_tokens), dead_after_ms=DEAD_AFTER_MS, slots=slots)


async def settle(queue: RedisTasks, fence: int, *steps: tuple[int, str], node: str = "node") -> list[str]:
    batch = [queue.settlement(number, what, make_task(), None, None) for number, what in steps]
    return (await queue.settle(batch, now_ms=START_MS, node=node, fence=fence)).answers


async def test_a_settle_sent_twice_changes_nothing_the_second_time(queue: RedisTasks, redis: Redis) -> None:
    await queue.insert([make_task(), make_task(), make_task()])
    fence = (await take(queue)).fence
    steps = ((1, "delivered"), (2, "failed"), (3, "stale"))
    assert await settle(queue, fence, *steps) == ["ok"] * 3
    before = await dump(redis)
    assert await settle(queue, fence, *steps) == ["done"] * 3
    assert await dump(redis) == before


async def test_a_batch_of_another_fence_or_node_is_left_alone(queue: RedisTasks, redis: Redis) -> None:
    await queue.insert([make_task()])
    fence = (await take(queue)).fence
    before = await dump(redis)
    assert await settle(queue, fence + 1, (1, "delivered")) == ["refused"]
    assert await settle(queue, fence, (1, "delivered"), node="other") == ["refused"]
    assert await dump(redis) == before


async def test_a_batch_is_released_once_and_its_node_is_refused_from_then_on(queue: RedisTasks, redis: Redis) -> None:
    await queue.insert([make_task(), make_task()])
    fence = (await take(queue)).fence
    assert await queue.release(node="node", fence=fence + 1, ended_at_ms=START_MS) == -1
    assert await queue.release(node="other", fence=None, ended_at_ms=START_MS) == -1
    assert await queue.release(node="node", fence=fence, ended_at_ms=START_MS) == 2
    assert await queue.release(node="node", fence=fence, ended_at_ms=START_MS) == -1
    assert await settle(queue, fence, (1, "delivered")) == ["refused"], "although no other batch was taken since"
    assert (await task_sets(redis))["fresh"] == [1, 2]


async def test_a_clock_that_was_set_back_does_not_stop_one_off_tasks(queue: RedisTasks, store: RedisStore) -> None:
    await queue.insert([make_task(-100_000), make_task(-100_000)])
    await settle(queue, (await take(queue, slots=1)).fence, (1, "delivered"))
    assert (await take(queue)).result == "wait"
    await beat(store, now_ms=START_MS - 60_000)
    assert (await take(queue, now_ms=START_MS - 60_000)).result == "ok"


async def test_numbers_are_never_given_twice_and_sort_by_arrival(queue: RedisTasks) -> None:
    first = await queue.insert([make_task() for _ in range(12)])
    stored = await queue.read(12)
    assert stored is not None
    await queue.delete(stored, None)
    assert await queue.insert([make_task()]) == [13]
    assert first == list(range(1, 13))
    assert [row.number for row in (await take(queue)).rows] == [*range(1, 12), 13]


async def test_a_full_redis_takes_results_and_deletions_but_no_new_tasks_and_no_new_batch(
    queue: RedisTasks, redis: Redis
) -> None:
    await queue.insert([make_task() for _ in range(6)])
    batch = await take(queue, slots=3)
    await redis.config_set("maxmemory", 1)
    before = await dump(redis)
    with pytest.raises(StoreUnavailable, match="memory"):
        await queue.insert([make_task()])
    assert await dump(redis) == before
    assert await settle(queue, batch.fence, (1, "delivered"), (2, "failed"), (3, "stale")) == ["ok"] * 3
    with pytest.raises(StoreUnavailable, match="memory"):
        await take(queue, now_ms=START_MS + 1000)
    stale = await queue.read(3)
    assert stale is not None
    with pytest.raises(StoreUnavailable, match="memory"):
        await queue.revive(stale, make_task())
    assert await queue.delete(stale, None) == "ok"
    assert (await task_sets(redis)) == {"fresh": [4, 5, 6], "failed": [2], "running": [], "stale": [], "delivered": [1]}


async def test_a_full_redis_accepts_the_release_of_a_batch(queue: RedisTasks, redis: Redis) -> None:
    await queue.insert([make_task() for _ in range(3)])
    batch = await take(queue)
    await redis.config_set("maxmemory", 1)
    assert await queue.release(node="node", fence=batch.fence, ended_at_ms=START_MS) == 3


async def test_an_insert_that_is_refused_stores_none_of_its_tasks(queue: RedisTasks, redis: Redis) -> None:
    await redis.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await queue.insert([make_task() for _ in range(1000)])
    await redis.config_set("maxmemory", 0)
    assert not any((await task_sets(redis)).values())
    assert await redis.hlen(KEYS.tasks("tasks")) == 0


async def every_page(queue: RedisTasks, parts: tuple[str, ...], limit: int) -> list[list[StoredTask]]:
    pages = []
    place: Place | None = None
    while True:
        found, place = await queue.page(parts, place, limit)
        pages.append(found)
        if place is None:
            return pages


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_hold_every_task_once_in_order(queue: RedisTasks, limit: int) -> None:
    # Most have the same instant: only the number tells them apart.
    await queue.insert([make_task(0) for _ in range(9)] + [make_task(-1), make_task(5)])
    fence = (await take(queue, slots=6)).fence
    await settle(queue, fence, (10, "delivered"), (1, "delivered"), (2, "failed"), (3, "stale"))
    pages = await every_page(queue, PARTS, limit)
    assert all(len(page) == limit for page in pages[:-1])
    found = [(one.number, one.status.value) for page in pages for one in page]
    assert found == [
        *[(number, "pending") for number in (6, 7, 8, 9, 11, 2)],
        *[(number, "running") for number in (4, 5)],
        (3, "stale"),
        (10, "delivered"),
        (1, "delivered"),
    ]


async def test_a_page_continues_where_the_last_ended_although_that_task_is_gone(queue: RedisTasks) -> None:
    await queue.insert([make_task(0) for _ in range(8)])
    found, place = await queue.page(("fresh",), None, 3)
    for one in found:
        assert await queue.delete(one, None) == "ok"
    assert place is not None
    rest, end = await queue.page(("fresh",), place, 100)
    assert [one.number for one in rest] == [4, 5, 6, 7, 8]
    assert end is None


async def test_a_page_is_full_although_tasks_were_deleted_while_they_are_called(queue: RedisTasks) -> None:
    await queue.insert([make_task(0) for _ in range(8)])
    await take(queue)
    for number in (1, 2, 3, 5):
        stored: Any = await queue.read(number)
        assert await queue.delete(stored, None) == "running"
    pages = await every_page(queue, ("running",), 2)
    assert [[one.number for one in page] for page in pages] == [[4, 6], [7, 8]]


async def test_a_change_of_what_was_changed_meanwhile_is_refused(queue: RedisTasks) -> None:
    await queue.insert([make_task()])
    stored = await queue.read(1)
    assert stored is not None
    assert await queue.revive(stored, make_task()) == "not_stale"
    await settle(queue, (await take(queue)).fence, (1, "stale"))
    assert await queue.read(99) is None
    old = StoredTask(1, stored.status, None, stored.task, b"what was stored before")
    assert await queue.revive(old, make_task()) == "changed"
    assert await queue.delete(old, None) == "changed"
    assert await queue.delete(StoredTask(7, stored.status, None, None, b""), None) == "missing"


async def test_the_backlog_has_the_due_tasks_of_no_batch(queue: RedisTasks) -> None:
    assert await queue.backlog(now_ms=START_MS) == TaskBacklog(0, None)
    await queue.insert([make_task(-7), make_task(-5)])
    await queue.insert([make_task(0), make_task(1)])
    assert await queue.backlog(now_ms=START_MS) == TaskBacklog(3, START_MS - 7_000)
    taken = await take(queue, slots=2)
    assert await queue.backlog(now_ms=START_MS) == TaskBacklog(1, START_MS)
    assert await settle(queue, taken.fence, (1, "failed"), (2, "stale")) == ["ok", "ok"]
    # The failed one is due again at the instant of its execution.
    assert await queue.backlog(now_ms=START_MS) == TaskBacklog(2, START_MS)
