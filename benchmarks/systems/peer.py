"""What all peers share: a Redis like Cronpost's, processes on one core, and commands as lines of JSON."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.machine import Usage
from benchmarks.peers.command import Command
from benchmarks.systems.base import FireAt
from scheduler_core.embedded import EmbeddedRedis


class Peer:
    """A system in its own processes. The first of them takes commands.

    A subclass defines the command lines in ``commands``.
    """

    grain_ms = 1
    daily_grain_ms = 1000
    first_rate = 500
    loads_per_second = 700
    uses_redis = True

    def __init__(self, name: str, *, redis_core: int = machine.OTHER_CORE) -> None:
        self.name = name
        self.redis_core = redis_core
        self._processes: list[subprocess.Popen[bytes]] = []
        self._redis: EmbeddedRedis | None = None

    def commands(self, socket: str, url: str) -> list[list[str]]:
        """Return the command lines; the first process takes the commands. ``socket`` is Redis's, "" if it needs none.

        Raises ``NotRunError`` if it cannot run here.
        """
        raise NotImplementedError

    def start(self, directory: Path, sink_port: int) -> None:
        socket = ""
        self.commands(socket, "")  # a peer that is not installed starts nothing
        if self.uses_redis:
            self._redis = EmbeddedRedis(directory / "redis")
            with machine.pinned(self.redis_core):
                self._redis.start()
            socket = str(self._redis.socket_path)
        commands = self.commands(socket, f"http://127.0.0.1:{sink_port}/job")
        with (directory / "peer.log").open("ab") as log:
            for number, command in enumerate(commands):
                stdout = subprocess.PIPE if number == 0 else log
                self._processes.append(machine.start_program(machine.SYSTEM_CORE, command, stderr=log, stdout=stdout))
        try:
            self._wait()
        except RuntimeError as error:
            words = (directory / "peer.log").read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{error}: {words[-1] if words else ''}") from None

    def stop(self) -> None:
        for process in self._processes:
            machine.end(process)
        self._processes.clear()
        if self._redis is not None:
            self._redis.stop()
        self._redis = None

    def add_every_second(self, first: int, count: int) -> None:
        self._tell(Command(kind="every_second", first=first, count=count))

    def add_daily(self, count: int, at_ms: int) -> None:
        self._tell(Command(kind="daily", count=count, at_ms=at_ms))

    def add_once(self, fires: Sequence[FireAt]) -> None:
        self._tell(Command(kind="once", fires=list(fires)))

    def usage(self) -> tuple[Usage, Usage]:
        pids = [process.pid for process in self._processes]
        redis = self._redis.pid if self._redis is not None else None
        return machine.usage_of(pids), machine.usage_of([redis] if redis is not None else [])

    def explain_missing(self, from_ms: int, until_ms: int, count: int) -> int | None:
        return None  # no peer keeps an account

    def _tell(self, command: Command) -> None:
        stdin = self._processes[0].stdin
        assert stdin is not None
        stdin.write(msgspec.json.encode(command) + b"\n")
        stdin.flush()
        self._wait()

    def _wait(self) -> None:
        stdout = self._processes[0].stdout
        assert stdout is not None
        if stdout.readline() != b"ok\n":
            raise RuntimeError(f"{self.name} has ended")
