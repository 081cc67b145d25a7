"""The process raises its limit of open files, and a node opens no more connections than the limit leaves."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from scheduler_api.server.open_files import OTHER_FILES, allow_open_files
from scheduler_core.delivery.http.kind import FEWEST_CONNECTIONS, OTHER_DESCRIPTORS, connections_for


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def soft_limit(value: int | None = None) -> int:
    """Set the soft limit if a value is given; return it."""
    if value is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (value, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_the_limit_is_raised_to_what_the_connections_need() -> None:
    soft_limit(600)
    allow_open_files(500)
    assert soft_limit() == 500 + OTHER_FILES


def test_the_limit_is_never_lowered() -> None:
    soft_limit(900)
    allow_open_files(500)
    assert soft_limit() == 900


def test_the_limit_is_not_raised_beyond_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (600, 700))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    allow_open_files(5_000)
    monkeypatch.undo()
    assert limits == [(700, 700)]


@pytest.mark.parametrize(
    ("limit", "wanted", "connections"),
    [
        (2_000, 4_000, 2_000 - OTHER_DESCRIPTORS),
        (2_000, 1_000, 1_000),
        (OTHER_DESCRIPTORS, 1_000, FEWEST_CONNECTIONS),
        (OTHER_DESCRIPTORS, 2, 2),
    ],
)
def test_a_node_opens_no_more_connections_than_the_limit_leaves(limit: int, wanted: int, connections: int) -> None:
    soft_limit(limit)
    assert connections_for(wanted) == connections
