"""Scripts write records, details, indexes, counts and the lists of each job for settled runs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from scheduler_core.model.job_state import JobState, LastRun
from scheduler_core.model.run import Miss, MissReason, Record, Run, RunDetail, RunState
from scheduler_core.model.status import LETTERS, RunStatus, status_of
from scheduler_core.model.transition import Spawn, Transition
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.history import Bounds
from scheduler_core.store.jobs import Retention
from scheduler_core.store.loop import Settled, Settlement
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.history import RedisHistory
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from tests.support.examples import examples
from tests.support.factories import at, make_job, make_state, retrying, settled_run
from tests.support.stores import KEYS, beat, claim, dump, put

HISTORY, FAILURES = 5, 100
DETAIL = RunDetail((("a", "b"),), b"sent", (("c", "d"),), b"answered")
_numbers = itertools.count()


async def settle(
    store: RedisStore, redis: Redis, records: Sequence[Record], *, name: str = "job", detail: RunDetail | None = None
) -> Settled:
    """Make the job due, claim it, and settle it with these records."""
    await beat(store)
    await put(redis, make_job(name), make_state(0))
    (claimed,) = (await claim(store)).jobs
    run_id = next((record.id for record in records if isinstance(record, Run)), "")
    transition = Transition(make_state(86_400), tuple(records), detail=detail, detail_of=run_id)
    return (await store.settle([encode_settlement(claimed, transition)]))[0]


async def check_agreement(redis: Redis) -> dict[str, int]:
    """Assert that records, details, indexes and the count of bytes agree; the counts."""
    content = await dump(redis)
    records, details = content.get(KEYS.records, {}), content.get(KEYS.details, {})
    indexed = [member for letter in LETTERS for member in content.get(KEYS.runs(letter), {})]
    assert sorted(indexed) == sorted(records), "each record is in exactly one index"
    assert set(details) <= set(records)
    counts = {name.decode(): int(value) for name, value in content.get(KEYS.counts, {}).items()}
    assert counts.get("bytes", 0) == sum(len(value) for value in (*records.values(), *details.values()))
    return counts


async def test_a_settled_run_is_recorded_indexed_and_counted_under_the_letter_of_its_status(
    store: RedisStore, redis: Redis
) -> None:
    for number, code in enumerate((200, 500, None)):
        await settle(store, redis, [settled_run(number, code)], detail=DETAIL if code else None)
    counts = await check_agreement(redis)
    assert {letter: counts.get(letter) for letter in LETTERS} == {"S": 1, "F": 1, "T": 1, "D": None, "C": None}
    assert (counts["latency"], counts.get("untimed")) == (3 * 12_500, None)
    history = RedisHistory(store)
    for number, code in enumerate((200, 500, None)):
        run = settled_run(number, code)
        stored = await history.record(run.id)
        assert stored is not None
        assert (stored.job_id, stored.run, stored.detail) == ("job", run, DETAIL if code else None)


async def test_a_run_that_never_started_is_listed_by_its_end_and_has_no_latency(
    store: RedisStore, redis: Redis
) -> None:
    run = settled_run(0, started_at_ms=None, attempts=(), state=RunState.CANCELLED, ended_at_ms=at(90))
    await settle(store, redis, [run])
    counts = await check_agreement(redis)
    assert counts["untimed"] == 1
    assert counts[f"m:{at(90) // 60_000}"] == 1
    assert await redis.zscore(KEYS.runs("F"), run.id) == at(90)


async def test_misses_are_in_the_history_of_their_job_and_in_no_count(store: RedisStore, redis: Redis) -> None:
    miss = Miss(MissReason.OVERLAP, at(0), at(10), at(12))
    await settle(store, redis, [miss])
    assert await check_agreement(redis) == {}
    assert await store.history("job") == [miss]


async def test_what_leaves_the_history_of_a_job_is_forgotten_but_failures_are_kept_longer(
    store: RedisStore, redis: Redis
) -> None:
    codes = [200, 500, 200, None, 200, 200, 200, 200, 200, 404]
    runs = [settled_run(number, code) for number, code in enumerate(codes)]
    for run in runs:
        await settle(store, redis, [run], detail=DETAIL)
    assert await store.history("job") == [*reversed(runs[-HISTORY:]), runs[3], runs[1]]
    counts = await check_agreement(redis)
    assert sum(counts[letter] for letter in "SFT") == len(runs), "what is counted stays counted"
    assert await redis.hlen(KEYS.records) == HISTORY + 2


async def test_the_failures_that_are_kept_longer_are_bounded_too(redis: Redis, redis_url: str) -> None:
    store = RedisStore(connect(redis_url), retention=Retention(entries=2, failures=3))
    runs = [settled_run(number, 500) for number in range(10)]
    for run in runs:
        await settle(store, redis, [run])
    assert await store.history("job") == list(reversed(runs[-5:]))
    assert await redis.hlen(KEYS.records) == 5
    await check_agreement(redis)
    await store.aclose()


async def test_pages_of_the_history_go_on_into_the_failures_without_gap_or_repetition(
    store: RedisStore, redis: Redis
) -> None:
    for number in range(12):
        await settle(store, redis, [settled_run(number, 500)])
    whole = await store.history("job", limit=100)
    assert len(whole) == 12
    for size in (1, 2, 3, 5, 7):
        found: list[Record] = []
        while page := await store.history("job", skip=len(found), limit=size):
            found += page
        assert found == whole, size


async def test_both_lists_of_a_job_are_dropped_after_the_retention(store: RedisStore, redis: Redis) -> None:
    for number in range(7):
        await settle(store, redis, [settled_run(number, 500)])
    for key in (KEYS.history("job"), KEYS.failures("job")):
        assert 30_000 < await redis.pttl(key) <= 60_938  # the retention and a 64th of it, less the time since


async def test_the_lifetime_of_a_list_begins_again_once_in_a_64th_of_the_retention(
    store: RedisStore, redis: Redis
) -> None:
    """Otherwise each settlement would need a command more."""
    span = 60_000 // 64
    first = span * (at(0) // span + 1)
    begins = []
    last: LastRun | None = None
    await beat(store)
    for ended_at in (first, first + span - 1, first + span):
        await put(redis, make_job(), make_state(0, last=last))
        (claimed,) = (await claim(store)).jobs
        await redis.pexpire(KEYS.history("job"), 1_000_000)
        run = settled_run(ended_at - at(0), ended_at_ms=ended_at)
        await store.settle([store.settlement(claimed, Transition(make_state(86_400), (run,)))])
        begins.append(await redis.pttl(KEYS.history("job")) <= 60_938)
        last = LastRun(run.id, run.fire_time_ms, run.state, ended_at)
    assert begins == [True, False, True]


async def test_a_run_whose_record_was_trimmed_is_still_known_by_its_entry(store: RedisStore, redis: Redis) -> None:
    runs = [settled_run(0, 200), settled_run(1, 500)]
    for run in runs:
        await settle(store, redis, [run])
    await redis.delete(KEYS.records)
    found = await store.history("job")
    assert [(one.id, one.fire_time_ms, one.state) for one in found if isinstance(one, Run)] == [
        (runs[1].id, at(1), RunState.FAILED),
        (runs[0].id, at(0), RunState.SUCCEEDED),
    ]
    await redis.flushall()


async def test_a_run_that_is_recorded_twice_counts_once_and_its_first_record_stays(
    store: RedisStore, redis: Redis
) -> None:
    first, second = settled_run(0, 200), settled_run(0, 500, message="later")
    for run in (first, second, second):
        await settle(store, redis, [run], detail=DETAIL)
    counts = await check_agreement(redis)
    assert (counts["S"], counts.get("F"), counts["latency"]) == (1, None, 12_500)
    await settle(store, redis, [settled_run(5), settled_run(5)])
    assert (await check_agreement(redis))["S"] == 2
    for number in range(10, 20):
        await settle(store, redis, [settled_run(number)])
    await check_agreement(redis)


async def test_a_list_of_the_wrong_type_costs_no_record_and_holds_up_no_other_job(
    store: RedisStore, redis: Redis
) -> None:
    await beat(store)
    for name in ("a", "bad", "c"):
        await put(redis, make_job(name), make_state(0))
    await redis.set(KEYS.history("bad"), "no list")
    batch = [
        encode_settlement(job, Transition(make_state(10), (settled_run(number),)))
        for number, job in enumerate((await claim(store)).jobs)
    ]
    assert [answer.result for answer in await store.settle(batch)] == ["ok", "ok", "ok"]
    assert (await check_agreement(redis))["S"] == 3
    assert [len(await store.history(name)) for name in ("a", "c")] == [1, 1]
    await redis.delete(KEYS.history("bad"))


async def test_failures_that_no_list_takes_are_still_trimmed_by_age(store: RedisStore, redis: Redis) -> None:
    await redis.set(KEYS.failures("job"), "no list")
    for number in range(8):
        await settle(store, redis, [settled_run(number, 500)])
    assert await redis.hlen(KEYS.records) == 8
    await redis.delete(KEYS.failures("job"))
    history = RedisHistory(store)
    assert await history.sweep(Bounds(failure_age_ms=1_000), now_ms=at(100)) == (8, False)
    await check_agreement(redis)


async def test_a_full_redis_still_takes_records_and_trims(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    names = [f"job{number}" for number in range(3)]
    for name in names:
        await put(redis, make_job(name), make_state(0))
    jobs = (await claim(store)).jobs
    await redis.config_set("maxmemory", 1)
    batch = [
        encode_settlement(job, Transition(make_state(10), (settled_run(number), settled_run(number + 100, 500))))
        for number, job in enumerate(jobs)
    ]
    assert [answer.result for answer in await store.settle(batch)] == ["ok"] * 3
    assert (await check_agreement(redis))["F"] == 3
    assert await RedisHistory(store).sweep(Bounds(successes=1), now_ms=at(0)) == (2, False)
    await check_agreement(redis)


async def test_a_large_batch_with_many_records_is_recorded_in_full(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    for number in range(300):
        await put(redis, make_job(f"job{number:03}"), make_state(0))
    jobs = (await claim(store, limit=300)).jobs
    batch = [
        encode_settlement(
            job, Transition(make_state(10), tuple(settled_run(number * 10 + each, 500) for each in range(8)))
        )
        for number, job in enumerate(jobs)
    ]
    assert {answer.result for answer in await store.settle(batch)} == {"ok"}
    assert (await check_agreement(redis))["F"] == 2_400
    assert len(await store.history("job007")) == 8


async def test_a_batch_that_names_a_claim_key_twice_settles_it_once(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    (job,) = (await claim(store)).jobs
    first = encode_settlement(job, Transition(make_state(10), (settled_run(0),)))
    second = encode_settlement(job, Transition(make_state(20), (settled_run(1),)))
    assert [answer.result for answer in await store.settle([first, first, second])] == ["ok", "done", "stale"]
    assert (await check_agreement(redis))["S"] == 1


# ---- runs that wait, and runs that overlap --------------------------------------------------------------------------


async def test_a_claim_key_whose_run_waits_is_listed_by_its_start_until_it_is_settled(
    store: RedisStore, redis: Redis
) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    (job,) = (await claim(store)).jobs
    waiting = JobState(next_fire_ms=at(60), open=retrying(0, 5))
    await store.settle([encode_settlement(job, Transition(waiting))])
    assert (await dump(redis))[KEYS.retrying] == {b"job": at(0)}
    (job,) = (await claim(store, now_ms=at(5))).jobs
    await store.settle([encode_settlement(job, None)])
    assert (await dump(redis))[KEYS.retrying] == {b"job": at(0)}, "handed back: it waits on"
    (job,) = (await claim(store, now_ms=at(5))).jobs
    await store.settle([encode_settlement(job, Transition(make_state(60), (settled_run(0),)))])
    assert KEYS.retrying not in await dump(redis)


async def test_a_change_updates_the_set_of_waiting_runs(store: RedisStore, redis: Redis) -> None:
    waiting = JobState(next_fire_ms=at(60), open=retrying(3, 5))
    await put(redis, make_job(), make_state(60))
    assert await store.change("job", await store.read("job"), Transition(waiting))
    assert (await dump(redis))[KEYS.retrying] == {b"job": at(3)}
    cancelled = settled_run(3, state=RunState.CANCELLED)
    assert await store.change("job", await store.read("job"), Transition(make_state(60), (cancelled,)))
    assert KEYS.retrying not in await dump(redis)
    await check_agreement(redis)


def spawning(number: int, limit: int) -> Transition:
    run = settled_run(number, state=RunState.OPEN, attempts=(), attempt=0, started_at_ms=None, ended_at_ms=None)
    return Transition(make_state(number + 1), spawn=Spawn(run, limit))


async def test_a_spawn_creates_a_due_child_run_with_the_definition_of_its_job(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job("a b"), make_state(0))
    await put(redis, make_job("a b!"), make_state(500))
    (job,) = (await claim(store)).jobs
    spawn = encode_settlement(job, spawning(0, 2))
    assert (await store.settle([spawn]))[0].result == "ok"
    content = await dump(redis)
    assert (await store.settle([spawn]))[0].result == "done"
    assert await dump(redis) == content
    run = settled_run(0)
    claim_key = child_id("a b", run.id)
    assert await store.children("a b") == [claim_key]
    assert await store.children("a b!") == await store.children("a") == []
    assert content[KEYS.due] == {b"a b": at(1), b"a b!": at(500), claim_key.encode(): at(0)}
    assert set(content[KEYS.ids]) == {b"a b", b"a b!"}

    (child,) = (await claim(store, now_ms=at(0.5))).jobs
    assert (child.id, child.job) == (claim_key, make_job("a b"))
    assert child.state is not None
    assert child.state.open is not None
    assert child.state.open.id == run.id
    stored = await store.read(claim_key)
    assert await store.change(claim_key, stored, Transition(JobState(open=child.state.open)))
    assert set((await dump(redis))[KEYS.ids]) == {b"a b", b"a b!"}, "a child is no job"
    again = (await store.settle([encode_settlement(child, Transition(None, (run,), remove=True))]))[0]
    assert again.result == "changed"
    assert again.stored is not None
    ended = encode_settlement(again.stored, Transition(None, (run,), remove=True))
    assert (await store.settle([ended]))[0].result == "ok"
    content = await dump(redis)
    assert (await store.settle([ended]))[0].result == "done"
    assert KEYS.children not in content
    assert set(content[KEYS.jobs]) == set(content[KEYS.states]) == set(content[KEYS.due]) == {b"a b", b"a b!"}
    assert await store.history("a b") == [run], "its history is that of its job"
    await check_agreement(redis)


async def test_a_job_has_no_more_children_than_it_may(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    for number in range(2):
        job = next(one for one in (await claim(store, now_ms=at(number))).jobs if one.id == "job")
        assert (await store.settle([encode_settlement(job, spawning(number, 2))]))[0].result == "ok"
    job = next(one for one in (await claim(store, now_ms=at(2))).jobs if one.id == "job")
    before = await dump(redis)
    assert (await store.settle([encode_settlement(job, spawning(2, 2))]))[0].result == "full"
    assert await dump(redis) == before, "nothing was changed, and the lease stays"
    claimed = await store.read_many(await store.children("job"))
    assert len(claimed) == 2
    claim_key = (await store.children("job"))[0]
    child = next(
        one for one in await store.recover(node="node", token=_last_token(before, claim_key)) if one.id == claim_key
    )
    # The child that ends makes room, in the very batch that needs it.
    done = encode_settlement(child, Transition(None, (settled_run(0),), remove=True))
    answers = await store.settle([done, encode_settlement(job, spawning(2, 2))])
    assert [answer.result for answer in answers] == ["ok", "ok"]
    assert len(await store.children("job")) == 2


def _last_token(content: dict[str, Any], claim_key: str) -> int:
    return int(content[KEYS.leases][claim_key.encode()].split()[-1].partition(b":")[0])


async def test_a_child_that_a_client_cancels_leaves_nothing_but_its_record(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    await put(redis, make_job(), make_state(0))
    (job,) = (await claim(store)).jobs
    await store.settle([encode_settlement(job, spawning(0, 2))])
    (claim_key,) = await store.children("job")
    cancelled = settled_run(0, state=RunState.CANCELLED)
    assert await store.change(claim_key, await store.read(claim_key), Transition(None, (cancelled,), remove=True))
    content = await dump(redis)
    assert KEYS.children not in content
    assert set(content[KEYS.jobs]) == set(content[KEYS.ids]) == set(content[KEYS.due]) == {b"job"}
    assert await store.history("job") == [cancelled]


async def test_the_secret_of_a_store_is_drawn_once(store: RedisStore, redis_url: str) -> None:
    other = RedisStore(connect(redis_url))
    first = await store.secret()
    assert len(first) == 32
    assert await other.secret() == first == await store.secret()
    await other.aclose()


# ---- whatever is trimmed, the totals stay ---------------------------------------------------------------------------

CODES = st.sampled_from([200, 200, 200, 404, 500, None])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("settle"), st.sampled_from("abc"), st.lists(CODES, max_size=4)),
        st.tuples(st.just("again"), st.just(""), st.just([])),
        st.tuples(st.just("sweep"), st.sampled_from(["age", "runs", "bytes", "failures"]), st.just([])),
        st.tuples(st.just("lose"), st.sampled_from("abc"), st.just([])),
    ),
    max_size=25,
)


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_totals_are_those_of_all_runs_ever_settled_whatever_was_trimmed(
    steps: list[tuple[str, str, list[int | None]]], redis: Redis, redis_url: str
) -> None:
    await redis.flushall()
    store = RedisStore(connect(redis_url), retention=Retention(entries=3, failures=2))
    history = RedisHistory(store)
    await beat(store)
    for name in "abc":
        await put(redis, make_job(name), make_state(0))
    settled: list[Run] = []
    sent: list[Settlement] = []
    bounds = {
        "age": Bounds(success_age_ms=5_000, failure_age_ms=15_000),
        "runs": Bounds(successes=2, failures=3),
        "bytes": Bounds(bytes=700),
        "failures": Bounds(failures=1),
    }
    number = 0
    for step, name, codes in steps:
        if step == "settle":
            number += len(codes)
            runs = tuple(settled_run(number - each, code) for each, code in enumerate(codes))
            settled += runs
            jobs = (await claim(store)).jobs
            sent = [
                encode_settlement(
                    job,
                    Transition(
                        make_state(0),
                        runs if job.id == name else (),
                        detail=DETAIL,
                        detail_of=runs[-1].id if runs else "",
                    ),
                )
                for job in jobs
            ]
            await store.settle(sent)
        elif step == "again":
            assert {answer.result for answer in await store.settle(sent)} <= {"done"}
        elif step == "sweep":
            _, more = await history.sweep(bounds[name], now_ms=at(number))
            assert not more
        else:
            await redis.delete(KEYS.history(name))
        await check_agreement(redis)
        totals = await history.totals(now_ms=at(number))
        by_status = Counter(status_of(run) for run in settled)
        assert totals.by_status == {status: by_status[status] for status in RunStatus}
        assert totals.runs == totals.last_hour == len(settled)
        assert totals.latency_ms == 12.5 * len(settled)
        assert totals.stored == await redis.hlen(KEYS.records)
    await store.aclose()
