"""The fixture of the system tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.system.deployment import Deployment


@pytest.fixture
async def deployment(request: pytest.FixtureRequest) -> AsyncIterator[Deployment]:
    async with AsyncExitStack() as stack:
        deployment = await Deployment.make(stack)
        yield deployment
        report = getattr(request.node, "report_of_call", None)
        if report is not None and report.failed:
            print(deployment.processes.logs())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Store whether the test failed; the fixture then prints the logs of its processes."""
    report = yield
    if report.when == "call":
        item.report_of_call = report  # type: ignore[attr-defined]
    return report
