"""The stream of events of a shard: what is appended, what bounds it, and how a loss shows."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.model.event import Event
from scheduler_core.model.transition import Transition
from scheduler_core.store.events import Position, StoredEvent
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import at, make_job, make_run, make_state, settled_run
from tests.support.stores import KEYS, beat, claim, dump, put, until


async def read(store: RedisStore, after: Position, *, limit: int = 100_000) -> list[StoredEvent]:
    return await store.read_events(after, limit=limit)


def types(found: list[StoredEvent]) -> list[str]:
    return [one.event.type for one in found]


async def test_a_settlement_appends_its_events_while_somebody_listens(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    began = await store.listen()
    (job,) = (await claim(store)).jobs
    settlement = encode_settlement(job, Transition(make_state(10), (settled_run(0),)))
    assert [one.result for one in await store.settle([settlement])] == ["ok"]
    assert [one.result for one in await store.settle([settlement])] == ["done"]
    (found,) = await read(store, began)
    assert (found.event.type, found.event.run_id) == ("run.settled", settled_run(0).id)
    assert found.position == Position(began.epoch, 1)


async def test_nothing_is_appended_for_a_change_that_is_refused(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    began = await store.listen()
    stored = await store.read("job")
    (job,) = (await claim(store)).jobs
    stale = encode_settlement(replace(job, lease=replace(job.lease, fence=1)), Transition(make_state(10)))
    assert [one.result for one in await store.settle([stale])] == ["stale"]
    assert not await store.change("job", stored, Transition(make_state(10, paused_at_ms=1)))
    assert await read(store, began) == []


async def test_without_a_stream_nothing_is_written_even_if_a_node_believes_that_somebody_listens(
    store: RedisStore, redis: Redis
) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    (job,) = (await claim(store)).jobs
    store.is_watched = True
    answers = await store.settle([encode_settlement(job, Transition(make_state(10), (settled_run(0),)))])
    assert [one.result for one in answers] == ["ok"]
    await store.append_events([Event("node.joined")])
    assert KEYS.events not in await dump(redis)


async def test_a_node_learns_of_listeners_with_its_heartbeat_and_by_a_message(
    store: RedisStore, redis: Redis, redis_url: str
) -> None:
    await beat(store)
    assert not store.is_watched
    await store.listen()
    store.is_watched = False
    await beat(store)
    known = [store.is_watched]
    await redis.delete(KEYS.events)
    await beat(store)
    known.append(store.is_watched)
    subscription = store.wake_ups(ping_seconds=1.0)
    assert await anext(subscription) is None
    await store.listen()
    store.is_watched = False
    await redis.publish(KEYS.wake, "5")  # the message of the listener came before this one
    assert await anext(subscription) == 5
    await subscription.aclose()
    assert [*known, store.is_watched] == [True, False, True]


async def test_the_start_of_a_run_comes_before_its_end(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    began = await store.listen()
    (job,) = (await claim(store)).jobs
    run = settled_run(0)
    store.run_started(make_job(), run, at(0))
    store.run_started(make_job("other"), make_run(3, id="OTHER"), at(0))
    await store.settle([encode_settlement(job, Transition(make_state(10), (run,)))])
    assert types(await read(store, began)) == ["run.started", "run.settled"]
    await store.started()
    await store.append_started()
    found = await read(store, began)
    assert types(found) == ["run.started", "run.settled", "run.started"]
    assert (found[-1].event.run_id, found[-1].at_ms) == ("OTHER", at(0))


async def test_the_stream_is_bounded_in_entries(store: RedisStore, redis: Redis) -> None:
    began = await store.listen()
    for _ in range(11):
        await store.append_events([Event("node.joined", node="n")] * 1_000)
    found = await read(store, began)
    assert 10_000 <= len(found) < 10_500
    assert found[-1].position.number == 11_000
    assert [one.position.number for one in found] == list(range(found[0].position.number, 11_001))


async def test_the_stream_is_bounded_in_bytes(store: RedisStore, redis: Redis) -> None:
    began = await store.listen()
    large = Event("node.joined", node="n" * 10_000)
    for _ in range(12):
        await store.append_events([large] * 100)
    found = await read(store, began)
    assert 400 < len(found) <= 840
    assert found[-1].position.number == 1_200


async def test_a_new_epoch_begins_with_another_server_or_stream(store: RedisStore, redis: Redis) -> None:
    first = await store.listen()
    await store.append_events([Event("node.joined")])
    assert await store.listen() == Position(first.epoch, 1)
    stored: Any = await redis.get(KEYS.listening)
    await redis.set(KEYS.listening, b"another " + stored.split()[1])
    second = await store.listen()
    assert (second.number, second.epoch > first.epoch) == (0, True)
    await redis.delete(KEYS.events)
    third = await store.listen()
    assert (third.number, third.epoch > second.epoch) == (0, True)
    assert await read(store, third) == []


async def test_the_stream_expires_when_nobody_listens(store: RedisStore, redis: Redis) -> None:
    await store.listen(keep_ms=60_000)
    await store.append_events([Event("node.joined")])
    for key in (KEYS.events, KEYS.listening):
        assert 50_000 < await redis.pttl(key) <= 60_000
    await store.listen(keep_ms=1)

    async def is_gone() -> bool:
        return await redis.exists(KEYS.events, KEYS.listening) == 0

    await until(is_gone)
    await store.append_events([Event("node.joined")])
    assert not store.is_watched


async def test_an_entry_that_cannot_be_read_has_no_type(store: RedisStore, redis: Redis) -> None:
    began = await store.listen()
    entries: list[dict[Any, Any]] = [{"e": "{", "t": "1"}, {"x": "1"}, {"e": '{"y":"node.joined"}', "t": "x"}]
    for number, fields in enumerate(entries, 1):
        await redis.xadd(KEYS.events, fields, id=f"{began.epoch}-{number}")
    await redis.xadd(KEYS.events, {"e": '{"y":"of a later version","q":1}', "t": "7"}, id=f"{began.epoch}-4")
    found = await read(store, began)
    assert types(found)[:2] == ["", ""]
    assert (found[3].event.type, found[3].at_ms) == ("of a later version", 7)


async def test_a_stream_of_the_wrong_type_stops_no_job(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    await redis.set(KEYS.events, "no stream")
    await beat(store)
    (job,) = (await claim(store)).jobs
    answers = await store.settle([encode_settlement(job, Transition(make_state(10), (settled_run(0),)))])
    assert [one.result for one in answers] == ["ok"]
    assert await store.create([(make_job("new"), make_state(10))]) == [None]
    stored = await store.read("new")
    assert await store.change("new", stored, Transition(make_state(10, paused_at_ms=1)))
    assert list(await store.wrong_keys()) == [KEYS.events]


async def test_a_full_redis_records_how_runs_end_also_while_somebody_listens(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    began = await store.listen()
    (job,) = (await claim(store)).jobs
    await redis.config_set("maxmemory", 1)
    answers = await store.settle([encode_settlement(job, Transition(make_state(10), (settled_run(0),)))])
    assert [one.result for one in answers] == ["ok"]
    assert types(await read(store, began)) == ["run.settled"]


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_read_returns_at_most_so_many_events(store: RedisStore, redis: Redis, limit: int) -> None:
    began = await store.listen()
    await store.append_events([Event("node.joined", node=str(number)) for number in range(5)])
    found = await read(store, began, limit=limit)
    assert [one.event.node for one in found] == [str(number) for number in range(limit)]
