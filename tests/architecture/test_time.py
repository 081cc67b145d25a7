"""Only the clock reads the time and waits."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {"scheduler_core/base/clock.py"}
# Deadlines of sockets, name lookups and waiting clients: they need real time.
DEADLINES = {
    "scheduler_core/delivery/base.py",
    "scheduler_core/delivery/broker/links.py",
    "scheduler_core/delivery/http/client.py",
    "scheduler_core/delivery/http/resolve.py",
    "scheduler_core/delivery/http/tokens.py",
    "scheduler_core/delivery/notify/email.py",
    "scheduler_core/usecases/cancel.py",
}
RAW = {
    "time": {"time", "time_ns", "sleep", "localtime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "asyncio": {"sleep", "timeout", "timeout_at", "wait_for"},
    "anyio": {"sleep", "sleep_until"},
}
FILES = sorted(path for package in ("scheduler_core", "scheduler_api") for path in (ROOT / package).rglob("*.py"))


def raw_calls(source: str) -> list[tuple[int, str]]:
    """Line and name of each use of a raw clock: ``time.time``, ``datetime.now``, ``from time import time`` ..."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if node.attr in RAW.get(owner, ()):
                found.append((node.lineno, f"{owner}.{node.attr}"))
        elif isinstance(node, ast.ImportFrom):
            found += [
                (node.lineno, f"{node.module}.{alias.name}")
                for alias in node.names
                if alias.name in RAW.get(str(node.module), ())
            ]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_but_the_clock_reads_the_time_or_sleeps(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if name not in ALLOWED:
        found = [one for _, one in raw_calls(path.read_text(encoding="utf-8"))]
        assert [one for one in found if name not in DEADLINES or one != "asyncio.timeout"] == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "import datetime\ndatetime.datetime.now(tz)",
        "from datetime import datetime\nx = datetime.utcnow",
        "from asyncio import sleep",
        "async def f():\n    await asyncio.sleep(1)",
        "async def f():\n    async with asyncio.timeout(1):\n        pass",
        "from asyncio import wait_for",
    ],
)
def test_the_check_finds_a_raw_clock(source: str) -> None:
    assert raw_calls(source)
