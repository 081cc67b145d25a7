"""Jobs that a node has claimed ahead of their wake-up: what clients see until then, and how they change such jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from scheduler_api.wire.answers.jobs import Job, show_job
from scheduler_core.base.errors import CronpostError, InvalidInput, RunConflict
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Miss, MissReason, Run, RunState
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.history import Query
from scheduler_core.store.redis.settlements import score
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases import batch
from scheduler_core.usecases.account import AccountPage, read_account
from scheduler_core.usecases.batch import upsert_many
from scheduler_core.usecases.cancel import CancelService
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.selection import Selection, page_of_selected
from tests.support.ahead import AheadNode, WaitingClock
from tests.support.factories import at, make_job, make_state, pending, retrying
from tests.support.stores import KEYS, dump, opened, put

FIRE_TIME = 10
"""The fire time that the node holds ahead, in seconds after the start."""


class Bench:
    """Services, a clock that stands 0.3 s before the fire time, and a node."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = WaitingClock()
        self.clock.advance(9_700)
        self.jobs = JobService(store, self.clock, Metrics())
        self.history = HistoryService(Shards.of_one(store), self.clock)
        self.node = AheadNode(store, redis)

    async def hold(self, job_id: str = "a", state: JobState | None = None, **fields: Any) -> None:
        """Store a job that the node holds ahead of the fire time."""
        await put(self.redis, make_job(job_id, updated_at_ms=at(1), **fields), state or make_state(FIRE_TIME))
        await self.node.claim(job_id, at(FIRE_TIME))

    def release_after(self, reads: int) -> None:
        """Let the node release what it holds after a client has read it ``reads`` times."""

        async def meanwhile() -> None:
            await self.node.asked()
            if len(self.clock.slept_ms) == reads:
                await self.node.release()

        self.clock.meanwhile = meanwhile

    async def stored(self, job_id: str = "a") -> Snapshot:
        return (await self.store.read(job_id)).snapshot

    async def due_ms(self, job_id: str = "a") -> float | None:
        return await self.redis.zscore(KEYS.due, job_id)

    async def shown(self, job_id: str = "a") -> Job:
        return show_job(await self.jobs.get(job_id))

    async def account(self, job_id: str = "a") -> AccountPage:
        return await read_account(self.store, self.clock, job_id, from_ms=at(5), to_ms=at(15), after=None, limit=10)


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    async with opened(redis_url) as (store, redis):
        bench = Bench(store, redis)
        async with bench.node.listening():
            yield bench


async def test_a_job_claimed_ahead_is_active_without_an_open_run_until_its_fire_time(bench: Bench) -> None:
    await bench.hold()
    shown = await bench.shown()
    assert (shown.status, shown.open_run) == ("active", None)
    assert isinstance(shown.next_fire_times, list)
    assert shown.next_fire_times[0] == "2026-12-31T23:50:10Z"
    page = await page_of_selected(Shards.of_one(bench.store), bench.clock, Selection(status="active"))
    assert [view.id for view in page.jobs] == ["a"]
    bench.clock.advance(300)
    shown = await bench.shown()
    assert shown.status == "running"
    assert shown.open_run is not None
    assert shown.open_run.node == "node"


async def test_a_run_claimed_ahead_of_its_retry_waits_for_that_retry(bench: Bench) -> None:
    await bench.hold(state=make_state(20, open=retrying(0, FIRE_TIME)))
    await bench.redis.zadd(KEYS.retrying, {"a": at(0)})
    shown = await bench.shown()
    assert shown.status == "retrying"
    assert shown.open_run is not None
    assert (shown.open_run.state, shown.open_run.retry_at) == (RunState.RETRYING, "2026-12-31T23:50:10Z")
    (found,) = (await bench.history.find(Query())).runs
    assert found.run.state is RunState.RETRYING
    bench.clock.advance(300)
    (found,) = (await bench.history.find(Query())).runs
    assert found.run.state is RunState.OPEN


