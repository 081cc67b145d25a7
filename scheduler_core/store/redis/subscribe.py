"""Subscribes to one channel, and pings the server while the channel is silent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from redis.asyncio import Redis

from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.store.loop import Sign
from scheduler_core.store.redis.faults import translated_faults

PING_AFTER_SECONDS = 5.0
"""The connection is pinged after this long without data. The answer may take as long again."""


async def messages(client: Redis, channel: str) -> AsyncGenerator[bytes | None, None]:
    """Yield the messages published on ``channel``. The first item, None, means that the subscription is active.

    Raises StoreUnavailable when the connection ends. A silent connection is pinged, since one that was cut silently
    looks like one without messages.
    """
    async with contextlib.aclosing(signs(client, channel)) as received:
        async for sign in received:
            if not isinstance(sign, Sign):
                yield sign


async def signs(
    client: Redis, channel: str, *, ping_seconds: float | None = None
) -> AsyncGenerator[bytes | Sign | None, None]:
    """Yield the same as ``messages``, and SILENT if a ping is not answered within ``ping_seconds``; None again if the
    server answers later. Pings after ``ping_seconds`` without data; None: after ``PING_AFTER_SECONDS``."""
    ping_seconds = PING_AFTER_SECONDS if ping_seconds is None else ping_seconds
    with translated_faults():
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(channel)
            unanswered = 0
            while True:
                message = await pubsub.get_message(timeout=ping_seconds)
                if message is None:
                    if unanswered * ping_seconds >= PING_AFTER_SECONDS:
                        raise StoreUnavailable("Redis does not answer on a connection that listens")
                    if unanswered == 0:
                        await pubsub.ping()
                    else:
                        yield Sign.SILENT
                    unanswered += 1
                    continue
                answered_late, unanswered = unanswered > 1, 0
                if message["type"] == "subscribe" or answered_late:
                    yield None
                if message["type"] == "message":
                    yield message["data"]
