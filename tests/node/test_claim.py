"""The claim loop: when it claims, when it does not, and what wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import RunConflict, StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.node.loops import start as start_module
from scheduler_core.node.loops import wakeups as wakeups_module
from scheduler_core.node.loops.horizon import LEAST_MS
from scheduler_core.node.loops.subscriber import WakeupSubscriber
from scheduler_core.plan.claim import plan_claim
from scheduler_core.store.loop import REPLY_BYTES, Claim
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import answered, at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.redis_proxy import RedisProxy
from tests.support.stores import KEYS, claim, dump, opened, put, until


class Setup:
    """A node whose claims are counted."""

    def __init__(self, store: RedisStore, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.redis = redis
        self.clock = ManualClock()
        self.node = SteppedNode(store, self.clock, settings=EngineSettings(max_in_flight=2, target_max_in_flight=2))
        self.jobs = JobService(store, self.clock, Metrics())
        self.claims: list[Claim] = []
        claim = RedisStore.claim

        async def counted(store: RedisStore, **options: object) -> Claim:
            found = await claim(store, **options)  # type: ignore[arg-type]
            self.claims.append(found)
            return found

        monkeypatch.setattr(RedisStore, "claim", counted)

    async def put(self, *names: str, seconds: float = 0) -> None:
        for name in names:
            await put(self.redis, make_job(name), make_state(seconds))

    async def asleep(self) -> None:
        await until(lambda: self.node.alarm.sleeping_until_ms is not None)


@pytest.fixture
async def setup(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    monkeypatch.setattr(wakeups_module, "LONGEST_SLEEP", 3_600.0)  # so that what ends a sleep is not its cap
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis, monkeypatch)
        await setup.node.start()
        yield setup
        await setup.node.claimer.stop()
        await setup.node.crash()


async def test_a_full_node_claims_nothing_until_an_attempt_ends(setup: Setup) -> None:
    await setup.put("a", "b", "c")
    setup.node.claimer.start()
    await setup.asleep()
    assert len(setup.node.deliverer.open) == 2
    assert [len(claim.jobs) for claim in setup.claims] == [2]
    await setup.node.answer(answered(200))
    await until(lambda: len(setup.node.deliverer.seen) == 3)
    assert [len(claim.jobs) for claim in setup.claims] == [2, 1]


async def test_a_node_whose_results_redis_does_not_accept_claims_nothing(setup: Setup) -> None:
    await setup.put("a")
    setup.node.settler.fault = "settle: away"
    setup.node.claimer.start()
    await setup.asleep()
    assert setup.claims == []
    setup.node.settler.fault = None
    setup.node.alarm.wake()
    await until(lambda: len(setup.node.deliverer.open) == 1)


async def test_the_loop_sleeps_until_the_next_wake_up_and_an_earlier_one_shortens_the_sleep(setup: Setup) -> None:
    await setup.put("a", seconds=50)
    setup.node.claimer.start()
    await setup.asleep()
    assert setup.node.alarm.sleeping_until_ms == at(50)
    setup.node.alarm.wake_at(at(60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(setup.claims) == 1, "a later one does not"
    await setup.put("b", seconds=20)
    setup.node.alarm.wake_at(at(20))
    assert setup.node.alarm.sleeping_until_ms == at(20)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(setup.claims) == 1, "it is not due yet"
    setup.clock.advance(19_999)
    await setup.node.beat()
    await asyncio.sleep(0)
    assert len(setup.claims) == 1
    setup.clock.advance(1)
    await until(lambda: len(setup.claims) == 2)
    await until(lambda: [entry.job_id for entry in setup.node.deliverer.open] == ["b"])
    await setup.asleep()
    assert setup.node.alarm.sleeping_until_ms == at(50)


async def test_the_loop_claims_at_the_wake_up(setup: Setup) -> None:
    await setup.put("a", seconds=10)
    setup.clock.advance(9_950)
    await setup.node.beat()
    setup.node.claimer.start()
    await setup.asleep()
    setup.clock.advance(50)
    await until(lambda: len(setup.node.deliverer.open) == 1)


async def test_a_wake_up_during_a_claim_is_not_lost(setup: Setup) -> None:
    setup.node.claimer.start()
    await setup.asleep()
    setup.node.alarm.wake()
    while len(setup.claims) < 2:
        setup.node.alarm.wake_at(at(5))
        await asyncio.sleep(0)
    await setup.asleep()
    assert setup.node.alarm.sleeping_until_ms == at(5)
    setup.clock.advance(5_000)
    await until(lambda: len(setup.claims) == 3)


async def test_an_upsert_elsewhere_wakes_a_sleeping_node(setup: Setup) -> None:
    listener = WakeupSubscriber(
        setup.store, setup.node.alarm, setup.node.starter, setup.node.targets, setup.clock, Metrics()
    )
    setup.node.claimer.start()
    listener.start()

    async def subscribed() -> bool:
        return bool((await setup.redis.pubsub_numsub(KEYS.wake))[0][1])

    await until(subscribed)
    await setup.asleep()
    assert setup.node.alarm.sleeping_until_ms != at(10)
    await setup.jobs.upsert(make_job("a"))
    await until(lambda: setup.node.alarm.sleeping_until_ms == at(10) - LEAST_MS)
    setup.clock.advance(10_000)
    await setup.node.beat()
    await until(lambda: len(setup.node.deliverer.open) == 1)
    await listener.stop()


async def test_the_subscriber_clears_its_fault_as_soon_as_it_is_subscribed(setup: Setup) -> None:
    listener = WakeupSubscriber(
        setup.store, setup.node.alarm, setup.node.starter, setup.node.targets, setup.clock, Metrics()
    )
    listener.fault = "wake: away"
    listener.start()
    await until(lambda: listener.fault is None)
    assert setup.node.alarm.rang
    await listener.stop()


async def test_jobs_of_a_claim_whose_reply_is_lost_start_once_and_at_once(
    redis_server: EmbeddedRedis, setup: Setup, tmp_path: Path
) -> None:
    await setup.put("a", "b", "c")
    async with RedisProxy(redis_server.socket_path, tmp_path) as proxy:
        behind = RedisStore(connect(proxy.url))
        setup.node.claimer._store = behind
        await behind.claim(
            now_ms=0, limit=0, node="x", token=1, recent_ms=1, dead_after_ms=1, downtime_count=0
        )  # loads the script
        proxy.lose_reply_to(b"EVALSHA")
        with pytest.raises(StoreUnavailable):
            await setup.node.claimer.run_once()
        assert setup.node.deliverer.open == []
        await setup.node.claimer.run_once()
        await asyncio.sleep(0)
        assert len(setup.node.deliverer.open) == 2
        assert len({entry.request.headers for entry in setup.node.deliverer.open}) == 2
        assert setup.node.claimer._recover_bytes == REPLY_BYTES, "the next reply may be as large again"
        assert int(await setup.redis.hget(KEYS.meta, "fence") or 0) == 1000 * setup.clock.now_ms() + 1  # two were given
        await behind.aclose()


async def test_a_claim_that_was_cancelled_is_released_when_the_node_stops(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a")
    claim, taken = RedisStore.claim, asyncio.Event()

    async def hanging(store: RedisStore, **options: object) -> Claim:
        await claim(store, **options)  # type: ignore[arg-type]
        taken.set()
        await asyncio.Event().wait()
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "claim", hanging)
        setup.node.claimer.start()
        await taken.wait()
        await setup.node.claimer.stop()
    await setup.node.claimer.release_lost_claim()
    await setup.node.settle()
    stored = await setup.store.read("a")
    assert stored.snapshot.lease is not None
    assert stored.snapshot.lease.node == "-"
    assert await setup.redis.zscore(KEYS.due, "a") == at(0)


async def test_a_node_whose_lease_has_expired_sends_nothing_and_releases_the_job(setup: Setup) -> None:
    await setup.put("a")
    claim = await setup.node.claimer._claim(1)
    setup.clock.advance(6_000)
    setup.node.start_run(claim.jobs[0])
    await until(lambda: not setup.node.node.in_flight)
    assert setup.node.deliverer.seen == []
    await setup.node.settle()
    assert await setup.redis.zscore(KEYS.due, "a") == at(0)


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [(KEYS.jobs, "bad", b"\x93junk"), (KEYS.states, "bad", b"x"), (KEYS.jobs, "bad", None), (KEYS.states, "bad", None)],
)
async def test_a_job_that_cannot_be_read_is_quarantined_while_others_run(
    setup: Setup, key: str, field: str, value: bytes | None
) -> None:
    await setup.put("bad", "good")
    if value is None:
        await setup.redis.hdel(key, field)
    else:
        await setup.redis.hset(key, field, value)
    await setup.node.claim(2)
    assert [entry.job_id for entry in setup.node.deliverer.open] == ["good"]
    await setup.node.settle()
    stored = await setup.store.read("bad")
    assert stored.snapshot.state is not None
    assert stored.snapshot.state.quarantine is not None
    assert ("read" in stored.snapshot.state.quarantine) or ("gone" in stored.snapshot.state.quarantine)
    assert stored.snapshot.lease is None
    setup.clock.advance(60_000)
    await setup.node.beat()
    assert await setup.node.claim(1) == 0, "it is not claimed again and again"

    if key == KEYS.states:
        view = await setup.jobs.resume("bad")
    else:
        if value is not None:
            with pytest.raises(RunConflict):
                await setup.jobs.resume("bad")
        view, changed = await setup.jobs.upsert(make_job("bad"))
        assert changed
    assert view.status == "active"
    assert (await setup.jobs.get("bad")).state.next_fire_ms == at(70)


async def test_a_job_that_cannot_be_planned_is_quarantined_while_others_run(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("bad", "good")
    plan = plan_claim

    def failing(job: object, *arguments: object, **options: object) -> object:
        if getattr(job, "id", "") == "bad":
            raise ZeroDivisionError("a fault of ours")
        return plan(job, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(start_module, "plan_claim", failing)
    await setup.node.claim(2)
    assert [entry.job_id for entry in setup.node.deliverer.open] == ["good"]
    await setup.node.settle()
    view = await setup.jobs.get("bad")
    assert view.status == "quarantined"
    assert "a fault of ours" in (view.state.quarantine or "")
    assert (await setup.jobs.resume("bad")).status == "active"


async def test_a_claim_that_arrives_after_its_recovery_takes_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a")
    claim, sent = RedisStore.claim, dict[str, object]()

    async def delayed(_: RedisStore, **options: object) -> Claim:
        sent.update(options)
        raise StoreUnavailable("no answer", effect_unknown=True)

    claimer = setup.node.claimer
    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "claim", delayed)
        with pytest.raises(StoreUnavailable):
            await claimer._claim(1)
    await setup.redis.zadd(KEYS.due, {"a": at(99)})
    assert (await claimer._claim(1)).jobs == []
    await setup.redis.zadd(KEYS.due, {"a": at(0)})
    before = await dump(setup.redis)
    assert (await claim(setup.store, **sent)).jobs == []  # type: ignore[arg-type]
    assert await dump(setup.redis) == before
    assert await setup.node.claim(1) == 1


async def test_jobs_of_a_lost_reply_wait_until_their_downtimes_are_known(redis_url: str) -> None:
    async with opened(redis_url) as (store, redis):
        await put(redis, make_job("a"), make_state(0))
        clock = ManualClock()
        node = SteppedNode(store, clock)
        await node.start()
        await redis.hset(KEYS.meta, mapping={"downtimes": f"{at(-9)}:{at(-8)}", "downtime_count": 1})
        lost = next(node.claimer._tokens)
        await claim(store, node=node.node.id, token=lost)
        node.claimer._lost_token, node.claimer._claimed_at_ms = lost, clock.now
        assert await node.claim() == 0
        await node.settle()
        assert await node.claim() == 1
        assert node.node.downtime_count == 1
        assert node.deliverer.open[0].header("Cronpost-Attempt") == "1"
        await node.crash()
