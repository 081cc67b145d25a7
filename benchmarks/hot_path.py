"""Counts the Python files and calls of one fire: ``python -m benchmarks.hot_path``.

Runs one node in this process against a real embedded Redis, and the sink as another process on the loopback. One job
fires every second and succeeds. After some fires to warm up (connections are open, caches are filled), the next ones
are counted: everything that claiming, delivering and settling do from shortly before a fire time until shortly before
the next one.

What is counted: each start of a Python function whose file lies in ``scheduler_core``, also of properties, coroutines,
lambdas and comprehensions. Continuing a coroutine after an ``await`` is no call. C functions are not counted, Python
functions of libraries only as a sum. Heartbeat, reaper, sweeper, listeners and tasks run beside a fire and are left
out: a task belongs to the service that started it. The counts need no quiet machine.

``--list`` names each function with its calls; ``--json`` prints the counts of each fire for programs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dis
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec
import uvloop

import scheduler_core
from benchmarks import machine
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings, LogSettings
from scheduler_core.base.events import configure_logging
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.http.client import HttpClient
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.job import Job
from scheduler_core.node.engine import Engine
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.jobs import JobService

PROJECT = str(Path(scheduler_core.__file__).parent) + "/"
WARM_FIRES = 5
FIRES = 5
BEFORE_SECONDS = 0.4
"""A fire is counted from so long before its fire time to so long before the next one."""
OURS = ("cronpost claim", "cronpost start", "cronpost settle")
"""The tasks of the hot path. What they start belongs to them, and so does what runs in no task: arriving answers."""

Place = tuple[str, str]
"""A file below ``scheduler_core``, and the qualified name of a function."""


class Fire(msgspec.Struct, frozen=True):
    """What was counted for one fire."""

    files: int
    functions: int
    calls: int
    resumed: int
    """Continuations of coroutines and generators of the project; not among ``calls``."""
    by_function: dict[str, int]
    """Calls by "file function"."""
    in_libraries: dict[str, int]
    """The same for Python functions of libraries and of the standard library."""


class Counting:
    """Counts the calls of the hot path in the thread of the event loop while it is on."""

    def __init__(self) -> None:
        self.calls: Counter[Place] = Counter()
        self.resumed = 0
        self.in_libraries: Counter[Place] = Counter()
        self._parents: dict[asyncio.Task[Any], str] = {}
        """For each task that another one started, the service that this other one belongs to."""

    def make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any) -> asyncio.Task[Any]:
        """Start a task, and note which service started it. For ``loop.set_task_factory``."""
        parent = asyncio.current_task(loop)
        task = asyncio.Task(coroutine, loop=loop, **options)
        if parent is not None:
            self._parents[task] = self._owner(parent)
            task.add_done_callback(self._ended)
        return task

    def _owner(self, task: asyncio.Task[Any]) -> str:
        """Return the name of the service's task that ``task`` is, or was started by; empty: none."""
        name = task.get_name()  # set only after the factory has returned
        return name if name.startswith("cronpost ") else self._parents.get(task, "")

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._parents.pop(task, None)

    def start(self) -> None:
        self.calls.clear()
        self.in_libraries.clear()
        self.resumed = 0
        sys.setprofile(self._event)

    def stop(self) -> Fire:
        sys.setprofile(None)
        files = {file for file, _ in self.calls}
        return Fire(
            len(files),
            len(self.calls),
            self.calls.total(),
            self.resumed,
            _named(self.calls),
            _named(self.in_libraries),
        )

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code.co_filename == __file__:
            return
        task = asyncio.current_task()
        if task is not None and self._owner(task) not in OURS:
            return
        is_start = frame.f_lasti <= _first_instruction(code)
        if not code.co_filename.startswith(PROJECT):
            if is_start:
                self.in_libraries["/".join(Path(code.co_filename).parts[-2:]), code.co_qualname] += 1
        elif is_start:
            self.calls[code.co_filename.removeprefix(PROJECT), code.co_qualname] += 1
        else:
            self.resumed += 1


def _named(calls: Counter[Place]) -> dict[str, int]:
    return {f"{file} {function}": count for (file, function), count in sorted(calls.items())}


