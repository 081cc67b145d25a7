"""taskiq with taskiq-redis and aiohttp."""

from __future__ import annotations

from benchmarks import machine
from benchmarks.peers import install
from benchmarks.systems.peer import Peer


class Taskiq(Peer):
    """One process with the scheduler and a receiver on one event loop."""

    grain_ms = 1000
    daily_grain_ms = 60_000
    first_rate = 400

    def __init__(self, *, redis_core: int = machine.OTHER_CORE) -> None:
        super().__init__("taskiq", redis_core=redis_core)

    def commands(self, socket: str, url: str) -> list[list[str]]:
        return [[str(install.python()), "-m", "benchmarks.peers.taskiq_process", f"unix://{socket}", url]]
