"""A definition is read as it was stored, and needs little memory."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.job import Job
from scheduler_core.model.policies import Overlap, Policies, RetryRule
from scheduler_core.model.request import BearerAuth, Content, RequestSpec
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.redis.codec import decode_job, encode_job, encode_states
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import AtSpec, CronSpec, EverySpec, IntervalSpec, OnRequestSpec
from tests.support.factories import at, make_job, make_state
from tests.support.servers import server_under_test

OTHERS: dict[str, list[Any]] = {
    "id": ["another", "a\u4e16"],
    "url": ["https://h:1/x?y"],
    "trigger": [
        CronSpec("@daily", "Europe/Paris"),
        CronSpec("@daily"),
        IntervalSpec(5_000, 7, 99_000),
        AtSpec(12),
        AtSpec(12, now=True),
        EverySpec(100, 7),
        EverySpec(100, 7, "@every 100ms"),
        OnRequestSpec(),
    ],
    "payload": [b'{ "a":1 }', b""],
    "retry_already_running": [0, 7],
    "recovery_check": [True],
    "version": [2],
    "created_at_ms": [at(-200)],
    "updated_at_ms": [at(5), 0],
    "policies": [Policies(overlap=Overlap.ALLOW, retry=RetryRule(attempts=3))],
    "name": ["a name"],
    "target_id": [3],
    "request": [
        RequestSpec("PUT", (("X-A", "1"),), (("q", "\u4e16"),), auth=BearerAuth("t"), sign=("whsec_a", "whsec_b")),
        RequestSpec(content=Content.TEXT, content_type="text/csv"),
    ],
    "labels": [{"team": "billing", "\u4e16": ""}],
    "description": ["what it does"],
}
"""Other values than those of the usual job, for every field that there is."""


def test_every_field_has_another_value_here() -> None:
    assert list(OTHERS) == list(Job.__struct_fields__)


@pytest.mark.parametrize("job", [replace(make_job(), **{name: one}) for name, all_ in OTHERS.items() for one in all_])
def test_a_definition_is_read_as_it_was_stored(job: Job) -> None:
    assert decode_job(job.id, encode_job(job)) == job


@pytest.mark.parametrize("job", [replace(make_job(), **{name: all_[0]}) for name, all_ in OTHERS.items()])
def test_a_definition_of_the_first_form_is_read(job: Job) -> None:
    assert decode_job(job.id, msgspec.msgpack.encode(job)) == job


@pytest.mark.parametrize("stored", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"u": "http://h/", "p": b"1"})])
def test_what_is_no_definition_is_called_so(stored: bytes) -> None:
    with pytest.raises(CorruptDocument, match="its definition cannot be read"):
        decode_job("a", stored)


async def test_a_child_run_has_the_definition_of_its_job(store: RedisStore, redis: Redis) -> None:
    claim_key = child_id("job", "RUN")
    await redis.hset(store.keys.jobs, claim_key, encode_job(make_job("job")))
    await redis.hset(store.keys.states, claim_key, encode_states([make_state(0)])[0])
    assert (await store.read(claim_key)).snapshot.job == make_job("job")


def test_states_that_are_encoded_together_have_tags_of_their_own() -> None:
    state = make_state(0)
    one, other = encode_states([state, state])
    assert one[8:] == other[8:] == msgspec.msgpack.encode(state)
    assert one[:8] != other[:8]


BYTES_PER_JOB = {("Redis", 6): 600, ("Redis", 7): 660, ("Valkey", 9): 520}
"""Measured: 580 with Redis 6.2, 632 with 7.0, 478 with Valkey 9.1. Other servers may take what Redis 7 does."""


async def test_a_job_that_never_fired_takes_little_memory(store: RedisStore, redis: Redis) -> None:
    """With its indexes. (While Redis enlarges its hash tables it is up to a tenth more.)"""
    payload = b'{"text": "' + b"x" * 108 + b'"}'
    assert len(payload) == 120
    made = [
        (make_job(f"customer-{number:06}-sync", url="http://127.0.0.1:8080/enqueue", payload=payload), make_state(10))
        for number in range(12_000)
    ]
    await store.create(made[:1])
    before = (await redis.info("memory"))["used_memory"]
    for start in range(1, len(made), 500):
        await store.create(made[start : start + 500])
    after = (await redis.info("memory"))["used_memory"]
    server = server_under_test()
    assert (after - before) / (len(made) - 1) < BYTES_PER_JOB.get((server.name, server.version[0]), 660)
    stored = sum([len(encode_job(job)) + len(encode_states([state])[0]) for job, state in made[:100]]) / 100
    assert stored < 250, "what we store ourselves, whatever the server adds"
