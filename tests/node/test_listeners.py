"""Subscribers whose connections are lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.base.clock import Clock
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import FIRST_PAUSE, LONGEST_PAUSE, Service
from scheduler_core.node.loops.subscriber import WakeupSubscriber
from scheduler_core.node.loops.task_batches import TaskWakeupSubscriber
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from tests.support.manual_clock import ManualClock
from tests.support.stores import opened, until


class Woken:
    """Takes wake-ups in place of a claimer or task batcher; the first after each subscription is a ``wake``."""

    def __init__(self) -> None:
        self.count = 0

    def wake(self) -> None:
        self.count += 1

    def wake_at(self, wake_ms: int) -> None:
        pass

    def listens(self, active: bool) -> None:
        pass


@pytest.fixture
async def both(redis_url: str) -> AsyncIterator[tuple[RedisStore, Redis]]:
    async with opened(redis_url) as both:
        yield both


def wake_listener(store: RedisStore, woken: Woken, clock: Clock) -> Service:
    return WakeupSubscriber(store, woken, woken, woken, clock, Metrics())  # type: ignore[arg-type]


def task_wakeup_subscriber(store: RedisStore, woken: Woken, clock: Clock) -> Service:
    return TaskWakeupSubscriber(RedisTasks(store, None), woken, clock, Metrics())  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [wake_listener, task_wakeup_subscriber])
async def test_a_subscriber_that_loses_its_connection_is_back_after_a_short_pause_each_time(
    make: type[Service], both: tuple[RedisStore, Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, woken = ManualClock(), Woken()
    back: list[str] = []

    class Log:
        def info(self, event: str, **_: object) -> None:
            back.append(event)

        def warning(self, event: str, **_: object) -> None:
            back.append(event)

    monkeypatch.setattr("scheduler_core.node.loops.service.log", Log())
    listener = make(both[0], woken, clock)  # type: ignore[call-arg, arg-type]
    listener.start()
    pauses, faults = [], []
    for times in range(1, 7):
        await until(lambda times=times: woken.count == times)  # type: ignore[misc]
        faults.append(listener.fault)
        await both[1].client_kill_filter(_type="pubsub")
        await until(lambda: bool(clock.sleeping))
        pauses.append(clock.sleeping[0][0] - clock.monotonic())
        faults.append(listener.fault)
        clock.advance(round(LONGEST_PAUSE * 1000))
    await until(lambda: woken.count == 7)
    assert pauses == pytest.approx([FIRST_PAUSE] * 6)
    assert faults[::2] == [None] * 6
    assert None not in faults[1::2]
    assert back == ["store lost", "store back"] * 6
    await listener.stop()
