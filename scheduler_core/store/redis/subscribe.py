"""Messages of one channel, with a sign of life asked for while it is silent."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from redis.asyncio import Redis

from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.store.redis.faults import translated_faults

SIGN_OF_LIFE_SECONDS = 5.0
"""How long the connection may be silent before Redis is asked whether it is there, and then to answer."""


async def messages(client: Redis, channel: str) -> AsyncGenerator[bytes | None, None]:
    """What is published on ``channel``. The first item, None, says that the subscription stands.

    Raises StoreUnavailable when Redis goes. A silent one is asked for a sign of life, since a connection that was cut
    without a word looks like one on which nothing happens.
    """
    with translated_faults():
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(channel)
            asked = False
            while True:
                message = await pubsub.get_message(timeout=SIGN_OF_LIFE_SECONDS)
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
