"""Slow and dead targets: how many slots they get, and when runs that are held back are sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import Target, Timing
from scheduler_core.model.job_state import HeldBack, HoldReason, JobState
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.policies import Limits, Overlap, Policies
from scheduler_core.model.run import Miss, Run
from scheduler_core.node.dispatch.breaker import BreakerState
from scheduler_core.node.dispatch.limiter import SATURATED_STEP, Permit, TargetLimiter
from scheduler_core.node.dispatch.limits import RATES_PER_TARGET
from scheduler_core.node.slots import SlotPool
from scheduler_core.plan.claim import Work
from scheduler_core.plan.held_back import plan_hold_back
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.targets import TargetService
from tests.support.factories import SECOND, answered, at, failed, make_job, make_run, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import OpenRequest, SteppedNode
from tests.support.stores import KEYS, opened, put, until

DEAD = "http://dead.test/run"
WELL = "http://well.test/run"
QUICK = EngineSettings(
    breaker_failures=2, breaker_after_seconds=0.0, breaker_open_seconds=5.0, public_url="http://cronpost.test"
)


class Setup:
    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store, self.redis = store, redis
        self.clock = ManualClock()
        self.jobs = JobService(store, self.clock, Metrics())
        self.nodes: list[SteppedNode] = []

    async def node(self, settings: EngineSettings | None = None) -> SteppedNode:
        node = SteppedNode(self.store, self.clock, Metrics(), settings)
        self.nodes.append(node)
        await node.start()
        return node

    async def put(self, name: str, url: str, *, seconds: float = 0, **fields: Any) -> None:
        await put(self.redis, make_job(name, url=url, **fields), make_state(seconds))

    async def work(self, node: SteppedNode) -> list[str]:
        """Let a node claim until nothing is due; return the jobs whose requests are open then."""
        await node.beat()
        while await node.claim():
            await node.settle()
        return sorted(entry.job_id for entry in node.deliverer.open)

    async def state(self, name: str) -> JobState:
        state = (await self.store.read(name)).snapshot.state
        assert state is not None
        return state

    async def held(self, name: str) -> HeldBack:
        hold = (await self.state(name)).held_back
        assert hold is not None
        return hold

    async def due(self, name: str) -> int:
        score = await self.redis.zscore(KEYS.due, name)
        assert score is not None
        return int(score)

    async def records(self, name: str) -> list[tuple[Any, ...]]:
        """Return the history of a job, oldest first: state or reason, and seconds."""
        found: list[tuple[Any, ...]] = []
        for one in reversed(await self.store.history(name)):
            if isinstance(one, Miss):
                found.append((one.reason.value, (one.first_ms - at(0)) / 1000, (one.last_ms - at(0)) / 1000))
            else:
                found.append((one.state.value, (one.fire_time_ms - at(0)) / 1000))
        return found

    async def open_breaker(self, node: SteppedNode) -> None:
        """Two jobs find that the target is dead, and try it again in a second."""
        await self.put("a", DEAD)
        await self.put("b", DEAD)
        await self.work(node)
        for _ in range(2):
            await node.answer(failed(OutcomeKind.CONNECTION))
        await node.settle()
        assert [one.state for one in node.dispatcher.limiter.breakers()] == [BreakerState.OPEN]


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        yield setup
        for node in setup.nodes:
            await node.crash()


def by_host(node: SteppedNode, url: str) -> list[OpenRequest]:
    return [entry for entry in node.deliverer.open if entry.request.url == url]


# ---- bulkheads ------------------------------------------------------------------------------------------------------


async def test_a_target_that_hangs_keeps_its_share_while_all_others_are_served(setup: Setup) -> None:
    node = await setup.node(EngineSettings(max_in_flight=8))
    for number in range(40):
        await setup.put(f"dead{number}", DEAD, seconds=-1)  # due before all others
    for number in range(50):
        await setup.put(f"well{number}", WELL)
    node.settler.start()
    node.claimer.start()
    most, served = 0, set()

    async def all_well_are_served() -> bool:
        nonlocal most
        for entry in by_host(node, WELL):
            if not entry.answer.done():
                served.add(entry.job_id)
                entry.answer.set_result(answered(200))
        most = max(most, len(by_host(node, DEAD)))
        setup.clock.advance(5)
        await node.beat()
        return len(served) == 50 and not by_host(node, WELL)

    await until(all_well_are_served)
    assert most == 4
    assert len(by_host(node, DEAD)) == 4
    assert not any(entry.answer.done() for entry in by_host(node, DEAD)), "they hang all the time"
    # Runs that were held back are sent when the target answers again.
    sent = set()

    async def all_dead_are_sent() -> bool:
        for entry in by_host(node, DEAD):
            if not entry.answer.done():
                sent.add(entry.job_id)
                entry.answer.set_result(answered(200))
        setup.clock.advance(5)
        await node.beat()
        return len(sent) == 40

    await until(all_dead_are_sent)
    await node.claimer.stop()
    await until(lambda: not node.node.in_flight and node.settler.is_idle)
    await node.settler.stop()
    found = [one for number in range(40) for one in await setup.records(f"dead{number}")]
    assert {one[0] for one in found} <= {"succeeded", "coalesced"}


async def test_a_run_that_is_held_back_keeps_its_fire_time_and_counts_no_attempt(setup: Setup) -> None:
    node = await setup.node()
    one_at_a_time = Policies(limits=Limits(max_in_flight=1))
    await setup.put("a", WELL, policies=one_at_a_time)
    await setup.put("b", WELL, policies=one_at_a_time)
    assert await node.claim() == 2
    await node.settle()
    [first] = node.deliverer.open
    waiting = {"a": "b", "b": "a"}[first.job_id]
    hold = await setup.held(waiting)
    assert (hold.reason, hold.target, hold.since_ms) == (HoldReason.LIMIT, "http://well.test", at(0))
    assert at(0) < hold.until_ms <= at(1)
    assert await setup.due(waiting) == hold.until_ms
    assert (await setup.store.read(waiting)).snapshot.lease is None
    assert (await setup.jobs.get(waiting)).status == "active"

    await node.answer(answered(200))
    await node.settle()
    setup.clock.advance(hold.until_ms - at(0))
    assert await setup.work(node) == [waiting]
    second = node.deliverer.open[0]
    assert second.header("Cronpost-Fire-Time") == first.header("Cronpost-Fire-Time")
    assert second.header("Cronpost-Attempt") == "1"
    await node.answer(answered(200))
    await node.settle()
    assert await setup.records(waiting) == [("succeeded", 0.0)]
    run = (await setup.store.history(waiting))[0]
    assert isinstance(run, Run)
    assert run.lateness_ms == hold.until_ms - at(0)
    assert (await setup.state(waiting)).held_back is None


async def test_limits_of_one_job_count_the_requests_of_others_and_delay_none_of_them(setup: Setup) -> None:
    node = await setup.node()
    await setup.put("free1", WELL)
    await setup.put("free2", "http://well.test/another/path")
    await setup.put("other", "http://well.test:81/")
    await setup.work(node)
    await setup.put("bound", WELL, policies=Policies(limits=Limits(max_in_flight=2)))
    await setup.put("wider", WELL, policies=Policies(limits=Limits(max_in_flight=4)))
    await setup.put("elsewhere", "http://third.test/", policies=Policies(limits=Limits(max_in_flight=1)))
    await setup.put("free3", WELL)
    assert await setup.work(node) == ["elsewhere", "free1", "free2", "free3", "other", "wider"]
    assert (await setup.held("bound")).reason is HoldReason.LIMIT


async def test_fire_times_that_pass_while_a_target_is_full_are_coalesced(setup: Setup) -> None:
    node = await setup.node(EngineSettings(target_max_in_flight=1))
    await setup.put("a", WELL, trigger=CronSpec("* * * * *"))
    await setup.put("b", WELL)
    for _ in range(25):
        assert await setup.work(node) == ["a"]
        setup.clock.advance(SECOND)
    await node.answer(answered(200))
    await node.settle()
    setup.clock.advance(SECOND)
    assert await setup.work(node) == ["b"]
    await node.answer(answered(200))
    await node.settle()
    assert await setup.records("b") == [("coalesced", 0.0, 10.0), ("succeeded", 20.0)]


async def test_a_run_that_was_taken_over_stays_the_same_run_while_it_is_held_back(setup: Setup) -> None:
    dying, node = await setup.node(), await setup.node(EngineSettings(target_max_in_flight=1))
    await setup.put("a", WELL)
    await dying.claim()
    run_id = dying.deliverer.open[0].run_id
    await dying.crash()
    setup.clock.advance(6 * SECOND)
    await setup.put("b", WELL, seconds=6, trigger=CronSpec("*/6 * * * * *"))
    await node.beat()
    await node.claim()
    assert [entry.job_id for entry in node.deliverer.open] == ["b"]
    await setup.store.reap(now_ms=setup.clock.now_ms(), dead_after_ms=5_000)
    wake_ups: list[int] = []
    node.settler._wake_at = wake_ups.append
    await setup.work(node)
    assert wake_ups == [await setup.due("a")]
    lease = (await setup.store.read("a")).snapshot.lease
    assert lease is not None
    assert (lease.node, lease.losses) == ("-", 1)
    assert await setup.due("a") > setup.clock.now_ms()
    await node.answer(answered(200))
    await node.settle()
    setup.clock.advance(SECOND)
    assert await setup.work(node) == ["a"]
    assert node.deliverer.open[0].run_id == run_id


async def test_a_rate_is_shared_by_the_nodes_and_gives_each_run_one_time(setup: Setup) -> None:
    node = await setup.node(EngineSettings(target_rate=4.0))
    await setup.node()
    await node.beat()
    assert node.node.slots.live_nodes == 2
    for number in range(5):
        await setup.put(f"job{number}", WELL)
    await setup.put("other", "http://third.test/")
    opened_now = await setup.work(node)
    assert len(opened_now) == 2, "one to the host, one to another"
    places = sorted([(await setup.held(f"job{n}")).until_ms for n in range(5) if f"job{n}" not in opened_now])
    assert places == [at(0) + 500 * number + 1 for number in range(1, 5)], "half of the rate"
    begun = []
    for _ in range(30):
        setup.clock.advance(100)
        before = len(node.deliverer.open)
        await setup.work(node)
        begun += [setup.clock.now_ms() - at(0)] * (len(node.deliverer.open) - before)
    assert begun == [600, 1_100, 1_600, 2_100], "none was held back a second time"
    assert node.dispatcher.limiter._metrics.held_back.labels("rate")._value.get() == 4


async def test_a_job_can_have_its_own_rate(setup: Setup) -> None:
    node = await setup.node()
    own = Policies(limits=Limits(rate=1.0))
    for name in ("a", "b"):
        await setup.put(name, WELL, policies=own)
    await setup.put("free", WELL)
    opened_now = await setup.work(node)
    assert "free" in opened_now
    assert len(opened_now) == 2
    setup.clock.advance(2 * SECOND)
    assert await setup.work(node) == ["a", "b", "free"]


def with_rate(rate: float) -> Work:
    return Work(make_job(url=WELL, policies=Policies(limits=Limits(rate=rate))), make_run(), make_state())


@pytest.mark.parametrize("rates", [[1.0 + n for n in range(24)], [24.0 - n for n in range(24)]], ids=["up", "down"])
def test_each_job_is_limited_when_a_target_has_many_rates(rates: list[float]) -> None:
    clock = ManualClock()
    limiter = TargetLimiter(SlotPool(10_000), EngineSettings(), clock, Metrics())
    admitted = dict.fromkeys(rates, 0)
    for _ in range(1_000):
        for rate in rates:
            admitted[rate] += isinstance(limiter.acquire(WELL, with_rate(rate), None, taken_over=False), Permit)
        assert len(limiter._targets.of(WELL).rates) <= RATES_PER_TARGET
        clock.advance(10)
    # In 10 s: one at once and 10 s worth of its rate at most; each adds at most what it may do alone.
    for rate in rates:
        assert admitted[rate] <= 10 * rate + 1 + len(rates), rate
    assert sum(admitted.values()) <= 10 * max(rates) + 2 * len(rates)


def test_an_idle_rate_makes_room_for_another_one() -> None:
    clock = ManualClock()
    limiter = TargetLimiter(SlotPool(10_000), EngineSettings(target_rate=100.0), clock, Metrics())
    for number in range(3 * RATES_PER_TARGET):
        limiter.acquire(WELL, with_rate(2.0 + number), None, taken_over=False)
        rates = limiter._targets.of(WELL).rates
        assert len(rates) <= RATES_PER_TARGET
        assert {100.0, 2.0 + number} <= set(rates)
        clock.advance(10 * SECOND)


@pytest.mark.parametrize("broken", ["InFlight.__init__", "needs_nothing_else"])
async def test_a_fault_between_permit_and_attempt_frees_the_slot(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    node = await setup.node()
    await setup.put("a", WELL)

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(f"scheduler_core.node.dispatch.dispatcher.{broken}", fail)
        await setup.work(node)
    limiter = node.dispatcher.limiter
    assert (limiter._open, limiter._targets.of(WELL).open, len(node.node.in_flight)) == (0, 0, 0)


def test_releasing_a_permit_twice_frees_one_slot() -> None:
    limiter = TargetLimiter(SlotPool(10), EngineSettings(), ManualClock(), Metrics())
    work = Work(make_job(url=WELL), make_run(), make_state())
    one, other = (limiter.acquire(WELL, work, None, taken_over=False) for _ in range(2))
    assert isinstance(one, Permit)
    assert isinstance(other, Permit)
    limiter.release(one, None)
    limiter.release(one, answered(200))
    assert (limiter._open, limiter._targets.of(WELL).open) == (1, 1)


async def test_requests_to_a_named_target_count_for_its_share(setup: Setup) -> None:
    limiter = TargetLimiter(SlotPool(10), EngineSettings(), ManualClock(), Metrics())
    work = Work(make_job(url=WELL), make_run(), make_state())
    permits = []
    for _ in range(6):
        permit = limiter.acquire(None, work, None, taken_over=False)
        assert isinstance(permit, Permit)
        held = limiter.acquire_resolved(permit, WELL, work, None)
        permits.append((permit, held))
    assert [held is None for _, held in permits] == [True] * 5 + [False]
    assert (limiter._open, limiter._targets.of(WELL).open) == (6, 5)
    for permit, _ in permits:
        limiter.release(permit, None)
    assert (limiter._open, limiter._targets.of(WELL).open) == (0, 0)


def test_many_jobs_of_one_quick_target_are_claimed_as_fast_as_it_has_slots() -> None:
    clock = ManualClock()
    limiter = TargetLimiter(SlotPool(400), EngineSettings(max_in_flight=400), clock, Metrics())
    work = Work(make_job(url=WELL), make_run(), make_state())
    woken: list[str] = []

    def acquire() -> Permit | HeldBack:
        return limiter.acquire(WELL, work, None, taken_over=False)

    def wake() -> None:
        woken.append("woken")

    permits = [permit for _ in range(100) if isinstance(permit := acquire(), Permit)]
    while permits:
        limiter.release(permits.pop(), answered(200))  # 12 ms each
    permits = [permit for _ in range(400) if isinstance(permit := acquire(), Permit)]
    assert len(permits) == 200
    assert limiter.batch(128, wake) == 0
    for _ in range(SATURATED_STEP // 2 - 1):
        limiter.release(permits.pop(), answered(200))
    assert woken == []
    limiter.release(permits.pop(), answered(200))
    assert woken == ["woken"]
    assert limiter.batch(128, wake) == SATURATED_STEP
    limiter.claimed(SATURATED_STEP, SATURATED_STEP)
    assert limiter.batch(128, wake) == SATURATED_STEP, "for as long as the target is saturated"
    limiter.claimed(SATURATED_STEP, 3)
    assert limiter.batch(128, wake) == 128


def test_a_target_that_was_quick_and_hangs_delays_no_others() -> None:
    clock = ManualClock()
    limiter = TargetLimiter(SlotPool(400), EngineSettings(max_in_flight=400), clock, Metrics())
    work = Work(make_job(url=WELL), make_run(), make_state())
    first = limiter.acquire(WELL, work, None, taken_over=False)
    assert isinstance(first, Permit)
    limiter.release(first, answered(200))
    for _ in range(300):
        limiter.acquire(WELL, work, None, taken_over=False)
    assert limiter.batch(128, lambda: None) == 0
    clock.advance(25)
    assert limiter.batch(128, lambda: None) == 128
    clock.advance(1_000)
    assert isinstance(limiter.acquire(WELL, work, None, taken_over=False), HeldBack)
    assert limiter.batch(128, lambda: None) == 128


def test_the_state_of_targets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler_core.node.dispatch.targets.KNOWN_URLS", 50)
    monkeypatch.setattr("scheduler_core.node.dispatch.targets.KNOWN_TARGETS", 20)
    limiter = TargetLimiter(SlotPool(1_000), QUICK, ManualClock(), Metrics())
    for number in range(500):
        url = f"http://host{number}.test/"
        permit = limiter.acquire(url, Work(make_job(url=url), make_run(), make_state()), None, taken_over=False)
        assert isinstance(permit, Permit)
        if number:
            limiter.release(permit, failed(OutcomeKind.CONNECTION))
            again = limiter.acquire(url, Work(make_job(url=url), make_run(), make_state()), None, taken_over=False)
            assert isinstance(again, Permit)
            limiter.release(again, failed(OutcomeKind.CONNECTION))
        assert len(limiter._targets._by_url) <= 50
        assert len(limiter._targets) <= 21
        assert len(limiter.breakers()) <= 21
    assert limiter._targets.of("http://host0.test").open == 1


# ---- breakers -------------------------------------------------------------------------------------------------------


async def test_an_open_breaker_holds_back_all_runs_but_one_probe_and_an_answer_closes_it(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    await setup.put("c", DEAD)
    await setup.put("well", WELL)
    assert await setup.work(node) == ["well"]
    assert len(node.deliverer.seen) == 3
    hold = await setup.held("c")
    [shown] = node.dispatcher.limiter.breakers()
    assert (hold.reason, hold.target, hold.until_ms) == (HoldReason.BREAKER, "http://dead.test", shown.probe_at_ms)
    assert shown.last_error == "connection: why"

    setup.clock.advance(shown.probe_at_ms - at(0) + 1_500)
    assert len(await setup.work(node)) == 2, "the probe, and what is well"
    assert node.dispatcher.limiter.breakers()[0].state is BreakerState.HALF_OPEN
    await node.answer(answered(500), node.deliverer.open.index(by_host(node, DEAD)[0]))
    await node.settle()
    assert node.dispatcher.limiter.breakers() == []
    setup.clock.advance(SECOND)
    await setup.work(node)
    assert len(by_host(node, DEAD)) >= 2


async def test_a_probe_that_fails_keeps_the_breaker_open_for_longer(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    first = node.dispatcher.limiter.breakers()[0]
    setup.clock.advance(first.probe_at_ms - at(0) + 10)
    assert len(await setup.work(node)) == 1
    await node.answer(failed())
    await node.settle()
    [second] = node.dispatcher.limiter.breakers()
    assert second.state is BreakerState.OPEN
    assert second.since_ms == first.since_ms
    assert 10_000 <= second.probe_at_ms - setup.clock.now_ms() <= 11_000
    assert await setup.work(node) == []


async def test_a_retry_that_is_due_is_held_back_without_counting_an_attempt(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    run = (await setup.state("a")).open
    assert run is not None
    setup.clock.advance(2 * SECOND)
    assert await setup.work(node) == []
    state = await setup.state("a")
    assert state.open == run
    assert state.held_back is not None
    assert (await setup.jobs.get("a")).status == "retrying"
    setup.clock.advance(4 * SECOND)
    [probing] = await setup.work(node)
    probe = node.deliverer.open[0]
    assert (probe.header("Cronpost-Attempt"), probe.run_id) == ("2", run.id if probing == "a" else probe.run_id)


async def test_fire_times_that_pass_while_the_breaker_is_open_are_misses_and_the_run_that_is_made_is_late(
    setup: Setup,
) -> None:
    node = await setup.node(EngineSettings(breaker_failures=1, breaker_after_seconds=0.0, breaker_open_seconds=34.0))
    await setup.put("a", DEAD, policies=Policies())
    await setup.work(node)
    await node.answer(failed(OutcomeKind.TLS))
    await node.settle()
    for _ in range(36):
        setup.clock.advance(SECOND)
        await setup.work(node)
    # The run of 0 s failed, those of 10 and 20 s never were; 30 s waits for the probe, or goes with it.
    setup.clock.advance(2 * SECOND)
    await setup.work(node)
    assert [entry.header("Cronpost-Fire-Time")[-3:] for entry in node.deliverer.open] == ["30Z"]
    await node.answer(answered(200))
    await node.settle()
    assert await setup.records("a") == [("failed", 0.0), ("breaker", 10.0, 20.0), ("succeeded", 30.0)]


async def test_a_pause_records_what_the_breaker_held_back(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    await setup.put("c", DEAD)
    await setup.work(node)
    await setup.jobs.pause("c")
    assert await setup.records("c") == [("breaker", 0.0, 0.0)]
    state = await setup.state("c")
    assert state.held_back is None
    setup.clock.advance(25 * SECOND)
    await setup.jobs.resume("c")
    assert await setup.records("c") == [("breaker", 0.0, 0.0), ("paused", 10.0, 20.0)]


async def test_an_upsert_with_another_target_is_sent_at_once(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    await setup.put("c", DEAD)
    await setup.work(node)
    await setup.jobs.upsert(make_job("c", url=WELL))
    assert await setup.due("c") == at(0)
    assert await setup.work(node) == ["c"]
    assert node.deliverer.open[0].header("Cronpost-Fire-Time")[-3:] == "00Z"


async def test_a_change_before_a_held_back_run_is_requeued_finds_it_was_never_sent(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    for name in ("changed", "paused", "deleted", "forced"):
        await setup.put(name, DEAD)
    await node.claim()
    await setup.jobs.upsert(make_job("changed", url=WELL))
    await setup.jobs.pause("paused")
    await setup.jobs.delete("deleted")
    await setup.jobs.run_now("forced", force=True)
    await node.settle()
    assert await setup.records("changed") == [("cancelled", 0.0)]
    assert await setup.records("paused") == [("cancelled", 0.0)]
    assert await setup.records("deleted") == [("cancelled", 0.0)]
    assert (await setup.store.read("deleted")).snapshot.state is None
    waiting = (await setup.state("forced")).open
    assert waiting is not None
    assert (waiting.in_flight, waiting.attempt, waiting.fire_time_ms) == (False, 0, at(0))
    for name in ("changed", "paused", "forced"):
        assert (await setup.store.read(name)).snapshot.lease is None


async def test_a_job_that_allows_overlap_spawns_no_child_runs_while_its_breaker_is_open(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    allows = Policies(overlap=Overlap.ALLOW, max_concurrent=5)
    await setup.put("many", DEAD, policies=allows)
    await setup.work(node)
    assert await setup.store.children("many") == []
    assert (await setup.held("many")).reason is HoldReason.BREAKER


async def test_a_child_run_waits_for_a_slot_too(setup: Setup) -> None:
    node = await setup.node(EngineSettings(target_max_in_flight=1))
    await setup.put("many", WELL, policies=Policies(overlap=Overlap.ALLOW, max_concurrent=5))
    await setup.work(node)
    setup.clock.advance(10 * SECOND)
    await setup.work(node)
    assert len(node.deliverer.open) == 1
    assert len(await setup.store.children("many")) == 2
    await node.answer(answered(200))
    await node.settle()
    setup.clock.advance(SECOND)
    await setup.work(node)
    assert [entry.header("Cronpost-Fire-Time")[-3:] for entry in node.deliverer.open] == ["10Z"]


async def test_the_target_of_a_schedule_is_known_before_its_run_is_sent(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    schedules = ScheduleService(Shards.of_one(setup.store), setup.clock, Metrics())
    targets = TargetService(Shards.of_one(setup.store), setup.clock, schedules)
    target = await targets.add(Target(0, "dead", DEAD))
    schedule = await schedules.add("s", target.id, Timing(1))
    job_id = schedule.view.id
    for _ in range(3):
        setup.clock.advance(SECOND)
        await setup.work(node)
    assert node.deliverer.open == []
    assert not node.node.in_flight
    assert (await setup.held(job_id)).target == "http://dead.test"
    setup.clock.advance(4 * SECOND)
    while not (await setup.work(node)):
        setup.clock.advance(100)
    assert node.dispatcher.limiter._open == 1


async def test_a_request_that_was_never_sent_does_not_count_for_the_breaker(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await setup.node(QUICK)
    await setup.open_breaker(node)
    setup.clock.advance(6 * SECOND)
    await setup.put("c", DEAD, policies=Policies(callback=True))

    async def away(_: RedisStore) -> bytes:
        raise StoreUnavailable("away")

    for name in ("a", "b"):
        await setup.jobs.delete(name)
    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "secret", away)
        await node.beat()
        await node.claim()
        await node.settle()
    assert node.dispatcher.limiter.breakers()[0].state is BreakerState.OPEN
    assert node.dispatcher.limiter._open == 0
    assert await setup.work(node) == ["c"], "another is the probe"


def test_held_back_keeps_its_start_and_whether_a_breaker_was_a_reason() -> None:
    first = HeldBack(HoldReason.BREAKER, at(1), at(5), "http://h", breaker=True)
    second = HeldBack(HoldReason.LIMIT, at(5), at(6), "http://h")
    state = plan_hold_back(make_state(), first).state
    assert state is not None
    mark = plan_hold_back(state, second).state
    assert mark is not None
    assert mark.held_back is not None
    assert (mark.held_back.reason, mark.held_back.since_ms, mark.held_back.until_ms) == (HoldReason.LIMIT, at(1), at(6))
    assert mark.held_back.miss_reason.value == "breaker"
