"""A batch of upserts stores the same values as the same upserts one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduler_core.base.errors import CronpostError, StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import RunState
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.codec import TAG_BYTES, encode_job, encode_state
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.settlements import score
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases import batch
from scheduler_core.usecases.batch import Upserted, upsert_many
from scheduler_core.usecases.jobs import JobService
from tests.support.examples import examples
from tests.support.factories import at, make_job, make_run, make_state, retrying
from tests.support.manual_clock import ManualClock

IDS = ("a", "b", "c", "d")
DEFINITIONS: list[dict[str, Any]] = [
    {},
    {"payload": b"2"},
    {"trigger": CronSpec("0 0 * * * *")},
    {"trigger": CronSpec("0 0 0 1 1 * 2001")},
    {"policies": Policies(overlap=Overlap.ALLOW, max_concurrent=3)},
    {"policies": Policies(max_runs=2)},
    {"policies": Policies(jitter_ms=5_000)},
    {"policies": Policies(ends_at_ms=at(-5))},
    {"policies": Policies(ends_at_ms=at(500), keep=True)},
]
TAG = b"12345678"
LEASE = f"7 node 7 {at(0)} 0 {at(0)} 1"


class Side:
    """A job service with its own key prefix."""

    def __init__(self, url: str, prefix: str) -> None:
        self.store = RedisStore(connect(url), keys=Keys(prefix=prefix))
        self.clock = ManualClock()
        self.jobs = JobService(self.store, self.clock, Metrics())

    @property
    def redis(self) -> Any:
        return self.store.client

    async def put(self, job: Job | bytes | None, state: JobState | None, *, job_id: str, lease: str = "") -> None:
        """Store a job, its state and its lease, as they were before the batch."""
        k = self.store.keys
        if job is not None:
            await self.redis.hset(k.jobs, job_id, job if isinstance(job, bytes) else encode_job(job))
            await self.redis.zadd(k.ids, {job_id: 0})
        if state is not None:
            await self.redis.hset(k.states, job_id, TAG + encode_state(state)[TAG_BYTES:])
            await self.redis.zadd(k.due, {job_id: score(state)})
        if lease:
            await self.redis.hset(k.leases, job_id, lease)

    async def content(self) -> dict[str, Any]:
        """List all stored values, without the prefix of the keys and the tags of the states."""
        found: dict[str, Any] = {}
        prefix = self.store.keys.prefix
        for raw in sorted(await self.redis.keys(f"{prefix}:*")):
            key, kind = raw.decode(), await self.redis.type(raw)
            name = key.removeprefix(prefix)
            if kind == b"hash":
                values = await self.redis.hgetall(key)
                found[name] = {
                    claim_key: value[TAG_BYTES:] if key == self.store.keys.states else value
                    for claim_key, value in values.items()
                }
            elif kind == b"zset":
                found[name] = dict(await self.redis.zrange(key, 0, -1, withscores=True))
            else:
                found[name] = await self.redis.lrange(key, 0, -1)
        return found


@pytest.fixture
async def side(redis_url: str) -> AsyncIterator[Side]:
    side = Side(redis_url, "cronpost")
    yield side
    await side.store.aclose()


async def _before(side: Side, kinds: list[str]) -> None:
    for job_id, kind in zip(IDS, kinds, strict=True):
        job = make_job(job_id)
        if kind == "same":
            await side.put(job, make_state(10), job_id=job_id)
        elif kind == "due":
            await side.put(job, make_state(-40), job_id=job_id)
        elif kind == "paused":
            await side.put(job, make_state(-40, paused_at_ms=at(-50)), job_id=job_id)
        elif kind == "quarantined":
            await side.put(job, make_state(-40, quarantine="why"), job_id=job_id)
        elif kind == "exhausted":
            await side.put(job, make_state(None, open=retrying(-10, 5, id=f"RUN{job_id}")), job_id=job_id)
        elif kind == "held":
            await side.put(job, make_state(0), job_id=job_id, lease=LEASE)
        elif kind == "tombstone":
            await side.put(
                None, JobState(open=make_run(-10, id=f"RUN{job_id}"), deleted=True), job_id=job_id, lease=LEASE
            )
        elif kind == "overlapping":
            allowing = replace(job, policies=Policies(overlap=Overlap.ALLOW, max_concurrent=3))
            claim_key = child_id(job_id, f"RUN{job_id}")
            run = retrying(-10, 5, id=f"RUN{job_id}")
            await side.put(allowing, make_state(10), job_id=job_id)
            await side.put(allowing, JobState(open=run, child=True), job_id=claim_key)
            await side.redis.zrem(side.store.keys.ids, claim_key)
            await side.redis.zadd(side.store.keys.children, {claim_key: 0})
        elif kind == "leased":
            await side.put(None, None, job_id=job_id, lease=LEASE)
        elif kind == "left over":
            # A child run whose job was deleted by a process that died before it cancelled the job's child runs.
            claim_key = child_id(job_id, f"RUN{job_id}")
            await side.put(job, JobState(open=retrying(-10, 5, id=f"RUN{job_id}"), child=True), job_id=claim_key)
            await side.redis.zrem(side.store.keys.ids, claim_key)
            await side.redis.zadd(side.store.keys.children, {claim_key: 0})
        elif kind == "unreadable":
            await side.put(b"\xc1", make_state(10), job_id=job_id)


KINDS = (
    "nothing",
    "same",
    "due",
    "paused",
    "quarantined",
    "exhausted",
    "held",
    "tombstone",
    "overlapping",
    "leased",
    "left over",
    "unreadable",
)


def shown(results: list[Upserted | CronpostError]) -> list[Any]:
    return [
        (type(one), str(one)) if isinstance(one, CronpostError) else (one[1], one[0].job, one[0].state)
        for one in results
    ]


@pytest.mark.slow
@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=len(IDS), max_size=len(IDS)),
    upserts=st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(DEFINITIONS)), min_size=1, max_size=8),
)
def test_a_batch_stores_the_same_values_as_its_upserts_one_after_the_other(
    redis_url: str, kinds: list[str], upserts: list[tuple[str, dict[str, Any]]]
) -> None:
    async def compare() -> None:
        one_by_one, at_once = Side(redis_url, "one"), Side(redis_url, "two")
        await one_by_one.redis.flushall()
        jobs = [make_job(job_id, **fields) for job_id, fields in upserts]
        singly: list[Upserted | CronpostError] = []
        try:
            for side in (one_by_one, at_once):
                await _before(side, kinds)
            for job in jobs:
                try:
                    singly.append(await one_by_one.jobs.upsert(job))
                except CronpostError as error:
                    singly.append(error)
            results = await upsert_many(at_once.jobs, jobs)
            assert shown(results) == shown(singly)
            assert await at_once.content() == await one_by_one.content()
        finally:
            await one_by_one.store.aclose()
            await at_once.store.aclose()

    asyncio.run(compare())


@pytest.mark.slow
async def test_concurrent_batches_leave_one_definition_of_each_job(side: Side) -> None:
    ids = [f"job {number:03}" for number in range(150)]
    batches = [[make_job(job_id, payload=b"%d" % number) for job_id in ids] for number in range(6)]
    for results in await asyncio.gather(*(upsert_many(side.jobs, jobs) for jobs in batches)):
        assert not [one for one in results if isinstance(one, CronpostError)]
    k = side.store.keys
    assert await side.redis.zcard(k.due) == await side.redis.zcard(k.ids) == await side.redis.hlen(k.jobs) == len(ids)
    for stored in await side.store.read_many(ids):
        assert stored.fault is None
        assert stored.snapshot.job is not None
        # Each of the six batches changed the job, and no change was lost.
        assert stored.snapshot.job.version == 6


async def test_a_job_changed_during_the_batch_is_upserted_again_alone(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upsert_many(side.jobs, [make_job("a"), make_job("b")])
    change_many = RedisStore.change_many

    async def late(store: RedisStore, changes: Any) -> Any:
        monkeypatch.undo()
        await side.jobs.pause("a")
        return await change_many(store, changes)

    monkeypatch.setattr(RedisStore, "change_many", late)
    results = await upsert_many(side.jobs, [make_job("a", payload=b"2"), make_job("b", payload=b"2")])
    for one in results:
        assert not isinstance(one, CronpostError)
        assert one[0].job is not None
        assert (one[0].job.payload, one[0].job.version) == (b"2", 2)
    assert (await side.jobs.get("a")).status == "paused"


async def test_an_earlier_wake_up_is_published_to_the_nodes(side: Side) -> None:
    pubsub = side.redis.pubsub()
    await pubsub.subscribe(side.store.keys.wake)
    await upsert_many(side.jobs, [make_job("late", trigger=CronSpec("@yearly")), make_job("a"), make_job("b")])
    await upsert_many(side.jobs, [make_job("c", trigger=CronSpec("@yearly"))])
    await upsert_many(side.jobs, [make_job("c", trigger=CronSpec("* * * * * *"))])
    await side.redis.publish(side.store.keys.wake, "end")
    received: list[bytes] = []
    while received[-1:] != [b"end"]:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
        received += [] if message is None else [message["data"]]
    await pubsub.aclose()
    assert received == [b"%d" % at(10), b"%d" % at(1), b"end"]


async def test_a_batch_stops_when_redis_does_not_answer(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "CHUNK", 2)
    create, tried = RedisStore.create, []

    async def silent(store: RedisStore, new: Any) -> Any:
        tried.append(len(new))
        if len(tried) == 2:
            raise StoreUnavailable("Redis did not answer", effect_unknown=True)
        return await create(store, new)

    monkeypatch.setattr(RedisStore, "create", silent)
    results = await upsert_many(side.jobs, [make_job(job_id) for job_id in ("a", "b", "c", "d", "e")])
    assert [isinstance(one, StoreUnavailable) for one in results] == [False, False, True, True, True]
    assert tried == [2, 2]


async def test_a_new_job_over_a_tombstone_keeps_the_open_run(side: Side) -> None:
    run = make_run(-10, state=RunState.TAKEN)
    await side.put(None, JobState(open=run, deleted=True), job_id="a", lease=LEASE)
    (result,) = await upsert_many(side.jobs, [make_job("a")])
    assert not isinstance(result, CronpostError)
    assert result[0].state.open == replace(run, list_replaced=True)
