"""A node that claims jobs ahead of their wake-up, and a clock that lets it act while a client waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from scheduler_core.store.loop import Release
from scheduler_core.store.redis.keys import CLAIMED, Keys
from scheduler_core.store.redis.store import RedisStore
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, until


class WaitingClock(ManualClock):
    """A sleep advances the clock at once, after ``meanwhile`` was called."""

    def __init__(self) -> None:
        super().__init__()
        self.slept_ms: list[int] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def sleep(self, seconds: float) -> None:
        self.slept_ms.append(round(seconds * 1000))
        if self.meanwhile is not None:
            await self.meanwhile()
        self.advance(round(seconds * 1000))


class AheadNode:
    """Holds jobs ahead of their wake-up. ``requests`` are the messages that ask it to release some."""

    def __init__(self, store: RedisStore, redis: Redis, keys: Keys = KEYS) -> None:
        self.store = store
        self.redis: Any = redis  # its answers are typed as text or bytes
        self.keys = keys
        self.wake_ms: dict[str, int] = {}
        self.requests: list[tuple[str, ...]] = []
        self._fence = 7

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[AheadNode]:
        """Receive requests until the end of the block."""
        active = asyncio.Event()

        async def receive() -> None:
            async with contextlib.aclosing(self.store.wake_ups()) as received:
                async for one in received:
                    active.set()
                    if isinstance(one, Release):
                        self.requests.append(one.claim_keys)

        task = asyncio.create_task(receive())
        try:
            await active.wait()
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def claim(self, claim_key: str, wake_ms: int, *, claimed_at_ms: int | None = None) -> None:
        """Store the lease of a claim ahead of ``wake_ms``, as a claim would."""
        self._fence += 1
        lease = f"{self._fence} node {self._fence} {wake_ms} 0 {wake_ms} 1:0"
        await self.redis.hset(self.keys.leases, claim_key, lease)
        await self.redis.zadd(self.keys.due, {claim_key: CLAIMED + (claimed_at_ms or wake_ms - 400)})
        self.wake_ms[claim_key] = wake_ms

    async def release(self, *claim_keys: str) -> None:
        """Release jobs: they are due at their wake-up again, and their leases stay without a holder."""
        for claim_key in claim_keys or tuple(self.wake_ms):
            lease = await self.redis.hget(self.keys.leases, claim_key)
            assert lease is not None
            await self.redis.hset(self.keys.leases, claim_key, lease.replace(b" node ", b" - "))
            await self.redis.zadd(self.keys.due, {claim_key: self.wake_ms.pop(claim_key)})

    async def asked(self, times: int = 1) -> None:
        """Wait for requests to arrive."""
        await until(lambda: len(self.requests) >= times)
