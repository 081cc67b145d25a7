"""Celery with RedBeat, a worker on gevent and requests."""

from __future__ import annotations

from benchmarks import machine
from benchmarks.peers import install
from benchmarks.systems.peer import Peer


class CeleryRedBeat(Peer):
    """Three processes: one that adds entries and then rests, beat, and a worker."""

    grain_ms = 1000
    first_rate = 100

    def __init__(self, *, redis_core: int = machine.OTHER_CORE) -> None:
        super().__init__("Celery, RedBeat", redis_core=redis_core)

    def commands(self, socket: str, url: str) -> list[list[str]]:
        program = [str(install.python()), "-m", "benchmarks.peers.celery_process"]
        return [[*program, role, socket, url] for role in ("commands", "worker", "beat")]
