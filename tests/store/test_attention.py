"""The sorted sets from which the list of what needs a person is made: pages, counts, notes and dismissals."""

from __future__ import annotations

import itertools
import random

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.config import TaskSettings
from scheduler_core.model.index import ATTENTION
from scheduler_core.store.attention import AttentionCounts, SetAside, Source, Spot, encode_set_aside
from scheduler_core.store.redis.attention import RedisAttention
from scheduler_core.store.redis.keys import QUARANTINED
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from tests.support.factories import at, make_job, make_state
from tests.support.manual_clock import START_MS
from tests.support.stores import KEYS, beat, claim, put
from tests.support.task_nodes import make_task

_tokens = itertools.count(1)


@pytest.fixture
async def lists(store: RedisStore) -> RedisAttention:
    await beat(store)
    return store.attention_store()


async def every_page(lists: RedisAttention, source: Source, size: int) -> list[Spot]:
    found: list[Spot] = []
    while page := await lists.page(source, found[-1] if found else None, limit=size):
        assert len(page) <= size
        found += page
    return found


async def test_pages_have_each_member_once_from_the_highest_score_down(lists: RedisAttention, redis: Redis) -> None:
    choose = random.Random(5)
    members = {f"job-{number:03}-é": choose.choice([3, 7, 7, 7, at(0)]) for number in range(60)} | {"A": 7, "a": 7}
    await redis.zadd(KEYS.index(ATTENTION), members)
    expected = sorted((Spot(score, member.encode()) for member, score in members.items()), reverse=True)
    for size in (1, 7, 1000):
        assert await every_page(lists, Source.JOBS, size) == expected


async def test_a_page_continues_where_the_page_before_ended_although_that_member_has_left(
    lists: RedisAttention, redis: Redis
) -> None:
    await redis.zadd(KEYS.index(ATTENTION), dict.fromkeys("abcdef", 5))
    first = await lists.page(Source.JOBS, None, limit=2)
    assert [one.member for one in first] == [b"f", b"e"]
    await redis.zrem(KEYS.index(ATTENTION), "e", "c")
    assert [one.member for one in await lists.page(Source.JOBS, first[-1], limit=2)] == [b"d", b"b"]


async def test_quarantined_jobs_are_found_in_the_due_set_and_no_others(lists: RedisAttention, redis: Redis) -> None:
    await put(redis, make_job("well"), make_state(0))
    await put(redis, make_job("paused"), make_state(0, paused_at_ms=at(-1)))
    for name in ("q1", "q2", "q3"):
        await put(redis, make_job(name), make_state(0, quarantine="why"))
    found = await every_page(lists, Source.QUARANTINED, 2)
    assert found == [Spot(QUARANTINED, name.encode()) for name in ("q3", "q2", "q1")]
    assert await lists.counts() == AttentionCounts(0, 3, 0)


async def test_a_job_is_removed_only_with_the_score_that_was_read(lists: RedisAttention, redis: Redis) -> None:
    await redis.zadd(KEYS.index(ATTENTION), {"a": at(3)})
    assert await lists.job_since_ms("a") == at(3)
    assert not await lists.drop_job("a", at(2)), "it failed again since"
    assert not await lists.drop_job("b", at(3))
    assert await lists.drop_job("a", at(3))
    assert await lists.job_since_ms("a") is None


async def test_a_note_of_a_settlement_is_kept_once_until_it_is_removed(
    lists: RedisAttention, store: RedisStore, redis: Redis
) -> None:
    await put(redis, make_job("a"), make_state(0))
    (claimed,) = (await claim(store)).jobs
    note = SetAside("a", claimed.lease.fence, "RUN", "WRONGTYPE")
    await lists.set_aside(note, at_ms=at(1))
    await lists.set_aside(note, at_ms=at(9))
    assert await every_page(lists, Source.SETTLEMENTS, 5) == [Spot(at(1), encode_set_aside(note))]
    assert await lists.fences_of(["a", "nobody"]) == [claimed.lease.fence, None]
    assert (await lists.counts()).settlements == 1
    assert await lists.drop_set_aside(encode_set_aside(note))
    assert not await lists.drop_set_aside(encode_set_aside(note))


# ---- one-off tasks ----------------------------------------------------------------------------------------------


async def stale_tasks(queue: RedisTasks, count: int) -> None:
    """Store tasks and make them stale, one after the other."""
    for number in await queue.insert([make_task() for _ in range(count)]):
        taken = await queue.take(
            now_ms=START_MS + 10_000 * number, node="node", token=next(_tokens), dead_after_ms=10**9, slots=1
        )
        settled = [queue.settlement(number, "stale", make_task(), None, None)]
        await queue.settle(settled, now_ms=START_MS + 10_000 * number, node="node", fence=taken.fence)


async def test_a_dismissed_task_stays_stale_and_is_counted_no_more(lists: RedisAttention, store: RedisStore) -> None:
    queue = RedisTasks(store)
    await stale_tasks(queue, 3)
    second = await queue.read(2)
    assert second is not None
    assert [await queue.dismiss(second, now_ms=at(0)) for _ in range(2)] == ["ok", "done"]
    assert await queue.dismiss(replace(second, raw=b"else"), now_ms=at(0)) == "changed"
    assert await queue.dismiss(replace(second, number=9), now_ms=at(0)) == "missing"
    assert (await lists.counts()).tasks == 2
    assert [one and one.number for one in await queue.stale([3, 2, 1, 9])] == [3, None, 1, None]
    assert await queue.read(2) == second


@pytest.mark.parametrize("how", ["revive", "delete", "trim"])
async def test_nothing_is_left_of_a_dismissal_when_its_task_is_stale_no_more(
    lists: RedisAttention, store: RedisStore, redis: Redis, how: str
) -> None:
    queue = RedisTasks(store, TaskSettings(tasks_keep_stale=1))
    await stale_tasks(queue, 1)
    first = await queue.read(1)
    assert first is not None
    assert await queue.dismiss(first, now_ms=at(0)) == "ok"
    if how == "revive":
        assert await queue.revive(first, make_task()) == "ok"
        again = await queue.read(1)
        assert again is not None
        assert await queue.dismiss(again, now_ms=at(0)) == "not_stale"
    elif how == "delete":
        assert await queue.delete(first, None) == "ok"
    else:
        await stale_tasks(queue, 1)
        assert await queue.read(1) is None
    assert await redis.zcard(KEYS.tasks("dismissed")) == 0
    assert (await lists.counts()).tasks == (1 if how == "trim" else 0)
