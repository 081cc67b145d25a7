"""The fixture of the high-availability tests, and their output on the terminal."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from tests.ha.deployment import LoadedDeployment
from tests.system.conftest import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]

SECONDS = float(os.environ.get("HA_SECONDS", "30"))
"""How long each fault lasts; the whole suite takes about twenty times as long."""

_said: list[str] = []


@pytest.fixture
def seconds() -> float:
    """The duration of the faults of a test."""
    return SECONDS


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Writes a line to the terminal at once, captured or not."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    began = time.monotonic()

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(f"    {time.monotonic() - began:6.1f} s  {text}")

    return line


@pytest.fixture
async def deployment(request: pytest.FixtureRequest, say: Callable[[str], None]) -> AsyncIterator[LoadedDeployment]:
    async with AsyncExitStack() as stack:
        deployment = await LoadedDeployment.make(stack)
        deployment.say = say
        deployment.stack = stack
        yield deployment
        report = getattr(request.node, "report_of_call", None)
        if report is not None and report.failed:
            print(
                "\n".join(
                    line
                    for line in deployment.processes.logs().splitlines()
                    if not any(one in line for one in ('"run retrying"', '"job upserted"'))
                )
            )
        _said.extend(f"{request.node.name}: {text}" for text in deployment.measured)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print all measured values in one place."""
    if _said:
        terminalreporter.section("measured")
        for text in _said:
            terminalreporter.write_line(text)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow each test twice the duration of its faults, and more for a busy machine."""
    for item in items:
        if "ha" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180 + 6 * SECONDS))
