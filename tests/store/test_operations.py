"""Stored operations: one process carries one at a time, and nothing of an old carrier is stored."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from scheduler_core.base.errors import CorruptDocument, StoreUnavailable
from scheduler_core.store.operations import OpenOperations, OperationState, Saved
from scheduler_core.store.redis import operations
from scheduler_core.store.redis.operations import KEPT_MS, RedisOperations
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import at
from tests.support.stores import KEYS, dump


@pytest.fixture
def kept(store: RedisStore) -> RedisOperations:
    return store.operation_store()


async def create(kept: RedisOperations, operation_id: str = "a", *, until: float = 5) -> bool:
    return await kept.create(operation_id, spec=b"spec", progress=b"0", carrier="api", now_ms=at(0), until_ms=at(until))


async def test_an_operation_has_one_carrier_until_its_lease_is_over(kept: RedisOperations) -> None:
    assert await create(kept)
    assert await kept.without_carrier(now_ms=at(4), limit=10) == []
    assert await kept.take("a", carrier="node", now_ms=at(4), until_ms=at(9)) is None
    assert await kept.without_carrier(now_ms=at(5), limit=10) == ["a"]
    taken = await kept.take("a", carrier="node", now_ms=at(5), until_ms=at(9))
    assert taken is not None
    assert (taken.fence, taken.spec, taken.progress, taken.cancelled) == (2, b"spec", b"0", False)
    assert await kept.take("a", carrier="other", now_ms=at(5), until_ms=at(9)) is None
    assert await kept.save("a", fence=1, progress=b"late", until_ms=at(99)) is Saved.LOST
    assert await kept.save("a", fence=2, progress=b"1", until_ms=at(12)) is Saved.OK
    assert await kept.without_carrier(now_ms=at(11), limit=10) == []
    assert await kept.save("a", fence=2, progress=b"2", until_ms=0) is Saved.OK
    assert await kept.without_carrier(now_ms=at(0), limit=10) == ["a"]
    stored = await kept.read("a")
    assert stored is not None
    assert (stored.progress, stored.carrier, stored.leased_until_ms) == (b"2", "node", 0)


async def test_an_operation_that_ended_is_kept_for_a_day_and_never_taken_again(
    kept: RedisOperations, redis: Redis
) -> None:
    await create(kept)
    ended = await kept.end("a", fence=1, progress=b"all", state=OperationState.DONE, now_ms=at(3))
    assert ended is Saved.OK
    assert await kept.without_carrier(now_ms=at(99), limit=10) == []
    assert await kept.take("a", carrier="node", now_ms=at(99), until_ms=at(100)) is None
    assert await kept.save("a", fence=1, progress=b"more", until_ms=at(100)) is Saved.LOST
    stored = await kept.read("a")
    assert stored is not None
    assert (stored.state, stored.progress, stored.ended_at_ms) == (OperationState.DONE, b"all", at(3))
    assert KEPT_MS - 60_000 < await redis.pttl(KEYS.operation("a")) <= KEPT_MS
    assert await kept.ids() == ["a"]
    assert await kept.create(
        "b", spec=b"", progress=b"", carrier="api", now_ms=at(3) + KEPT_MS, until_ms=at(9) + KEPT_MS
    )
    assert await kept.ids() == ["b"], "the list forgets it with its document"


async def test_a_request_to_create_that_is_sent_twice_changes_nothing(kept: RedisOperations, redis: Redis) -> None:
    await create(kept)
    await kept.take("a", carrier="node", now_ms=at(6), until_ms=at(9))
    before = await dump(redis)
    assert await create(kept)
    assert await dump(redis) == before


async def test_the_number_of_open_operations_and_of_ended_ones_is_bounded(
    kept: RedisOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MOST_OPEN", 2)
    monkeypatch.setattr(operations, "MOST_KEPT", 3)
    assert await create(kept, "a")
    assert await create(kept, "b")
    assert not await create(kept, "c")
    assert await kept.read("c") is None
    for number in range(5):
        await kept.end(
            "a" if number == 0 else f"d{number - 1}",
            fence=1,
            progress=b"",
            state=OperationState.DONE,
            now_ms=at(number),
        )
        assert await create(kept, f"d{number}")
    assert await kept.ids() == ["d4", "d3", "d2", "d1", "b"], "the three that ended last, and those that are open"


async def test_a_cancelled_operation_is_ended_by_its_carrier(kept: RedisOperations) -> None:
    await create(kept)
    assert await kept.cancel("a", now_ms=at(1)) == "ok"
    assert await kept.cancel("a", now_ms=at(2)) == "ok"
    stored = await kept.read("a")
    assert stored is not None
    assert (stored.state, stored.cancelled_at_ms) == (OperationState.RUNNING, at(1))
    assert await kept.save("a", fence=1, progress=b"1", until_ms=at(6)) is Saved.CANCELLED
    assert await kept.end("a", fence=1, progress=b"1", state=OperationState.CANCELLED, now_ms=at(3)) is Saved.OK
    assert await kept.cancel("a", now_ms=at(4)) == "ended"
    assert await kept.cancel("unknown", now_ms=at(4)) == "missing"


async def test_a_process_that_takes_an_operation_knows_that_it_was_cancelled(kept: RedisOperations) -> None:
    await create(kept)
    await kept.cancel("a", now_ms=at(1))
    taken = await kept.take("a", carrier="node", now_ms=at(6), until_ms=at(9))
    assert taken is not None
    assert taken.cancelled


async def test_an_operation_without_a_carrier_is_cancelled_at_once(kept: RedisOperations) -> None:
    await create(kept)
    assert await kept.cancel("a", now_ms=at(6)) == "ok"
    stored = await kept.read("a")
    assert stored is not None
    assert (stored.state, stored.ended_at_ms) == (OperationState.CANCELLED, at(6))
    assert await kept.save("a", fence=1, progress=b"late", until_ms=at(99)) is Saved.LOST
    assert await kept.without_carrier(now_ms=at(99), limit=10) == []


async def test_operations_whose_documents_are_gone_and_foreign_members_are_removed(
    kept: RedisOperations, redis: Redis
) -> None:
    await create(kept)
    await redis.delete(KEYS.operation("a"))
    await redis.zadd(KEYS.open_operations, {b"\xff": 0})
    assert await kept.without_carrier(now_ms=at(6), limit=10) == ["a"]
    assert await kept.take("a", carrier="node", now_ms=at(6), until_ms=at(9)) is None
    assert await kept.read("a") is None
    assert await dump(redis) == {}


@pytest.mark.parametrize("damage", [("state", b"\xff"), ("state", b"other"), ("ended_at", b"soon")])
async def test_a_damaged_operation_is_reported_and_left_out_of_lists(
    kept: RedisOperations, redis: Redis, damage: tuple[str, bytes]
) -> None:
    await create(kept)
    await create(kept, "b")
    await redis.hset(KEYS.operation("a"), *damage)
    with pytest.raises(CorruptDocument):
        await kept.read("a")
    assert [one.id for one in await kept.read_many(["a", "b", "c"])] == ["b"]
    assert await kept.read_many([]) == []


async def test_a_full_redis_refuses_a_new_operation_as_a_whole(kept: RedisOperations, redis: Redis) -> None:
    before = await dump(redis)
    await redis.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await create(kept)
    await redis.config_set("maxmemory", 0)
    assert await dump(redis) == before


async def test_open_operations_are_counted_by_whether_a_process_carries_them(kept: RedisOperations) -> None:
    await create(kept, "a", until=5)
    await create(kept, "b", until=9)
    await create(kept, "c", until=9)
    await kept.end("c", fence=1, progress=b"", state=OperationState.DONE, now_ms=at(1))
    assert await kept.count_open(now_ms=at(4)) == OpenOperations(2, 0)
    assert await kept.count_open(now_ms=at(5)) == OpenOperations(1, 1)
    assert await kept.count_open(now_ms=at(9)) == OpenOperations(0, 2)
