"""Real processes for system tests: Cronpost servers and nodes, and redis-servers that belong to one test.

Each is a child of the test, in a session of its own, and ends with the test: ``Processes.close`` kills what is left, by
process id. Nothing here waits for a fixed time; it waits for a condition, with a generous deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from scheduler_core.base.events import API_STARTED, NODE_STARTED
from tests.support.recorder import WAIT_SECONDS
from tests.support.servers import server_settings, server_under_test
from tests.support.template import Forked, template

ROOT = Path(__file__).parents[2]
FAST: dict[str, object] = {
    "heartbeat_seconds": 0.3,
    "dead_after_seconds": 1.5,
    "downtime_after_seconds": 4,
    "drain_grace_seconds": 2,
    "redis_timeout_seconds": 0.8,
    "attempt_timeout_seconds": 20,
    "history_per_job": 1000,
    "log_format": "json",
}
"""Settings that make faults and recovery quick. A setting means the same at any size."""
LEASE_MS = 900.0
"""The shortest silence of a node after which others may reclaim its runs. A lease starts with the last heartbeat, which
may be two periods old when a fault begins."""

_libc = ctypes.CDLL(None)


def _die_with_the_test() -> None:
    """Runs in the child before its program: Linux kills the child if the test process is killed."""
    _libc.prctl(1, signal.SIGKILL)


def freeze(pid: int) -> None:
    """Stop a process, and return when all of its threads have stopped: ``kill`` returns earlier."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + WAIT_SECONDS
    states: set[str] = set()
    while states != {"T"}:
        assert time.monotonic() < end, f"process {pid} does not stop"
        time.sleep(0.001)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            stats = [one.joinpath("stat").read_text() for one in Path(f"/proc/{pid}/task").iterdir()]
            states = {stat.rpartition(")")[2].split()[0] for stat in stats}


# structlog and httpx import rich where it is installed, which takes a sixth of the start. The development environment
# has it; an installed Cronpost does not.
RUN = "import sys; sys.modules['rich'] = None; from scheduler_api.cli.main import main; main()"


async def eventually(
    condition: Callable[[], object | Awaitable[object]], *, seconds: float = WAIT_SECONDS, what: str = ""
) -> None:
    """Wait until ``condition()`` is true: checks every 20 ms, fails after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return
        assert time.monotonic() < end, f"the condition is still false after {seconds:g} s{': ' if what else ''}{what}"
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Return whether a process runs or is frozen. A zombie does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_under(directory: Path) -> Iterator[int]:
    """List the processes whose working directory lies in ``directory``."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(directory):
                yield int(entry.name)


class Child:
    """A child process whose standard error is kept."""

    def __init__(
        self,
        command: list[str],
        *,
        directory: Path,
        environment: dict[str, str] | None = None,
        pipe: LogPipe | None = None,
    ) -> None:
        """``pipe`` is placed between the process and the file with its lines."""
        self._errors = (directory / f"errors-{time.monotonic_ns()}.log").open("w+b")
        self.pipe = pipe
        output = self._errors.fileno() if pipe is None else pipe.open(self._errors)
        self.process = self._start(command, directory, environment, output)
        if pipe is not None:
            pipe.read()

    def _start(
        self, command: list[str], directory: Path, environment: dict[str, str] | None, output: int
    ) -> subprocess.Popen[bytes] | Forked:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_the_test,  # noqa: PLW1509 - the test has no other thread when it starts a child
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        """Everything that it has written."""
        return Path(self._errors.name).read_text("utf-8", "replace")

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.is_running:
            os.kill(self.pid, number)

    def freeze(self) -> None:
        if self.is_running:
            freeze(self.pid)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    async def kill(self) -> None:
        """kill -9; returns when the process is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def ended(self, *, seconds: float = WAIT_SECONDS) -> int:
        """Wait until the process ends; returns its exit code."""
        await eventually(lambda: not self.is_running, seconds=seconds, what=f"process {self.pid} should have ended")
        assert self.process.returncode is not None
        return self.process.returncode

    def clean_up(self) -> None:
        """Kill what is left of the process, and close its files."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
        if self.pipe is not None:
            self.pipe.close()
        self._errors.close()


