"""Fixtures that every test may use: one real Redis per test process, empty at the start of each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from scheduler_core.base.config_table import ENV_PREFIX
from scheduler_core.base.errors import EmbeddedRedisError
from scheduler_core.embedded import EmbeddedRedis, ask
from scheduler_core.embedded import program as server_program
from tests.support.examples import TIMES, examples
from tests.support.servers import chosen_program, server_under_test


def pytest_configure() -> None:
    """With ``TEST_REDIS_SERVER``, use that program instead of the one that comes with Cronpost."""
    program = chosen_program()
    if program is not None:
        server_program.bundled_servers = lambda: [program]


def pytest_report_header() -> str:
    try:
        return f"redis-server: {server_under_test()}"
    except EmbeddedRedisError as error:  # tests that need no server may run
        return f"redis-server: {error}"


# CI keeps no database of failing examples between runs, so each failure prints how to reproduce it. No deadlines: tests
# do not assert speed.
# "make test" tries the same examples each time, so a test that begins to fail was broken by the change under test.
# "make test-long" has another seed each time, so many runs together search widely.
settings.register_profile(
    "cronpost", print_blob=True, deadline=None, derandomize=TIMES == 1, max_examples=examples(100)
)
settings.load_profile("cronpost")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lift the time limits of random tests when they try more examples than usual."""
    if TIMES > 1:
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the machine that runs the tests, so that they change nothing."""
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """The redis-server of this test process. It may hold keys of earlier tests; ``redis_url`` empties it."""
    server = EmbeddedRedis(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The address of an empty Redis with default settings and no loaded scripts."""
    redis_server.ensure_running()
    for command in (["FLUSHALL"], ["SCRIPT", "FLUSH"], ["CONFIG", "SET", "maxmemory", "0"], ["CONFIG", "RESETSTAT"]):
        answer = ask(redis_server.socket_path, *command)
        assert answer == "+OK", f"{' '.join(command)}: {answer}"
    return redis_server.url
