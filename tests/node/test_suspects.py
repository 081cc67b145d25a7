"""Runs that were lost with several nodes: the job that kills nodes is found, and no other is quarantined."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.delivery.base import NOT_SENT
from scheduler_core.model.lease import QUARANTINE_AFTER_ALONE, SUSPECT_LOSSES
from scheduler_core.model.run import Run, RunState
from scheduler_core.node.slots import SlotPool
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import CronSpec
from tests.support.factories import answered, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, claim, opened, put, until

ONCE_A_DAY = CronSpec("50 23 * * *")
"""At the start of the test's time."""
Stored = tuple[RedisStore, Redis]


@pytest.fixture
async def stored(redis_url: str) -> AsyncIterator[Stored]:
    async with opened(redis_url) as (store, redis):
        yield store, redis


async def put_jobs(redis: Redis, number: int) -> list[str]:
    jobs = [f"job{index:03}" for index in range(number)]
    for job_id in jobs:
        await put(redis, make_job(job_id, trigger=ONCE_A_DAY), make_state(0))
    return jobs


class Fleet:
    """Nodes that die when they receive a poisonous request, one after the other."""

    def __init__(self, store: RedisStore, poison: Sequence[str] = ()) -> None:
        self.store = store
        self.poison = poison
        self.clock = ManualClock()
        self.deaths = 0
        self.node = self._new()

    def _new(self) -> SteppedNode:
        return SteppedNode(self.store, self.clock, settings=EngineSettings(target_max_in_flight=1_000))

    async def kill(self) -> None:
        """Kill the process and start it again: it sends nothing more to Redis."""
        await self.node.crash()
        await self.store.reap(now_ms=self.clock.now, dead_after_ms=5_000, void_all=True)
        self.node = self._new()
        await self.node.start()
        self.deaths += 1

    async def claim_all(self) -> list[str]:
        """Claim until no more jobs are due; return the jobs whose requests are open."""
        while await self.node.claim(limit=1_000) or (self.node.suspects.in_trial and not self.node.suspects.held):
            pass
        await self.node.claim(limit=1_000)
        return sorted(request.job_id for request in self.node.deliverer.open)

    async def work_off(self, most_rounds: int) -> None:
        """Repeat until no run is open: requests that kill no node are answered."""
        await self.node.start()
        for _ in range(most_rounds):
            sent = await self.claim_all()
            if set(sent) & set(self.poison):
                await self.kill()
                continue
            while self.node.deliverer.open:
                await self.node.answer(answered(200))
            await self.node.settle()
            self.clock.advance(1_000)
            await self.node.beat()
            if not sent and not await self.store.client.exists(KEYS.leases):
                return
        raise AssertionError("there are runs that nobody has settled")

    async def quarantined(self, jobs: Sequence[str]) -> list[str]:
        found = await self.store.read_many(jobs)
        return [
            job_id
            for job_id, one in zip(jobs, found, strict=True)
            if one.snapshot.state is not None and one.snapshot.state.quarantine is not None
        ]


def most_deaths(suspects: int) -> int:
    """What docs/lifecycle.md promises for one job that kills nodes."""
    return SUSPECT_LOSSES + math.ceil(math.log2(suspects)) + QUARANTINE_AFTER_ALONE - 1


@pytest.mark.parametrize("poison", [["job000"], ["job101"], ["job200"]])
async def test_a_job_that_kills_nodes_is_found_among_two_hundred_others(stored: Stored, poison: list[str]) -> None:
    store, redis = stored
    jobs = await put_jobs(redis, 201)
    fleet = Fleet(store, poison)
    await fleet.work_off(most_rounds=200)
    assert await fleet.quarantined(jobs) == poison
    assert fleet.deaths <= most_deaths(201)
    for job_id in jobs:
        (run,) = [record for record in await store.history(job_id) if isinstance(record, Run)]
        assert run.state is (RunState.LOST if job_id in poison else RunState.SUCCEEDED), job_id
    assert not await redis.exists(KEYS.suspects)
    assert (await store.counts(now_ms=fleet.clock.now)).suspects == 0
    await fleet.node.claim()
    assert not await redis.hexists(KEYS.meta, "suspects"), "claims look no further"
    await fleet.node.crash()


