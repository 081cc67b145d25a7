"""Fixtures and hooks of the tests in this directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Delivery is tested on both event loops: uvloop differs in transports, TLS and the errors it raises."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
