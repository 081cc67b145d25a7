"""Fixtures of the API tests: the API in the test's own process, on a real Redis, without a node. Nothing fires unless a
test starts one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from scheduler_api.app import create_app
from scheduler_api.context import STORE_CONNECTIONS, Context
from scheduler_api.server.api_server import ApiServer
from scheduler_api.server.listen import listen, url_of
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.api.command_line import KEY
from tests.api.runner import Runner, running
from tests.support.described import DescribedTransport

EXAMPLE: dict[str, Any] = {
    "id": "job-scheduler-unique-id",
    "endpoint": "http://localhost:8080/enqueue",
    "cron": "*/10 * * * * * *",
    "payload": {"id": "1", "queue": "test-queue", "timeout": 30, "persist_data": True, "payload": "say my name"},
    "retry_already_running": 3,
    "recovery_check": True,
}


def job(**changes: Any) -> dict[str, Any]:
    """Return the example job with changed fields; a field given as ``...`` is left out."""
    return {name: value for name, value in {**EXAMPLE, **changes}.items() if value is not ...}


@pytest.fixture
def api_settings() -> ApiSettings:
    """The default settings; tests that need others override this fixture."""
    return ApiSettings()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(connect(redis_url, connections=STORE_CONNECTIONS))
    yield store
    await store.aclose()


@pytest.fixture
def context(store: RedisStore, api_settings: ApiSettings) -> Context:
    return Context(settings=api_settings, store=store, clock=RedisClock(), metrics=Metrics())


@pytest.fixture
async def client(context: Context) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(context) as client:
        yield client


def client_of(context: Context) -> httpx.AsyncClient:
    """Return a client that calls the application without a socket. Exceptions of the application reach the caller.

    Every answer, and every request that is accepted, is compared with the description of the API.
    """
    transport = DescribedTransport(httpx.ASGITransport(create_app(context)))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.fixture
def contents(redis_url: str) -> Callable[[], dict[bytes, Any]]:
    """Returns a function that reads everything in Redis, to compare before and after."""
    from redis import Redis

    def read() -> dict[bytes, Any]:
        with Redis.from_url(redis_url) as redis:
            return {key: redis.dump(key) for key in redis.scan_iter("*")}

    return read


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env, and no files are left behind


@pytest.fixture
def cli_server(redis_url: str) -> Iterator[str]:
    """A server with a key, in its own thread, because the command line blocks while it waits for an answer."""
    with _server_in_thread(redis_url, Runner()) as url:
        yield url


@pytest.fixture
def cli_server_with_node(redis_url: str) -> Iterator[tuple[str, Runner]]:
    """The same with a node, and the runner that the node calls."""
    runner = Runner()
    with _server_in_thread(redis_url, runner, node=True) as url:
        yield url, runner


@contextlib.contextmanager
def _server_in_thread(redis_url: str, runner: Runner, *, node: bool = False) -> Iterator[str]:
    sockets = listen("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    stop: list[ApiServer] = []
    made = threading.Event()

    async def serve() -> None:
        store = RedisStore(connect(redis_url))
        context = Context(settings=ApiSettings(api_keys=(KEY,)), store=store, clock=RedisClock(), metrics=Metrics())
        stop.append(ApiServer(create_app(context)))
        made.set()
        async with running(context, runner) if node else contextlib.nullcontext():
            await stop[0].serve(sockets)
        await store.aclose()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert made.wait(20)
    yield url_of(sockets, "127.0.0.1")
    loop.call_soon_threadsafe(stop[0].stop)
    thread.join()
    loop.close()
