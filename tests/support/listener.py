"""A client of ``GET /events`` for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

SECONDS = 30.0


class Listening:
    """An open stream. ``events`` has the data of everything that was received."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.events: list[dict[str, Any]] = []
        self.last_id: str | None = None
        """What a browser would send as ``Last-Event-ID``."""
        self.comments = 0
        self.retry_ms: int | None = None
        self.ended = False
        self._arrived = asyncio.Event()

    async def read(self) -> None:
        """Read until the server ends the stream."""
        data: list[str] = []
        name = ""
        try:
            async for line in self.answer.aiter_lines():
                field, _, value = line.partition(": ")
                match field:
                    case "":
                        self.comments += line.startswith(":")
                        if data:
                            self._add(name, "\n".join(data))
                        data, name = [], ""
                    case "id":
                        self.last_id = value
                    case "event":
                        name = value
                    case "data":
                        data.append(value)
                    case "retry":
                        self.retry_ms = int(value)
                    case _:
                        self.comments += 1
                self._arrived.set()
        finally:
            self.ended = True
            self._arrived.set()

    def _add(self, name: str, data: str) -> None:
        event = json.loads(data)
        assert event["type"] == name
        self.events.append(event)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition`` is true."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                assert not self.ended, f"the stream ended; received: {self.events}"
                self._arrived.clear()
                await self._arrived.wait()

    def of_type(self, *types: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] in types]


@asynccontextmanager
async def listening(
    url: str, params: Any = None, *, last_id: str | None = None, headers: dict[str, str] | None = None
) -> AsyncIterator[Listening]:
    """Open a stream and wait for its first position."""
    sent = dict(headers or {}) | ({} if last_id is None else {"Last-Event-ID": last_id})
    async with (
        httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(SECONDS, read=None)) as client,
        client.stream("GET", "/events", params=params, headers=sent) as answer,
    ):
        if answer.status_code != 200:
            raise AssertionError((answer.status_code, (await answer.aread()).decode()))
        found = Listening(answer)
        reading = asyncio.create_task(found.read())
        try:
            await found.until(lambda: found.last_id is not None)
            yield found
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