async def test_the_lists_of_runs_have_a_run_claimed_ahead_from_its_fire_time_on(bench: Bench) -> None:
    await bench.hold()
    assert not (await bench.history.find(Query())).runs
    assert not (await bench.history.find(Query(), job_id="a")).runs
    bench.clock.advance(300)
    (found,) = (await bench.history.find(Query())).runs
    assert [one.run for one in (await bench.history.find(Query(), job_id="a")).runs] == [found.run]
    assert (found.run.fire_time_ms, found.run.started_at_ms) == (at(FIRE_TIME), at(FIRE_TIME))


async def test_the_account_has_a_run_claimed_ahead_from_its_fire_time_on(bench: Bench) -> None:
    await bench.hold()
    before = await bench.account()
    assert (before.entries, before.account.until_ms) == ([], at(FIRE_TIME))
    bench.clock.advance(300)
    (entry,) = (await bench.account()).entries
    assert entry.run is not None
    assert (entry.first_ms, entry.settled) == (at(FIRE_TIME), False)


async def upsert(jobs: JobService) -> object:
    return await jobs.upsert(make_job("a", payload=b"[]"))


async def upsert_another_trigger(jobs: JobService) -> object:
    return await jobs.upsert(make_job("a", trigger=CronSpec("*/20 * * * * *")))


async def upsert_in_a_batch(jobs: JobService) -> object:
    (result,) = await upsert_many(jobs, [make_job("a", payload=b"[]")])
    assert not isinstance(result, CronpostError)
    return result


async def delete(jobs: JobService) -> object:
    return await jobs.delete("a")


async def pause(jobs: JobService) -> object:
    return await jobs.pause("a")


async def run_now(jobs: JobService) -> object:
    return await jobs.run_now("a")


async def run_now_with_a_key(jobs: JobService) -> object:
    return await jobs.run_now("a", key="key")


async def replace_pending(jobs: JobService) -> object:
    return await jobs.replace_pending("a", [(b"1", at(60))])


async def backfill(jobs: JobService) -> object:
    return await jobs.backfill("a", start_ms=at(-60), end_ms=at(-30), limit=3)


Change = Callable[[JobService], Awaitable[object]]
CHANGES: tuple[Change, ...] = (
    upsert,
    upsert_another_trigger,
    upsert_in_a_batch,
    delete,
    pause,
    run_now,
    run_now_with_a_key,
    replace_pending,
    backfill,
)
changes = pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])


@changes
async def test_a_change_asks_for_the_release_and_is_planned_without_a_lease(bench: Bench, change: Change) -> None:
    await bench.hold()
    bench.release_after(3)
    await change(bench.jobs)
    assert bench.node.requests == [("a",)]
    assert bench.clock.slept_ms == [1, 2, 4]
    after = await bench.stored()
    assert after.lease is None
    assert after.state is None or after.state.open is None
    if change is delete:
        assert await bench.due_ms() is None
    elif after.state is not None:
        assert await bench.due_ms() == score(after.state)


@changes
async def test_a_change_of_a_job_that_is_not_released_is_planned_for_a_run_in_flight(
    bench: Bench, change: Change
) -> None:
    await bench.hold()
    if change in (run_now, run_now_with_a_key):
        with pytest.raises(RunConflict):
            await change(bench.jobs)
        return
    lease = (await bench.stored()).lease
    await change(bench.jobs)
    assert sum(bench.clock.slept_ms) == 250
    after = await bench.stored()
    assert after.lease == lease
    assert after.state is not None
    assert after.state.open is not None
    assert after.state.open.in_flight
    assert after.state.open.fire_time_ms == at(FIRE_TIME)
    assert after.state.next_fire_ms is None or after.state.next_fire_ms > at(FIRE_TIME)


