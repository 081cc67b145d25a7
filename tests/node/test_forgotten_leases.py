"""A failover loses a settlement that was acknowledged: the lease is there again, but no attempt belongs to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from scheduler_core.model.run import RunState
from scheduler_core.store.loop import OwnLease
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import answered, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put, until

LOST = (KEYS.due, KEYS.states, KEYS.leases, KEYS.records, KEYS.details, KEYS.history("a"), KEYS.runs("S"), KEYS.counts)


async def compare(node: SteppedNode) -> None:
    """Compare leases as the claimer does some seconds after Redis was away."""
    node.claimer.store_faults += 1
    await node.claimer.lease_check.compare_if_due()
    node.clock.advance(node.node.dead_after_ms)
    await node.beat()
    await node.claimer.lease_check.compare_if_due()


@dataclass
class Setup:
    """A node that keeps running while Redis returns to an earlier state."""

    store: RedisStore
    redis: Redis
    clock: ManualClock
    node: SteppedNode

    async def remember(self) -> dict[str, bytes | None]:
        return {key: await self.redis.dump(key) for key in LOST}

    async def go_back_to(self, moment: dict[str, bytes | None]) -> None:
        await self.redis.delete(*moment)
        for key, stored in moment.items():
            if stored is not None:
                await self.redis.restore(key, 0, stored)

    async def compare(self) -> None:
        """Compare leases as the claimer does when the time for it has come."""
        await compare(self.node)
        await self.node.settle()


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        clock = ManualClock()
        setup = Setup(store, redis, clock, SteppedNode(store, clock))
        await setup.node.start()
        await put(redis, make_job("a"), make_state(0))
        assert await setup.node.claim() == 1
        yield setup
        await setup.node.crash()


async def test_a_run_whose_settlement_was_lost_is_released_and_delivered_again(setup: Setup) -> None:
    claimed = await setup.remember()
    first = await setup.node.answer(answered(200))
    await setup.node.settle()
    await setup.go_back_to(claimed)
    assert await setup.node.reaper.reap() == 0, "its node is alive, so the reaper keeps it"
    assert await setup.node.claim() == 0

    await setup.compare()
    assert await setup.node.claim() == 1
    again = setup.node.deliverer.open[0]
    assert again.run_id == first.run_id
    assert int(again.header("Cronpost-Fence")) > int(first.header("Cronpost-Fence"))
    await setup.node.answer(answered(200))
    await setup.node.settle()
    (run,) = await setup.store.history("a")
    assert run.state is RunState.SUCCEEDED  # type: ignore[union-attr]


async def test_leases_of_attempts_in_flight_are_kept(setup: Setup) -> None:
    await setup.compare()
    lease = (await setup.store.read("a")).snapshot.lease
    assert lease is not None
    assert lease.node == setup.node.node.id
    assert len(setup.node.deliverer.open) == 1


async def test_leases_of_results_that_are_not_settled_yet_are_kept(setup: Setup) -> None:
    await setup.node.answer(answered(200))
    await compare(setup.node)
    await setup.node.settle()
    (run,) = await setup.store.history("a")
    assert len(setup.node.deliverer.seen) == 1
    assert run.attempts[0].status == 200  # type: ignore[union-attr]


async def test_leases_of_other_nodes_are_kept(setup: Setup) -> None:
    other = SteppedNode(setup.store, setup.clock)
    await other.start()
    await compare(other)
    assert other.settler.is_idle


async def test_leases_are_compared_soon_after_a_fault_and_otherwise_once_a_minute(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    leases_of = setup.store.leases_of

    async def noted(node: str) -> list[OwnLease]:
        compared.append(setup.clock.now)
        return await leases_of(node, page=1)

    monkeypatch.setattr(setup.store, "leases_of", noted)
    begin = setup.clock.now
    for second in range(150):
        if second == 20:
            setup.node.claimer.store_faults += 1
        await setup.node.claimer.lease_check.compare_if_due()
        setup.clock.advance(1_000)
        await setup.node.beat()
    first, *others = [(at_ms - begin) // 1000 for at_ms in compared]
    assert 20 < first <= 25
    assert others == [first + 60, first + 120]


@pytest.mark.slow
async def test_leases_are_found_on_every_page(setup: Setup) -> None:
    for number in range(700):
        await put(setup.redis, make_job(f"job{number}"), make_state(0))
    while await setup.node.claim(limit=500):
        pass
    leases = await setup.store.leases_of(setup.node.node.id, page=10)
    assert {(lease.job_id, lease.fence) for lease in leases} == setup.node.claimer.lease_check.known()
    assert len(leases) >= 100


async def test_the_claim_loop_compares_leases(setup: Setup) -> None:
    claimed = await setup.remember()
    await setup.node.answer(answered(200))
    await setup.node.settle()
    await setup.go_back_to(claimed)
    setup.node.claimer.start()
    setup.clock.advance(60_000)
    await setup.node.beat()
    setup.node.alarm.wake()
    await until(lambda: not setup.node.settler.is_idle)
    await setup.node.claimer.stop()
    await setup.node.settle()