@cache
def _first_instruction(code: CodeType) -> int:
    """Where ``code`` begins: a frame that is further on is continued, not called."""
    return next(one.offset for one in dis.get_instructions(code) if one.opname == "RESUME")


@contextlib.asynccontextmanager
async def running_node(redis_url: str, url: str) -> AsyncIterator[RedisClock]:
    """Yield a node with one job that fires every second; its clock."""
    clock, metrics = RedisClock(), Metrics()
    client = connect(redis_url)
    store = RedisStore(client)
    settings = EngineSettings()
    deliverer = HttpClient(clock=clock, guard=AddressGuard(), max_connections=settings.max_in_flight)
    engine = Engine(settings, store, deliverer, clock, metrics, sole=True)
    engine.start()
    await engine.started()
    job = Job("hot", url, CronSpec("* * * * * *"), b'{"n": 1}', created_at_ms=0, updated_at_ms=0)
    await JobService(store, clock, metrics).upsert(job)
    try:
        yield clock
    finally:
        await engine.stop()
        await store.aclose()


async def count_fires(redis_url: str, url: str) -> list[Fire]:
    """Fire a job every second, and count each fire after the first few."""
    counting = Counting()
    asyncio.get_running_loop().set_task_factory(counting.make_task)
    fires: list[Fire] = []
    async with running_node(redis_url, url) as clock:
        await asyncio.sleep(WARM_FIRES)
        now = clock.now_ms() / 1000
        await asyncio.sleep(1 - BEFORE_SECONDS - now % 1 + (now % 1 > 1 - BEFORE_SECONDS))
        for _ in range(FIRES):
            counting.start()
            await asyncio.sleep(1 - clock.now_ms() / 1000 % 1 + 1 - BEFORE_SECONDS)
            fires.append(counting.stop())
    return fires


def as_text(fires: list[Fire], *, every_function: bool, libraries: bool) -> str:
    """Return the median fire, by file."""
    fire = sorted(fires, key=lambda one: one.calls)[len(fires) // 2]
    mean = statistics.fmean(one.calls for one in fires)
    in_libraries = sum(fire.in_libraries.values())
    beside = f"{fire.resumed} continued coroutines and {in_libraries} calls of libraries in Python"
    lines = [
        f"one fire of a lone job: {fire.files} files, {fire.functions} functions, {fire.calls} calls of scheduler_core",
        f"({mean:.1f} calls on average of {len(fires)} fires; not counted: {beside})",
        *_by_file(fire.by_function, every_function=every_function),
    ]
    if libraries:
        lines += ["", "calls of libraries:", *_by_file(fire.in_libraries, every_function=every_function)]
    return "\n".join(lines)


def _by_file(calls: dict[str, int], *, every_function: bool) -> Iterator[str]:
    by_file: Counter[str] = Counter()
    for name, count in calls.items():
        by_file[name.partition(" ")[0]] += count
    for file, count in by_file.most_common():
        yield f"{count:5d}  {file}"
        if every_function:
            of_file = [(name, count) for name, count in calls.items() if name.startswith(f"{file} ")]
            for name, count_of_function in sorted(of_file, key=lambda pair: -pair[1]):
                yield f"         {count_of_function:5d}  {name.partition(' ')[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path", description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="name each function with its calls")
    parser.add_argument("--libraries", action="store_true", help="list the calls of libraries as well")
    parser.add_argument("--json", action="store_true", help="print the counted fires as JSON")
    arguments = parser.parse_args()
    # As a server under a service manager, with the log in a file: its lines are formatted as always.
    with tempfile.TemporaryDirectory(prefix="hot-path-") as name:
        log = (Path(name) / "log").open("w")
        with contextlib.redirect_stderr(log):
            configure_logging(LogSettings())
        sink = machine.start_module(machine.OTHER_CORE, "benchmarks.sink")
        redis = EmbeddedRedis(Path(name))
        try:
            assert sink.stdout is not None
            port = int(sink.stdout.readline())
            redis.start()
            fires = uvloop.run(count_fires(redis.url, f"http://127.0.0.1:{port}/job"))
        finally:
            redis.stop()
            machine.end(sink)
            log.close()
    if arguments.json:
        print(msgspec.json.encode(fires).decode())
    else:
        print(as_text(fires, every_function=arguments.list, libraries=arguments.libraries))


if __name__ == "__main__":
    main()