@changes
async def test_a_job_whose_lease_is_not_ahead_is_changed_without_a_wait(bench: Bench, change: Change) -> None:
    await bench.hold()
    if change in (run_now, run_now_with_a_key):
        await bench.node.release()  # it was released for an earlier change that then did not happen
    else:
        bench.clock.advance(300)
    await change(bench.jobs)
    assert not bench.node.requests
    assert not bench.clock.slept_ms


@pytest.mark.parametrize("given", ["the same definition", "a pause of a paused job", "an invalid trigger"])
async def test_a_request_that_changes_nothing_asks_for_no_release(bench: Bench, given: str) -> None:
    paused = make_state(FIRE_TIME, paused_at_ms=at(5), pending=(pending("ENTRY", FIRE_TIME),))
    await bench.hold(state=paused if "pause" in given else None)
    if "same" in given:
        assert (await bench.jobs.upsert(make_job("a")))[1] is False
    elif "pause" in given:
        await bench.jobs.pause("a")
    else:
        with pytest.raises(InvalidInput):
            await bench.jobs.upsert(make_job("a", trigger=CronSpec("0 0 0 1 1 * 2001")))
    assert not bench.node.requests
    assert not bench.clock.slept_ms


async def test_the_wait_ends_at_the_fire_time(bench: Bench) -> None:
    await bench.hold()
    bench.clock.advance(200)
    await bench.jobs.pause("a")
    assert bench.clock.now == at(FIRE_TIME)
    assert bench.clock.slept_ms == [1, 2, 4, 8, 16, 32, 37]
    state = (await bench.stored()).state
    assert state is not None
    assert state.open is not None
    assert state.open.fire_time_ms == at(FIRE_TIME)


async def test_a_pause_of_a_released_job_makes_its_fire_time_a_miss(bench: Bench) -> None:
    await bench.hold()
    bench.release_after(1)
    await bench.jobs.pause("a")
    bench.clock.advance(2_000)
    await bench.jobs.resume("a")
    (missed,) = await bench.jobs.history("a")
    assert isinstance(missed, Miss)
    assert (missed.reason, missed.first_ms, missed.last_ms) == (MissReason.PAUSED, at(FIRE_TIME), at(FIRE_TIME))


async def test_a_job_that_is_released_just_before_its_fire_time_is_changed_without_a_run(bench: Bench) -> None:
    await bench.hold()
    bench.clock.advance(299)
    bench.release_after(1)
    await bench.jobs.delete("a")
    assert bench.clock.now == at(FIRE_TIME)
    (missed,) = await bench.jobs.history("a")
    assert isinstance(missed, Miss)
    assert (missed.reason, missed.first_ms) == (MissReason.REPLACED, at(FIRE_TIME))
    assert KEYS.leases not in await dump(bench.redis)


async def test_a_fire_time_that_passes_during_the_wait_for_its_release_is_replaced_by_another_trigger(
    bench: Bench,
) -> None:
    await bench.hold()
    bench.clock.advance(299)

    async def meanwhile() -> None:
        await bench.redis.hdel(KEYS.leases, "a")  # released, and the fire time passes before the next read

    bench.clock.meanwhile = meanwhile
    await upsert_another_trigger(bench.jobs)
    (missed,) = await bench.jobs.history("a")
    assert isinstance(missed, Miss)
    assert (missed.reason, missed.first_ms) == (MissReason.REPLACED, at(FIRE_TIME))
    state = (await bench.stored()).state
    assert state is not None
    assert state.next_fire_ms == at(20)


async def test_a_second_change_of_a_job_that_was_not_released_does_not_ask_again(bench: Bench) -> None:
    await bench.hold()
    await upsert(bench.jobs)
    before = await bench.stored()
    assert before.state is not None
    requests, slept = list(bench.node.requests), list(bench.clock.slept_ms)
    await bench.jobs.pause("a")
    assert (bench.node.requests, bench.clock.slept_ms) == (requests, slept)
    after = await bench.stored()
    assert after.state is not None
    assert after.state.open == before.state.open
    assert (await bench.shown()).status == "running"


