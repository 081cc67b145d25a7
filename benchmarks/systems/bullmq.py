"""BullMQ, its job schedulers and its workers, with undici."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from benchmarks import machine
from benchmarks.peers import install
from benchmarks.systems.peer import Peer

TUNINGS = ((1, 100), (1, 50), (1, 300), (4, 50))
"""Numbers of workers and of jobs that each runs at once. The best of them on this machine is measured."""


class BullMQ(Peer):
    """One Node process: a queue, its schedulers and workers that run many jobs at once."""

    first_rate = 1000
    tuning: ClassVar[tuple[int, int]] = (1, 100)
    """Workers, and how many jobs each runs at once."""

    def __init__(self, *, redis_core: int = machine.OTHER_CORE) -> None:
        super().__init__("BullMQ", redis_core=redis_core)

    def commands(self, socket: str, url: str) -> list[list[str]]:
        program, home = install.node()
        script = Path(install.__file__).parent / "bullmq.mjs"
        workers, at_once = map(str, self.tuning)
        return [[str(program), str(script), str(home), socket, url, workers, at_once]]
