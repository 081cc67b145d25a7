"""BullMQ, its job schedulers and one worker, with undici."""

from __future__ import annotations

from pathlib import Path

from benchmarks import machine
from benchmarks.peers import install
from benchmarks.systems.peer import Peer


class BullMQ(Peer):
    """One Node process: a queue, its schedulers and a worker that runs hundreds of jobs at once."""

    first_rate = 1000

    def __init__(self, *, redis_core: int = machine.OTHER_CORE) -> None:
        super().__init__("BullMQ", redis_core=redis_core)

    def commands(self, socket: str, url: str) -> list[list[str]]:
        program, home = install.node()
        script = Path(install.__file__).parent / "bullmq.mjs"
        return [[str(program), str(script), str(home), socket, url]]
