"""The parts of uvicorn and httptools that the API's protocol uses although they are not public.

If a version outside the range is installed, check each attribute below against ``server/protocol.py`` and
``server/request_parser.py``, run ``tests/api/test_connections.py``, ``test_connection_limits.py`` and
``test_upgrade_requests.py``, then widen the range in ``pyproject.toml`` and here.
"""

from __future__ import annotations

import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import httptools
import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

CHECKED = {"uvicorn": "0.54", "httptools": "0.9"}
REMEDY = (
    "check protocol.py and request_parser.py in scheduler_api/server/ against it: see the docstring of "
    "tests/api/test_server_libraries.py"
)


@pytest.mark.parametrize(("package", "checked"), CHECKED.items())
def test_the_installed_version_is_one_that_was_checked(package: str, checked: str) -> None:
    installed = version(package)
    assert installed.split(".")[:2] == checked.split("."), (
        f"{package} {installed} is installed, {checked} checked; {REMEDY}"
    )


@pytest.mark.parametrize(("package", "checked"), CHECKED.items())
def test_the_dependency_allows_only_checked_versions(package: str, checked: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    major, minor = checked.split(".")
    assert f"{package}>={checked},<{major}.{int(minor) + 1}" in project["dependencies"], REMEDY


def test_the_protocol_has_the_attributes_that_ours_overrides_and_reads() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    for name in ("on_message_begin", "on_header", "on_headers_complete", "on_body", "on_message_complete", "shutdown"):
        assert callable(getattr(HttpToolsProtocol, name)), REMEDY
    assert callable(HttpToolsProtocol._start_asgi_task), REMEDY
    for attribute in ("connections", "server_state", "pipeline", "parser", "headers", "cycle", "flow", "url", "scope"):
        assert f"self.{attribute}" in source, f"{attribute}: {REMEDY}"
    assert "self.pipeline.appendleft((self.cycle, app))" in source, REMEDY
    assert "self.pipeline.pop()" in source, REMEDY
    for name in ("pause_reading", "resume_reading"):
        assert callable(getattr(FlowControl, name)), REMEDY


def test_an_exchange_has_the_attributes_that_the_protocol_sets_and_reads() -> None:
    source = inspect.getsource(RequestResponseCycle)
    attributes = ("disconnected", "message_event", "more_body", "response_started", "response_complete", "keep_alive")
    for attribute in (*attributes, "transport", "scope"):
        assert f"self.{attribute}" in source, f"{attribute}: {REMEDY}"
    used = {name for name in ("write", "close", "is_closing") if f"self.transport.{name}" in source}
    assert used == {"write", "close", "is_closing"}, REMEDY
    assert source.count("self.transport.") == sum(source.count(f"self.transport.{name}(") for name in used), REMEDY


def test_the_parser_reports_where_a_request_with_upgrade_ends() -> None:
    class Reader:
        completed = 0

        def on_message_complete(self) -> None:
            self.completed += 1

    reader = Reader()
    parser = httptools.HttpRequestParser(reader)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        parser.feed_data(head + b"body")
    assert upgrade.value.args == (len(head),), REMEDY
    assert reader.completed == 1, REMEDY