async def test_two_jobs_that_kill_nodes_are_both_found(stored: Stored) -> None:
    store, redis = stored
    jobs = await put_jobs(redis, 40)
    fleet = Fleet(store, ["job005", "job031"])
    await fleet.work_off(most_rounds=200)
    assert await fleet.quarantined(jobs) == ["job005", "job031"]
    assert fleet.deaths <= 2 * most_deaths(40)
    await fleet.node.crash()


@pytest.mark.parametrize("number", [1, 2, 30])
async def test_kills_without_a_culprit_quarantine_no_job(stored: Stored, number: int) -> None:
    store, redis = stored
    jobs = await put_jobs(redis, number)
    fleet = Fleet(store)
    await fleet.node.start()
    for _ in range(5):
        await fleet.claim_all()
        await fleet.kill()
    await fleet.work_off(most_rounds=20)
    assert await fleet.quarantined(jobs) == []
    for job_id in jobs:
        (run,) = [record for record in await store.history(job_id) if isinstance(record, Run)]
        assert run.state is RunState.SUCCEEDED
    await fleet.node.crash()


async def test_after_two_kills_in_a_row_all_runs_are_sent_again_at_once(stored: Stored) -> None:
    store, redis = stored
    jobs = await put_jobs(redis, 20)
    fleet = Fleet(store)
    await fleet.node.start()
    for _ in range(2):
        assert await fleet.claim_all() == jobs
        await fleet.kill()
    assert await fleet.claim_all() == jobs
    await fleet.node.crash()


async def test_a_node_holds_one_group_of_suspects_at_a_time(stored: Stored) -> None:
    store, redis = stored
    jobs = await put_jobs(redis, 20)
    fleet = Fleet(store)
    await fleet.node.start()
    for _ in range(3):
        assert await fleet.claim_all() == jobs
        await fleet.kill()
    first = await fleet.claim_all()
    assert len(first) == 10
    assert await fleet.claim_all() == first, "no further one while it holds these"
    turns: list[str] = []
    assert not fleet.node.node.slots.begin_trial(lambda: turns.append("beside")), (
        "nor does another shard of its process"
    )
    assert "suspects" in fleet.node.claimer.warnings
    assert (await store.counts(now_ms=fleet.clock.now)).suspects == 20
    # Other nodes take half of those that wait; fresh jobs do not wait.
    other = SteppedNode(store, fleet.clock)
    await other.start()
    await put(redis, make_job("fresh", trigger=ONCE_A_DAY), make_state(0))
    for _ in range(3):
        await other.claim(limit=1_000)
    theirs = {request.job_id for request in other.deliverer.open}
    assert "fresh" in theirs
    assert len(theirs) == 11
    assert not theirs & set(first)
    # The settlement of the last one wakes the claimer for the next group.
    fleet.node.alarm.reset()
    while fleet.node.deliverer.open:
        await fleet.node.answer(answered(200))
        assert not fleet.node.alarm.rang
    assert not turns
    await fleet.node.settle()
    assert fleet.node.alarm.rang
    assert turns
    await fleet.node.crash()
    await other.crash()


async def test_suspects_that_wait_do_not_keep_the_claimer_busy(stored: Stored) -> None:
    store, redis = stored
    jobs = await put_jobs(redis, 20)
    fleet = Fleet(store)
    await fleet.node.start()
    for _ in range(3):
        await fleet.claim_all()
        await fleet.kill()
    await fleet.claim_all()
    claim = await fleet.node.claimer._claim(100)
    assert (claim.jobs, claim.suspects_waiting) == ([], 10)
    assert claim.next_wake_ms is None, "none of them is due"
    leases = [one.snapshot.lease for one in await store.read_many(jobs)]
    assert sum(lease is not None and lease.waits_as_suspect for lease in leases) == 10
    await fleet.node.crash()


