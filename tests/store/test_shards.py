"""A store with several shards on one server: the shard of a job, the stored number of shards, merged reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.base.errors import StoreRefused
from scheduler_core.model.job_state import JobState
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.redis.codec import encode_job, encode_state
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.open import default_number, open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards, shard_of
from tests.support.factories import make_job
from tests.support.manual_clock import START_MS


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def shards(redis_url: str) -> AsyncIterator[Shards[RedisStore]]:
    shards = open_shards(redis_url, number=4)
    yield shards
    await shards.aclose()


async def put(redis: Redis, shards: Shards[RedisStore], *job_ids: str) -> None:
    for job_id in job_ids:
        keys = shards.of(job_id).keys
        await redis.hset(keys.jobs, job_id, encode_job(make_job(job_id)))
        await redis.hset(keys.states, job_id, encode_state(JobState()))
        await redis.zadd(keys.ids, {job_id: 0})


# ---- which shard ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job_id", "shard"), [("job-scheduler-unique-id", 9), ("a", 7), ("ä", 9), ("schedule_1", 0), ("123456789", 3)]
)
def test_the_shard_of_a_job_is_fixed_for_ever(job_id: str, shard: int) -> None:
    # With another answer, nodes would not find the jobs of existing stores. (The check value of CRC-16/XMODEM is
    # 0x31C3, for "123456789".)
    assert shard_of(job_id, 16) == shard


def test_a_child_run_is_on_the_shard_of_its_job_and_everything_on_the_only_shard() -> None:
    for number in range(50):
        job_id = f"job-{number}"
        assert shard_of(child_id(job_id, "RUN"), 16) == shard_of(child_id(job_id, "R", replay=True), 16)
        assert shard_of(child_id(job_id, "RUN"), 16) == shard_of(job_id, 16)
        assert shard_of(job_id, 1) == 0


def test_jobs_that_are_named_like_one_off_tasks_lie_with_these() -> None:
    assert {shard_of(f"task_{number}", 16) for number in range(1, 100)} == {0}
    assert len({shard_of(f"task-{number}", 16) for number in range(1, 100)}) > 10


def test_jobs_spread_evenly() -> None:
    for pattern in ("job-{}", "{}", "tenant/{}/report", "schedule_{}"):
        counts = Counter(shard_of(pattern.format(number), 16) for number in range(16_000))
        assert min(counts.values()) > 850, pattern
        assert max(counts.values()) < 1150, pattern


def test_the_shards_of_a_cluster_spread_over_its_masters() -> None:
    from redis.crc import key_slot

    for masters in (2, 3, 4, 5, 6):
        counts = Counter(key_slot(Keys(shard=shard).due.encode()) * masters // 16384 for shard in range(16))
        assert set(counts) == set(range(masters)), "a master without a shard has nothing to do"


def test_every_key_of_a_shard_has_the_slot_of_the_shard() -> None:
    from redis.crc import key_slot

    keys = Keys(shard=7)
    names = (
        keys.due,
        keys.meta,
        keys.history("{x}a"),
        keys.catalogue("copies"),
        keys.tasks("fresh"),
        *keys.record_keys,
    )
    assert len({key_slot(name.encode()) for name in names}) == 1


# ---- the number -----------------------------------------------------------------------------------------------------


def test_only_a_cluster_is_divided_unasked() -> None:
    assert default_number("redis+cluster://a,b") == 16
    assert default_number("redis://a") == default_number("unix:///x") == default_number("redis+sentinel://a/m") == 1


async def test_the_first_start_decides_the_number_and_another_is_refused(redis_url: str, redis: Redis) -> None:
    first = open_shards(redis_url, number=4)
    await first.confirm()
    assert first.is_confirmed
    assert await redis.hget(Keys().meta, "shards") == b"4"
    second = open_shards(redis_url, number=6)
    with pytest.raises(StoreRefused, match=r"4 shards, .* started for 6.*CRONPOST_SHARDS=4"):
        await second.confirm()
    assert not second.is_confirmed
    assert await second.stored_number() == 4
    for shards in (first, second):
        await shards.aclose()


@pytest.mark.parametrize("left", ["jobs", "meta"])
async def test_a_store_from_before_there_were_shards_has_one(redis_url: str, redis: Redis, left: str) -> None:
    if left == "jobs":
        await redis.hset(Keys().jobs, "a", encode_job(make_job("a")))
    else:
        await redis.hset(Keys().meta, "store_id", "STORE1")
    shards = open_shards(redis_url, number=4)
    assert await shards.stored_number() == 1
    with pytest.raises(StoreRefused, match="1 shard, "):
        await shards.confirm()
    await shards.aclose()


# ---- over all shards ------------------------------------------------------------------------------------------------


async def test_ids_come_in_the_order_of_their_bytes_from_whichever_shard(
    redis: Redis, shards: Shards[RedisStore]
) -> None:
    ids = [f"job-{number}" for number in range(40)] + ["ä", "z", "~", "job", "Ω"]
    await put(redis, shards, *ids)
    assert len({shards.number_of(one) for one in ids}) == 4
    expected = sorted(ids, key=str.encode)
    found: list[str] = []
    while page := await shards.page_ids(after=found[-1] if found else "", prefix="", limit=7):
        found += page
    assert found == expected
    assert await shards.page_ids(after="job-2", prefix="job-", limit=3) == ["job-20", "job-21", "job-22"]


async def test_jobs_are_read_from_their_shards_in_the_order_that_was_asked_for(
    redis: Redis, shards: Shards[RedisStore]
) -> None:
    ids = [f"job-{number}" for number in range(12)]
    await put(redis, shards, *ids)
    wanted = [*reversed(ids), "none"]
    found = await shards.read_many(wanted)
    assert [None if one.snapshot.job is None else one.snapshot.job.id for one in found] == [*reversed(ids), None]
    assert await shards.read_many([]) == []


async def test_sizes_are_sums_and_a_node_counts_once(redis: Redis, shards: Shards[RedisStore]) -> None:
    await put(redis, shards, *(f"job-{number}" for number in range(20)))
    for store in shards.all:
        await redis.zadd(store.keys.due, {"due": START_MS - 1})
        await redis.zadd(store.keys.nodes, {"node": START_MS})
    counts = await shards.counts(now_ms=START_MS)
    assert (counts.jobs, counts.due, counts.claimed, counts.nodes) == (20, 4, 0, 1)


async def test_a_shard_that_does_not_answer_is_named(redis_url: str) -> None:
    shards = open_shards(redis_url, number=3)
    away = open_shards("unix:///nowhere/redis.sock", number=1)
    assert await shards.faults() == []
    mixed = Shards([shards.all[0], away.all[0], shards.all[2]])
    (fault,) = await mixed.faults()
    assert fault.startswith("store: shard 1: Redis did not answer")
    assert await mixed.time_ms() > START_MS / 2
    # The clock is that of the first that answers.
    assert await Shards([away.all[0], shards.all[1]]).time_ms() > START_MS / 2
    for one in (shards, away):
        await one.aclose()
