"""The record of a settled run gets a note of the run that runs it again, in the step that requests that run."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.model.run import Original, Reason, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.history import mark_of
from scheduler_core.store.jobs import Entry, Retention, StoredJob
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.codec import decode_entry, record_args
from scheduler_core.store.redis.store import RedisStore
from tests.store.test_records import DETAIL, HISTORY, check_agreement, settle
from tests.support.factories import make_job, make_state, pending, settled_run
from tests.support.stores import KEYS, put

FAILED = settled_run(0, 500)


async def requested(store: RedisStore, stored: StoredJob, run: Run, new_id: str, raw: bytes | None = None) -> bool:
    """Request a run that runs ``run`` again; return whether it was stored."""
    settled = await store.settled_record(run.id)
    assert settled is not None
    settled = settled if raw is None else replace(settled, raw=raw)
    step = Transition(make_state(86_400, pending=(pending(new_id, 1),)), mark=mark_of(settled, new_id))
    return await store.change("job", stored, step)


async def sizes_in_lists(redis: Redis) -> dict[str, int]:
    rows: list[Any] = []
    for key in (KEYS.history("job"), KEYS.failures("job")):
        rows += await redis.lrange(key, 0, -1)
    return {row.split()[1].decode(): int(row.split()[2]) for row in rows if row.count(b" ") == 2}


@pytest.mark.parametrize("later", [0, HISTORY + 1], ids=["in the history", "among the failures"])
async def test_a_mark_replaces_the_record_and_keeps_all_sizes_exact(
    store: RedisStore, redis: Redis, later: int
) -> None:
    await settle(store, redis, [FAILED], detail=DETAIL)
    for number in range(later):
        await settle(store, redis, [settled_run(number + 1)])
    assert await requested(store, await store.read("job"), FAILED, "NEW")
    marked = await store.settled_record(FAILED.id)
    assert marked is not None
    assert (marked.run, marked.detail) == (replace(FAILED, replayed_by="NEW"), DETAIL)
    await check_agreement(redis)
    content = len(marked.raw) + (await redis.hstrlen(KEYS.details, FAILED.id))
    assert (await sizes_in_lists(redis))[FAILED.id] == content
    assert (await store.history("job", limit=100))[-1] == marked.run


async def test_sizes_agree_after_a_marked_record_is_trimmed(redis: Redis, redis_url: str) -> None:
    store = RedisStore(connect(redis_url), retention=Retention(entries=1, failures=1))
    await settle(store, redis, [FAILED], detail=DETAIL)
    assert await requested(store, await store.read("job"), FAILED, "NEW")
    for number in range(4):
        await settle(store, redis, [settled_run(number + 1, 500)])
    assert await store.settled_record(FAILED.id) is None
    await check_agreement(redis)
    await store.aclose()


async def test_a_record_that_changed_since_it_was_read_refuses_the_whole_step(store: RedisStore, redis: Redis) -> None:
    await settle(store, redis, [FAILED])
    before = await store.settled_record(FAILED.id)
    assert before is not None
    assert await requested(store, await store.read("job"), FAILED, "NEW")
    stored = await store.read("job")
    assert not await requested(store, stored, FAILED, "OTHER", raw=before.raw)
    assert (await store.read("job")).tag == stored.tag
    after = await store.settled_record(FAILED.id)
    assert after is not None
    assert after.run.replayed_by == "NEW"


async def test_a_job_that_changed_since_it_was_read_leaves_the_record(store: RedisStore, redis: Redis) -> None:
    await settle(store, redis, [FAILED])
    stored = await store.read("job")
    await store.change("job", stored, Transition(make_state(99)))
    assert not await requested(store, stored, FAILED, "NEW")
    found = await store.settled_record(FAILED.id)
    assert found is not None
    assert found.run == FAILED


async def test_a_lost_record_refuses_the_step(store: RedisStore, redis: Redis) -> None:
    await settle(store, redis, [FAILED])
    settled = await store.settled_record(FAILED.id)
    assert settled is not None
    await redis.hdel(KEYS.records, FAILED.id)
    step = Transition(make_state(86_400), mark=mark_of(settled, "NEW"))
    assert not await store.change("job", await store.read("job"), step)


async def test_lists_of_a_wrong_type_do_not_stop_a_mark(store: RedisStore, redis: Redis) -> None:
    await settle(store, redis, [FAILED])
    for key in (KEYS.history("job"), KEYS.failures("job"), KEYS.details):
        await redis.delete(key)
        await redis.set(key, "no list")
    step_from = await store.read("job")
    assert await requested_without_detail(store, redis, step_from)
    assert b"NEW" in (await redis.hget(KEYS.records, FAILED.id) or b"")


async def requested_without_detail(store: RedisStore, redis: Redis, stored: StoredJob) -> bool:
    raw = await redis.hget(KEYS.records, FAILED.id)
    found = (await store.history_store().records([FAILED.id]))[0]
    assert found is not None
    assert isinstance(raw, bytes)
    mark = mark_of(replace(found, raw=raw), "NEW")
    return await store.change("job", stored, Transition(make_state(86_400), mark=mark))


# ---- payloads and entries --------------------------------------------------------------------------------------------


async def test_the_own_payload_of_a_run_is_stored_beside_its_record(store: RedisStore, redis: Redis) -> None:
    own, with_detail = replace(FAILED, payload=b"own"), settled_run(1, 500, payload=b"other")
    await settle(store, redis, [own])
    await settle(store, redis, [with_detail], detail=DETAIL)
    first, second = [await store.settled_record(run.id) for run in (own, with_detail)]
    assert first is not None
    assert second is not None
    assert (first.run, first.detail) == (own, None)
    assert (second.run, second.detail) == (with_detail, DETAIL)
    assert b"own" not in first.raw
    listed = (await store.history_store().records([own.id]))[0]
    assert listed is not None
    assert listed.run == FAILED
    await check_agreement(redis)


@pytest.mark.parametrize(
    ("original", "letter", "known"),
    [
        (Reason.SCHEDULED, "p", Reason.SCHEDULED),
        (Reason.RECOVERY, "p", Reason.SCHEDULED),
        (Reason.BACKFILL, "p", Reason.SCHEDULED),
        (Reason.MANUAL, "q", Reason.MANUAL),
        (Reason.CONTINUATION, "q", Reason.MANUAL),
    ],
)
def test_the_entry_of_a_replay_says_whether_its_fire_time_is_one_of_the_trigger(
    original: Reason, letter: str, known: Reason
) -> None:
    run = replace(FAILED, reason=Reason.REPLAY, replay_of=Original("OLD", original, FAILED.fire_time_ms))
    head = str(record_args("job", run).entry)
    assert head == f"F{FAILED.fire_time_ms}{letter}"
    entry = decode_entry(f"{head} {run.id} 99".encode())
    assert entry == Entry("F", run.id, run.fire_time_ms, Reason.REPLAY, known)
    assert isinstance(entry, Entry)
    bare = entry.bare()
    assert (bare.reason, bare.replay_of, bare.state) == (
        Reason.REPLAY,
        Original("", known, run.fire_time_ms),
        RunState.FAILED,
    )


async def test_a_job_is_listed_while_a_requested_run_has_not_started(store: RedisStore, redis: Redis) -> None:
    await put(redis, make_job("job"), make_state(86_400))
    for run_ids, score in ((("0" * 10 + "A" * 16, "0" * 9 + "1" + "A" * 16), 1), ((), None)):
        state = make_state(86_400, pending=tuple(pending(run_id, 1) for run_id in run_ids))
        assert await store.change("job", await store.read("job"), Transition(state))
        assert await redis.zscore(KEYS.index("pending"), "job") == score
