"""The order of a node's work: results wait while requests can be written, but not for long."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_core.node.loops.order import BURST, SETTLE_WAIT_SECONDS, SOON_MS, Order
from tests.support.manual_clock import ManualClock
from tests.support.stores import until


class Setup:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.order = Order(self.clock)

    async def waiting_turn(self) -> asyncio.Task[None]:
        """A turn to settle that has to wait."""
        turn = asyncio.create_task(self.order.settle_turn())
        await until(lambda: len(self.clock.waiting) == 1)
        assert not turn.done()
        return turn


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_results_are_settled_at_once_while_nothing_is_to_be_written(setup: Setup) -> None:
    await setup.order.settle_turn()
    setup.order.writes_left("a")
    setup.order.writes_done("a", next_ms=None)
    await setup.order.settle_turn()
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
    await turn


async def test_results_wait_for_a_burst_that_is_about_to_come(setup: Setup) -> None:
    soon_ms = setup.clock.now + SOON_MS
    setup.order.writes_done("a", next_ms=soon_ms, count=BURST)
    turn = await setup.waiting_turn()
    setup.order.writes_left("a")
    setup.order.writes_done("a")
    await turn


@pytest.mark.parametrize(("in_ms", "count"), [(SOON_MS + 1, BURST), (SOON_MS, BURST - 1)])
async def test_results_do_not_wait_for_a_later_burst_or_for_few_runs(setup: Setup, in_ms: int, count: int) -> None:
    setup.order.writes_done("a", next_ms=setup.clock.now + in_ms, count=count)
    await setup.order.settle_turn()
    assert setup.clock.waiting == []