async def test_a_job_that_another_node_claims_ahead_is_asked_for_again(bench: Bench) -> None:
    await bench.hold()

    async def meanwhile() -> None:
        if len(bench.clock.slept_ms) == 1:
            await bench.node.claim("a", at(FIRE_TIME))  # with another fence
        elif len(bench.clock.slept_ms) == 3:
            await bench.node.asked(2)
            await bench.node.release()

    bench.clock.meanwhile = meanwhile
    await bench.jobs.pause("a")
    assert bench.node.requests == [("a",), ("a",)]
    assert (await bench.stored()).lease is None


async def test_a_batch_asks_once_for_all_its_jobs_and_waits_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "CHUNK", 3)
    names = [f"job{number}" for number in range(8)]
    for name in names[1:6]:
        await bench.hold(name)
    await put(bench.redis, make_job("job6"), make_state(FIRE_TIME))
    await bench.hold("same")
    bench.release_after(2)
    results = await upsert_many(bench.jobs, [make_job("same"), *(make_job(name, payload=b"[]") for name in names)])
    assert [one[1] for one in results if not isinstance(one, CronpostError)] == [False, *(True for _ in names)]
    assert bench.node.requests == [tuple(names[1:6])]
    assert bench.clock.slept_ms == [1, 2]
    for name in names:
        after = await bench.stored(name)
        assert after.lease is None
        assert after.job is not None
        assert after.job.payload == b"[]"


async def test_a_batch_applies_two_definitions_of_a_job_in_their_order(bench: Bench) -> None:
    await bench.hold()
    bench.release_after(1)
    await upsert_many(bench.jobs, [make_job("a", payload=b"1"), make_job("b"), make_job("a", payload=b"2")])
    after = await bench.stored()
    assert after.job is not None
    assert (after.job.payload, after.job.version) == (b"2", 3)
    assert bench.node.requests == [("a",)]


async def test_child_runs_claimed_ahead_of_their_retry_are_released_together_and_cancelled(bench: Bench) -> None:
    allowing = make_job("a", policies=Policies(overlap=Overlap.ALLOW, max_concurrent=5))
    await put(bench.redis, allowing, make_state(60))
    claim_keys = [child_id("a", f"RUN{number}") for number in range(3)]
    for claim_key in claim_keys:
        run = retrying(0, FIRE_TIME, id=claim_key[-4:])
        await put(bench.redis, msgspec.structs.replace(allowing, id=claim_key), JobState(open=run, child=True))
        await bench.redis.zrem(KEYS.ids, claim_key)
        await bench.redis.zadd(KEYS.children, {claim_key: 0})
        await bench.node.claim(claim_key, at(FIRE_TIME))
    bench.release_after(1)
    await bench.jobs.delete("a")
    assert bench.node.requests == [tuple(claim_keys)]
    assert bench.clock.slept_ms == [1]
    assert not await bench.store.children("a")
    ended = [record for record in await bench.jobs.history("a") if isinstance(record, Run)]
    assert [run.state for run in ended] == [RunState.CANCELLED] * 3


async def test_cancelling_a_run_claimed_ahead_of_its_retry_prevents_its_request(bench: Bench) -> None:
    await bench.hold(state=make_state(20, open=retrying(0, FIRE_TIME, id="01M7Y1325RZKATKCS8J93T7HX0")))
    await bench.redis.zadd(KEYS.retrying, {"a": at(0)})
    shards = Shards.of_one(bench.store)
    cancels = CancelService(shards, shards.each(lambda _: bench.jobs), bench.history)
    (found,) = (await bench.history.find(Query())).runs
    bench.release_after(1)
    ended = await cancels.cancel(found.run.id)
    assert ended.request_cut is None
    after = await bench.stored()
    assert (after.lease, await bench.due_ms()) == (None, at(20))
