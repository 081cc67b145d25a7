"""Fixtures of the browser tests: a browser, and a server of the API tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.conftest import cli_server, cli_server_with_node
from tests.ui.browser import Page, browser

__all__ = ["cli_server", "cli_server_with_node"]


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with browser(tmp_path / "profile") as opened:
        yield opened
        assert opened.complaints == []
