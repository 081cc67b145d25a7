"""Subscribes to one channel, and pings the server while the channel is silent."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from redis.asyncio import Redis

from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.store.redis.faults import translated_faults

PING_AFTER_SECONDS = 5.0
"""The connection is pinged after this long without data. The answer may take as long again."""


async def messages(client: Redis, channel: str) -> AsyncGenerator[bytes | None, None]:
    """Yield the messages published on ``channel``. The first item, None, means that the subscription is active.

    Raises StoreUnavailable when the connection ends. A silent connection is pinged, since one that was cut silently
    looks like one without messages.
    """
    with translated_faults():
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(channel)
            asked = False
            while True:
                message = await pubsub.get_message(timeout=PING_AFTER_SECONDS)
                if message is None:
                    if asked:
                        raise StoreUnavailable("Redis does not answer on a connection that listens")
                    await pubsub.ping()
                    asked = True
                    continue
                asked = False
                if message["type"] == "subscribe":
                    yield None
                elif message["type"] == "message":
                    yield message["data"]
