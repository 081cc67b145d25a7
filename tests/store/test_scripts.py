"""Each script: a full state, one operation, the full state afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import StoreRefused
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job_state import JobState
from scheduler_core.model.lease import Lease, LostCause, LostClaim
from scheduler_core.model.run import Miss, MissReason, Reason
from scheduler_core.model.transition import Transition
from scheduler_core.store.jobs import Entry
from scheduler_core.store.loop import ClaimedJob, OwnLease
from scheduler_core.store.redis.codec import decode_entry, decode_lease, decode_record, decode_state, encode_state
from scheduler_core.store.redis.keys import CLAIMED, IDLE, PAUSED, QUARANTINED
from scheduler_core.store.redis.nodes import DOWNTIMES_KEPT
from scheduler_core.store.redis.settlements import encode_lost, encode_settlement, score
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import STORE_ID, at, make_job, make_run, make_state, pending, settled_run
from tests.support.manual_clock import START_MS
from tests.support.stores import DEAD_AFTER_MS, KEYS, beat, claim, dump, put

FENCE = 1000 * at(1)
"""The first one that is given by a claim at that time."""
MISS = Miss(MissReason.OVERLAP, at(0), at(10), at(12))
OTHER = "other"


async def seed(redis: Redis, store: RedisStore) -> None:
    """Store a due job, one that is not due, a paused one, and a living node."""
    await beat(store, starting=True)
    await put(redis, make_job("due"), make_state(0))
    await put(redis, make_job("later"), make_state(30))
    await put(redis, make_job("paused"), make_state(0, paused_at_ms=at(-1)))


async def claim_any(store: RedisStore, now_ms: int) -> list[ClaimedJob]:
    """Claim due jobs, or else a suspect: the first claim that finds one moves it out of the due part."""
    return (await claim(store, now_ms=now_ms)).jobs or (await claim(store, now_ms=now_ms)).jobs


async def one_claimed(store: RedisStore, redis: Redis, **options: Any) -> ClaimedJob:
    await seed(redis, store)
    jobs = (await claim(store, token=1, **options)).jobs
    assert len(jobs) == 1
    return jobs[0]


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what is in ``after`` and was not in ``before``, key by key; None for removed entries."""
    found: dict[str, Any] = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) or isinstance(new, dict):
            old, new = old or {}, new or {}
            found[key] = {
                field.decode(): new.get(field) for field in old.keys() | new.keys() if old.get(field) != new.get(field)
            }
        else:
            found[key] = new
    return found


# ---- claim ------------------------------------------------------------------------------------------------------


async def test_a_claim_gives_due_jobs_a_lease_and_touches_nothing_else(store: RedisStore, redis: Redis) -> None:
    await seed(redis, store)
    before = await dump(redis)
    found = await claim(store, token=1, now_ms=at(1))
    assert changes(before, await dump(redis)) == {
        KEYS.due: {"due": CLAIMED + at(1)},
        KEYS.claims: {"node": b"1"},
        KEYS.leases: {"due": f"{FENCE} node {FENCE} {at(1)} 0 {at(0)} 1:0".encode()},
        KEYS.meta: {"fence": b"%d" % FENCE},
    }
    assert found.next_wake_ms == at(30)
    assert found.downtimes is None
    (job,) = found.jobs
    assert (job.job, job.state, job.fault) == (make_job("due"), make_state(0), None)
    assert job.lease == Lease(FENCE, "node", FENCE, at(1), 0, 0, wake_ms=at(0))


async def test_a_claim_of_nothing_changes_nothing_and_says_when_to_come_back(store: RedisStore, redis: Redis) -> None:
    await seed(redis, store)
    before = await dump(redis)
    found = await claim(store, now_ms=at(-1))
    assert (found.jobs, found.next_wake_ms) == ([], at(0))
    assert await dump(redis) == before


