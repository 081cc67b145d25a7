"""The order of a node's work: results wait while requests can be written, but not for long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scheduler_core.model.transition import Transition
from scheduler_core.node.loops.order import BURST, FEW, MORE_SECONDS, SETTLE_WAIT_SECONDS, SOON_MS, Order
from scheduler_core.plan.settle import plan_settle
from tests.support.factories import answered, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import opened, put, until


class Setup:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.order = Order(self.clock)

    async def waiting_turn(self) -> asyncio.Task[float]:
        """A turn to settle that has to wait."""
        turn = asyncio.create_task(self.order.settle_turn(0.0))
        await until(lambda: len(self.clock.waiting) == 1)
        assert not turn.done()
        return turn


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_results_are_settled_at_once_while_nothing_is_to_be_written(setup: Setup) -> None:
    await setup.order.settle_turn(0.0)
    setup.order.writes_left("a")
    setup.order.writes_done("a", next_ms=None)
    await setup.order.settle_turn(0.0)
    assert setup.clock.waiting == []


async def test_results_wait_until_no_writer_has_anything_to_write(setup: Setup) -> None:
    setup.order.writes_left("a")
    setup.order.writes_left("b")
    turn = await setup.waiting_turn()
    setup.order.writes_done("a")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not turn.done()
    setup.order.writes_done("b")
    await turn


async def test_results_do_not_wait_longer_than_the_bound(setup: Setup) -> None:
    setup.order.writes_left("a")
    turn = await setup.waiting_turn()
    setup.clock.advance(int(SETTLE_WAIT_SECONDS * 1000))
    waited = await turn
    assert waited >= SETTLE_WAIT_SECONDS
    assert await setup.order.settle_turn(waited) == waited, "under lasting load they wait once"


async def test_results_wait_for_a_burst_that_is_about_to_come(setup: Setup) -> None:
    soon_ms = setup.clock.now + SOON_MS
    setup.order.writes_done("a", next_ms=soon_ms, count=BURST)
    turn = await setup.waiting_turn()
    setup.order.writes_left("a")
    setup.order.writes_done("a")
    await turn


async def test_a_settler_waits_once_and_then_settles_until_nothing_is_left(redis_url: str) -> None:
    async with opened(redis_url) as (store, redis):
        clock = ManualClock()
        node = SteppedNode(store, clock)
        await node.start()
        for name in ("a", "b"):
            await put(redis, make_job(name), make_state(0))
        first, second = (await node.claimer._claim(2)).jobs
        node.order.writes_left("a")
        node.settler.release(first)
        turn = asyncio.create_task(node.settler.run_once())
        await until(lambda: len(clock.waiting) == 1)
        assert node.settler.unsettled == 1
        clock.advance(int(SETTLE_WAIT_SECONDS * 1000))
        await turn
        assert node.settler.is_idle
        node.settler.release(second)
        await node.settler.run_once()
        assert node.settler.is_idle
        await node.crash()


@pytest.mark.parametrize(("in_ms", "count"), [(SOON_MS + 1, BURST), (SOON_MS, BURST - 1)])
async def test_results_do_not_wait_for_a_later_burst_or_for_few_runs(setup: Setup, in_ms: int, count: int) -> None:
    setup.order.writes_done("a", next_ms=setup.clock.now + in_ms, count=count)
    await setup.order.settle_turn(0.0)
    assert setup.clock.waiting == []


@pytest.mark.parametrize(
    ("settlements", "in_flight", "wait"),
    [(1, BURST, True), (FEW - 1, BURST, True), (FEW, BURST, False), (1, BURST - 1, False), (0, BURST, False)],
)
def test_a_small_batch_waits_for_more_while_many_requests_are_open(
    setup: Setup, settlements: int, in_flight: int, wait: bool
) -> None:
    assert setup.order.waits_for_more(settlements, in_flight) is wait


async def test_results_that_arrive_while_a_small_batch_waits_are_settled_with_it(redis_url: str) -> None:
    async with opened(redis_url) as (store, redis):
        clock = ManualClock()
        node = SteppedNode(store, clock)
        await node.start()
        for name in ("a", "b"):
            await put(redis, make_job(name), make_state(0))
        first, second = (await node.claimer._claim(2)).jobs
        node.settler._in_flight = range(BURST)
        node.settler.release(first)
        settling = asyncio.create_task(node.settler.run_once())
        await until(lambda: len(clock.sleeping) == 1)
        node.settler.release(second)
        clock.advance(int(MORE_SECONDS * 1000))
        await settling
        assert node.settler.is_idle


async def test_a_result_is_planned_when_its_batch_is_sent(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the node reads answers."""
    planned = []

    def plan(*args: Any) -> Transition:
        planned.append(args)
        return plan_settle(*args)

    monkeypatch.setattr("scheduler_core.node.loops.settle.plan_settle", plan)
    async with opened(redis_url) as (store, redis):
        node = SteppedNode(store, ManualClock())
        await node.start()
        await put(redis, make_job(), make_state(0))
        await node.claim()
        await node.answer(answered(200))
        assert (node.settler.unsettled, planned) == (1, [])
        await node.settle()
        assert (node.settler.unsettled, len(planned)) == (0, 1)
