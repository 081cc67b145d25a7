"""Fixtures of the browser tests. All run in one event loop, that of the browser.

A test module shares one server, which starts with an empty Redis: give jobs of different tests different ids.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from scheduler_core.embedded import EmbeddedRedis, ask
from tests.api.command_line import KEY
from tests.ui.browser import OPTIONS, PATIENCE_MS, Pages, program
from tests.ui.server import Server, serving

HERE = Path(__file__).parent
expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests of this folder in the loop of the browser."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=OPTIONS)
        yield browser
        await browser.close()


def _empty(redis: EmbeddedRedis) -> str:
    redis.ensure_running()
    assert ask(redis.socket_path, "FLUSHALL") == "+OK"
    return redis.url


@pytest.fixture(scope="module")
def server(redis_server: EmbeddedRedis) -> Iterator[Server]:
    """A server without keys, with a node."""
    with serving(_empty(redis_server)) as started:
        yield started


@pytest.fixture(scope="module")
def server_with_key(redis_server: EmbeddedRedis) -> Iterator[Server]:
    """A server with the API key ``KEY``, with a node. Not together with ``server`` in one module."""
    with serving(_empty(redis_server), keys=(KEY,)) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def pages(browser: Browser, server: Server) -> AsyncIterator[Pages]:
    """Opens pages of ``server``. The test fails if one of them does something wrong."""
    opened = Pages(browser, server.url)
    yield opened
    await opened.close()
    assert opened.problems == []


@pytest_asyncio.fixture(loop_scope="session")
async def pages_with_key(browser: Browser, server_with_key: Server) -> AsyncIterator[Pages]:
    """The same for ``server_with_key``."""
    opened = Pages(browser, server_with_key.url)
    yield opened
    await opened.close()
    assert opened.problems == []
