"""Completed jobs in Redis: what a settle leaves of them, and how the sweeper removes them by age and number."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.transition import Spawn, Transition
from scheduler_core.node.loops.sweep import JOBS_AT_ONCE, Sweeper
from scheduler_core.node.shard_loops import completed_bounds_of
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.history import Bounds
from scheduler_core.store.jobs import CompletedBounds, StoredJob
from scheduler_core.store.redis.codec import TAG_BYTES, encode_job, encode_state
from scheduler_core.store.redis.keys import COMPLETED, IDLE, REMEMBERED
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import AtSpec
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import at, make_job, make_run, make_state, settled_run
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, beat, claim, dump, put

ENDS_DELETED = make_job("due", policies=Policies(delete_completed=True))


def remembered(second: float, job: Job = ENDS_DELETED) -> JobState:
    return JobState(deleted=True, completed_at_ms=at(second), digest=job.digest())


async def put_completed(redis: Redis, name: str, second: float) -> None:
    await put(redis, make_job(name, trigger=AtSpec(at(second))), make_state(None, completed_at_ms=at(second)))


async def put_remembered(redis: Redis, name: str, second: float) -> None:
    await redis.hset(KEYS.states, name, encode_state(remembered(second)))
    await redis.zadd(KEYS.due, {name: REMEMBERED + at(second)})


async def names(redis: Redis) -> list[str]:
    return sorted(name.decode() for name in (await dump(redis)).get(KEYS.states, {}))


# ---- settle ---------------------------------------------------------------------------------------------------------


async def test_a_settle_keeps_a_completed_job_by_the_instant_of_its_end(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job("due"), make_state(-1))
    (job,) = (await claim(store)).jobs
    step = Transition(make_state(None, completed_at_ms=at(3)), (settled_run(0),))
    assert [one.result for one in await store.settle([encode_settlement(job, step)])] == ["ok"]
    content = await dump(redis)
    assert content[KEYS.due] == {b"due": COMPLETED + at(3)}
    assert b"due" in content[KEYS.jobs]
    assert b"due" in content[KEYS.ids]
    assert KEYS.leases not in content
    assert (await claim(store, now_ms=at(10**9))).jobs == []


async def test_a_settle_that_deletes_a_completed_job_leaves_its_digest(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, ENDS_DELETED, make_state(-1))
    (job,) = (await claim(store)).jobs
    settlement = encode_settlement(job, Transition(remembered(3), (settled_run(0),), remove=True))
    first = await store.settle([settlement])
    before = await dump(redis)
    again = await store.settle([settlement])
    assert [one.result for one in (*first, *again)] == ["ok", "done"]
    assert await dump(redis) == before
    assert before[KEYS.due] == {b"due": REMEMBERED + at(3)}
    assert KEYS.jobs not in before
    assert KEYS.ids not in before
    assert (await store.read("due")).snapshot.state == remembered(3)
    assert [record.id for record in await store.history("due")] == [settled_run(0).id]  # type: ignore[union-attr]


async def test_the_last_run_of_a_job_that_allows_overlap_outlives_its_deletion(store: RedisStore, redis: Redis) -> None:
    overlapping = replace(ENDS_DELETED, policies=Policies(overlap=Overlap.ALLOW, delete_completed=True))
    await beat(store)
    await put(redis, overlapping, make_state(-1))
    (job,) = (await claim(store)).jobs
    spawn = Spawn(make_run(-1, id="LAST"), limit=1)
    settlement = encode_settlement(job, Transition(remembered(3, overlapping), remove=True, spawn=spawn))
    answers = [(await store.settle([settlement]))[0].result for _ in range(2)]
    assert answers == ["ok", "done"]
    child = child_id("due", "LAST")
    content = await dump(redis)
    assert set(content[KEYS.jobs]) == {child.encode()}
    assert set(content[KEYS.states]) == {child.encode(), b"due"}
    assert content[KEYS.due] == {child.encode(): at(-1), b"due": REMEMBERED + at(3)}
    assert KEYS.ids not in content


async def test_an_upsert_with_the_digest_of_a_deleted_job_writes_nothing(store: RedisStore, redis: Redis) -> None:
    await put_remembered(redis, "due", 0)
    jobs = JobService(store, ManualClock(), Metrics())
    before = await dump(redis)
    view, changed = await jobs.upsert(ENDS_DELETED)
    assert (view.job, changed) == (None, False)
    assert await dump(redis) == before
    view, changed = await jobs.upsert(replace(ENDS_DELETED, payload=b"2"))
    assert (view.job is not None, changed) == (True, True)
    assert (await store.read("due")).snapshot.state == make_state(10)


def test_neither_the_job_nor_the_first_state_of_a_plain_job_has_a_new_byte() -> None:
    job = msgspec.msgpack.decode(encode_job(make_job()))
    assert set(job) == {"u", "p", "x", "c"}
    assert set(msgspec.msgpack.decode(encode_state(make_state(0))[TAG_BYTES:])) == {"f"}


# ---- the sweeper ----------------------------------------------------------------------------------------------------


async def filled(redis: Redis) -> None:
    for second in (0, 10, 20, 30):
        await put_completed(redis, f"c{second}", second)
        await put_remembered(redis, f"r{second}", second)
    await put(redis, make_job("active"), make_state(40))
    await put(redis, make_job("idle"), make_state(None, keep=True))


class WithoutPauses(ManualClock):
    """A sleep ends at once, and no time passes."""

    async def sleep(self, seconds: float) -> None:
        pass


async def swept(store: RedisStore, bounds: CompletedBounds, now: float = 40) -> int:
    clock = WithoutPauses(at(now))
    return await Sweeper(store, Bounds(), bounds, clock, Metrics()).sweep_completed()


async def test_the_oldest_beyond_age_and_number_are_removed(store: RedisStore, redis: Redis) -> None:
    await filled(redis)
    assert await swept(store, CompletedBounds()) == 0
    assert await swept(store, CompletedBounds(age_ms=30_000, id_age_ms=11_000)) == 4
    assert await names(redis) == ["active", "c10", "c20", "c30", "idle", "r30"]
    assert await swept(store, CompletedBounds(most=2)) == 1
    assert await names(redis) == ["active", "c20", "c30", "idle", "r30"]
    assert await swept(store, CompletedBounds(most=0)) == 3
    content = await dump(redis)
    assert set(content[KEYS.due]) == set(content[KEYS.states]) == {b"active", b"idle"}
    assert set(content[KEYS.ids]) == set(content[KEYS.jobs]) == {b"active", b"idle"}
    assert content[KEYS.due][b"idle"] == IDLE


async def test_one_sweep_removes_more_than_a_page(store: RedisStore, redis: Redis) -> None:
    for number in range(2 * JOBS_AT_ONCE + 5):
        await put_completed(redis, f"c{number}", number)
    assert await swept(store, CompletedBounds(most=3), now=1_000) == 2 * JOBS_AT_ONCE + 2
    assert len(await names(redis)) == 3


async def test_a_job_that_a_client_starts_again_during_a_sweep_stays(store: RedisStore, redis: Redis) -> None:
    await put_completed(redis, "a", 0)
    await put_completed(redis, "b", 1)
    clock = ManualClock()
    clock.now = at(40)
    jobs = JobService(store, clock, Metrics())

    class Overtaken(RedisStore):
        async def read_many(self, job_ids: Sequence[str]) -> list[StoredJob]:
            await jobs.run_now("a")  # after it was found
            found = await super().read_many(job_ids)
            await jobs.run_now("b")  # after it was read
            return found

    assert (
        await Sweeper(Overtaken(store.client), Bounds(), CompletedBounds(most=0), clock, Metrics()).sweep_completed()
        == 0
    )
    assert await names(redis) == ["a", "b"]


async def test_the_history_of_a_removed_job_stays_until_it_is_trimmed(store: RedisStore, redis: Redis) -> None:
    await put_completed(redis, "a", 0)
    stored = await store.read("a")
    assert stored.snapshot.state is not None
    assert await store.change("a", stored, Transition(stored.snapshot.state, (settled_run(0),)))
    assert await swept(store, CompletedBounds(age_ms=1)) == 1
    assert await names(redis) == []
    assert len(await store.history("a")) == 1


def test_the_sweeper_uses_the_settings_and_divides_them_among_the_shards() -> None:
    settings = EngineSettings(history_retention_days=3, history_failure_retention_days=2, completed_max=10)
    assert completed_bounds_of(settings, 4) == CompletedBounds(age_ms=3 * 86_400_000, most=3)
    assert completed_bounds_of(EngineSettings()) == CompletedBounds()
