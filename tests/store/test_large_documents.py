"""With payloads of 1 MiB, the reply of each script is bounded, and the jobs that it leaves out are not lost."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from scheduler_core.model.transition import Transition
from scheduler_core.store.loop import REPLY_BYTES
from scheduler_core.store.redis.codec import encode_job
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.selection import PAGE_BYTES, Selection, page_of_selected
from tests.support.factories import make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, beat, claim, put

MIB = 1 << 20
NUMBER = 40
PAYLOAD = b'"' + b"x" * (MIB - 2) + b'"'
MARGIN = 1 << 16


def size_of(answer: Any) -> int:
    return sum(map(size_of, answer)) if isinstance(answer, list) else len(answer) if isinstance(answer, bytes) else 8


@pytest.fixture
async def replies(store: RedisStore, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each script's reply; the store holds jobs with large payloads."""
    for number in range(NUMBER):
        await put(redis, make_job(f"job{number:02}", payload=PAYLOAD), make_state(-1))
    await beat(store)
    seen: list[int] = []
    run = RedisStore.run

    async def measured(self: RedisStore, script: Any, args: Any, keys: tuple[str, ...] = ()) -> Any:
        answer = await run(self, script, args, keys)
        seen.append(size_of(answer))
        return answer

    monkeypatch.setattr(RedisStore, "run", measured)
    return seen


async def test_claims_take_large_jobs_a_few_at_a_time_until_none_is_left(store: RedisStore, replies: list[int]) -> None:
    taken: list[str] = []
    while jobs := (await claim(store, limit=128)).jobs:
        taken += [one.id for one in jobs]
    assert sorted(taken) == [f"job{number:02}" for number in range(NUMBER)]
    assert max(replies) <= REPLY_BYTES + MARGIN


async def test_one_job_larger_than_a_reply_should_be_is_claimed_all_the_same(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job("huge", payload=b"x" * (2 * REPLY_BYTES)), make_state(-2))
    await put(redis, make_job("small"), make_state(-1))
    assert [one.id for one in (await claim(store)).jobs] == ["huge"]
    assert [one.id for one in (await claim(store)).jobs] == ["small"]
    assert [len(one.snapshot.job.payload) for one in await store.read_many(["huge", "small"]) if one.snapshot.job] == [
        2 * REPLY_BYTES,
        8,
    ]


async def test_of_a_backlog_of_large_jobs_the_old_ones_get_their_turn_beside_the_new(
    store: RedisStore, redis: Redis
) -> None:
    await beat(store)
    for number in range(20):
        await put(redis, make_job(f"old{number:02}", payload=b"x" * (MIB // 2)), make_state(-100))
        await put(redis, make_job(f"new{number:02}", payload=b"x" * (MIB // 2)), make_state(-1))
    found = [one.id for one in (await claim(store, limit=10)).jobs]
    assert found == ["new00", "old00", "new01"]


async def test_a_lost_claim_is_recovered_as_far_as_one_reply_holds_and_the_rest_is_due_again(
    store: RedisStore, redis: Redis
) -> None:
    await beat(store)
    for number in range(9):
        await put(redis, make_job(f"job{number}"), make_state(-1))
    assert len((await claim(store, token=1)).jobs) == 9
    for number in range(9):  # they grow while the reply is on its way
        await put_definition(redis, f"job{number}")
    found = await store.recover(node="node", token=1)
    assert len(found) == 1
    again = await store.recover(node="node", token=1)
    assert [(one.id, one.lease) for one in again] == [(one.id, one.lease) for one in found]
    assert await redis.zcount(KEYS.due, "-inf", 10**15) == 8
    assert await store.recover(node="node", token=1, reply_bytes=0) == []
    assert await redis.zcount(KEYS.due, "-inf", 10**15) == 9
    first = {one.id: one.lease for one in found}
    for one in (await claim(store)).jobs:  # the same run goes on
        if one.id in first:
            assert one.lease.first_fence == first[one.id].first_fence
            assert one.lease.losses == 0


async def put_definition(redis: Redis, job_id: str) -> None:
    await redis.hset(KEYS.jobs, job_id, encode_job(make_job(job_id, payload=PAYLOAD)))


async def test_reads_of_many_large_jobs_come_in_bounded_replies(store: RedisStore, replies: list[int]) -> None:
    ids = [f"job{number:02}" for number in range(NUMBER)]
    found = await store.read_many([*ids, "none"])
    assert [one.snapshot.job.id if one.snapshot.job else None for one in found] == [*ids, None]
    assert max(replies) <= REPLY_BYTES + MARGIN


async def test_a_page_of_large_jobs_is_short_and_the_next_continues_it(store: RedisStore, replies: list[int]) -> None:
    shards = Shards.of_one(store)
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await page_of_selected(shards, ManualClock(), Selection(), cursor=cursor, limit=1000)
        assert sum(len(view.job.payload) for view in page.jobs if view.job) <= PAGE_BYTES + 16 * MIB
        found += [view.id for view in page.jobs]
        cursor = page.cursor
    assert found == [f"job{number:02}" for number in range(NUMBER)]
    assert max(replies) <= REPLY_BYTES + MARGIN


async def test_a_batch_of_jobs_that_are_stored_with_large_payloads_says_of_most_that_they_are_large(
    store: RedisStore, replies: list[int]
) -> None:
    new = [(make_job(f"job{number:02}"), make_state(10)) for number in range(NUMBER)]
    answers = await store.create([*new, (make_job("new"), make_state(10))])
    assert answers[-1] is None
    assert answers.count("large") >= NUMBER - 2
    assert None not in answers[:-1]
    assert max(replies) <= REPLY_BYTES + MARGIN


async def test_settlements_of_changed_large_jobs_are_answered_a_few_at_a_time(
    store: RedisStore, redis: Redis, replies: list[int]
) -> None:
    claimed = []
    while jobs := (await claim(store, limit=128)).jobs:
        claimed += jobs
    for one in claimed:
        await redis.hset(KEYS.states, one.id, b"changed!" + b"\x80")
    answers = await store.settle([encode_settlement(one, Transition(make_state(10))) for one in claimed])
    assert {one.result for one in answers} == {"changed", "later"}
    assert max(replies) <= REPLY_BYTES + 2 * MIB
