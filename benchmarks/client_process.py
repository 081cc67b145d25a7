"""Measures an HTTP client alone: how fast one core sends POSTs of 120 bytes and nothing else.

No scheduler on the same core can be faster, so this is a yardstick. ``python -m benchmarks.client_process NAME PORT
SECONDS`` keeps a request open on each of 50 connections, and prints a ``Sent`` as JSON. It runs under the interpreter
that has the client installed: the peers' or Cronpost's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import uvloop

from benchmarks.load import payload_of

CONNECTIONS = 50
WARM_UP_SECONDS = 0.5
OWN = "Cronpost's delivery"
CLIENTS = (OWN, "aiohttp", "httpx", "pyreqwest")
HEADERS = {
    # As many headers as a scheduler sends.
    "Content-Type": "application/json",
    "Idempotency-Key": "0" * 26,
    "Cronpost-Job-Id": "j000001",
    "Cronpost-Fire-Time": "2026-01-01T00:00:00Z",
    "Cronpost-Attempt": "1",
}

Repeat = Callable[[float], Awaitable[int]]
"""Sends one request after the other until an instant of the monotonic clock; returns how many were answered."""


class Sent(msgspec.Struct, kw_only=True):
    """How many requests were answered, and what they took."""

    answered: int
    seconds: float
    cpu_seconds: float


@contextlib.asynccontextmanager
async def _cronpost(url: str) -> AsyncIterator[Repeat]:
    from scheduler_core.base.clock import SystemClock
    from scheduler_core.delivery.base import always
    from scheduler_core.delivery.http.client import HttpClient
    from scheduler_core.delivery.http.guard import AddressGuard
    from scheduler_core.delivery.http.request import Request

    delivery = HttpClient(clock=SystemClock(), guard=AddressGuard(), max_connections=CONNECTIONS)
    request = Request(method="POST", url=url, headers=tuple(HEADERS.items()), body=payload_of(1), timeout_ms=30_000)
    start = delivery.send

    async def repeat(until: float) -> int:
        # Like a node: each attempt calls back and needs no task.
        over = asyncio.get_running_loop().create_future()
        answered = 0

        def ended(_: object) -> None:
            nonlocal answered
            answered += 1
            if time.monotonic() < until:
                start(request, ended, always)
            else:
                over.set_result(None)

        start(request, ended, always)
        await over
        return answered

    yield repeat
    await delivery.aclose()


@contextlib.asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Repeat]:
    import aiohttp

    body = payload_of(1)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def send() -> None:
            async with session.post(url, data=body, headers=HEADERS) as answer:
                await answer.read()

        yield _one_by_one(send)


@contextlib.asynccontextmanager
async def _httpx(url: str) -> AsyncIterator[Repeat]:
    import httpx

    body = payload_of(1)
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        yield _one_by_one(lambda: client.post(url, content=body, headers=HEADERS))


@contextlib.asynccontextmanager
async def _pyreqwest(url: str) -> AsyncIterator[Repeat]:
    from pyreqwest.client import ClientBuilder  # type: ignore[import-not-found, unused-ignore]

    body = payload_of(1)
    async with ClientBuilder().http1_only().max_connections(CONNECTIONS).build() as client:

        async def send() -> None:
            answer = await client.post(url).headers(HEADERS).body_bytes(body).build().send()
            await answer.bytes()

        yield _one_by_one(send)


def _one_by_one(send: Callable[[], Awaitable[Any]]) -> Repeat:
    async def repeat(until: float) -> int:
        answered = 0
        while time.monotonic() < until:
            await send()
            answered += 1
        return answered

    return repeat


_OPEN = dict(zip(CLIENTS, (_cronpost, _aiohttp, _httpx, _pyreqwest), strict=True))


async def _measure(name: str, port: int, seconds: float) -> Sent:
    async with _OPEN[name](f"http://127.0.0.1:{port}/job") as repeat:

        async def all_repeat(until: float) -> int:
            return sum(await asyncio.gather(*(repeat(until) for _ in range(CONNECTIONS))))

        await all_repeat(time.monotonic() + WARM_UP_SECONDS)
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000)  # the value that a node of Cronpost sets
        began, cpu = time.monotonic(), time.process_time()
        answered = await all_repeat(began + seconds)
        return Sent(answered=answered, seconds=time.monotonic() - began, cpu_seconds=time.process_time() - cpu)


if __name__ == "__main__":
    print(msgspec.json.encode(uvloop.run(_measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))).decode())
