"""The machine: cores, processes on them, what they use, and what other programs use. Linux only (``/proc``)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import msgspec

CHECKOUT = Path(__file__).parent.parent
"""The checkout of Cronpost that runs the benchmark. It is also the measured one, unless another is named."""
PACKAGES = (
    "uvloop",
    "redis",
    "hiredis",
    "msgspec",
    "httptools",
    "httpx",
    "aiohttp",
    "apscheduler",
    "starlette",
    "uvicorn",
)
END_SECONDS = 20.0


class Usage(msgspec.Struct, frozen=True):
    """CPU time and memory that processes have used so far."""

    cpu_seconds: float
    rss_bytes: int


_CORES = sorted(os.sched_getaffinity(0))
SYSTEM_CORE = _CORES[0]
"""The core of the system under test."""
OTHER_CORE = _CORES[-1]
"""The core of the sink, the load, this program and, unless a row says otherwise, Redis; the same if the machine has
one core."""


@contextlib.contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Run processes that are started inside, and their children, on ``cores``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start_module(
    core: int | tuple[int, ...],
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stderr: IO[bytes] | int | None = None,
    stdout: IO[bytes] | int = subprocess.PIPE,
    checkout: Path = CHECKOUT,
) -> subprocess.Popen[bytes]:
    """Start ``python -m module arguments`` of ``checkout`` on ``core``, or on several."""
    command = [str(python_of(checkout)), "-m", module, *arguments]
    return start_program(core, command, environment=environment, stderr=stderr, stdout=stdout, checkout=checkout)


def python_of(checkout: Path) -> Path:
    """Return the interpreter for ``checkout``: of its own ``.venv``, or the running one if it has none."""
    own = checkout / ".venv" / "bin" / "python"
    return own if checkout != CHECKOUT and own.exists() else Path(sys.executable)


def start_program(
    core: int | tuple[int, ...],
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stderr: IO[bytes] | int | None = None,
    stdout: IO[bytes] | int = subprocess.PIPE,
    checkout: Path = CHECKOUT,
) -> subprocess.Popen[bytes]:
    """Start ``command`` on ``core``, or on several, in the directory ``checkout``."""
    # Settings in the environment of the caller must not change the measurement.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CRONPOST_")}
    with pinned(*((core,) if isinstance(core, int) else core)):
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            cwd=checkout,
            env={**inherited, **(environment or {})},
        )


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    """Send the signal and wait; kill the process after ``END_SECONDS``."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def usage_of(pids: Iterable[int]) -> Usage:
    """Return CPU time, in nanoseconds if the kernel provides them, and resident memory."""
    cpu, rss = 0.0, 0
    for pid in pids:
        with contextlib.suppress(OSError):
            cpu += _cpu_seconds(pid)
            rss += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Usage(cpu, rss)


def _cpu_seconds(pid: int) -> float:
    try:
        threads = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
    except (OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_of(pid: int, name: str) -> list[int]:
    """Return the running children of ``pid`` whose program is called ``name``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                head, _, tail = (entry / "stat").read_text().rpartition(")")
                if int(tail.split()[1]) == pid and head.partition("(")[2] == name:
                    found.append(int(entry.name))
    return found


def descendants_of(pid: int) -> list[int]:
    """Return the running children of ``pid``, their children, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def work_ms() -> float:
    """Return CPU time of a fixed piece of Python work on the system's core: the least of five.

    The speed of a virtual core varies, because its neighbours share caches, execution units and clock. If this number
    doubles, the CPU per fire and the lateness double too.
    """

    def work() -> float:
        began = time.thread_time()
        total = 0
        for number in range(100_000):
            total += number * number
        return time.thread_time() - began

    with pinned(SYSTEM_CORE):
        return 1000 * min(work() for _ in range(5))


def calibrate() -> dict[str, float]:
    """Return how fast the machine is, to compare the rows of different calls: Python alone, and system calls."""

    def wakeups() -> float:
        left, right = socket.socketpair()
        with left, right:
            began = time.perf_counter()
            for _ in range(20_000):
                left.send(b"x" * 300)
                right.recv(4096)
            return 1e6 * (time.perf_counter() - began) / 20_000

    with pinned(SYSTEM_CORE):
        send_us = min(wakeups() for _ in range(3))
    return {"Python work, ms": work_ms(), "send and receive of 300 bytes, us": send_us}


def busy_seconds(core: int) -> float:
    """Return how long ``core`` was busy since the machine started, with any program."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *numbers = line.split()
        if name == f"cpu{core}":
            ticks = [int(number) for number in numbers[:8]]
            return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def code_digest(checkout: Path = CHECKOUT) -> str:
    """Return a digest of the code that is measured: it changes with every file of the two packages."""
    digest = hashlib.sha256()
    for package in ("scheduler_core", "scheduler_api"):
        for path in sorted((checkout / package).rglob("*")):
            if path.suffix in {".py", ".lua"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def facts(redis: str = "") -> dict[str, Any]:
    """Return the facts that the numbers depend on; ``redis`` is the name and version of the server program."""
    model = "unknown"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return {
        "processor": model,
        "cores": len(_CORES),
        "system_core": SYSTEM_CORE,
        "other_core": OTHER_CORE,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis": redis,
        "packages": {name: _version(name) for name in PACKAGES},
        "code": code_digest(),
        "load_average": os.getloadavg(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def run_module(core: int, module: str, *arguments: str, stdin: bytes = b"") -> bytes:
    """Run ``python -m module`` on ``core`` to its end; returns its output."""
    process = start_module(core, module, *arguments)
    try:
        output, _ = process.communicate(stdin, timeout=900)
    finally:
        end(process)
    if process.returncode:
        raise RuntimeError(f"{module} ended with status {process.returncode}")
    return output
