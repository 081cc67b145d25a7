"""What scenarios share: the sink, a directory, progress on the terminal, and the measurement of a window."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import machine
from benchmarks.load import Load
from benchmarks.measures import Arrival, Fires, judge, parse_arrivals
from benchmarks.systems.base import System
from benchmarks.systems.cronpost import pound

GRACE_SECONDS = 10.0
"""How long after the last fire time a fire may arrive before it counts as not delivered."""
BEFORE_MS = 200
"""CPU is read this long before the first fire time, and this long before the fire time that would follow the last."""


class Result(msgspec.Struct, kw_only=True):
    """The result of one repetition of a scenario with one system."""

    scenario: str = ""
    system: str = ""
    size: str = ""
    fires: Fires | None = None
    missed_on_record: int | None = None
    """Fire times that were not delivered and that the system itself recorded as missed."""
    own_us_per_fire: float | None = None
    redis_us_per_fire: float | None = None
    own_mb: float | None = None
    redis_mb: float | None = None
    bounds: dict[str, str] = {}
    """The settings of Cronpost that bound the attempts in flight; empty for other systems."""
    connections: int | None = None
    """The most connections to the sink that were open at once."""
    others_percent: float | None = None
    """The share of a core that other programs took meanwhile, on the busier of the two cores."""
    work_ms: float | None = None
    """Processor time of a fixed piece of work, the mean of before and after: how fast the core was."""
    values: dict[str, float] = {}
    """Further measured values, by name and unit."""
    fault: str | None = None


class Span(msgspec.Struct, kw_only=True):
    """The use of the system's core in a window."""

    seconds: float
    own_seconds: float
    redis_seconds: float
    own_mb: float
    redis_mb: float
    others_percent: float


class Bench:
    """Owns the sink. ``show`` displays a line of progress."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._sink: subprocess.Popen[bytes] | None = None
        self._task = ""
        self.sink_port = 0

    def __enter__(self) -> Bench:
        self._sink = machine.start_module(machine.OTHER_CORE, "benchmarks.sink")
        assert self._sink.stdout is not None
        self.sink_port = int(self._sink.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        if self._sink is not None:
            machine.end(self._sink)

    def move_sink(self, *cores: int) -> None:
        """Move the sink to ``cores``."""
        assert self._sink is not None
        os.sched_setaffinity(self._sink.pid, cores)

    def begin(self, task: str) -> None:
        """Show which task runs now."""
        self._task = task
        self._show(task)

    def step(self, text: str) -> None:
        """Show the progress of the task."""
        self._show(f"{self._task}: {text}")

    @contextlib.contextmanager
    def running(self, system: System) -> Iterator[Path]:
        """Run ``system`` with an empty store, and remove both afterwards."""
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            try:
                self.step("starting")
                system.start(Path(name), self.sink_port)
                self.ask_sink("reset")
                yield Path(name)
            finally:
                system.stop()

    def ask_sink(self, what: str) -> bytes:
        """Send ``count``, ``requests``, ``connections`` or ``reset`` to the sink; returns its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.sink_port, timeout=120)
        try:
            connection.request("GET", f"/{what}")
            return connection.getresponse().read()
        finally:
            connection.close()

    def arrivals(self) -> list[Arrival]:
        """List the requests that the sink received since the last reset."""
        return parse_arrivals(self.ask_sink("requests"))

    def sleep_until(self, at_ms: float) -> None:
        """Wait, and show a countdown."""
        while (left := at_ms / 1000 - time.time()) > 0:
            if left > 1.5:
                self.step(f"{left:.0f} s")
            time.sleep(min(left, 1.0))

    def span(self, system: System, from_ms: float, until_ms: float) -> Span:
        """Wait for both instants; returns what the system used between them."""
        self.sleep_until(from_ms)
        own, redis = system.usage()
        busy, began, here = self._busy(), time.monotonic(), self._used_here()
        self.sleep_until(until_ms)
        own_after, redis_after = system.usage()
        seconds = time.monotonic() - began
        own_seconds = own_after.cpu_seconds - own.cpu_seconds
        redis_seconds = redis_after.cpu_seconds - redis.cpu_seconds
        busy_after = self._busy()
        with_system = redis_seconds if system.redis_core == machine.SYSTEM_CORE else 0.0
        others = max(
            busy_after[0] - busy[0] - own_seconds - with_system,
            busy_after[1] - busy[1] - (self._used_here() - here) - (redis_seconds - with_system),
        )
        return Span(
            seconds=seconds,
            own_seconds=own_seconds,
            redis_seconds=redis_seconds,
            own_mb=own_after.rss_bytes / 1e6,
            redis_mb=redis_after.rss_bytes / 1e6,
            others_percent=max(0.0, 100 * others / seconds),
        )

    def _busy(self) -> tuple[float, float]:
        return machine.busy_seconds(machine.SYSTEM_CORE), machine.busy_seconds(machine.OTHER_CORE)

    def _used_here(self) -> float:
        """Return processor time of the sink and of this process."""
        assert self._sink is not None
        return machine.usage_of([self._sink.pid, os.getpid()]).cpu_seconds

    def wait_for(self, from_ms: int, until_ms: int, expected: int, grace_seconds: float = GRACE_SECONDS) -> Fires:
        """Wait until all expected fire times have arrived, or until the grace time is over."""
        deadline = time.monotonic() + grace_seconds
        while True:
            enough = int(self.ask_sink("count")) >= expected
            over = time.monotonic() > deadline
            if enough or over:
                fires = judge(self.arrivals(), from_ms=from_ms, until_ms=until_ms, expected=expected)
                if fires.delivered >= expected or over:
                    return fires
            time.sleep(0.2 if not enough else 1.0)

    def sink_capacity(self, seconds: float) -> dict[str, float]:
        """Return requests per second that the sink can answer: one open on each of 50 connections, and pipelined."""
        found = {}
        for name, connections, depth in (("50 connections", 50, 1), ("50 connections, 8 pipelined on each", 50, 8)):
            assert self._sink is not None
            before = machine.usage_of([self._sink.pid]).cpu_seconds
            # The load runs on the other core, so its rate is a lower bound of what the sink can do.
            loaded = pound(
                Load(kind="post", port=self.sink_port, connections=connections, depth=depth, seconds=seconds),
                core=machine.SYSTEM_CORE,
            )
            used = machine.usage_of([self._sink.pid]).cpu_seconds - before
            found[f"{name}: requests/s"] = loaded.per_second
            found[f"{name}: sink CPU us a request"] = 1e6 * used / loaded.answered
            self.ask_sink("reset")
        return found


def next_second_ms(after_seconds: float) -> int:
    """Return the first whole second that is at least ``after_seconds`` away."""
    return math.ceil(time.time() + after_seconds) * 1000


def with_span(result: Result, span: Span, fires: int) -> Result:
    """Put the use of the core into ``result``."""
    result.own_us_per_fire = 1e6 * span.own_seconds / fires if fires else None
    result.redis_us_per_fire = 1e6 * span.redis_seconds / fires if fires else None
    result.own_mb, result.redis_mb = span.own_mb, span.redis_mb
    result.others_percent = span.others_percent
    return result


def terminal_progress() -> Callable[[str], None]:
    """On a terminal, one line that is overwritten; elsewhere one line per task."""
    last = ""

    def show(text: str) -> None:
        nonlocal last
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        elif (task := text.partition(":")[0]) != last:
            print(task, file=sys.stderr, flush=True)
            last = task

    return show


def as_json(value: Any) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2)
