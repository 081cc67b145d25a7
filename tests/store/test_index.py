"""The index of jobs lists exactly what the stored jobs say, whatever changed them."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.index import IndexWrite, index_entries, index_writes, label_index
from scheduler_core.model.job_state import JobState
from scheduler_core.model.transition import Transition
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.find import Kind, Order, Ranked, Source
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.codec import encode_job, encode_state
from scheduler_core.store.redis.index import pack_index
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.index_check import check_index
from tests.support.examples import examples
from tests.support.factories import at, make_job, make_run, make_state
from tests.support.stores import KEYS, beat, claim, dump, index_of, put, scanned_index

BILLING = {"team": "billing", "tier": ""}
LABELS: tuple[dict[str, str], ...] = ({}, BILLING, {"team": "sales"}, {"team": "a:b"})


async def index_sets(redis: Redis) -> dict[str, dict[str, int]]:
    return index_of(await dump(redis))


def test_a_job_without_labels_target_and_pause_needs_no_write() -> None:
    job = make_job()
    assert index_writes((None, None), (job, make_state(0))) == ()
    assert index_writes((job, make_state(0)), (None, None)) == ()


def test_the_writes_of_a_change_are_the_difference_of_the_entries() -> None:
    before = make_job(labels={"team": "billing", "tier": "1"})
    after = replace(before, labels={"team": "sales", "tier": "1"}, target_id=3)
    writes = index_writes((before, make_state(0)), (after, make_state(0, paused_at_ms=at(0))))
    assert sorted(writes, key=lambda one: one.name) == [
        IndexWrite("label:team:billing"),
        IndexWrite("label:team:sales", 0),
        IndexWrite("paused", 0),
        IndexWrite("target:3", 0),
    ]


def test_a_child_run_and_a_tombstone_are_not_listed() -> None:
    job = make_job(labels=BILLING)
    assert index_entries(job, make_state(0, child=True)) == {}
    assert index_entries(None, JobState(deleted=True)) == {}


def test_writes_name_each_set_once() -> None:
    writes = [(1, IndexWrite("a", 0)), (2, IndexWrite("a", 7)), (2, IndexWrite("b")), (3, IndexWrite("b", add=1))]
    packed, keys = pack_index(writes, KEYS)
    assert keys == [KEYS.index("a"), KEYS.index("b")]
    assert pack_index([], KEYS) == (b"", [])
    assert packed


async def test_a_new_job_is_listed_under_its_labels_and_target(store: RedisStore, redis: Redis) -> None:
    new = [make_job("a", labels=BILLING, target_id=7), make_job("b"), make_job("c", labels={"team": "a:b"})]
    await store.create([(job, make_state(10)) for job in new])
    assert await index_sets(redis) == {
        "label:team": {"a": 0, "c": 0},
        "label:team:billing": {"a": 0},
        "label:team:a:b": {"c": 0},
        "label:tier": {"a": 0},
        "label:tier:": {"a": 0},
        "target:7": {"a": 0},
    }
    taken = [make_job("b", labels=BILLING), make_job("d", labels={"x": "y"})]
    answers = await store.create([(job, make_state(10)) for job in taken])
    assert answers[0] is not None
    assert (await index_sets(redis))["label:team:billing"] == {"a": 0}, "a job that was not created"
    assert (await index_sets(redis))["label:x:y"] == {"d": 0}


async def test_a_change_and_a_deletion_update_the_index_only_if_they_are_applied(
    store: RedisStore, redis: Redis
) -> None:
    await store.create([(make_job("a", labels=BILLING), make_state(10))])
    stored = await store.read("a")
    changed = Transition(make_state(10, paused_at_ms=at(0)), job=make_job("a", labels={"team": "sales"}, version=2))
    assert await store.change("a", stored, changed)
    listed = {"label:team": {"a": 0}, "label:team:sales": {"a": 0}, "paused": {"a": 0}}
    assert await index_sets(redis) == listed
    assert not await store.change("a", stored, Transition(None, remove=True))
    assert await index_sets(redis) == listed
    tombstone = JobState(open=make_run(0, in_flight=True), deleted=True)
    assert await store.change("a", await store.read("a"), Transition(tombstone, remove=True))
    assert await index_sets(redis) == {}


async def test_a_settle_that_removes_a_job_removes_its_entries(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    new = [(make_job(name, labels=BILLING), make_state(0)) for name in ("a", "b", "c")]
    await store.create(new)
    claimed = {one.id: one for one in (await claim(store)).jobs}
    remembered = JobState(deleted=True, completed_at_ms=at(0), digest=b"x")
    steps = {"a": Transition(remembered, remove=True), "b": Transition(make_state(10))}
    await store.settle([encode_settlement(claimed[name], step) for name, step in steps.items()])
    late = replace(claimed["c"], lease=replace(claimed["c"].lease, fence=claimed["c"].lease.fence + 9))
    (answer,) = await store.settle([encode_settlement(late, Transition(None, remove=True))])
    assert answer.result == "stale"
    assert (await index_sets(redis))["label:team"] == {"b": 0, "c": 0}


async def test_the_end_of_a_child_run_leaves_the_entries_of_its_job(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await store.create([(make_job("a", labels=BILLING), make_state(100))])
    before = await index_sets(redis)
    child = child_id("a", "RUN")
    await redis.hset(KEYS.jobs, child, encode_job(make_job("a", labels=BILLING)))
    await redis.hset(KEYS.states, child, encode_state(make_state(0, child=True)))
    await redis.zadd(KEYS.children, {child: 0})
    await redis.zadd(KEYS.due, {child: at(0)})
    (claimed,) = (await claim(store)).jobs
    assert claimed.id == child
    await store.settle([encode_settlement(claimed, Transition(None, remove=True))])
    assert await index_sets(redis) == before


async def test_a_set_of_the_wrong_type_stops_no_change(store: RedisStore, redis: Redis) -> None:
    await redis.set(KEYS.index(label_index("team")), "text")
    assert await store.create([(make_job("a", labels=BILLING), make_state(10))]) == [None]
    assert await store.change("a", await store.read("a"), Transition(None, remove=True))
    await redis.delete(KEYS.index(label_index("team")))
    assert await index_sets(redis) == {}


# ---- jobs of earlier versions -----------------------------------------------------------------------------------


async def test_jobs_that_have_no_entries_get_them_page_by_page(store: RedisStore, redis: Redis) -> None:
    for number in range(7):
        state = make_state(0, paused_at_ms=at(0) if number % 2 else None)
        await put(redis, make_job(f"job{number}", labels=LABELS[number % len(LABELS)]), state)
    after: str | None = ""
    pages = added = 0
    while after is not None:
        after, count = await check_index(store, after=after, limit=3)
        added += count
        pages += 1
    content = await dump(redis)
    assert index_of(content) == scanned_index(content)
    assert pages == 3
    assert added == sum(len(names) for names in index_of(content).values())
    assert await check_index(store, after="", limit=100) == (None, 0)


async def test_a_job_that_changes_during_the_check_is_checked_again(
    store: RedisStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(redis, make_job("a", labels=BILLING), make_state(10))
    read_many = RedisStore.read_many

    async def changed_after(self: RedisStore, job_ids: Any) -> Any:
        found = await read_many(self, job_ids)
        monkeypatch.setattr(RedisStore, "read_many", read_many)
        await self.change("a", found[0], Transition(make_state(10), job=make_job("a", labels={"team": "sales"})))
        return found

    monkeypatch.setattr(RedisStore, "read_many", changed_after)
    after, _ = await check_index(store, after="", limit=10)
    assert after == "", "the same page again"
    assert "label:team:billing" not in await index_sets(redis)
    assert (await check_index(store, after="", limit=10))[0] is None
    content = await dump(redis)
    assert index_of(content) == scanned_index(content)


async def test_a_job_that_cannot_be_read_is_listed_as_unreadable_until_it_changes(
    store: RedisStore, redis: Redis
) -> None:
    await store.create([(make_job("a"), make_state(10))])
    await redis.hset(KEYS.jobs, "a", b"\x93junk")
    await check_index(store, after="", limit=10)
    assert await index_sets(redis) == {"unreadable": {"a": 0}}
    assert await store.find_store().members(Source(Kind.QUARANTINED), limit=10) == ["a"]
    stored = await store.read("a")
    assert await store.change("a", stored, Transition(make_state(10), job=make_job("a", labels={"x": ""})))
    assert await index_sets(redis) == {"label:x": {"a": 0}, "label:x:": {"a": 0}}


# ---- places among equal scores ----------------------------------------------------------------------------------


@pytest.mark.random
async def test_pages_by_score_hold_each_member_once_in_order(store: RedisStore, redis: Redis) -> None:
    finder = store.find_store()
    for _ in range(examples(3)):
        await redis.delete(KEYS.due, KEYS.index("failing"))
        members = {bytes(random.choices(b"aAzZ\xc3\xa9\xff~0", k=random.randint(1, 4))) for _ in range(60)}
        scores = {member: random.choice([0, 7, 7, 7, 5_000_000_000_000_000]) for member in members}
        await redis.zadd(KEYS.due, scores)
        await redis.zadd(KEYS.index("failing"), scores)
        for order in Order:
            found: list[Ranked] = []
            page: list[Ranked] = []
            while page or not found:
                page = await finder.ranked(order, after=found[-1] if found else None, limit=random.randint(1, 9))
                found += page
                if not page:
                    break
            least = 1 if order is Order.FAILURES else 0
            wanted = sorted(Ranked(score, member) for member, score in scores.items() if score >= least)
            assert found == (wanted if order is Order.NEXT_FIRE else wanted[::-1])
            # A place that is gone, and one that never was.
            for place in (random.choice(wanted), Ranked(7, b"m"), Ranked(8, b"")):
                await redis.zrem(KEYS.due, place.member)
                await redis.zrem(KEYS.index("failing"), place.member)
                wanted = [one for one in wanted if one.member != place.member]
                following = await finder.ranked(order, after=place, limit=100)
                if order is Order.NEXT_FIRE:
                    assert following == [one for one in wanted if one > place]
                else:
                    assert following == [one for one in wanted[::-1] if one < place]
            await redis.zadd(KEYS.due, scores)
            await redis.zadd(KEYS.index("failing"), scores)


# ---- faults of Redis --------------------------------------------------------------------------------------------


async def test_a_full_redis_still_removes_the_entries_of_a_job_that_ends(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await store.create([(make_job("a", labels=BILLING), make_state(0)), (make_job("b"), make_state(50))])
    (claimed,) = (await claim(store)).jobs
    await redis.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        await store.create([(make_job("c", labels=BILLING), make_state(10))])
    with pytest.raises(StoreUnavailable):
        await store.change("b", await store.read("b"), Transition(make_state(50), job=make_job("b", labels=BILLING)))
    assert set((await index_sets(redis))["label:team"]) == {"a"}, "a refused change leaves the index as it was"
    (answer,) = await store.settle([encode_settlement(claimed, Transition(None, remove=True))])
    assert answer.result == "ok"
    assert await index_sets(redis) == {}


async def test_a_redis_that_is_killed_comes_back_with_an_index_that_fits_its_jobs(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    store = RedisStore(connect(server.url))
    try:
        for number in range(40):
            job_id = f"job{number % 9}"
            await store.create([(make_job(job_id, labels=LABELS[number % len(LABELS)]), make_state(10))])
            state = make_state(10, paused_at_ms=at(0) if number % 3 else None)
            job = make_job(job_id, labels=LABELS[(number + 1) % len(LABELS)])
            step = Transition(state, job=job) if number % 4 else Transition(None, remove=True)
            assert await store.change(job_id, await store.read(job_id), step)
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert server.wait_until_dead(10)
        assert server.ensure_running()
        redis = Redis.from_url(server.url)
        content = await dump(redis)
        await redis.aclose()
        assert content[KEYS.jobs]
        assert index_of(content) == scanned_index(content)
    finally:
        await store.aclose()
        server.stop()
