"""Starts the embedded Redis of a process unless another is configured, and keeps it running."""

from __future__ import annotations

import asyncio

from scheduler_api.server.parts import open_store
from scheduler_api.server.redis_check import CHECK_AGAIN_SECONDS, RedisCheck
from scheduler_core.base.clock import SystemClock
from scheduler_core.base.config import Settings
from scheduler_core.base.errors import EmbeddedRedisError
from scheduler_core.base.events import REDIS_DIED, get_logger
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards

log = get_logger(__name__)

REDIS_LOOK_SECONDS = 1.0
_CLOCK = SystemClock()


class ProcessRedis:
    """The Redis of a process, and the check of its settings."""

    def __init__(self) -> None:
        self.embedded: EmbeddedRedis | None = None
        self.check = RedisCheck()
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Where this Redis listens."""
        url = self.embedded.url if self.embedded is not None else self._url
        assert url is not None
        return url

    def start(self, settings: Settings, *, is_checked: bool) -> None:
        """Start the embedded Redis unless another is configured. ``is_checked``: the parent process has checked it."""
        self._url = settings.store.redis_url
        if self._url is None:
            self.embedded = EmbeddedRedis(settings.store.data_dir, settings.store.redis_server)
            self.embedded.start()
        if self.embedded is not None or is_checked:
            self.check.skip()

    def stop(self) -> None:
        """Stop the embedded Redis. It writes its data to disk."""
        if self.embedded is not None:
            self.embedded.stop()

    async def open_store(self, settings: Settings, connections: int) -> tuple[Shards[RedisStore], Settings]:
        """Open the store with the number of shards that it has. Returns it, and the settings with that number.

        Raises ConfigError if Redis breaks a promise.
        """
        return await self.check.open(settings, lambda settings: open_store(settings, self.url, connections))


async def keep_running(embedded: EmbeddedRedis, stopping: asyncio.Event) -> None:
    """Start the embedded redis-server again whenever it ends."""
    while True:
        if await asyncio.to_thread(embedded.wait_until_dead, REDIS_LOOK_SECONDS):
            try:
                await asyncio.to_thread(embedded.ensure_running)
            except EmbeddedRedisError as error:
                log.error(REDIS_DIED, detail=str(error))
                await _CLOCK.wait_for(stopping, CHECK_AGAIN_SECONDS)
