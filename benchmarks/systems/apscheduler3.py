"""APScheduler 3 with aiohttp, its jobs in Redis or in memory."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.machine import Usage
from benchmarks.systems.apscheduler3_process import Command
from benchmarks.systems.base import FireAt


class APScheduler3:
    """A process that runs an ``AsyncIOScheduler`` and takes commands, one line of JSON each."""

    def __init__(self, *, store: str) -> None:
        self.name = f"APScheduler 3, {store}"
        self._store = store
        self._process: subprocess.Popen[bytes] | None = None
        self._redis_pids: list[int] = []

    def start(self, directory: Path, sink_port: int) -> None:
        with (directory / "apscheduler.log").open("ab") as log:
            self._process = machine.start_module(
                machine.SYSTEM_CORE,
                "benchmarks.systems.apscheduler3_process",
                self._store,
                str(directory / "apscheduler"),
                f"http://127.0.0.1:{sink_port}/job",
                stderr=log,
            )
        self._wait()
        self._redis_pids = machine.children_of(self._process.pid, "redis-server")

    def stop(self) -> None:
        if self._process is not None:
            machine.end(self._process)

    def add_every_second(self, first: int, count: int) -> None:
        self._tell(Command(kind="every_second", first=first, count=count))

    def add_daily(self, count: int, at_ms: int) -> None:
        self._tell(Command(kind="daily", count=count, at_ms=at_ms))

    def add_once(self, fires: Sequence[FireAt]) -> None:
        self._tell(Command(kind="once", fires=list(fires)))

    def usage(self) -> tuple[Usage, Usage]:
        assert self._process is not None
        return machine.usage_of([self._process.pid]), machine.usage_of(self._redis_pids)

    def explain_missing(self, from_ms: int, until_ms: int, count: int) -> int | None:
        return None  # it keeps no account

    def _tell(self, command: Command) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()
        self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ok\n":
            raise RuntimeError(f"{self.name} has ended")
