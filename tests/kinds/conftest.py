"""Fixtures of ``make test-kinds``: a RabbitMQ, a Redis on a TCP port, and Celery workers at both."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.support import rabbitmq as server
from tests.support.processes import Processes
from tests.support.rabbitmq import RabbitMq


def pytest_sessionstart() -> None:
    if importlib.util.find_spec("celery") is None:
        pytest.exit("Celery is missing: make install", returncode=1)
    if server.missing():
        pytest.exit(server.missing(), returncode=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that kill the broker last: it takes ten seconds to start."""
    items.sort(key=lambda item: "broker_is_killed" in item.name)


@pytest.fixture(scope="session", autouse=True)
def started_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    """Start the broker at once, so that it boots while other tests run."""
    broker = RabbitMq(tmp_path_factory.mktemp("rabbitmq"))
    yield broker
    broker.close()


@pytest.fixture
def rabbitmq(started_rabbitmq: RabbitMq) -> RabbitMq:
    started_rabbitmq.ready()
    return started_rabbitmq


@pytest.fixture
def channel(rabbitmq: RabbitMq) -> Iterator[Any]:
    """A channel of py-amqp, to declare and read queues."""
    connection = rabbitmq.connect()
    yield connection.channel()
    with suppress(OSError):  # a test may have killed the broker
        connection.close()


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    processes = Processes()
    yield processes
    await processes.close()
