"""Trimming the runs of all jobs: each bound alone, in pages, by several nodes at once, and what must stay."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from scheduler_core.model.run import Miss, MissReason, Run
from scheduler_core.model.transition import Transition
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.history import Bounds
from scheduler_core.store.redis.history import RedisHistory
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from tests.store.test_records import DETAIL, check_agreement, settle
from tests.support.factories import SECOND, at, make_job, make_state, settled_run
from tests.support.stores import KEYS, beat, claim, dump, put

CODES = (200, 500, 200, None, 200, 404, 200, 200, 503, 200)


async def seeded(store: RedisStore, redis: Redis) -> list[Run]:
    """Ten runs of ten jobs, a second apart, six of which succeeded."""
    runs = [settled_run(number, code) for number, code in enumerate(CODES)]
    for number, run in enumerate(runs):
        await settle(store, redis, [run], name=f"job{number}", detail=DETAIL)
    return runs


async def left(redis: Redis) -> list[int]:
    """Return the numbers of the stored runs."""
    ids: list[bytes] = await redis.hkeys(KEYS.records)  # type: ignore[assignment]
    return sorted(int(run_id[3:]) // SECOND for run_id in ids)


@pytest.mark.parametrize(
    ("bounds", "stays"),
    [
        (Bounds(), range(10)),
        (Bounds(success_age_ms=96_000), (1, 3, 4, 5, 6, 7, 8, 9)),
        (Bounds(failure_age_ms=95_000), (0, 2, 4, 5, 6, 7, 8, 9)),
        (Bounds(success_age_ms=1, failure_age_ms=1), ()),
        (Bounds(successes=2), (1, 3, 5, 7, 8, 9)),
        (Bounds(failures=1), (0, 2, 4, 6, 7, 8, 9)),
        (Bounds(successes=1, failures=2), (5, 8, 9)),
    ],
)
async def test_each_bound_trims_the_oldest_of_its_kind(
    store: RedisStore, redis: Redis, bounds: Bounds, stays: tuple[int, ...]
) -> None:
    await seeded(store, redis)
    history = RedisHistory(store)
    trimmed, more = await history.sweep(bounds, now_ms=at(100))
    assert await left(redis) == list(stays)
    assert (trimmed, more) == (10 - len(stays), False)
    await check_agreement(redis)
    assert await history.sweep(bounds, now_ms=at(100)) == (0, False)


@pytest.mark.parametrize(("wanted", "stays"), [(9, (1, 2, 3, 4, 5, 6, 7, 8, 9)), (5, (1, 3, 5, 8, 9)), (3, (3, 5, 8))])
async def test_beyond_the_bytes_the_oldest_successes_go_and_then_the_oldest_failures(
    store: RedisStore, redis: Redis, wanted: int, stays: tuple[int, ...]
) -> None:
    await seeded(store, redis)
    content = await dump(redis)
    stored = [*content[KEYS.records].values(), *content[KEYS.details].values()]
    slots = max(map(len, content[KEYS.records].values())) + max(map(len, content[KEYS.details].values()))
    assert sum(map(len, stored)) > slots * 9
    await RedisHistory(store).sweep(Bounds(bytes=slots * wanted), now_ms=at(100))
    assert await left(redis) == list(stays)
    assert (await check_agreement(redis))["bytes"] <= slots * wanted


async def test_pages_are_bounded_and_say_whether_there_is_more(store: RedisStore, redis: Redis) -> None:
    await seeded(store, redis)
    history = RedisHistory(store)
    everything = Bounds(success_age_ms=1, failure_age_ms=1)
    answers = [await history.sweep(everything, now_ms=at(100), page=2) for _ in range(4)]
    assert answers == [(4, True), (4, True), (2, True), (0, False)]
    for bounds in (Bounds(successes=0, failures=0), Bounds(bytes=0)):
        await redis.flushall()
        await seeded(store, redis)
        for _ in range(10):
            trimmed, more = await history.sweep(bounds, now_ms=at(100), page=2)
            assert trimmed <= 4
            await check_agreement(redis)
            if not more:
                break
        assert await left(redis) == []


async def test_the_lists_of_a_job_outlive_the_records_and_its_totals_stay(store: RedisStore, redis: Redis) -> None:
    runs = await seeded(store, redis)
    history = RedisHistory(store)
    before = await history.totals(now_ms=at(100))
    await history.sweep(Bounds(bytes=0), now_ms=at(100))
    (known,) = await store.history("job3")
    assert isinstance(known, Run)
    assert (known.id, known.fire_time_ms) == (runs[3].id, runs[3].fire_time_ms)
    after = await history.totals(now_ms=at(100))
    assert (after.stored, after.stored_bytes) == (0, 0)
    assert (after.by_status, after.last_hour) == (before.by_status, before.last_hour)
    for number in range(20, 30):  # what leaves the lists now has left the records before
        await settle(store, redis, [settled_run(number, 500)], name="job3")
    await check_agreement(redis)


async def test_minutes_that_nobody_asks_for_any_more_go(store: RedisStore, redis: Redis) -> None:
    history = RedisHistory(store)
    for minute in (0, 1, 59, 60, 61):
        await settle(store, redis, [settled_run(minute * 60)], name=f"job{minute}")
    assert (await history.totals(now_ms=at(60 * 60))).last_hour == 4
    assert (await history.totals(now_ms=at(60 * 60 - 1))).last_hour == 5
    assert (await history.totals(now_ms=at(120 * 60))).last_hour == 1
    await history.sweep(Bounds(), now_ms=at(121 * 60))
    minutes = [name for name in await check_agreement(redis) if name.startswith("m:")]
    assert sorted(minutes) == [f"m:{at(minute * 60) // 60_000}" for minute in (1, 59, 60, 61)]
    assert (await history.totals(now_ms=at(121 * 60))).runs == 5


async def test_several_nodes_sweep_at_once_while_runs_are_settled(store: RedisStore, redis: Redis) -> None:
    history = RedisHistory(store)
    bounds = Bounds(successes=3, failures=2)
    done = asyncio.Event()

    async def sweeping() -> None:
        while not done.is_set():
            await history.sweep(bounds, now_ms=at(100), page=3)

    sweepers = [asyncio.create_task(sweeping()) for _ in range(3)]
    for number in range(60):
        await settle(store, redis, [settled_run(number, CODES[number % 10])], name=f"job{number % 4}", detail=DETAIL)
    done.set()
    await asyncio.gather(*sweepers)
    await history.sweep(bounds, now_ms=at(100))
    assert await left(redis) == [55, 56, 57, 58, 59]
    counts = await check_agreement(redis)
    assert counts["S"] + counts["F"] + counts["T"] == 60


async def test_the_lists_of_a_job_that_is_gone_go_with_its_last_record(store: RedisStore, redis: Redis) -> None:
    for number in range(8):
        await settle(store, redis, [settled_run(number, 500)], name="gone")
    await settle(store, redis, [settled_run(1, 200)], name="there")
    await redis.hdel(KEYS.jobs, "gone")
    history = RedisHistory(store)
    await history.sweep(Bounds(failures=2), now_ms=at(100))
    assert await redis.exists(KEYS.history("gone"), KEYS.failures("gone")) == 2
    assert len(await store.history("gone")) == 8
    await history.sweep(Bounds(successes=0, failures=0), now_ms=at(100))
    assert await redis.exists(KEYS.history("gone"), KEYS.failures("gone")) == 0
    assert await redis.exists(KEYS.history("there")) == 1
    await check_agreement(redis)


async def test_a_thousand_jobs_that_ran_once_leave_no_key_behind(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    for number in range(1_000):
        await put(redis, make_job(f"once{number}"), make_state(0))
    jobs = (await claim(store, limit=1_000)).jobs
    batch = [
        encode_settlement(job, Transition(None, (settled_run(number),), remove=True)) for number, job in enumerate(jobs)
    ]
    await store.settle(batch)
    before = len(await redis.keys("*"))
    history = RedisHistory(store)
    while (await history.sweep(Bounds(successes=10), now_ms=at(1_000)))[1]:
        pass
    assert len(await redis.keys("*")) == before - 990
    await check_agreement(redis)


async def lists_of(redis: Redis, name: str) -> int:
    return int(await redis.exists(KEYS.history(name), KEYS.failures(name)))


class TestTheListsOfAJobWhoseRecordsWereTrimmedBeforeItWent:
    """No record of its runs is left, so no trimming reaches its lists again."""

    async def trimmed(self, store: RedisStore, redis: Redis) -> None:
        """Store a job with both lists and without any record."""
        for number in range(8):
            await settle(store, redis, [settled_run(number, 500)], name="job")
        await RedisHistory(store).sweep(Bounds(bytes=0), now_ms=at(100))
        assert await left(redis) == []
        assert await lists_of(redis, "job") == 2, "the job is there"

    async def remove(self, store: RedisStore, name: str = "job") -> None:
        assert await store.change(name, await store.read(name), Transition(None, remove=True))

    async def test_go_when_it_is_deleted(self, store: RedisStore, redis: Redis) -> None:
        await self.trimmed(store, redis)
        await self.remove(store)
        assert await lists_of(redis, "job") == 0

    async def test_go_when_the_run_that_was_open_at_its_delete_is_settled_and_trimmed(
        self, store: RedisStore, redis: Redis
    ) -> None:
        await self.trimmed(store, redis)
        await put(redis, make_job("job"), make_state(0))
        (claimed,) = (await claim(store)).jobs
        await self.remove(store)
        assert await lists_of(redis, "job") == 0
        (answer,) = await store.settle([encode_settlement(claimed, Transition(None, (settled_run(50),), remove=True))])
        assert answer.result == "changed", "it was planned from the job as it was"
        assert answer.stored is not None
        await store.settle([encode_settlement(answer.stored, Transition(None, (settled_run(50),), remove=True))])
        assert await lists_of(redis, "job") == 1
        await RedisHistory(store).sweep(Bounds(bytes=0), now_ms=at(100))
        assert await lists_of(redis, "job") == 0

    async def test_go_when_it_comes_to_its_own_end_without_a_further_run(self, store: RedisStore, redis: Redis) -> None:
        await self.trimmed(store, redis)
        await put(redis, make_job("job"), make_state(0))
        (claimed,) = (await claim(store)).jobs
        (answer,) = await store.settle([encode_settlement(claimed, Transition(None, remove=True))])
        assert answer.result == "ok"
        assert await lists_of(redis, "job") == 0

    async def test_go_with_the_last_of_its_runs_that_overlap(self, store: RedisStore, redis: Redis) -> None:
        await self.trimmed(store, redis)
        claim_key = child_id("job", "run-1")
        await put(redis, make_job(claim_key), make_state(0))
        await redis.hdel(KEYS.jobs, "job")
        (claimed,) = (await claim(store)).jobs
        await store.settle([encode_settlement(claimed, Transition(None, remove=True))])
        assert await lists_of(redis, "job") == 0

    async def test_stay_while_a_run_that_they_name_is_stored(self, store: RedisStore, redis: Redis) -> None:
        await self.trimmed(store, redis)
        await settle(store, redis, [settled_run(50)], name="job")
        await self.remove(store)
        assert await lists_of(redis, "job") == 2
        assert len(await store.history("job")) == 9
        await RedisHistory(store).sweep(Bounds(bytes=0), now_ms=at(100))
        assert await lists_of(redis, "job") == 0

    async def test_stay_if_it_was_created_again(self, store: RedisStore, redis: Redis) -> None:
        await settle(store, redis, [settled_run(1)], name="job")
        await self.remove(store)
        await put(redis, make_job("job"), make_state(0))
        await RedisHistory(store).sweep(Bounds(bytes=0), now_ms=at(100))
        assert await lists_of(redis, "job") == 1

    async def test_stay_if_they_hold_nothing_but_misses(self, store: RedisStore, redis: Redis) -> None:
        miss = Miss(MissReason.PAUSED, at(0), at(10), at(12))
        await settle(store, redis, [miss], name="job")
        await self.remove(store)
        assert await store.history("job") == [miss], "none of it was trimmed"

    async def test_go_one_by_one_in_a_batch(self, store: RedisStore, redis: Redis) -> None:
        await self.trimmed(store, redis)
        await settle(store, redis, [settled_run(50)], name="recorded")
        await put(redis, make_job("new"), make_state(0))
        names = ("recorded", "job", "new")
        batch = [(name, await store.read(name), Transition(None, remove=True)) for name in names]
        assert await store.change_many(batch) == [True, True, True]
        assert [await lists_of(redis, name) for name in names] == [1, 0, 0]