@pytest.mark.parametrize("last_beat", [None, -5.001])
async def test_a_node_whose_heartbeat_is_over_claims_nothing(
    store: RedisStore, redis: Redis, last_beat: float | None
) -> None:
    await seed(redis, store)
    await redis.delete(KEYS.nodes)
    if last_beat is not None:
        await redis.zadd(KEYS.nodes, {"node": at(last_beat)})
    before = await dump(redis)
    found = await claim(store)
    assert found.must_beat
    assert found.jobs == []
    assert await dump(redis) == before


async def test_no_job_is_claimed_twice_and_fences_increase(store: RedisStore, redis: Redis) -> None:
    """It grows by one for each job and is never behind the time, so it also grows after a store lost its counter."""
    await beat(store)
    for number in range(20):
        await put(redis, make_job(f"job{number}"), make_state(0))
    fences: list[int] = []
    ids: list[str] = []
    for limit in (3, 1, 7, 100, 100):
        for job in (await claim(store, limit=limit)).jobs:
            fences.append(job.lease.fence)
            ids.append(job.id)
    assert len(ids) == len(set(ids)) == 20
    assert fences == list(range(fences[0], fences[0] + 20))
    assert fences[0] == 1000 * at(0)


async def test_with_a_backlog_half_of_a_claim_goes_to_what_became_due_just_now(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    for number in range(20):
        await put(redis, make_job(f"old{number:02}"), make_state(-100 + number))
        await put(redis, make_job(f"new{number:02}"), make_state(-9 + number / 10))
    found = [job.id for job in (await claim(store, limit=10)).jobs]
    assert found == [f"{age}{number:02}" for number in range(5) for age in ("new", "old")]


async def test_a_backlog_with_little_new_fills_the_claim_with_the_old(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    for number in range(20):
        await put(redis, make_job(f"old{number:02}"), make_state(-100 + number))
    await put(redis, make_job("new"), make_state(-1))
    found = [job.id for job in (await claim(store, limit=10)).jobs]
    assert found == ["new"] + [f"old{number:02}" for number in range(9)]
    assert len((await claim(store, limit=1)).jobs) == 1


async def test_a_claim_returns_downtimes_only_to_a_node_that_does_not_know_them(
    store: RedisStore, redis: Redis
) -> None:
    await seed(redis, store)
    await beat(store, now_ms=at(60))
    assert (await claim(store, now_ms=at(-1), downtime_count=1)).downtimes is None
    found = await claim(store, now_ms=at(-1), downtime_count=0)
    assert found.downtimes == (Downtime(at(0), at(60)),)
    assert found.downtime_count == 1


async def test_the_most_that_one_claim_takes_is_a_thousand(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await redis.zadd(KEYS.due, {f"job{number}": at(0) for number in range(1_100)})
    assert len((await claim(store, limit=5_000)).jobs) == 1_000


# ---- settle -----------------------------------------------------------------------------------------------------


async def test_a_settle_stores_the_state_releases_the_lease_and_appends_the_records(
    store: RedisStore, redis: Redis
) -> None:
    job = await one_claimed(store, redis)
    before = await dump(redis)
    run = settled_run(0)
    settlement = encode_settlement(job, Transition(make_state(10), (run, MISS)))
    assert [answer.result for answer in await store.settle([settlement])] == ["ok"]
    after = await dump(redis)
    found = changes(before, after)
    assert decode_state(found[KEYS.states].pop("due")) == make_state(10)
    record = found.pop(KEYS.records)[run.id]
    assert decode_record(record) == ("due", run)
    mark, first, second = found.pop(KEYS.history("due"))
    assert mark == f"b{at(0) - 1}".encode(), "what came before is not accounted for"
    assert (decode_entry(first), decode_entry(second)) == (Entry("S", run.id, at(0), Reason.SCHEDULED), MISS)
    minute = f"m:{at(0) // 60_000}"
    assert found.pop(KEYS.counts) == {"S": b"1", "latency": b"12500", "bytes": b"%d" % len(record), minute: b"1"}
    assert found.pop(KEYS.runs("S")) == {run.id: at(0)}
    assert found == {KEYS.due: {"due": at(10)}, KEYS.leases: {"due": None}, KEYS.states: {}}
    assert (
        30_000 < await redis.pttl(KEYS.history("due")) <= 60_938
    )  # the retention and a 64th of it, less the time since
    assert await store.history("due") == [MISS, run]


async def test_the_history_keeps_its_latest_entries(store: RedisStore, redis: Redis) -> None:
    await seed(redis, store)
    for number in range(8):
        (job,) = (await claim(store)).jobs
        await store.settle([encode_settlement(job, Transition(make_state(0), (settled_run(number),)))])
    found = await store.history("due")
    assert [record.fire_time_ms for record in found if not isinstance(record, Miss)] == [
        at(number) for number in (7, 6, 5, 4, 3)
    ]
    assert len(await store.history("due", skip=3, limit=10)) == 2
    assert len(await store.history("due", skip=1, limit=1)) == 1


@pytest.mark.parametrize(
    "transition",
    [
        Transition(make_state(10), (MISS,)),
        Transition(make_state(None), (MISS,), remove=True),
        Transition(None, (MISS,), remove=True),
        None,
    ],
)
async def test_the_second_of_two_equal_settles_is_done_already_and_changes_nothing(
    store: RedisStore, redis: Redis, transition: Transition | None
) -> None:
    settlement = encode_settlement(await one_claimed(store, redis), transition)
    assert (await store.settle([settlement]))[0].result == "ok"
    before = await dump(redis)
    assert (await store.settle([settlement]))[0].result == "done"
    assert await dump(redis) == before
    if transition is not None and not transition.remove:
        await beat(store, now_ms=at(10))
        assert len((await claim(store, now_ms=at(10))).jobs) == 1
        assert (await store.settle([settlement]))[0].result == "done", "also when the job was claimed again since"


@pytest.mark.parametrize("transition", [Transition(make_state(10), (MISS,)), Transition(None, remove=True), None])
async def test_a_fence_that_has_passed_to_another_is_refused(
    store: RedisStore, redis: Redis, transition: Transition | None
) -> None:
    late = await one_claimed(store, redis)
    settlement = encode_settlement(late, transition)
    await beat(store, OTHER, at(20))
    assert await store.reap(now_ms=at(20), dead_after_ms=DEAD_AFTER_MS) == ["due"]
    given_back = await dump(redis)
    result = (await store.settle([settlement]))[0].result
    assert result == ("done" if transition is None else "stale"), "the job was released already"
    assert await dump(redis) == given_back
    (again,) = (await claim(store, node=OTHER, now_ms=at(20))).jobs
    assert again.lease.fence > late.lease.fence
    owned = await dump(redis)
    assert (await store.settle([settlement]))[0].result == "stale"
    assert await dump(redis) == owned


async def test_a_fence_that_a_redis_gave_twice_does_not_let_another_node_settle(
    store: RedisStore, redis: Redis
) -> None:
    """A crash can cost Redis its last writes, the fence counter's among them."""
    late = await one_claimed(store, redis)
    settlement = encode_settlement(late, Transition(make_state(10), (MISS,)))
    await redis.hdel(KEYS.leases, "due")
    await redis.zadd(KEYS.due, {"due": at(0)})
    await redis.hset(KEYS.meta, "fence", 0)
    await beat(store, OTHER)
    (again,) = (await claim(store, node=OTHER)).jobs
    assert again.lease.fence == late.lease.fence
    owned = await dump(redis)
    assert (await store.settle([settlement]))[0].result == "stale"
    assert await dump(redis) == owned


async def test_a_job_that_was_changed_meanwhile_is_answered_with_what_is_stored(
    store: RedisStore, redis: Redis
) -> None:
    job = await one_claimed(store, redis)
    stored = await store.read("due")
    changed = make_state(40, open=make_run(0, in_flight=True))
    assert await store.change("due", stored, Transition(changed, job=make_job("due", version=2)))
    before = await dump(redis)
    (answer,) = await store.settle([encode_settlement(job, Transition(make_state(10), (MISS,)))])
    assert answer.result == "changed"
    assert answer.stored is not None
    assert (answer.stored.job, answer.stored.state) == (make_job("due", version=2), changed)
    assert await dump(redis) == before
    again = encode_settlement(answer.stored, Transition(make_state(40), (MISS,)))
    assert (await store.settle([again]))[0].result == "ok"
    assert decode_state((await dump(redis))[KEYS.states][b"due"]) == make_state(40)


async def test_a_released_job_is_due_again_with_the_facts_of_its_first_claim(store: RedisStore, redis: Redis) -> None:
    job = await one_claimed(store, redis, now_ms=at(1))
    await store.settle([encode_settlement(job, None)])
    content = await dump(redis)
    assert content[KEYS.due][b"due"] == at(0)
    assert decode_lease(content[KEYS.leases][b"due"]) == Lease(FENCE, "-", FENCE, at(1), 0, 0, wake_ms=at(0))
    (again,) = (await claim(store, now_ms=at(4), token=None)).jobs
    assert again.lease == Lease(1000 * at(4), "node", FENCE, at(1), 0, 0, wake_ms=at(0))
    assert (again.job, again.state) == (job.job, job.state)


async def test_a_finished_job_leaves_nothing_but_its_history(store: RedisStore, redis: Redis) -> None:
    job = await one_claimed(store, redis)
    await store.settle([encode_settlement(job, Transition(None, (MISS,), remove=True))])
    content = await dump(redis)
    for key in (KEYS.due, KEYS.jobs, KEYS.states, KEYS.leases, KEYS.ids):
        assert b"due" not in content.get(key, {})
    assert await store.history("due") == [MISS]


async def test_a_batch_is_settled_job_by_job(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    for name in ("a", "b", "c"):
        await put(redis, make_job(name), make_state(0))
    a, b, c = (await claim(store)).jobs
    stored = await store.read("b")
    assert await store.change("b", stored, Transition(make_state(50)))
    taken_over = replace(c, lease=replace(c.lease, fence=c.lease.fence + 9))
    stale = encode_settlement(taken_over, Transition(make_state(1)))
    moved_on = Transition(make_state(10), (MISS,))
    answers = await store.settle([encode_settlement(a, moved_on), encode_settlement(b, moved_on), stale])
    assert [answer.result for answer in answers] == ["ok", "changed", "stale"]
    assert await store.history("a") == [MISS]
    assert await store.history("b") == []


# ---- change -----------------------------------------------------------------------------------------------------


async def test_a_change_of_an_idle_job_sets_its_next_wake_up(store: RedisStore, redis: Redis) -> None:
    await seed(redis, store)
    before = await dump(redis)
    stored = await store.read("later")
    assert await store.change("later", stored, Transition(make_state(20), (MISS,), job=make_job("later", version=2)))
    found = changes(before, await dump(redis))
    assert set(found) == {KEYS.due, KEYS.jobs, KEYS.states, KEYS.history("later")}
    assert found[KEYS.due] == {"later": at(20)}


async def test_a_change_of_a_claimed_job_leaves_the_due_set_alone(store: RedisStore, redis: Redis) -> None:
    await one_claimed(store, redis)
    before = await dump(redis)
    stored = await store.read("due")
    assert await store.change("due", stored, Transition(make_state(20), job=make_job("due", version=2)))
    assert set(changes(before, await dump(redis))) == {KEYS.jobs, KEYS.states}


async def test_a_change_is_refused_when_state_or_lease_are_not_what_it_was_planned_from(
    store: RedisStore, redis: Redis
) -> None:
    await seed(redis, store)
    stale = await store.read("due")
    (job,) = (await claim(store)).jobs
    before = await dump(redis)
    assert not await store.change("due", stale, Transition(make_state(20)))
    assert await dump(redis) == before
    stale = await store.read("due")
    await store.settle([encode_settlement(job, Transition(make_state(10)))])
    before = await dump(redis)
    assert not await store.change("due", stale, Transition(make_state(20)))
    assert not await store.change("due", await store.read("nothing"), Transition(make_state(20)))
    assert await dump(redis) == before


async def test_a_delete_leaves_nothing_but_history_or_while_claimed_a_tombstone(
    store: RedisStore, redis: Redis
) -> None:
    await one_claimed(store, redis)
    tombstone = JobState(open=make_run(0, in_flight=True), deleted=True)
    for name, state in (("later", None), ("due", tombstone)):
        assert await store.change(name, await store.read(name), Transition(state, (MISS,), remove=True))
    content = await dump(redis)
    assert set(content[KEYS.jobs]) == set(content[KEYS.ids]) == {b"paused"}
    assert set(content[KEYS.due]) == {b"paused", b"due"}
    assert set(content[KEYS.states]) == {b"paused", b"due"}
    assert set(content[KEYS.leases]) == {b"due"}
    (job,) = await store.recover(node="node", token=1)
    (answer,) = await store.settle([encode_settlement(job, Transition(None, remove=True))])
    assert answer.result == "ok"
    assert set((await dump(redis))[KEYS.due]) == {b"paused"}


async def test_a_history_of_the_wrong_type_refuses_a_change_before_anything_is_written(
    store: RedisStore, redis: Redis
) -> None:
    await seed(redis, store)
    await redis.set(KEYS.history("later"), "no list")
    before = await dump(redis)
    stored = await store.read("later")
    for transition in (Transition(make_state(20), (MISS,), job=make_job("x")), Transition(None, (MISS,), remove=True)):
        with pytest.raises(StoreRefused):
            await store.change("later", stored, transition)
    assert await dump(redis) == before


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (make_state(10), at(10)),
        (make_state(None), IDLE),
        (make_state(10, paused_at_ms=1), PAUSED),
        (make_state(10, paused_at_ms=1, pending=(pending("P", 3),)), at(3)),
        (make_state(10, quarantine="q", pending=(pending("P", 3),)), QUARANTINED),
    ],
)
def test_a_job_has_one_score_and_only_a_client_wakes_those_beyond_the_claimed(state: JobState, expected: int) -> None:
    assert score(state) == expected
    assert expected < CLAIMED or expected >= IDLE > CLAIMED + 3 * START_MS / 2


# ---- beat, leave, reap, recover ---------------------------------------------------------------------------------


async def downtimes(redis: Redis) -> list[tuple[float, float]]:
    stored: Any = await redis.hget(KEYS.meta, "downtimes") or b""
    text = stored.decode()
    return [
        ((int(after) - START_MS) / 1000, (int(until) - START_MS) / 1000)
        for after, until in (pair.split(":") for pair in text.split(",") if pair)
    ]


async def send_beat(
    store: RedisStore, node: str, seconds: float, *, starting: bool = False, sole: bool = False
) -> None:
    await store.beat(
        node=node,
        now_ms=at(seconds),
        starting=starting,
        sole=sole,
        start_gap_ms=2_000,
        lived_gap_ms=10_000,
        forget_ms=3_600_000,
        store_id="XXXXXX",
    )


async def test_the_first_beat_of_a_store_names_it_and_finds_no_downtime(store: RedisStore, redis: Redis) -> None:
    await beat(store, starting=True)
    assert await dump(redis) == {
        KEYS.nodes: {b"node": START_MS},
        KEYS.meta: {b"store_id": STORE_ID.encode(), b"last_beat": str(START_MS).encode()},
    }
    answer = await store.beat(
        node="node",
        now_ms=at(1),
        starting=False,
        sole=False,
        start_gap_ms=1,
        lived_gap_ms=10_000,
        forget_ms=1,
        store_id="XXXXXX",
    )
    assert (answer.store_id, answer.nodes, answer.downtimes, answer.downtime_count) == (STORE_ID, 1, (), 0)


@pytest.mark.parametrize(
    ("seconds", "starting", "sole", "others", "expected"),
    [
        (1, False, False, False, False),
        (10, False, False, False, False),
        (10.001, False, False, False, True),
        (0.5, True, False, False, True),
        (0.5, True, False, True, False),
        (2, True, False, True, False),
        (2.001, True, False, True, True),
        (0.5, True, True, True, True),
    ],
)
async def test_what_counts_as_downtime(
    store: RedisStore, redis: Redis, seconds: float, starting: bool, sole: bool, others: bool, expected: bool
) -> None:
    await send_beat(store, "first", 0, starting=True)
    if not others:
        await store.leave(node="first", now_ms=at(0))
    await send_beat(store, "second", seconds, starting=starting, sole=sole)
    assert await downtimes(redis) == ([(0, seconds)] if expected else [])
    await send_beat(store, "second", seconds)
    assert len(await downtimes(redis)) == expected, "one downtime is found once"


async def test_a_node_that_leaves_begins_the_downtime_only_if_it_was_the_last(store: RedisStore, redis: Redis) -> None:
    await send_beat(store, "first", 0, starting=True)
    await send_beat(store, OTHER, 0.1, starting=True)
    assert await store.leave(node="first", now_ms=at(0.5)) == 1
    await send_beat(store, "third", 1.5, starting=True)
    assert await downtimes(redis) == []
    assert await store.leave(node=OTHER, now_ms=at(1.6)) == 1
    assert await store.leave(node="third", now_ms=at(1.7)) == 0
    await send_beat(store, "fourth", 1.9, starting=True)
    assert await downtimes(redis) == [(1.7, 1.9)]


async def test_old_downtimes_become_one(store: RedisStore, redis: Redis) -> None:
    for number in range(70):
        await send_beat(store, "node", number * 100)
    found = await downtimes(redis)
    assert found == [(0, 600), *((start, start + 100) for start in range(600, 6_900, 100))]
    assert len(found) == DOWNTIMES_KEPT


async def test_nodes_that_were_silent_for_an_hour_are_forgotten(store: RedisStore, redis: Redis) -> None:
    await send_beat(store, "first", 0)
    await send_beat(store, OTHER, 3_600)
    assert set((await dump(redis))[KEYS.nodes]) == {OTHER.encode()}


async def test_a_clock_that_went_back_does_not_hide_later_downtimes(store: RedisStore, redis: Redis) -> None:
    await send_beat(store, "node", 3_600)
    await send_beat(store, "node", 0)
    assert await redis.hget(KEYS.meta, "last_beat") == str(at(0)).encode()
    await send_beat(store, "node", 300)
    assert await downtimes(redis) == [(0, 300)]


async def test_nodes_whose_clocks_differ_a_little_do_not_move_the_last_beat_back(
    store: RedisStore, redis: Redis
) -> None:
    await send_beat(store, "node", 10)
    await send_beat(store, OTHER, 9.9)
    assert await redis.hget(KEYS.meta, "last_beat") == str(at(10)).encode()


@pytest.mark.parametrize(
    ("age", "dead"), [(0, False), (5, False), (5.001, True), (3_600, True), (-5.001, True), (-1, False)]
)
async def test_only_jobs_of_the_dead_are_taken_back(store: RedisStore, redis: Redis, age: float, dead: bool) -> None:
    await one_claimed(store, redis, now_ms=at(1))
    await redis.zadd(KEYS.nodes, {"node": at(100 - age)})
    before = await dump(redis)
    reaped = await store.reap(now_ms=at(100), dead_after_ms=DEAD_AFTER_MS)
    if not dead:
        assert reaped == []
        assert await dump(redis) == before
        return
    assert reaped == ["due"]
    assert changes(before, await dump(redis)) == {
        KEYS.due: {"due": at(0)},
        KEYS.leases: {"due": f"{FENCE} - {FENCE} {at(1)} 1 {at(0)} 1:0~0:0:1:{FENCE}.{at(1)}.d".encode()},
    }
    assert await store.reap(now_ms=at(100), dead_after_ms=DEAD_AFTER_MS) == []


async def test_losses_add_up_and_are_forgotten_with_the_settle(store: RedisStore, redis: Redis) -> None:
    job = await one_claimed(store, redis)
    for losses in range(1, 4):
        await store.reap(now_ms=at(1), dead_after_ms=DEAD_AFTER_MS, void_all=True)
        (job,) = await claim_any(store, at(1))
        assert (job.lease.losses, job.lease.first_fence, job.lease.first_claimed_at_ms) == (
            losses,
            1000 * at(0),
            at(0),
        )
    await store.settle([encode_settlement(job, Transition(make_state(0)))])
    (job,) = (await claim(store, now_ms=at(1))).jobs
    assert job.lease.losses == 0


async def test_a_lease_counts_the_downtimes_that_its_first_claim_knew(store: RedisStore, redis: Redis) -> None:
    await redis.hset(KEYS.meta, mapping={"downtimes": f"{at(-90)}:{at(-80)},{at(-70)}:{at(-60)}", "downtime_count": 66})
    job = await one_claimed(store, redis)
    assert job.lease.downtimes == 66
    await redis.hset(KEYS.meta, "downtime_count", 67)
    await store.reap(now_ms=at(1), dead_after_ms=DEAD_AFTER_MS, void_all=True)
    (job,) = (await claim(store, now_ms=at(1))).jobs
    assert job.lease.downtimes == 66
    assert [downtime.number for downtime in (await store.read("due")).downtimes] == [65, 66]


@pytest.mark.parametrize("losses", [0, 2])
async def test_a_lease_of_an_earlier_version_is_reaped_claimed_and_released(
    store: RedisStore, redis: Redis, losses: int
) -> None:
    await one_claimed(store, redis)
    await redis.hset(KEYS.leases, "due", f"{FENCE} node {FENCE} {at(0)} {losses} {at(0)} 7")
    assert await store.leases_of("node") == [OwnLease("due", FENCE, 7, at(0))]
    (job,) = await store.recover(node="node", token=7)
    assert job.lease == Lease(FENCE, "node", FENCE, at(0), losses, wake_ms=at(0))
    await store.settle([encode_settlement(job, None)])
    (job,) = (await claim(store, now_ms=at(2))).jobs
    assert (job.lease.first_fence, job.lease.losses, job.lease.downtimes) == (FENCE, losses, None)
    await store.reap(now_ms=at(2), dead_after_ms=DEAD_AFTER_MS, void_all=True)
    lost = LostClaim(1000 * at(2), at(2), LostCause.DIED)
    (again,) = await claim_any(store, at(3))
    assert again.lease == Lease(
        1000 * at(3), "node", FENCE, at(0), losses + 1, None, 0, int(losses == 2), (lost,), 1, at(0)
    )


async def test_a_lease_lists_the_latest_of_its_lost_claims_and_counts_all(store: RedisStore, redis: Redis) -> None:
    job = await one_claimed(store, redis)
    await store.settle([encode_lost(job, LostCause.STOPPED, at(0.5))])
    for second in range(1, 12):
        await beat(store, now_ms=at(second))
        (job,) = await claim_any(store, at(second))
        await store.reap(now_ms=at(second), dead_after_ms=DEAD_AFTER_MS, void_all=True)
    (job,) = await claim_any(store, at(12))
    assert (job.lease.losses, job.lease.lost_count) == (11, 12)
    assert [claim.at_ms for claim in job.lease.lost] == [at(second) for second in range(2, 12)]


@pytest.mark.parametrize("lease", [None, b"nonsense"])
async def test_a_claimed_job_without_a_lease_is_reclaimed(store: RedisStore, redis: Redis, lease: bytes | None) -> None:
    await one_claimed(store, redis)
    await redis.hdel(KEYS.leases, "due")
    if lease is not None:
        await redis.hset(KEYS.leases, "due", lease)
    assert await store.reap(now_ms=at(2), dead_after_ms=DEAD_AFTER_MS) == ["due"]
    (job,) = (await claim(store, now_ms=at(2))).jobs
    assert job.lease == Lease(1000 * at(2), "node", 1000 * at(2), at(2), 0, 0, wake_ms=at(2))


async def test_reaping_goes_page_by_page_through_all_that_is_claimed(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await beat(store, OTHER)
    for number in range(40):
        await put(redis, make_job(f"job{number:02}"), make_state(0))
    for number in range(20):
        await claim(store, node=("node", OTHER)[number % 2], limit=2, now_ms=at(number / 10))
    await beat(store, OTHER, at(30))
    reaped = await store.reap(now_ms=at(30), dead_after_ms=DEAD_AFTER_MS, page=3)
    assert len(reaped) == len(set(reaped)) == 20
    assert await redis.zcount(KEYS.due, CLAIMED, IDLE - 1) == 20


async def test_recover_returns_exactly_what_one_claim_of_this_node_took(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await beat(store, OTHER)
    for number in range(6):
        await put(redis, make_job(f"job{number}"), make_state(0))
    wanted = (await claim(store, limit=2, token=1)).jobs
    await claim(store, limit=2, token=2)
    await claim(store, node=OTHER, limit=2, token=1)
    before = await dump(redis)
    assert await store.recover(node="node", token=1, claimed_at_ms=at(0) + 1) == [], "it looks at one instant"
    found = await store.recover(node="node", token=1, claimed_at_ms=at(0))
    assert sorted(found, key=lambda job: job.id) == wanted
    assert await dump(redis) == before
    await store.settle([encode_settlement(wanted[0], Transition(make_state(10)))])
    await redis.zrem(KEYS.nodes, "node")
    await store.reap(now_ms=at(1), dead_after_ms=DEAD_AFTER_MS)
    assert await store.recover(node="node", token=1) == []


# ---- lists ------------------------------------------------------------------------------------------------------


async def test_ids_come_in_the_order_of_their_bytes_page_by_page(store: RedisStore, redis: Redis) -> None:
    names = ["a", "a/b", "ab", "b", "é", "日本", "𝄞"]
    for name in names:
        await put(redis, make_job(name), make_state(0))
    assert await store.page_ids(after="", prefix="", limit=100) == names
    assert await store.page_ids(after="a/b", prefix="", limit=2) == ["ab", "b"]
    assert await store.page_ids(after="", prefix="a", limit=100) == ["a", "a/b", "ab"]
    assert await store.page_ids(after="a/b", prefix="a", limit=100) == ["ab"]
    assert await store.page_ids(after="𝄞", prefix="", limit=100) == []
    assert [stored.snapshot.job for stored in await store.read_many(["ab", "no"])] == [make_job("ab"), None]
    assert await store.read_many([]) == []


async def test_a_fault_names_what_cannot_be_read_and_nothing_is_raised(store: RedisStore, redis: Redis) -> None:
    await seed(redis, store)
    await redis.hset(KEYS.jobs, "due", b"\x93junk")
    await redis.hset(KEYS.states, "later", b"x")
    await redis.rpush(KEYS.history("due"), b"junk")
    assert await store.history("due") == []
    for name in ("due", "later"):
        assert (await store.read(name)).fault is not None
    (job,) = (await claim(store)).jobs
    assert job.fault is not None
    assert (job.job, job.state) == (None, make_state(0))


async def test_counts(store: RedisStore, redis: Redis) -> None:
    await seed(redis, store)
    counts = await store.counts(now_ms=at(0))
    assert (counts.jobs, counts.due, counts.claimed, counts.nodes) == (3, 1, 0, 1)
    await claim(store)
    counts = await store.counts(now_ms=at(0))
    assert (counts.jobs, counts.due, counts.claimed, counts.nodes) == (3, 0, 1, 1)


def test_two_encodings_of_one_state_have_two_tags() -> None:
    assert encode_state(make_state(0))[:8] != encode_state(make_state(0))[:8]
