"""Finished attempts are freed by reference counting, without Python's collector.

A node makes thousands of attempts a second. Objects in a reference cycle stay until the collector examines them, which
is expensive for so many, and old ones stay for minutes.
"""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from scheduler_core.base.config import EngineSettings
from scheduler_core.delivery.http.client import HttpClient
from tests.support.delivery import deliverer
from tests.support.factories import make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.runners import Runner, answer, hang, reset
from tests.support.stores import opened, put, until

KINDS = ("InFlight", "_Direct", "TaskAttempt", "Connection", "Answer", "Request", "Outcome", "Unsettled", "Task")
HOW = {
    "answered": (answer(body=b"done"), 2_000),
    "refused by the runner": (answer(503), 2_000),
    "timed out": (hang(), 30),
    "reset": (reset(), 2_000),
}


def left() -> Counter[str]:
    return Counter(name for one in gc.get_objects() if (name := type(one).__name__) in KINDS)


async def attempts(http: HttpClient, url: str, redis_url: str, timeout_ms: int = 2_000) -> None:
    """Twenty attempts, some on new connections and some on used ones, and everything settled."""
    async with opened(redis_url) as (store, redis):
        clock = ManualClock()
        node = SteppedNode(store, clock, settings=EngineSettings(attempt_timeout_seconds=timeout_ms / 1000))
        node.dispatcher.start = http.start
        await node.start()
        for round_ in range(4):
            for number in range(5):
                await put(redis, make_job(f"{round_}-{number}", url=url), make_state(0))
            claim = await node.claimer._claim(100)
            for claimed in claim.jobs:
                node.start_run(claimed)
            await until(lambda: not node.node.in_flight)
            await node.settle()


@pytest.mark.parametrize("how", HOW)
async def test_a_finished_attempt_is_freed_without_the_collector(redis_url: str, how: str) -> None:
    action, timeout_ms = HOW[how]
    async with Runner(*[answer()] * 5, *[action] * 100) as runner, deliverer() as http:
        await attempts(http, runner.url(), redis_url, timeout_ms)  # what is made once and kept
        gc.collect()
        before = left()
        gc.disable()
        try:
            await attempts(http, runner.url(), redis_url, timeout_ms)
            await until(lambda: not left() - before)
        finally:
            gc.enable()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nowhere.invalid/", "http://169.254.169.254/"])
async def test_an_attempt_that_cannot_connect_is_freed_without_the_collector(redis_url: str, url: str) -> None:
    async with deliverer() as http:
        await attempts(http, url, redis_url)
        gc.collect()
        before = left()
        gc.disable()
        try:
            await attempts(http, url, redis_url)
            await until(lambda: not left() - before)
        finally:
            gc.enable()