class LogPipe:
    """A pipe that a process logs to, with a reader that can stall."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._file: BinaryIO | None = None
        os.set_blocking(self._read_end, False)

    def open(self, file: BinaryIO) -> int:
        """Return the write end, for the process; its output is copied to ``file``."""
        self._file = file
        return self._write_end

    def read(self) -> None:
        """Read from now on, also after a stall."""
        if self._write_end >= 0:
            os.close(self._write_end)  # the process has its own copy
            self._write_end = -1
        asyncio.get_running_loop().add_reader(self._read_end, self._copy)

    def stall(self) -> None:
        """Stop reading."""
        asyncio.get_running_loop().remove_reader(self._read_end)

    def close(self) -> None:
        if self._read_end >= 0:
            self.stall()
            os.close(self._read_end)
            self._read_end = -1

    def _copy(self) -> None:
        assert self._file is not None
        data = os.read(self._read_end, 65_536)
        self._file.write(data)
        self._file.flush()
        if not data:
            self.close()


class Cronpost(Child):
    """One ``cronpost`` process: ``serve``, ``api`` or ``node``."""

    def __init__(
        self,
        kind: str,
        *,
        directory: Path,
        settings: dict[str, object],
        prelude: str = "",
        pipe: LogPipe | None = None,
    ) -> None:
        """``prelude`` is Python code that the process runs before it imports Cronpost."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRONPOST_")}
        environment["PYTHONPATH"] = str(ROOT)
        chosen = {**FAST, **server_settings(), **({} if kind == "node" else {"port": 0}), **settings}
        environment |= {f"CRONPOST_{name.upper()}": str(value) for name, value in chosen.items()}
        self.kind = kind
        self._forks = not prelude
        command = [sys.executable, "-c", f"{prelude}\n{RUN}", kind]
        super().__init__(command, directory=directory, environment=environment, pipe=pipe)
        self._client: httpx.AsyncClient | None = None

    def _start(
        self, command: list[str], directory: Path, environment: dict[str, str] | None, output: int
    ) -> subprocess.Popen[bytes] | Forked:
        if not self._forks:
            return super()._start(command, directory, environment, output)
        assert environment is not None
        return template().fork(RUN, ["-c", self.kind], directory=directory, environment=environment, output=output)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the log events so far, or those with this name."""
        found = []
        for line in self.output().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                event = msgspec.json.decode(line)
                if isinstance(event, dict) and name in {None, event.get("event")}:
                    found.append(event)
        return found

    async def logged(self, name: str, *, count: int = 1, seconds: float = WAIT_SECONDS) -> list[dict[str, Any]]:
        """Wait for events with this name in the log; returns them."""

        def there() -> bool:
            if len(self.events(name)) >= count:
                return True
            assert self.is_running, f"the process has ended with {self.process.returncode}:\n{self.output()}"
            return False

        await eventually(there, seconds=seconds, what=f"no {name!r} in the log of process {self.pid}")
        return self.events(name)

    async def started(self) -> None:
        """Wait until it works: the node fires, the API answers."""
        if self.kind != "api":
            await self.logged(NODE_STARTED)
        if self.kind != "node":
            await self.ready()

    async def api(self) -> httpx.AsyncClient:
        """Return a client of its API; waits until the API listens."""
        if self._client is None:
            address = (await self.logged(API_STARTED))[0]["address"]
            self._client = httpx.AsyncClient(base_url=address, trust_env=False, timeout=WAIT_SECONDS)
        return self._client

    async def ready(self) -> None:
        """Wait until /ready answers 200."""

        async def says_so() -> bool:
            return (await self.readiness())[0]

        await eventually(says_so, what="the server is not ready")

    async def readiness(self) -> tuple[bool, str]:
        """Return whether /ready answers 200 now, and its reasons."""
        answer = await (await self.api()).get("/ready")
        assert answer.status_code in {200, 503}
        return answer.status_code == 200, " | ".join(answer.json()["reasons"])

    async def metric(self, name: str, **labels: str) -> float:
        """Return a number from /metrics: the sum of all series with these labels."""
        answer = await (await self.api()).get("/metrics", headers={"Accept": "text/plain"})
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in answer.text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(one in line for one in wanted))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None


class RedisServer:
    """A redis-server on a unix socket, with an append-only file, that a test can kill and start again."""

    def __init__(self, directory: Path, *, password: str | None = None) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.password = password
        self._child: Child | None = None
        self._client: Redis | None = None

    @property
    def url(self) -> str:
        credentials = "" if self.password is None else f":{quote(self.password)}@"
        return f"unix://{credentials}{self.socket}"

    @property
    def child(self) -> Child:
        assert self._child is not None, "this Redis was not started"
        return self._child

    @property
    def client(self) -> Redis:
        """A client for the test itself."""
        if self._client is None:
            self._client = Redis.from_url(self.url, socket_timeout=WAIT_SECONDS)
        return self._client

    async def start(self, **config: object) -> None:
        """Start with the stored data, if any; returns when the server has loaded it."""
        self.spawn(**config)
        await eventually(self.answers, what="the redis-server does not answer")

    def spawn(self, **config: object) -> None:
        """Start without waiting."""
        settings: dict[str, object] = {
            "port": 0,
            "unixsocket": self.socket,
            "dir": self.directory,
            "appendonly": "yes",
            # With "everysec" Redis may answer a write before it is in the file, because it delays writes during a sync.
            # These tests check what Cronpost does with the data that Redis has kept.
            "appendfsync": "always",
            "save": "",
            **({} if self.password is None else {"requirepass": self.password}),
            **config,
        }
        command = [str(server_under_test().program)]
        for name, value in settings.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        if self._child is not None:
            self._child.clean_up()
        self._child = Child(command, directory=self.directory)

    async def answers(self) -> bool:
        assert self.child.is_running, f"the redis-server has ended:\n{self.child.output()}"
        try:
            return bool(await self.client.ping())
        except (RedisError, OSError):
            return False

    async def command(self, *words: str | bytes | int) -> Any:
        return await self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def set_config(self, name: str, value: object) -> None:
        await self.client.config_set(name, str(value))

    async def kill(self) -> None:
        """kill -9."""
        await self.child.kill()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None


class Processes:
    """All processes of one test, in a directory with a short name (the path of a unix socket has at most 107 bytes)."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cronpost-"))
        self._cronposts: list[Cronpost] = []
        self._redis: list[RedisServer] = []

    def cronpost(self, kind: str, *, prelude: str = "", pipe: LogPipe | None = None, **settings: object) -> Cronpost:
        """Start a Cronpost process; wait for it with ``Cronpost.started``."""
        process = Cronpost(kind, directory=self.directory, settings=settings, prelude=prelude, pipe=pipe)
        self._cronposts.append(process)
        return process

    def redis(self, *, password: str | None = None) -> RedisServer:
        """Return a redis-server of this test, which is not started yet."""
        directory = self.directory / f"redis{len(self._redis)}"
        directory.mkdir()
        server = RedisServer(directory, password=password)
        self._redis.append(server)
        return server

    def logs(self) -> str:
        """Return the output of all processes for the report of a failed test, without the runs that succeeded."""
        lines = []
        for one in self._cronposts:
            lines.append(f"--- {one.kind} {one.pid}")
            lines += [line for line in one.output().splitlines() if '"state":"succeeded"' not in line]
        return "\n".join(lines)

    async def close(self) -> None:
        """End everything: no process keeps running, and no file stays."""
        for cronpost in self._cronposts:
            await cronpost.close()
            cronpost.clean_up()
        for redis in self._redis:
            await redis.close()
            if redis._child is not None:
                redis._child.clean_up()
        for pid in processes_under(self.directory):  # the embedded redis-server of a killed server
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
