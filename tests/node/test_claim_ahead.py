"""Claims ahead of the wake-up: what is sent and when, what a release, a death and a full node do."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import NOT_SENT, Attempt, Done, MaySend, Outcome, OutcomeKind, Verdict
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.call import Call
from scheduler_core.model.catalogue import Target
from scheduler_core.model.job_state import HoldReason
from scheduler_core.model.lease import SUSPECT_LOSSES
from scheduler_core.model.policies import Limits, Overlap, Policies
from scheduler_core.model.run import Run
from scheduler_core.node.dispatch.limiter import Permit
from scheduler_core.node.loops import start as start_module
from scheduler_core.node.loops.cut_requests import CutSubscriber
from scheduler_core.node.loops.horizon import LEAST_MS, MOST_MS, STEP_MS, Horizon
from scheduler_core.node.loops.start import PATIENCE_MS
from scheduler_core.node.loops.subscriber import WakeupSubscriber
from scheduler_core.plan.claim import Work
from scheduler_core.store.claim_keys import CHILD
from scheduler_core.store.loop import Claim, Release
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.targets import TargetService
from tests.support.factories import answered, at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put, until

AHEAD_MS = 500
EVERY_SECOND = CronSpec("* * * * * *")


class Setup:
    """A store with an empty due set, and nodes that can hold jobs ahead."""

    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.nodes: list[SteppedNode] = []

    async def put(self, *names: str, seconds: float = 1, policies: Policies | None = None) -> None:
        for name in names:
            job = make_job(name, trigger=EVERY_SECOND, policies=policies or Policies())
            await put(self.redis, job, make_state(seconds))

    async def node(self, *, slots: int = 100) -> SteppedNode:
        settings = EngineSettings(max_in_flight=slots, target_max_in_flight=slots)
        node = SteppedNode(self.store, self.clock, settings=settings)
        await node.start()
        node.starter.listens(True)
        self.nodes.append(node)
        return node

    async def due_at(self, claim_key: str) -> float | None:
        return await self.redis.zscore(KEYS.due, claim_key)

    async def reap(self) -> None:
        await self.store.reap(now_ms=self.clock.now, dead_after_ms=5_000)

    async def runs(self, name: str = "a") -> list[Run]:
        return [record for record in await self.store.history(name) if isinstance(record, Run)]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        yield setup
        for node in setup.nodes:
            await node.crash()


# ---- at the instant -------------------------------------------------------------------------------------------------


async def test_a_job_claimed_ahead_is_sent_at_its_wake_up_and_decided_as_of_it(setup: Setup) -> None:
    await setup.put("a")
    node = await setup.node()
    setup.clock.advance(600)
    assert await node.claim(ahead_ms=AHEAD_MS) == 1
    lease = (await setup.store.read("a")).snapshot.lease
    assert lease is not None
    assert (lease.first_claimed_at_ms, lease.wake_ms) == (at(1), at(1))
    setup.clock.advance(399)
    await node.start_due()
    assert node.deliverer.seen == []
    setup.clock.advance(1)
    await node.start_due()
    assert [one.header("Cronpost-Fire-Time") for one in node.deliverer.seen] == ["2026-12-31T23:50:01Z"]
    await node.answer(answered(200))
    await node.settle()
    (run,) = await setup.runs()
    assert (run.fire_time_ms, run.lateness_ms, run.attempt) == (at(1), 0, 1)
    assert await setup.due_at("a") == at(2)


async def test_what_lies_beyond_the_horizon_is_not_claimed(setup: Setup) -> None:
    await setup.put("a", seconds=1)
    node = await setup.node()
    setup.clock.advance(499)
    assert await node.claim(ahead_ms=AHEAD_MS) == 0
    setup.clock.advance(1)
    assert await node.claim(ahead_ms=AHEAD_MS) == 1


async def test_a_clock_that_was_set_back_sends_nothing_early(setup: Setup) -> None:
    await setup.put("a")
    node = await setup.node()
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    node.starter.start()
    await until(lambda: node.starter._alarm.sleeping_until_ms == at(1))
    setup.clock.now -= 200  # the timer does not notice
    setup.clock.advance(400)
    for _ in range(10):
        await asyncio.sleep(0)
    assert node.deliverer.seen == []
    setup.clock.advance(200)
    await until(lambda: len(node.deliverer.seen) == 1)
    await node.starter.stop()


class Written:
    """Stands for the deliverer: writes requests one after the other. ``meanwhile`` runs after each."""

    def __init__(self, node: SteppedNode, meanwhile: Callable[[int], None]) -> None:
        self.sent: list[str] = []
        self.done: list[Done] = []
        self._meanwhile = meanwhile
        node.dispatcher._start_all = self.start_all

    def start_all(self, starts: Sequence[tuple[Call, Done, MaySend]]) -> list[Attempt]:
        attempts: list[Attempt] = []
        for call, done, may_send in starts:
            if may_send():
                self.sent.append(call.job_id)
                self.done.append(done)
            else:
                asyncio.get_running_loop().call_soon(done, NOT_SENT)
            attempts.append(Nothing())
            self._meanwhile(len(self.sent))
        return attempts


class Nothing:
    def cancel(self) -> None:
        pass


async def at_the_instant(setup: Setup, meanwhile: Callable[[int], None]) -> tuple[SteppedNode, Written]:
    """A node that starts four jobs together; ``meanwhile`` runs after each request, with their number."""
    await setup.put("a", "b", "c", "d")
    node = await setup.node()
    written = Written(node, meanwhile)
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    setup.clock.advance(400)
    node.starter.start_due(100)
    await asyncio.sleep(0)
    return node, written


async def test_a_clock_that_is_set_back_in_a_burst_stops_the_rest_of_it(setup: Setup) -> None:
    def step(sent: int) -> None:
        if sent == 2:
            setup.clock.now = at(1) - 1

    node, written = await at_the_instant(setup, step)
    assert len(written.sent) == 2
    await node.settle()
    assert len(node.node.in_flight) == 2
    left = {"a", "b", "c", "d"} - set(written.sent)
    assert {await setup.due_at(name) for name in left} == {at(1)}, "they are claimed again"


async def test_a_lease_that_expires_in_a_burst_stops_the_rest_of_it(setup: Setup) -> None:
    def freeze(sent: int) -> None:
        if sent == 3:
            setup.clock.advance(6_000)

    node, written = await at_the_instant(setup, freeze)
    assert len(written.sent) == 3
    assert len(node.node.in_flight) == 3
    assert not node.settler.is_idle, "the fourth is released"


async def test_each_run_of_a_burst_has_the_time_of_its_own_request(setup: Setup) -> None:
    node, written = await at_the_instant(setup, lambda _: setup.clock.advance(3))
    for done in written.done:
        done(answered(200))
    await node.settle()
    runs = {name: (await setup.runs(name))[0].lateness_ms for name in "abcd"}
    assert [runs[name] for name in written.sent] == [0, 3, 6, 9]
    assert not node.node.in_flight


async def test_an_attempt_that_fails_before_it_may_send_begins_at_its_wake_up(setup: Setup) -> None:
    await setup.put("a")
    node = await setup.node()
    ends: list[Done] = []

    def connect(starts: Sequence[tuple[Call, Done, MaySend]]) -> list[Attempt]:
        ends.extend(done for _, done, _ in starts)
        return [Nothing() for _ in starts]

    node.dispatcher._start_all = connect
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    setup.clock.advance(400)
    node.starter.start_due(100)
    ends[0](Outcome(OutcomeKind.CONNECTION, verdict=Verdict.RETRY))
    await node.settle()
    state = (await setup.store.read("a")).snapshot.state
    assert state is not None
    assert state.open is not None
    assert state.open.started_at_ms == at(1)


async def test_cycles_are_not_collected_during_a_burst(setup: Setup) -> None:
    collects: list[bool] = []
    await at_the_instant(setup, lambda _: collects.append(gc.isenabled()))
    assert collects == [False] * 4
    assert gc.isenabled()


async def test_a_deliverer_that_fails_for_a_whole_burst_fails_its_attempts(setup: Setup) -> None:
    def broken(_: int) -> None:
        raise RuntimeError("broken")

    node, _ = await at_the_instant(setup, broken)
    assert not node.node.in_flight
    assert node.starter.limiter.grant(Permit(), make_job("e")), "the permits are free again"
    await node.settle()
    assert [(await setup.store.read(name)).snapshot.lease for name in "abcd"] == [None] * 4


async def test_a_burst_gets_permits_in_the_order_of_the_wake_ups(setup: Setup) -> None:
    own = Policies(limits=Limits(max_in_flight=3))
    await setup.put("first", "later", "last")
    await setup.put("limited", "full", policies=own)
    for number, name in enumerate(("first", "limited", "later", "last", "full")):
        await setup.redis.zadd(KEYS.due, {name: at(1) + number})
    node = await setup.node()
    setup.clock.advance(600)
    assert await node.claim(ahead_ms=AHEAD_MS) == 5
    setup.clock.advance(404)
    await node.start_due()
    assert [one.job_id for one in node.deliverer.seen[:2]] == ["first", "limited"]
    assert {one.job_id for one in node.deliverer.seen[2:]} == {"later", "last"}
    await node.settle()
    state = (await setup.store.read("full")).snapshot.state
    assert state is not None
    assert state.held_back is not None
    assert state.held_back.reason is HoldReason.LIMIT


async def test_the_loops_send_at_the_instant_and_claim_before_it(setup: Setup) -> None:
    await setup.put("a", seconds=1)
    node = await setup.node()
    node.claimer.start()
    node.starter.start()
    await until(lambda: node.alarm.sleeping_until_ms == at(1) - LEAST_MS)
    setup.clock.advance(1000 - LEAST_MS)
    await until(lambda: len(node.starter.queue) == 1)
    await until(lambda: node.starter._alarm.sleeping_until_ms == at(1))
    assert node.deliverer.seen == []
    setup.clock.advance(LEAST_MS)
    await until(lambda: len(node.deliverer.seen) == 1)
    await node.claimer.stop()
    await node.starter.stop()


async def test_overlapping_runs_begin_at_the_wake_up_too(setup: Setup) -> None:
    await setup.put("a", policies=Policies(overlap=Overlap.ALLOW))
    node = await setup.node()
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    await node.settle()
    assert await setup.store.children("a") == []
    setup.clock.advance(400)
    await node.start_due()
    await node.settle()
    assert [child.split(CHILD)[0] for child in await setup.store.children("a")] == ["a"]


# ---- release --------------------------------------------------------------------------------------------------------


async def test_a_released_job_is_not_claimed_ahead_again_and_fires_at_its_wake_up(setup: Setup) -> None:
    await setup.put("a", "b")
    first, second = await setup.node(), await setup.node()
    setup.clock.advance(600)
    assert await first.claim(ahead_ms=AHEAD_MS) == 2
    listener = WakeupSubscriber(setup.store, first.alarm, first.starter, first.targets, setup.clock, Metrics())
    listener.start()
    await until(lambda: first.alarm.rang)
    await setup.store.ask_to_release(["a", "unknown"], until_ms=setup.clock.now + 250)
    await until(lambda: len(first.starter.queue) == 1)
    await first.settle()
    await listener.stop()
    assert await setup.due_at("a") == at(1)
    assert await second.claim(ahead_ms=AHEAD_MS) == 0
    setup.clock.advance(400)
    assert await second.claim(ahead_ms=AHEAD_MS) >= 1
    assert second.deliverer.open[0].job_id == "a"
    await second.answer(answered(200))
    await second.settle()
    (run,) = await setup.runs()
    assert (run.fire_time_ms, run.attempt) == (at(1), 1)


async def test_a_node_without_its_subscription_holds_nothing_ahead(setup: Setup) -> None:
    await setup.put("a")
    node = await setup.node()
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    node.starter.listens(False)
    await node.settle()
    assert await setup.due_at("a") == at(1)
    assert node.claimer._room_ahead() == 0
    node.starter.listens(True)
    assert node.claimer._room_ahead() > 0


async def test_a_release_that_comes_after_the_wake_up_releases_nothing(setup: Setup) -> None:
    await setup.put("a")
    node = await setup.node()
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    setup.clock.advance(400)
    node.starter.release(Release(setup.clock.now + 250, ("a",)))
    assert node.settler.is_idle
    await node.start_due()
    assert len(node.deliverer.seen) == 1


async def test_a_run_that_is_cancelled_before_its_wake_up_is_not_sent(setup: Setup) -> None:
    await setup.put("a", "b")
    node = await setup.node()
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    (planned,) = [one.planned for one in node.starter.queue if one.claimed.id == "a"]
    assert isinstance(planned, Work)

    async def subscribed() -> bool:
        return bool((await setup.redis.pubsub_numsub(KEYS.cut))[0][1])

    cutter = CutSubscriber(node.node, setup.store, node.starter, setup.clock, Metrics())
    async with aclosing(setup.store.cut_runs()) as confirmed:
        assert await anext(confirmed) is None
        cutter.start()
        await until(subscribed)
        await setup.store.ask_to_cut(planned.run.id)
        assert await anext(confirmed) == planned.run.id
    await cutter.stop()
    setup.clock.advance(400)
    await node.start_due()
    assert [one.job_id for one in node.deliverer.seen] == ["b"]


async def test_a_run_that_is_cancelled_while_it_waits_for_a_slot_is_not_sent(setup: Setup) -> None:
    await setup.put("a", "b", seconds=0)
    node = await setup.node(slots=1)
    claim = await node.claimer._claim(2, AHEAD_MS)
    node.starter.put(claim.jobs)
    node.starter.start_due(1)
    await until(lambda: len(node.deliverer.open) == 1)
    (waiting,) = node.starter.queue
    assert isinstance(waiting.planned, Work)
    assert node.starter.cut(waiting.planned.run.id)
    await node.answer(answered(200))
    node.starter.start_due(1)
    assert len(node.deliverer.seen) == 1
    assert not node.node.in_flight
    assert not node.starter.cut(waiting.planned.run.id)


async def test_a_stopping_node_releases_what_it_has_not_started(setup: Setup) -> None:
    await setup.put("a")
    node = await setup.node()
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    node.starter.release_all()
    await node.settle()
    assert await setup.due_at("a") == at(1)
    assert len(node.starter.queue) == 0


# ---- death ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_kept_of_a_claim_whose_wake_up_has_not_come(setup: Setup) -> None:
    await setup.put("a", seconds=6.9)
    node = await setup.node()
    setup.clock.advance(300)
    await node.claim(ahead_ms=7_000)
    setup.clock.advance(5_100)
    await setup.reap()
    stored = await setup.store.read("a")
    assert stored.snapshot.lease is None
    assert await setup.due_at("a") == at(6.9)


@pytest.mark.parametrize(("last_beat_ms", "losses"), [(900, 0), (1_100, 1)])
async def test_a_wake_up_after_the_last_heartbeat_is_no_evidence_against_its_run(
    setup: Setup, last_beat_ms: int, losses: int
) -> None:
    await setup.put("a")
    first = await setup.node()
    setup.clock.advance(600)
    await first.claim(ahead_ms=AHEAD_MS)
    setup.clock.advance(last_beat_ms - 600)
    await first.beat()
    setup.clock.advance(6_000)
    await setup.reap()
    lease = (await setup.store.read("a")).snapshot.lease
    assert lease is not None
    assert (lease.node, lease.losses, lease.lost_count) == ("-", losses, 1)
    assert lease.lost[0].at_ms == at(1)
    second = await setup.node()
    await second.claim()
    request = second.deliverer.open[0]
    assert request.header("Cronpost-Attempt") == "2", "nobody knows whether the first one was sent"
    assert request.header("Cronpost-Fire-Time") == "2026-12-31T23:50:01Z"


async def test_a_run_that_waits_for_a_later_wake_up_keeps_its_facts_when_its_node_dies_before_that(
    setup: Setup,
) -> None:
    await setup.put("a", seconds=0)
    first = await setup.node()
    (claimed,) = (await first.claimer._claim(1)).jobs
    first.settler.requeue(claimed, at(6.9))
    await first.settle()
    setup.clock.advance(300)
    await first.beat()
    assert await first.claim(ahead_ms=7_000) == 1
    setup.clock.advance(5_500)
    await setup.reap()
    lease = (await setup.store.read("a")).snapshot.lease
    assert lease is not None
    assert (lease.node, lease.first_fence, lease.losses, lease.lost_count) == ("-", claimed.lease.fence, 0, 0)
    assert await setup.due_at("a") == at(6.9)


async def test_a_suspect_is_not_claimed_ahead(setup: Setup) -> None:
    await setup.put("a", "b", seconds=1)
    await setup.redis.hset(KEYS.leases, "a", f"7 - 7 {at(0)} {SUSPECT_LOSSES} {at(1)} 1:0~0:0:0:")
    node = await setup.node()
    setup.clock.advance(600)
    assert await node.claim(ahead_ms=AHEAD_MS) == 1
    assert await setup.due_at("a") == at(1)


async def test_a_lease_that_redis_has_restored_is_released_without_an_attempt_if_it_lies_ahead(setup: Setup) -> None:
    await setup.put("a")
    node = await setup.node()
    setup.clock.advance(600)
    await node.claimer._claim(1, AHEAD_MS)  # the node does not keep what it claimed
    await node.claimer.lease_check._compare()
    await node.settle()
    lease = (await setup.store.read("a")).snapshot.lease
    assert lease is not None
    assert (lease.node, lease.lost_count) == ("-", 0)


async def test_jobs_held_ahead_are_known_to_the_lease_check(setup: Setup) -> None:
    await setup.put("a")
    node = await setup.node()
    setup.clock.advance(600)
    await node.claim(ahead_ms=AHEAD_MS)
    await node.claimer.lease_check._compare()
    assert node.settler.is_idle


# ---- bounds ---------------------------------------------------------------------------------------------------------


async def test_jobs_beyond_the_slots_wait_in_the_order_of_their_wake_ups_and_are_released_in_the_end(
    setup: Setup,
) -> None:
    for number in range(4):
        await put(setup.redis, make_job(f"job{number}", trigger=EVERY_SECOND), make_state(1 - number))
        await setup.redis.zadd(KEYS.due, {f"job{number}": at(1) + number})
    node = await setup.node(slots=1)
    setup.clock.advance(600)
    assert await node.claim(ahead_ms=AHEAD_MS) == 4
    node.starter.start()
    await until(lambda: node.starter._alarm.sleeping_until_ms == at(1))
    setup.clock.advance(410)
    await until(lambda: len(node.deliverer.open) == 1)
    await node.answer(answered(200))
    await until(lambda: [one.job_id for one in node.deliverer.seen] == ["job0", "job1"])
    assert node.starter.room() == 0, "what it has is enough"
    await until(lambda: node.starter._alarm.sleeping_until_ms is not None)
    setup.clock.advance(PATIENCE_MS)
    await until(lambda: len(node.starter.queue) == 0)
    await node.starter.stop()
    await node.settle()
    assert await setup.due_at("job2") == at(1.002)
    assert await setup.due_at("job3") == at(1.003)
    state = (await setup.store.read("job3")).snapshot.state
    assert state is not None
    assert state.held_back is not None
    assert state.held_back.shown_reason is HoldReason.SLOTS
    assert state.held_back.since_ms == setup.clock.now
    await node.answer(answered(200))
    assert await node.claim(1) == 1
    assert node.deliverer.seen[-1].job_id == "job2", "it kept its place"


async def test_many_runs_without_a_slot_are_held_back_in_batches(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "WRITES_AT_ONCE", 2)
    await setup.put("first", seconds=0)
    node = await setup.node(slots=1)
    assert await node.claim(1) == 1
    await setup.put("a", "b", "c", seconds=0)
    claim = await node.claimer._claim(3)
    node.starter.put(claim.jobs)
    setup.clock.advance(PATIENCE_MS)
    await node.starter.run_once()
    assert len(node.starter.queue) == 1
    await node.starter.run_once()
    await node.settle()
    assert [await setup.due_at(name) for name in "abc"] == [at(0)] * 3
    assert len(node.deliverer.seen) == 1


async def test_overdue_runs_are_not_held_back_while_slots_are_free(setup: Setup) -> None:
    """A claim of a backlog takes more of them than it starts, and a node may stand still for longer than that."""
    await setup.put("a", "b", "c", seconds=0)
    node = await setup.node(slots=2)
    setup.clock.advance(2 * PATIENCE_MS)
    claim = await node.claimer._claim(3)
    node.starter.put(claim.jobs)
    await node.starter.run_once()
    assert len(node.node.in_flight) == 2
    assert len(node.starter.queue) == 0
    assert node.settler.unsettled == 1, "the third goes to a node that has a slot"


async def test_a_job_that_needs_no_slot_is_not_held_back_for_want_of_one(setup: Setup) -> None:
    await setup.put("first", seconds=0)
    node = await setup.node(slots=1)
    assert await node.claim(1) == 1
    await setup.put("child", seconds=0, policies=Policies(overlap=Overlap.ALLOW))
    claim = await node.claimer._claim(1)
    node.starter.put(claim.jobs)
    setup.clock.advance(PATIENCE_MS)
    node.starter._hold_back_overdue(setup.clock.now)
    await node.settle()
    assert len(await setup.store.children("child")) == 1


async def test_a_saturated_target_gets_as_many_requests_as_it_has_free_slots(setup: Setup) -> None:
    jobs = 300
    for number in range(jobs):
        await put(setup.redis, make_job(f"job{number}", trigger=EVERY_SECOND), make_state(1))
    node = SteppedNode(setup.store, setup.clock, settings=EngineSettings(max_in_flight=200))
    setup.nodes.append(node)
    await node.start()
    node.starter.listens(True)
    setup.clock.advance(600)
    await put(setup.redis, make_job("quick", trigger=EVERY_SECOND), make_state(0))
    assert await node.claim(1) == 1
    await node.answer(answered(200))  # so that the target counts as quick
    assert await node.claim(jobs, ahead_ms=AHEAD_MS) == jobs
    setup.clock.advance(400)
    node.starter.start_due(200)
    await asyncio.sleep(0)
    first = len(node.deliverer.open)
    assert node.starter.limiter.saturated is not None
    for _ in range(50):
        await node.answer(answered(200))
    starts = node.starter.limiter.batch(1_000, node.alarm.wake)
    assert starts >= 40
    node.starter.start_due(starts)
    await asyncio.sleep(0)
    assert len(node.deliverer.open) >= first - 50 + 40, "many at once"


async def test_the_bytes_that_a_node_holds_ahead_are_bounded(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "QUEUE_BYTES", 1_500)
    for number in range(2):
        await put(setup.redis, make_job(f"job{number}", payload=b'"' + b"x" * 998 + b'"'), make_state(1))
    node = await setup.node()
    setup.clock.advance(600)
    await node.claim(1, ahead_ms=AHEAD_MS)
    assert node.starter.room() > 0
    await node.claim(1, ahead_ms=AHEAD_MS)
    assert node.starter.room() == 0
    node.starter.release(Release(setup.clock.now + 250, ("job0",)))
    assert node.starter.room() > 0


def claimed(count: int, burst: int) -> Claim:
    return Claim([None] * count, None, None, 0, burst=burst)  # type: ignore[list-item]


def test_the_horizon_grows_with_the_burst_and_is_bounded() -> None:
    horizon = Horizon()
    assert (horizon.lead_ms, horizon.ahead_ms) == (LEAST_MS, LEAST_MS + STEP_MS)
    horizon.claimed(claimed(0, 1_000), 1.0, full=False)
    assert LEAST_MS + 100 <= horizon.lead_ms <= LEAST_MS + 300
    horizon.claimed(claimed(0, 1_000_000), 1.0, full=False)
    assert horizon.ahead_ms == MOST_MS


def test_the_horizon_remembers_the_last_burst_for_a_while() -> None:
    horizon = Horizon()
    for _ in range(8):
        horizon.claimed(claimed(128, 0), 12.8, full=True)
    horizon.claimed(claimed(10, 0), 1.0, full=False)
    lead = horizon.lead_ms
    assert lead > LEAST_MS + 150
    for _ in range(100):
        horizon.claimed(claimed(1, 1), 1.0, full=False)
    assert horizon.lead_ms < LEAST_MS + 10 < lead


def test_several_nodes_share_a_burst() -> None:
    horizon = Horizon()
    horizon.claimed(claimed(0, 1_000), 1.0, full=False)
    assert horizon.room(5_000, held=0, nodes=1) == 5_000
    assert horizon.room(5_000, held=0, nodes=4) == 250
    assert horizon.room(5_000, held=200, nodes=4) == 100
    assert horizon.room(10, held=0, nodes=4) == 10


async def test_a_silent_subscription_releases_what_is_held_and_an_answer_ends_that(
    setup: Setup, own_server: EmbeddedRedis
) -> None:
    store = RedisStore(connect(own_server.url))
    client: Any = Redis.from_url(own_server.url)
    await put(client, make_job("a", trigger=EVERY_SECOND), make_state(1))
    node = SteppedNode(store, setup.clock)
    await node.start()
    listener = WakeupSubscriber(
        store, node.alarm, node.starter, node.targets, RedisClock(), Metrics(), heartbeat_seconds=0.2
    )
    listener.start()
    await until(lambda: node.starter.may_hold_ahead)
    setup.clock.advance(600)
    assert await node.claim(ahead_ms=AHEAD_MS) == 1
    await client.client_pause(1_000)
    await until(lambda: not node.starter.may_hold_ahead)
    assert len(node.starter.queue) == 0
    await client.execute_command("CLIENT", "UNPAUSE")
    await until(lambda: node.starter.may_hold_ahead)
    assert listener.fault is None, "the connection is the same"
    await node.settle()
    assert await client.zscore(KEYS.due, "a") == at(1)
    await listener.stop()
    await client.aclose()
    await store.aclose()


async def test_a_changed_target_is_looked_up_again_for_a_job_that_is_held_ahead(setup: Setup) -> None:
    shards: Shards[ShardStore] = Shards.of_one(setup.store)
    targets = TargetService(shards, setup.clock, ScheduleService(shards, setup.clock, Metrics()))
    target = await targets.add(Target(0, "target", "http://old.test/", "POST", None, None, 0, 0))
    await put(setup.redis, make_job("a", trigger=EVERY_SECOND, url="", target_id=target.id), make_state(1))
    node = await setup.node()
    listener = WakeupSubscriber(setup.store, node.alarm, node.starter, node.targets, setup.clock, Metrics())
    listener.start()
    await until(lambda: node.alarm.rang)
    assert await node.targets.get(target.id) == target
    setup.clock.advance(600)
    assert await node.claim(ahead_ms=AHEAD_MS) == 1
    await targets.change(target.id, lambda found: replace(found, url="http://new.test/"))
    await until(lambda: node.targets.known(target.id) is None)
    setup.clock.advance(400)
    await node.start_due()
    assert [one.request.url for one in node.deliverer.seen] == ["http://new.test/"]
    await listener.stop()
