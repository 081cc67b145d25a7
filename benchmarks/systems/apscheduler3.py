"""APScheduler 3 with aiohttp, its jobs in Redis or in memory."""

from __future__ import annotations

import sys

from benchmarks import machine
from benchmarks.systems.peer import Peer


class APScheduler3(Peer):
    """A process that runs an ``AsyncIOScheduler``. It is the only peer in Cronpost's ``bench`` extra."""

    def __init__(self, *, store: str, redis_core: int = machine.OTHER_CORE) -> None:
        self.uses_redis = store == "redis"
        super().__init__(f"APScheduler 3, {'Redis' if self.uses_redis else 'memory'}", redis_core=redis_core)
        self.first_rate = 600 if self.uses_redis else 1500

    def commands(self, socket: str, url: str) -> list[list[str]]:
        return [[sys.executable, "-m", "benchmarks.systems.apscheduler3_process", socket, url]]