async def test_long_runs_survive_nodes_that_freeze_in_turn(stored: Stored) -> None:
    store, redis = stored
    jobs = await put_jobs(redis, 10)
    clock = ManualClock()
    nodes = [SteppedNode(store, clock), SteppedNode(store, clock)]
    for node in nodes:
        await node.start()
    for turn in range(6):
        frozen, awake = nodes[turn % 2], nodes[1 - turn % 2]
        for node in (frozen, awake):
            for _ in range(3):
                await node.claim(limit=100)
        for _ in range(7):
            clock.advance(1_000)
            await awake.beat()
        await store.reap(now_ms=clock.now, dead_after_ms=5_000)
        for _ in range(3):
            await awake.claim(limit=100)
        await frozen.beat()
        while frozen.deliverer.open:  # it thaws: its late results are refused
            await frozen.answer(answered(202))
        await frozen.settle()
    for _ in range(6):
        for node in nodes:
            await node.beat()
            await node.claim(limit=100)
            while node.deliverer.open:
                await node.answer(answered(202))
            await node.settle()
    states = [one.snapshot.state for one in await store.read_many(jobs)]
    assert [state.quarantine for state in states if state is not None] == [None] * 10
    for job_id in jobs:
        (run,) = [record for record in await store.history(job_id) if isinstance(record, Run)]
        assert run.state is RunState.SUCCEEDED
    for node in nodes:
        await node.crash()


async def test_suspects_of_a_claim_whose_reply_was_lost_are_released(stored: Stored) -> None:
    store, redis = stored
    await put_jobs(redis, 20)
    fleet = Fleet(store)
    node = fleet.node
    await node.start()
    for _ in range(3):
        await fleet.claim_all()
        await fleet.kill()
    node = fleet.node
    await node.claim(limit=100)  # parks them
    token = next(node.claimer._tokens)
    assert len((await claim(store, node=node.node.id, token=token, limit=100)).jobs) == 10
    node.claimer._lost_token, node.claimer._claimed_at_ms = token, fleet.clock.now
    assert await node.claim(limit=100) == 0
    await node.settle()
    assert len(await fleet.claim_all()) == 10
    assert {request.header("Cronpost-Attempt") for request in node.deliverer.open} == {"4"}
    await node.crash()


async def test_a_suspect_whose_lease_is_gone_is_due_again(stored: Stored) -> None:
    store, redis = stored
    await put_jobs(redis, 1)
    fleet = Fleet(store)
    await fleet.node.start()
    for _ in range(3):
        await fleet.claim_all()
        await fleet.kill()
    await fleet.node.claim()  # parks it
    await redis.delete(KEYS.leases)
    assert await fleet.claim_all() == ["job000"]
    await fleet.node.crash()


def test_only_one_claimer_of_a_process_holds_suspects() -> None:
    slots = SlotPool(10)
    woken: list[str] = []
    wakes = {name: (lambda name=name: woken.append(name)) for name in "abc"}
    assert slots.begin_trial(wakes["a"])
    assert slots.begin_trial(wakes["a"])
    assert not slots.begin_trial(wakes["b"])
    assert not slots.begin_trial(wakes["c"])
    slots.end_trial(wakes["c"])
    assert not slots.begin_trial(wakes["c"])
    slots.end_trial(wakes["a"])
    assert woken == ["b"]
    assert not slots.begin_trial(wakes["a"]), "the suspects that waited come first"
    assert slots.begin_trial(wakes["b"])
    slots.end_trial(wakes["b"])
    assert woken == ["b", "c"]


async def test_a_request_that_was_not_sent_releases_its_job(stored: Stored) -> None:
    store, redis = stored
    await put(redis, make_job("a"), make_state(0))
    clock = ManualClock()
    node = SteppedNode(store, clock)
    await node.start()
    checked: list[bool] = []

    class Nothing:
        def cancel(self) -> None:
            pass

    def start(request: object, done: object, may_send: object) -> Nothing:
        assert callable(done)
        assert callable(may_send)
        clock.advance(node.node.dead_after_ms + 1)  # frozen for longer than its lease, while it connects
        checked.append(may_send())
        asyncio.get_running_loop().call_soon(done, NOT_SENT)
        return Nothing()

    node.dispatcher.start = start
    (claimed,) = (await node.claimer._claim(1)).jobs
    node.start_run(claimed)
    await until(lambda: not node.node.in_flight)
    assert checked == [False]
    await node.settle()
    read = await store.read(claimed.id)
    assert read.snapshot.lease is not None
    assert (read.snapshot.lease.node, read.snapshot.lease.losses) == ("-", 0)
    assert await store.history(claimed.id) == []
    await node.crash()
