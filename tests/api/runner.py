"""A runner in the test's own process, called by a real node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from scheduler_api.context import Context
from scheduler_core.base.config import EngineSettings
from scheduler_core.delivery.base import CoroutineDeliverer
from scheduler_core.delivery.http.request import Request, request_of
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.node.engine import Engine
from tests.support.factories import over_http


class Runner(CoroutineDeliverer[None]):
    """Answers each request with the next of ``answers`` (status and body), and with 200 after the last one.

    While ``hold`` is set, requests stay open.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[Request] = []
        self.hold: asyncio.Event | None = None
        self.cut = 0
        """How many requests were cancelled while they were held."""

    async def send(self, call: Call, _: None, /) -> Outcome:
        request = request_of(call)
        self.requests.append(request)
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cut += 1
                raise
        status, body = self.answers.pop(0) if self.answers else (200, b"{}")
        outcome = Outcome(OutcomeKind.RESPONSE, 1.25, status=status, body=body, sent_headers=request.headers)
        return over_http(outcome, *call.retry_statuses)

    async def aclose(self) -> None:
        pass

    @property
    def bodies(self) -> list[bytes]:
        return [request.body or b"" for request in self.requests]

    def header(self, name: str, index: int = -1) -> str:
        """Return a header of one of the requests, by default of the latest."""
        return dict(self.requests[index].headers)[name]


@asynccontextmanager
async def running(context: Context, runner: Runner | None = None, *, history: int = 100) -> AsyncIterator[Runner]:
    """Run a node that calls ``runner`` and keeps ``history`` entries of each job."""
    runner = runner or Runner()
    settings = EngineSettings(drain_grace_seconds=0, public_url="http://localhost", history_per_job=history)
    engine = Engine(settings, context.shards, runner, context.clock, context.metrics)
    engine.start()
    await engine.started()
    try:
        yield runner
    finally:
        if runner.hold is not None:
            runner.hold.set()
        await engine.stop()


async def until(client: httpx.AsyncClient, path: str, condition: Callable[[Any], Any]) -> Any:
    """Repeat a GET until ``condition`` is true for its answer; returns that answer."""
    async with asyncio.timeout(20):
        while True:
            answer = (await client.get(path)).json()
            if condition(answer):
                return answer
            await asyncio.sleep(0.02)
