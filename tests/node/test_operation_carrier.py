"""The node's service that carries operations: which it takes, and what ends one that cannot go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.operations import OperationCarrier
from scheduler_core.node.node import Node
from scheduler_core.usecases import carry
from scheduler_core.usecases.operation_spec import OperationVerb
from scheduler_core.usecases.selection import page_of_selected
from tests.support.stores import KEYS
from tests.usecases.test_operations import LEASE_MS, Setup, counts


class Carrying(Setup):
    """A setup with a node that carries operations."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.node = Node(EngineSettings(), self.clock)
        self.node.beat_taken(self.clock.monotonic())
        self.service = OperationCarrier(self.node, self.shards, self.clock, Metrics())

    async def carried(self) -> int:
        """Take what has no carrier, and wait until it is done."""
        count = await self.service.take()
        await asyncio.gather(*self.service._tasks)
        return count


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Carrying]:
    setup = Carrying(redis_url)
    yield setup
    await setup.store.aclose()


async def test_a_node_takes_what_has_no_carrier_and_ends_it(setup: Carrying) -> None:
    await setup.put("a", "b")
    views = [
        await setup.start(OperationVerb.PAUSE, seconds=0.0),
        await setup.start(OperationVerb.LABEL, seconds=0.0, labels={"k": "v"}),
    ]
    assert await setup.carried() == 2
    for view in views:
        assert counts(await setup.operations.get(view.id)) == (2, 2, {}, 0)
    assert await setup.carried() == 0


async def test_a_node_whose_heartbeat_is_over_takes_nothing(setup: Carrying) -> None:
    view = await setup.start(OperationVerb.PAUSE, seconds=0.0)
    setup.clock.advance(60_000)
    assert await setup.carried() == 0
    setup.node.beat_taken(setup.clock.monotonic())
    assert await setup.carried() == 1
    assert (await setup.operations.get(view.id)).state == "done"


async def test_an_operation_that_cannot_be_read_ends_as_failed_and_others_continue(setup: Carrying) -> None:
    await setup.put("a")
    broken = await setup.start(OperationVerb.PAUSE, seconds=0.0)
    view = await setup.start(OperationVerb.PAUSE, seconds=0.0)
    await setup.store.client.hset(KEYS.operation(broken.id), "spec", b"\xff")
    assert await setup.carried() == 1
    stored = await setup.kept.read(broken.id)
    assert stored is not None
    assert stored.state == "failed"
    assert counts(await setup.operations.get(view.id)) == (1, 1, {}, 0)
    assert [one.id for one in (await setup.operations.page(after="", limit=9))[0]] == [view.id]


async def test_an_operation_with_an_unexpected_error_is_tried_again_and_then_fails(
    setup: Carrying, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a")
    view = await setup.start(OperationVerb.PAUSE, seconds=0.0)

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(carry, "page_of_selected", broken)
    assert await setup.carried() == 1
    done = await setup.operations.get(view.id)
    assert done.state == "failed"
    assert [error.detail for error in done.progress.errors] == ["RuntimeError: a bug"]


async def test_a_fault_of_redis_is_waited_for(setup: Carrying, monkeypatch: pytest.MonkeyPatch) -> None:
    await setup.put("a", "b")
    view = await setup.start(OperationVerb.PAUSE, seconds=0.0)
    faults = [StoreUnavailable("away", unreachable=True) for _ in range(20)]

    async def faulty(*args: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        return await page_of_selected(*args, **named)

    monkeypatch.setattr(carry, "page_of_selected", faulty)
    assert await setup.carried() == 1
    assert counts(await setup.operations.get(view.id)) == (2, 2, {}, 0)


async def test_a_node_that_lost_an_operation_stops_working_on_it(
    setup: Carrying, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a", "b")
    view = await setup.start(OperationVerb.PAUSE, seconds=0.0)
    taken: list[Any] = []

    async def overtaken(*args: Any, **named: Any) -> Any:
        if not taken:
            setup.clock.advance(LEASE_MS + 1)
            taken.append(await setup.taken(view.id, "other"))
        return await page_of_selected(*args, **named)

    monkeypatch.setattr(carry, "page_of_selected", overtaken)
    assert await setup.carried() == 1
    assert (await setup.operations.get(view.id)).carrier == "other"
    assert await taken[0].work()
    assert (await setup.operations.get(view.id)).state == "done"
